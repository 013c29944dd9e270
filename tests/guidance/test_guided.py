import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.constraints.base import constraint
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser
from sdv_constrained_diffusion.diffusion.masking import Masking
from sdv_constrained_diffusion.diffusion.sampler import AncestralSampler, MultistepSampler
from sdv_constrained_diffusion.diffusion.schedule import EDMSchedule, linear_schedule
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.gauss_newton import GaussNewtonGuidance
from sdv_constrained_diffusion.guidance.gradient import GradientGuidance
from sdv_constrained_diffusion.guidance.steering import SteeringPlan
from sdv_constrained_diffusion.model import Guidance
from sdv_constrained_diffusion.tabular.encoder import TableEncoder

GUIDANCES = (GradientGuidance, GaussNewtonGuidance)
SCHEDULES = (EDMSchedule(), linear_schedule())


@constraint(columns=['x', 'y', 'z'])
def plane(table):
    return table.x + 2 * table.y - 0.1 * table.z - 3


@constraint(columns=['x', 'y', 'z'], lower=[0.0, -0.5], upper=[0.0, 0.5])
def curved(table):
    return torch.stack([table.x * table.y - 0.01 * table.z, table.x + 0.001 * table.z**2 - 2], dim=1)


def data(rows=200, seed=0):
    """Four columns of different size and correlation; none of the laws holds. Column 'free' is in no law."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(rows, 4)) @ random.normal(size=(4, 4))
    return pd.DataFrame(mixed * [1.0, 0.5, 20.0, 3.0] + [1.0, 2.0, -5.0, 0.0], columns=['z', 'x', 'free', 'y'])


def with_point_mass():
    """As `data`, but a third of x sits on its upper limit, and 'same' never varies."""
    table = data()
    return table.assign(x=table['x'].clip(upper=table['x'].quantile(2 / 3)).round(12), same=4.0)


def off(chord, values):
    """What `correct` is told of the values: their residuals outside the limits."""
    return chord.system.deviation(chord.system.residual(values))


class Echo(Denoiser):
    """Takes what comes for the clean row, and hands out that very tensor."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t, t, known=None):
        return x_t

    def loss(self, x_0, generator):
        return x_0.square().sum(1) + torch.rand(len(x_0), generator=generator, dtype=torch.float64)


class Gaussian(Denoiser):
    r"""The exact denoiser of N(m, S): `m + \alpha S (\alpha^2 S + \sigma^2 I)^{-1} (x_t - \alpha m)`."""

    def __init__(self, schedule, rows):
        super().__init__()
        self.schedule, self.mean, self.cov = schedule, rows.mean(0), torch.cov(rows.T)

    def forward(self, x_t, t, known=None):
        alpha, sigma = self.schedule.noise(t[:, None, None])
        spread = alpha**2 * self.cov + sigma**2 * torch.eye(len(self.mean), dtype=torch.float64)
        centred = (x_t - alpha[:, 0] * self.mean)[:, :, None]
        return self.mean + (alpha * self.cov @ torch.linalg.solve(spread, centred))[:, :, 0]

    def loss(self, x_0, generator):
        raise NotImplementedError


def parts(law=plane, table=None, scaling='minmax'):
    table = data() if table is None else table
    system = ConstraintSystem([law], table)
    return TableEncoder.fit(table, scaling), Chord(system, system.values(table))


def values(encoder, chord, rows):
    return encoder.select(chord.system.columns).decode(rows)


def residual(encoder, chord, rows):
    return chord.system.residual(values(encoder, chord, rows))


def clear_times(schedule, number, seed=0):
    """Times at which the signal is more than ten times the noise."""
    share = torch.rand(number, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.005 + 0.09 * share if isinstance(schedule, EDMSchedule) else (1 + 24 * share).round()


def some_rows(encoder, number=6, seed=1):
    """Random numbers, and of each state a random level."""
    generator, layout = torch.Generator().manual_seed(seed), encoder.layout
    numbers = torch.randn(number, layout.num_numbers, generator=generator, dtype=torch.float64)
    sizes = torch.tensor([len(each) for each in layout.frequencies])
    codes = (torch.rand(number, layout.num_blocks, generator=generator) * sizes).long()
    return torch.cat([numbers, layout.one_hot(codes)], dim=1)


def features_of(encoder, columns):
    """The features that these columns own, shape (feature,)."""
    return encoder.select(columns).features(torch.ones(1, len(columns), dtype=torch.bool))[0]


def expected_gradient_step(v, t, schedule, chord, mean, scale):
    r"""`v - \lambda_t S^2 \nabla_v \|d(h(v)) / e\|^2` for one row, its scales by numpy from the curved law."""
    z, x, y = mean
    jacobian = np.array([[-0.01, y, x], [0.002 * z, 1.0, 0.0]]) * scale
    lengths = np.linalg.norm(jacobian, axis=1)
    norm = np.linalg.norm(jacobian / lengths[:, None], 2)
    alpha_bar = schedule.alpha_bar[int(t)].item() if hasattr(schedule, 'alpha_bar') else 1 / (1 + float(t) ** 2)
    lambda_t = alpha_bar / (2 * norm**2)

    def squared(u):
        z, x, y = (u * torch.as_tensor(scale)).unbind()
        law, limit = x * y - 0.01 * z, x + 0.001 * z**2 - 2
        outside = torch.relu(limit - 0.5) - torch.relu(-0.5 - limit)
        return (law / lengths[0]) ** 2 + (outside / lengths[1]) ** 2

    u = (v / torch.as_tensor(scale)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(squared(u), u)
    return v - lambda_t * gradient * torch.as_tensor(scale)


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_gradient_guidance_is_the_documented_step(schedule):
    table = data()
    encoder, chord = parts(curved, table)
    columns = table[['z', 'x', 'y']].to_numpy()
    rows, t = some_rows(encoder), clear_times(schedule, 6)
    before = values(encoder, chord, rows)
    fixed = torch.zeros_like(before, dtype=torch.bool)
    stepped = GradientGuidance(Echo(schedule), encoder, chord).correct(chord, before, off(chord, before), fixed, t)
    expected = torch.stack(
        [
            expected_gradient_step(row, time, schedule, chord, columns.mean(0), columns.std(0, ddof=1))
            for row, time in zip(before, t, strict=True)
        ]
    )
    # Some rows must be beyond each limit of the inequality and some inside, or the test says nothing of it.
    limited = chord.system.residual(before)[:, 1]
    assert (limited > 0.5).any()
    assert (limited < -0.5).any()
    # Numbers up to about 10.
    assert_close(stepped, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('guidance', [GradientGuidance, GaussNewtonGuidance])
def test_rows_whose_residual_would_not_shrink_stay_and_the_others_take_the_step(guidance):
    encoder, chord = parts(curved)
    rows = 2 * some_rows(encoder, 40)
    t = clear_times(SCHEDULES[0], 40)
    guided = guidance(Echo(SCHEDULES[0]), encoder, chord)
    before = values(encoder, chord, rows)
    stepped = guided.correct(
        guided.chord, before, off(guided.chord, before), torch.zeros_like(before, dtype=torch.bool), t
    )

    def size(v):
        system = chord.system
        return (system.deviation(system.residual(v)) / chord.equation_scale).norm(dim=1)

    helps = size(stepped) < size(before)
    assert helps.any()
    assert not helps.all()
    after = guided(rows, t)
    assert torch.equal(after[~helps], rows[~helps])
    # Numbers up to about 20; encoding and decoding add a rounding each.
    assert_close(values(encoder, chord, after)[helps], stepped[helps], rtol=1e-11, atol=1e-11)
    # The column in no law keeps its feature to the bit.
    assert torch.equal(after[:, 2], rows[:, 2])


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_gradient_guidance_shrinks_one_affine_law_by_the_schedules_factor(schedule):
    # J J^T = e^2 and lambda_t = w / 2, so h <- (1 - w) h with w = alpha^2 / (alpha^2 + sigma^2).
    encoder, chord = parts()
    rows, t = some_rows(encoder), clear_times(schedule, 6)
    alpha, sigma = schedule.noise(t)
    guided = GradientGuidance(Echo(schedule), encoder, chord)(rows, t)
    expected = residual(encoder, chord, rows) * (sigma**2 / (alpha**2 + sigma**2))[:, None]
    assert_close(residual(encoder, chord, guided), expected, rtol=0, atol=1e-12)


def test_gradient_guidance_is_proportional_to_its_scale():
    encoder, chord = parts(curved)
    rows, t = some_rows(encoder), clear_times(SCHEDULES[0], 6)
    before = values(encoder, chord, rows)
    fixed = torch.zeros_like(before, dtype=torch.bool)
    guides = [GradientGuidance(Echo(SCHEDULES[0]), encoder, chord, scale) for scale in (1.0, 0.25)]
    moves = [guide.correct(chord, before, off(chord, before), fixed, t) - before for guide in guides]
    # Numbers of order ten.
    assert_close(moves[1], 0.25 * moves[0], rtol=0, atol=1e-12)


def test_guidance_by_a_law_that_is_flat_at_the_mean_row_moves_nothing():
    # Four points of a circle: its gradient vanishes at the centre, which is their mean.
    table = pd.DataFrame({'x': [1.0, -1.0, 0.0, 0.0], 'y': [0.0, 0.0, 1.0, -1.0]})

    @constraint(columns=['x', 'y'])
    def circle(table):
        return table.x**2 + table.y**2 - 1

    encoder, chord = parts(circle, table)
    rows = some_rows(encoder)
    for guidance in GUIDANCES:
        guided = guidance(Echo(SCHEDULES[0]), encoder, chord)(rows, clear_times(SCHEDULES[0], 6))
        assert_close(guided, rows, rtol=0, atol=1e-14)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scaling=st.sampled_from(['minmax', 'quantile']), masses=st.booleans())
def test_gauss_newton_guidance_lands_on_an_affine_law_in_one_call(seed, scaling, masses):
    encoder, chord = parts(plane, with_point_mass() if masses else data(), scaling)
    rows = some_rows(encoder, seed=seed)
    guided = GaussNewtonGuidance(Echo(SCHEDULES[0]), encoder, chord)(rows, clear_times(SCHEDULES[0], 6, seed))
    # Terms up to a few hundred where the steep outer segments of a quantile map are reached.
    assert residual(encoder, chord, guided).abs().max() <= 1e-10


@pytest.mark.parametrize('guidance', GUIDANCES)
@pytest.mark.parametrize('schedule', SCHEDULES)
def test_no_number_is_corrected_by_more_than_a_share_of_the_noise(guidance, schedule):
    encoder, chord = parts(curved)
    rows, t = some_rows(encoder, 12), clear_times(schedule, 12)
    unlimited = guidance(Echo(schedule), encoder, chord)(rows, t) - rows
    limited = guidance(Echo(schedule), encoder, chord, trust=0.3)(rows, t) - rows
    alpha, sigma = schedule.noise(t[:, None])
    farthest = 0.3 * sigma / alpha
    assert (unlimited.abs() > farthest).any()
    # A sum and its difference again: rounding of numbers of order ten.
    assert_close(limited, unlimited.clamp(-farthest, farthest), rtol=0, atol=1e-14)


@pytest.mark.parametrize('scale', [0.25, 0.5, 1.0])
def test_gauss_newton_guidance_takes_a_share_of_the_step(scale):
    encoder, chord = parts()
    rows, t = some_rows(encoder), clear_times(SCHEDULES[0], 6)
    guided = GaussNewtonGuidance(Echo(SCHEDULES[0]), encoder, chord, scale)(rows, t)
    expected = (1 - scale) * residual(encoder, chord, rows)
    assert_close(residual(encoder, chord, guided), expected, rtol=0, atol=1e-12)


def test_gauss_newton_guidance_is_the_chord_step():
    encoder, chord = parts(curved)
    rows, t = some_rows(encoder), clear_times(SCHEDULES[0], 6)
    before = values(encoder, chord, rows)
    free = torch.zeros(before.shape, dtype=torch.bool)
    expected = chord.step(before, chord.system.deviation(chord.system.residual(before)), free)
    guided = GaussNewtonGuidance(Echo(SCHEDULES[0]), encoder, chord)(rows, t)
    assert_close(values(encoder, chord, guided), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('guidance', GUIDANCES)
@pytest.mark.parametrize('schedule', SCHEDULES)
@pytest.mark.parametrize('scaling', ['minmax', 'quantile'])
def test_rows_never_meet(guidance, schedule, scaling):
    encoder, chord = parts(curved, with_point_mass(), scaling)
    rows, t = some_rows(encoder, 12), clear_times(schedule, 12)
    # Noisy rows among the clear ones, one of them wildly off the law.
    t[::4], rows[1] = schedule.grid(10)[1], 40.0
    guided = guidance(Gaussian(schedule, encoder.encode(chord_rows(encoder))), encoder, chord)
    alone = torch.cat([guided(row[None], time[None]) for row, time in zip(rows, t, strict=True)])
    # Solving in a batch may round otherwise; numbers up to about 100.
    assert_close(guided(rows, t), alone, rtol=1e-10, atol=1e-10)


def chord_rows(encoder):
    return torch.as_tensor(with_point_mass()[list(encoder.columns)].to_numpy())


@pytest.mark.parametrize('guidance', GUIDANCES)
@pytest.mark.parametrize('scaling', ['minmax', 'quantile'])
def test_scale_zero_changes_nothing(guidance, scaling):
    encoder, chord = parts(curved, scaling=scaling)
    rows, t = some_rows(encoder), clear_times(SCHEDULES[0], 6)
    guided = guidance(Echo(SCHEDULES[0]), encoder, chord, 0.0)(rows, t)
    # Decoding and encoding add a rounding each.
    assert_close(guided, rows, rtol=0, atol=1e-12)
    assert not torch.allclose(guidance(Echo(SCHEDULES[0]), encoder, chord, 1.0)(rows, t), rows, atol=1e-3)


@pytest.mark.parametrize('guidance', GUIDANCES)
def test_rows_that_are_not_clear_are_left_alone(guidance):
    schedule = EDMSchedule()
    encoder, chord = parts()
    rows = some_rows(encoder, 5)
    t = torch.tensor([1e-3, 0.1, 0.1 + 1e-9, 1.0, 20.0], dtype=torch.float64)
    guided = guidance(Echo(schedule), encoder, chord)(rows, t)
    changed = (guided != rows).any(1)
    assert changed.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize('guidance', GUIDANCES)
def test_the_inner_denoisers_tensors_are_left_alone(guidance):
    encoder, chord = parts()
    rows, t = some_rows(encoder), clear_times(SCHEDULES[0], 6)
    before = rows.clone()
    guidance(Echo(SCHEDULES[0]), encoder, chord)(rows, t)
    assert torch.equal(rows, before)


@pytest.mark.parametrize('guidance', GUIDANCES)
def test_values_in_a_point_mass_stay_exactly_there(guidance):
    table = with_point_mass()
    encoder, chord = parts(plane, table, 'quantile')
    rows, t = some_rows(encoder, 40), clear_times(SCHEDULES[0], 40)
    before = values(encoder, chord, rows)
    at_limit = before[:, chord.system.columns.index('x')] == table['x'].max()
    # Random levels of a state of two: half of the rows are at the limit.
    assert 10 <= at_limit.sum() <= 30
    guided = guidance(Echo(SCHEDULES[0]), encoder, chord)(rows, t)
    x, free = features_of(encoder, ['x']), features_of(encoder, ['z', 'y'])
    assert x.sum() == 3  # a number, and whether it counts
    assert torch.equal(guided[at_limit][:, x], rows[at_limit][:, x])
    assert (values(encoder, chord, guided)[at_limit, 1] == table['x'].max()).all()
    # They are guided all the same, by their other columns.
    assert (guided[at_limit][:, free] != rows[at_limit][:, free]).all()
    # Where the number counts it is guided, too, and what it says of the state is left alone.
    number, state = (x & (torch.arange(len(x)) < encoder.layout.num_numbers)), x.clone()
    state[: encoder.layout.num_numbers] = False
    assert (guided[~at_limit][:, number] != rows[~at_limit][:, number]).all()
    assert torch.equal(guided[:, state], rows[:, state])
    if guidance is GaussNewtonGuidance:
        assert residual(encoder, chord, guided)[at_limit].abs().max() <= 1e-10


@pytest.mark.parametrize('guidance', GUIDANCES)
def test_the_correction_itself_leaves_fixed_columns_alone(guidance):
    encoder, chord = parts(curved)
    rows, t = values(encoder, chord, some_rows(encoder, 8)), clear_times(SCHEDULES[0], 8)
    fixed = torch.tensor(list(itertools.product([False, True], repeat=3)))
    corrected = guidance(Echo(SCHEDULES[0]), encoder, chord).correct(chord, rows, off(chord, rows), fixed, t)
    assert torch.equal(corrected[fixed], rows[fixed])
    assert (corrected != rows).any()


def test_a_constant_column_in_the_law_is_made_up_for_by_the_others():
    @constraint(columns=['same', 'z', 'y'])
    def total(table):
        return table.same + table.z - table.y

    encoder, chord = parts(total, with_point_mass(), 'quantile')
    guided = GaussNewtonGuidance(Echo(SCHEDULES[0]), encoder, chord)(some_rows(encoder), clear_times(SCHEDULES[0], 6))
    assert (values(encoder, chord, guided)[:, chord.system.columns.index('same')] == 4.0).all()
    assert residual(encoder, chord, guided).abs().max() <= 1e-11


@pytest.mark.parametrize('guidance', GUIDANCES)
@pytest.mark.parametrize('scaling', ['minmax', 'quantile'])
def test_known_columns_stay_exactly_and_the_others_make_up_for_them(guidance, scaling):
    """Every row has known columns of its own: none, one or two of the three in the law; 'free' is in no law."""
    encoder, chord = parts(plane, with_point_mass(), scaling)
    rows, t = some_rows(encoder, 24), clear_times(SCHEDULES[0], 24)
    patterns = [pattern for pattern in itertools.product([False, True], repeat=3) if not all(pattern)]
    columns = torch.zeros(24, len(encoder.columns), dtype=torch.bool)
    place = [encoder.columns.index(name) for name in ('x', 'y', 'z')]
    columns[:, place] = torch.tensor([patterns[row % 7] for row in range(24)])
    known = encoder.features(columns)
    guided = guidance(Echo(SCHEDULES[0]), encoder, chord)(rows, t, known)
    assert torch.equal(guided[known], rows[known])
    # One law and one free number or more: the linear correction always helps.
    before, after = (residual(encoder, chord, each).abs() for each in (rows, guided))
    exact = encoder.point_masses(encoder.decode(rows)) | columns
    movable = ~exact[:, place].all(1)
    assert (after[movable] < before[movable]).all()
    assert torch.equal(guided[~movable], rows[~movable])
    if guidance is GaussNewtonGuidance:
        assert after[movable].max() <= 1e-10  # terms up to a few hundred


@pytest.mark.parametrize('guidance', GUIDANCES)
def test_categories_pass_as_the_denoiser_gave_them(guidance):
    """Their probabilities are no numbers to be corrected, and the law is met beside them."""
    table = with_point_mass().assign(kind=np.arange(200) % 3)
    system = ConstraintSystem([plane], table)
    encoder, chord = TableEncoder.fit(table, 'quantile', ['kind']), Chord(system, system.values(table))
    rows, t = some_rows(encoder), clear_times(SCHEDULES[0], 6)
    kind = features_of(encoder, ['kind'])
    rows[:, kind] = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    guided = guidance(Echo(SCHEDULES[0]), encoder, chord)(rows, t)
    assert torch.equal(guided[:, kind], rows[:, kind])
    assert (residual(encoder, chord, guided).abs() < residual(encoder, chord, rows).abs()).all()


@pytest.mark.parametrize('guidance', GUIDANCES)
def test_a_guided_denoiser_stands_in_for_its_denoiser(guidance):
    """A sampler reads off it the schedule, the discrete columns' process and how known numbers are handed over."""

    class Hearing(Echo):
        conditional, masking, heard = True, Masking(Layout(2, [torch.full((2,), 0.5).double()])), None

        def forward(self, x_t, t, known=None):
            self.heard = known
            return x_t

    encoder, chord = parts()
    inner = Hearing(SCHEDULES[1])
    guided = guidance(inner, encoder, chord)
    rows = some_rows(encoder)
    assert guided.schedule is SCHEDULES[1]
    assert guided.masking is inner.masking
    assert guided.conditional
    assert not guidance(Echo(SCHEDULES[1]), encoder, chord).conditional
    known = torch.zeros_like(rows).bool()
    guided(rows, clear_times(SCHEDULES[1], 6), known)
    assert inner.heard is known
    expected = inner.loss(rows, torch.Generator().manual_seed(3))
    assert torch.equal(guided.loss(rows, torch.Generator().manual_seed(3)), expected)


SAMPLERS = [
    pytest.param(MultistepSampler(18), EDMSchedule(), id='multistep'),
    pytest.param(AncestralSampler(50, eta=0.0), linear_schedule(), id='ddim'),
    pytest.param(AncestralSampler(50, eta=1.0), linear_schedule(), id='ddpm'),
    pytest.param(AncestralSampler(50, eta=1.0), EDMSchedule(), id='ancestral-edm'),
]


@pytest.mark.parametrize(('sampler', 'schedule'), SAMPLERS)
def test_every_sampler_ends_on_the_law(sampler, schedule):
    table = data()
    encoder, chord = parts(plane, table)
    denoiser = Gaussian(schedule, encoder.encode(torch.as_tensor(table.to_numpy())))
    ends = {}
    for name, drawn in (
        ('none', denoiser),
        ('gradient', GradientGuidance(denoiser, encoder, chord)),
        ('gauss_newton', GaussNewtonGuidance(denoiser, encoder, chord)),
    ):
        rows = sampler.sample(drawn, 300, encoder.num_features, torch.Generator().manual_seed(0))
        ends[name] = residual(encoder, chord, rows)
    # The data miss the law: the standard deviation of x + 2y - 0.1z is several units.
    assert ends['none'].std() > 1
    # Every sampler ends at the last estimate. One affine law is met to rounding by Gauss-Newton, and by the gradient up
    # to the share of noise in the last step.
    assert ends['gauss_newton'].abs().max() <= 1e-11
    last = schedule.noise(schedule.grid(sampler.num_steps)[-2])
    share = (last.sigma**2 / (last.alpha**2 + last.sigma**2)).item()
    assert share <= 1e-2
    # The estimate's own residual at the last step is within five standard deviations of the law in the data.
    assert ends['gradient'].abs().max() <= share * 5 * ends['none'].std()


def test_guidance_across_a_law_leaves_the_direction_along_it_alone():
    # x and y are exchangeable in this table, so that x + y and x - y are independent of each other at every noise
    # level, and the correction is along x + y only: x - y comes out as it would have without guidance.
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.normal(size=(100, 2)), columns=['x', 'y'])
    table = pd.concat([table, table.rename(columns={'x': 'y', 'y': 'x'})], ignore_index=True)

    @constraint(columns=['x', 'y'])
    def total(table):
        return table.x + table.y - 0.5

    encoder, chord = parts(total, table)
    denoiser = Gaussian(EDMSchedule(), encoder.encode(torch.as_tensor(table.to_numpy())))
    for guidance in GUIDANCES:
        plain, guided = (
            values(encoder, chord, MultistepSampler(18).sample(each, 200, 2, torch.Generator().manual_seed(0)))
            for each in (denoiser, guidance(denoiser, encoder, chord))
        )
        # 18 evaluations on numbers that start at 20 times the data's size.
        assert_close(guided[:, 0] - guided[:, 1], plain[:, 0] - plain[:, 1], rtol=0, atol=1e-10)
        assert guided.sum(1).std() < 1e-3 < plain.sum(1).std()


@pytest.mark.parametrize('num_steps', [1, 2, 30])
def test_the_last_of_few_steps_is_corrected(num_steps):
    """On a schedule whose last level of few is not as clear as wanted."""
    encoder, chord = parts()
    schedule = linear_schedule(1500)
    t = schedule.grid(num_steps)[-2]
    last = schedule.noise(t)
    assert last.alpha < 40 * last.sigma
    plan = SteeringPlan.of(chord, chord.system.values(data()))
    guidance = Guidance('gauss_newton', 1.0, chord, plan, clear=40.0)
    rows = some_rows(encoder)
    guided = guidance.guide(Echo(schedule), encoder, torch.Generator(), num_steps)(rows, t.expand(len(rows)))
    assert residual(encoder, chord, rows).abs().max() > 1
    # Terms up to a hundred, there and back through the encoder.
    assert residual(encoder, chord, guided).abs().max() <= 1e-10
