"""Steering against closed forms: conditioning a normal distribution, and the linearised decode."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from exact_denoisers import GAUSSIAN, MixtureDenoiser
from sdv_constrained_diffusion import Bounds, ConditionalOn, Formula, Linear
from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.constraints.base import constraint
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.diffusion.sampler import AncestralSampler, Given, MultistepSampler
from sdv_constrained_diffusion.diffusion.schedule import EDMSchedule, linear_schedule
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.columns import GuidedColumns
from sdv_constrained_diffusion.guidance.gauss_newton import GaussNewtonGuidance
from sdv_constrained_diffusion.guidance.steering import ErrorCovariance, SteeredDenoiser, SteeringPlan
from sdv_constrained_diffusion.tabular.encoder import TableEncoder

SCHEDULES = {'edm': EDMSchedule(), 'linear': linear_schedule()}
SAMPLERS = {'edm': MultistepSampler(60), 'linear': AncestralSampler(400, eta=1.0)}


def gaussian_table(num_rows=20_000):
    generator = torch.Generator().manual_seed(0)
    mean, root = GAUSSIAN[1][0], torch.linalg.cholesky(GAUSSIAN[2][0])
    rows = mean + torch.randn(num_rows, 2, generator=generator, dtype=torch.float64) @ root.T
    return pd.DataFrame(rows.numpy(), columns=['a', 'b'])


def exact(schedule, encoder):
    """The exact denoiser of the normal distribution as an affine encoder shows it."""
    low, high = encoder.decode(torch.zeros(1, 2).double())[0], encoder.decode(torch.ones(1, 2).double())[0]
    scale = high - low
    means = (GAUSSIAN[1] - low) / scale
    return MixtureDenoiser(schedule, GAUSSIAN[0], means, GAUSSIAN[2] / scale / scale[:, None])


def steered(name, law, targets=None, num_rows=4000):
    table = gaussian_table()
    encoder = TableEncoder.fit(table, 'minmax')
    denoiser = exact(SCHEDULES[name], encoder)
    denoiser.masking = None
    system = ConstraintSystem([law], table)
    plan = SteeringPlan.of(Chord(system, system.values(table)), system.values(table))
    generator = torch.Generator().manual_seed(1)
    times = SCHEDULES[name].grid(SAMPLERS[name].num_steps)[:-1]
    covariance = ErrorCovariance.measure(denoiser, encoder, encoder.values(table.head(4000)), times, generator)
    drawn = plan.targets[torch.randint(len(plan.targets), (num_rows,), generator=generator)]
    guided = SteeredDenoiser(denoiser, encoder, system, plan.steered, drawn, covariance)
    return guided, encoder, system, plan, generator


@pytest.mark.parametrize('name', SCHEDULES)
def test_rows_follow_the_conditional_normal_distribution(name):
    law = Linear({'a': 1.0, 'b': 0.5}, 1.5, 1.5)
    guided, encoder, system, _, generator = steered(name, law)
    rows = encoder.decode(SAMPLERS[name].sample(guided, 4000, 2, generator))
    # Steering alone, without projection, is exact for a linear law up to the last step's rounding.
    assert system.residual(rows).sub(1.5).abs().max() <= 1e-6
    mean, cov = GAUSSIAN[1][0], GAUSSIAN[2][0]
    direction = torch.tensor([1.0, 0.5], dtype=torch.float64)
    gain = cov @ direction / (direction @ cov @ direction)
    expected = mean + gain * (1.5 - direction @ mean)
    left = cov - gain[:, None] * (direction @ cov)[None, :]
    # Four standard errors of 4,000 rows, and 2 % for finite steps and the measured covariance.
    error = 4 * left.diagonal().sqrt() / math.sqrt(4000)
    assert (rows.mean(0) - expected).abs().le(error + 0.02 * left.diagonal().sqrt()).all()
    assert_close(torch.cov(rows.T), left, rtol=0.1, atol=0.02)


def test_a_column_that_the_law_does_not_name_moves_with_it():
    guided, encoder, _, _, generator = steered('edm', Linear({'a': 1.0}, 2.0, 2.0))
    rows = encoder.decode(SAMPLERS['edm'].sample(guided, 4000, 2, generator))
    mean, cov = GAUSSIAN[1][0], GAUSSIAN[2][0]
    expected = mean[1] + cov[1, 0] / cov[0, 0] * (2.0 - mean[0])
    spread = (cov[1, 1] - cov[1, 0] ** 2 / cov[0, 0]).sqrt()
    assert abs(rows[:, 1].mean() - expected) <= (4 / math.sqrt(4000) + 0.02) * spread
    assert rows[:, 1].std() == pytest.approx(float(spread), rel=0.07)


def test_an_inequality_that_few_rows_obey_is_met_by_their_own_residuals():
    guided, encoder, _, plan, generator = steered('edm', Bounds('a', lower=2.0))
    table = gaussian_table()
    obey = table.loc[table['a'] >= 2, 'a']
    assert len(obey) < 0.1 * len(table)
    assert plan.redrawn.tolist() == [True]
    np.testing.assert_allclose(np.unique(plan.targets[:, 0]), np.unique(obey[: len(plan.targets)]))
    rows = encoder.decode(SAMPLERS['edm'].sample(guided, 4000, 2, generator))
    # Each row has the residual of a training row: the truncated normal's, not the limit.
    assert rows[:, 0].mean() == pytest.approx(obey.mean(), abs=4 * obey.std() / math.sqrt(len(plan.targets)))
    assert (rows[:, 0] - 2).abs().le(1e-6).double().mean() <= 0.02


@pytest.mark.parametrize(
    ('law', 'steered', 'redrawn'),
    [
        (Bounds('a', lower=0.4), [], [True]),  # half of the rows obey: draw again
        (Bounds('a', upper=100.0), [], [False]),  # learned
        (Formula('a == b'), [0], [False]),
        (Bounds('a', lower=50.0), [0], [False]),  # no row obeys: to the limit
    ],
)
def test_the_plan_depends_on_how_many_rows_obey(law, steered, redrawn):
    table = gaussian_table(2000)
    system = ConstraintSystem([law], table)
    plan = SteeringPlan.of(Chord(system, system.values(table)), system.values(table))
    assert plan.steered.tolist() == steered
    assert plan.redrawn.tolist() == redrawn
    if steered and not redrawn[0]:
        assert (plan.targets == plan.targets[0]).all()


def test_a_conditional_law_is_judged_on_the_rows_that_it_binds():
    # A tenth of the rows has the label, and few of these obey: the nine tenths that are not asked do not count.
    rng = np.random.default_rng(0)
    table = gaussian_table(4000).assign(kind=rng.choice(['x', 'y'], 4000, p=[0.1, 0.9]))
    law = ConditionalOn('kind', 'x', Bounds('a', lower=2.0))
    system = ConstraintSystem([law], table)
    values = system.values(table)
    plan = SteeringPlan.of(Chord(system, values), values)
    assert plan.steered.tolist() == [0]
    obey = table.loc[(table['kind'] == 'x') & (table['a'] >= 2), 'a']
    assert 0 < len(obey) < 40
    assert set(plan.targets[:, 0].tolist()) == set(obey)
    # An equality that no bound row obeys is steered to, though 90 % of the rows seem to obey it.
    law = ConditionalOn('kind', 'x', Formula('a == 0.7'))
    system = ConstraintSystem([law], table)
    values = system.values(table)
    assert SteeringPlan.of(Chord(system, values), values).steering.tolist() == [True]


def test_inequalities_are_counted_together():
    # Each is obeyed by a quarter of the rows, both together by hardly any.
    table = gaussian_table(4000)
    laws = [Bounds('a', lower=float(table['a'].quantile(0.75))), Bounds('b', upper=float(table['b'].quantile(0.25)))]
    system = ConstraintSystem(laws, table)
    values = system.values(table)
    both = system.feasible(values).double().mean()
    assert 0 < both < 0.1
    plan = SteeringPlan.of(Chord(system, values), values)
    assert plan.steered.tolist() == [0, 1]
    assert (system.violation(plan.targets) == 0).all()


def test_known_values_stay_and_the_others_take_up_the_law():
    guided, encoder, system, _, generator = steered('edm', Linear({'a': 1.0, 'b': 0.5}, 1.5, 1.5), num_rows=500)
    clean = encoder.encode(encoder.values(gaussian_table(500)))
    known = torch.tensor([[True, False]]).expand(500, 2)
    guided.conditional = guided._denoiser.conditional = True
    rows = MultistepSampler(60).sample(guided, 500, 2, generator, Given(clean, known))
    assert torch.equal(rows[:, 0], clean[:, 0])
    assert system.residual(encoder.decode(rows)).sub(1.5).abs().max() <= 1e-6


def test_a_row_is_steered_alone_as_in_company():
    guided, encoder, _, _, generator = steered('edm', Formula('a * b == 0.3'), num_rows=5)
    rows = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.1, 3.0, 0.5, 0.1, 0.02], dtype=torch.float64)
    together = guided(rows, t)
    alone = []
    for place in range(5):
        one = SteeredDenoiser(
            guided._denoiser, encoder, guided._system, guided._steered, guided._targets[[place]], guided._covariance
        )
        alone.append(one(rows[[place]], t[[place]]))
    assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)


def test_smoothed_decoding_is_the_mean_and_the_slope_of_the_quantile_map():
    # Uniform columns: v = Phi(z), so E[v] = Phi(z / sqrt(1 + s^2)) and the slope is its density.
    table = pd.DataFrame({'u': (np.arange(20_000) + 0.5) / 20_000})

    @constraint(columns=['u'])
    def anything(rows):
        return rows.u

    encoder, system = TableEncoder.fit(table, 'quantile'), ConstraintSystem([anything], table)
    columns = GuidedColumns(encoder, system)
    z = torch.tensor([[-1.0], [0.0], [0.7]], dtype=torch.float64)
    for s in (0.3, 0.8):
        mean, slope = columns.smoothed(z, torch.tensor([s], dtype=torch.float64))
        wide = math.sqrt(1 + s**2)
        density = torch.exp(-((z / wide) ** 2) / 2) / math.sqrt(2 * math.pi) / wide
        # Two hundred knots make a polygon of the map, good to a few thousandths; seven nodes are finer than that.
        assert_close(mean, torch.special.ndtr(z / wide), rtol=0, atol=5e-3)
        assert_close(slope, density, rtol=0.03, atol=0)


def test_derivatives_by_a_number_that_columns_share_add_up():
    """Against central differences of the residual by the numbers of model space."""
    random = np.random.default_rng(0)
    a = random.normal(size=500)
    table = pd.DataFrame({'a': a, 'line': 2 * a + 1, 'free': random.normal(size=500), 'cube': -(a**3)})

    @constraint(columns=['free', 'cube', 'a', 'line'])
    def product(rows):
        return rows.a * rows.line + rows.cube * rows.free

    encoder, system = TableEncoder.fit(table), ConstraintSystem([product], table)
    columns = GuidedColumns(encoder, system)
    rows = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small = 1e-5
    values, slope = columns.smoothed(rows, torch.full((2,), small).double())
    found = columns.by_numbers(system.jacobian(values) * slope[:, None, :])[:, 0]
    steps = small * torch.eye(2, dtype=torch.float64)
    up, down = (torch.stack([system.residual(columns.read(rows + s * e))[:, 0] for e in steps], 1) for s in (1, -1))
    # Linear between knots, none of which is that near to one of these rows; second order in the step.
    assert_close(found, (up - down) / (2 * small), rtol=1e-6, atol=1e-6)


def test_the_error_of_an_exact_denoiser_is_the_posterior_covariance():
    table = gaussian_table()
    encoder = TableEncoder.fit(table, 'minmax')
    denoiser = exact(SCHEDULES['edm'], encoder)
    times = torch.tensor([1.0, 0.1], dtype=torch.float64)
    measured = ErrorCovariance.measure(
        denoiser, encoder, encoder.values(table), times, torch.Generator().manual_seed(7)
    )
    for t in times:
        posterior = torch.linalg.inv(torch.linalg.inv(denoiser.covariances[0]) + torch.eye(2).double() / t**2)
        # Standard error of a variance from 20,000 rows is 1 %.
        assert_close(measured.at(t), posterior, rtol=0.05, atol=0.02 * float(posterior.diagonal().max()))
    assert torch.equal(measured.at(torch.tensor(0.3).double()), measured.matrices[1])


def test_labels_take_part_without_moving():
    table = gaussian_table(3000).assign(kind=np.random.default_rng(0).choice(['x', 'y'], 3000))

    @constraint(columns=['a', 'kind'])
    def by_kind(rows):
        return rows.a - rows.kind.map({'x': 1.0, 'y': -1.0})

    encoder = TableEncoder.fit(table, 'minmax', ['kind'])
    system = ConstraintSystem([by_kind], table)
    columns = GuidedColumns(encoder, system)
    rows = encoder.encode(encoder.values(table.head(50)))
    assert_close(system.residual(columns.read(rows)), system.residual(system.values(table.head(50))))
    assert columns.fixed(columns.read(rows)).tolist() == [[False, True]] * 50
    _, slope = columns.smoothed(rows, torch.full((2,), 0.1).double())
    assert (slope[:, 1] == 0).all()
    assert isinstance(encoder.layout, Layout)


def test_steering_draws_nothing_first_and_guidance_what_its_denoiser_does():
    """What is drawn first is independent, which steering towards a law of its own may forbid."""
    guided, encoder, system, plan, _ = steered('edm', Formula('a * b == 0.3'), num_rows=5)
    first = torch.tensor([True, True])
    guided._denoiser.drawn_first = first
    again = SteeredDenoiser(guided._denoiser, encoder, system, plan.steered, guided._targets, guided._covariance)
    chord = Chord(system, system.values(gaussian_table()))
    assert again.drawn_first is None
    assert GaussNewtonGuidance(guided._denoiser, encoder, chord).drawn_first is first
    assert GaussNewtonGuidance(again, encoder, chord).drawn_first is None
