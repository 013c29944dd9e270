"""Sampling with fixed features, with exact denoisers, against the conditional law of a Gaussian and of a mixture."""

import functools
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exact_denoisers import MIXTURE, MixtureDenoiser, numbers
from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.diffusion.denoiser import PreconditionedDenoiser
from sdv_constrained_diffusion.diffusion.independence import independent_numbers
from sdv_constrained_diffusion.diffusion.sampler import (
    AncestralSampler,
    Given,
    MultistepSampler,
    evenly_spread,
    latin_hypercube,
)
from sdv_constrained_diffusion.diffusion.schedule import EDMSchedule, cosine_schedule, linear_schedule

MEAN = numbers(0.2, -0.4, 0.5)
COVARIANCE = numbers([1.0, 0.8, -0.3], [0.8, 1.2, 0.2], [-0.3, 0.2, 0.7])
VALUE = numbers(1.5, 1.0, -0.5)
"""A Gaussian law in three dimensions, and what is given of it: up to 1.8 deviations off."""

EDM = EDMSchedule()
GIVEN = [(0,), (1,), (0, 2), (2, 1)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(schedule, covariance=COVARIANCE, mean=MEAN, conditional=True):
    return MixtureDenoiser(schedule, numbers(1.0), mean[None], covariance[None], conditional=conditional)


def given_of(known, value=VALUE, num_rows=16):
    mask = torch.zeros(num_rows, len(value), dtype=torch.bool)
    mask[:, list(known)] = True
    return Given(value.expand(num_rows, -1), mask)


def conditional_law(known, value=VALUE, mean=MEAN, covariance=COVARIANCE):
    r"""`\mu_u + S_{uk} S_{kk}^{-1} (x_k - \mu_k)` and `S_{uu} - S_{uk} S_{kk}^{-1} S_{ku}` of the others, u."""
    known = list(known)
    free = [feature for feature in range(len(value)) if feature not in known]
    gain = covariance[free][:, known] @ torch.linalg.inv(covariance[known][:, known])
    return mean[free] + gain @ (value[known] - mean[known]), covariance[free][:, free] - gain @ covariance[known][
        :, free
    ]


def affine_moments(sampler, denoiser, given_features):
    """Exact mean and covariance of the free features, which a deterministic sampler maps from x_T by an affine map.

    The map is solved for from sixteen rows, whose x_T is the generator's first draw; no Monte-Carlo error enters.
    """
    num_rows, num_features = given_features.rows.shape
    alpha, sigma = denoiser.schedule.noise(denoiser.schedule.grid(1)[0])
    free, scale = ~given_features.known[0], (alpha**2 + sigma**2).sqrt()
    start = scale * torch.special.ndtri(evenly_spread(num_rows, num_features, generator(1)))[:, free]
    rows = sampler.sample(denoiser, num_rows, num_features, generator(1), given_features)
    assert torch.equal(rows[:, ~free], given_features.rows[:, ~free])
    design = torch.cat([start, torch.ones(num_rows, 1).double()], dim=1)
    solution = torch.linalg.lstsq(design, rows[:, free]).solution
    torch.testing.assert_close(design @ solution, rows[:, free], rtol=0, atol=1e-9)  # affine indeed
    matrix = solution[:-1].T
    return solution[-1], scale**2 * matrix @ matrix.T


def relative_errors(moments, law):
    """Largest error of a mean in deviations, and of a covariance in products of two deviations."""
    deviation = law[1].diagonal().sqrt()
    mean = (moments[0] - law[0]).abs() / deviation
    return mean.max().item(), ((moments[1] - law[1]).abs() / deviation / deviation[:, None]).max().item()


def hidden_by_the_first_noise(mean):
    """How far a mean may come out from where it should, in deviations.

    x_T is drawn about the estimate from 0 at the first noise, which is short of the mean by a share of
    `variance / noise^2`, with variances of 4 at most. The flow carries that to the rows in the ratio of their
    deviations.
    """
    return mean.norm().item() * 4 / EDM.largest**3


@pytest.mark.parametrize('known', GIVEN, ids=str)
def test_a_conditional_denoiser_gives_the_conditional_law(known):
    """Of a Gaussian, without Monte-Carlo error: what is left is the steps', of second order, and the first noise's."""
    law = conditional_law(known)
    errors = {
        num_steps: relative_errors(affine_moments(MultistepSampler(num_steps), gaussian(EDM), given_of(known)), law)
        for num_steps in (40, 160)
    }
    mean, covariance = hidden_by_the_first_noise(law[0]), 1 / EDM.largest**2
    # Seen for the steps: 0.014 of the covariance at 40 of them, a sixteenth of that at 160, and 6e-4 of the mean.
    assert errors[40][0] < mean + 1e-3
    assert errors[40][1] < covariance + 0.02
    assert errors[160][0] < mean + 1e-3 / 16
    assert errors[160][1] < covariance + 0.02 / 16


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 1000),
    known=st.sets(st.integers(0, 3), min_size=1, max_size=3),
    value=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
)
def test_any_features_of_any_gaussian_can_be_given(seed, known, value):
    random = torch.randn(4, 5, generator=generator(seed), dtype=torch.float64) / 2
    covariance, mean = random[:, :4] @ random[:, :4].T + 0.1 * torch.eye(4), random[:, 4]
    value = mean + numbers(value)[0] * covariance.diagonal().sqrt()
    law = conditional_law(known, value, mean, covariance)
    found = affine_moments(MultistepSampler(80), gaussian(EDM, covariance, mean), given_of(known, value))
    mean_error, covariance_error = relative_errors(found, law)
    # As above, with variances from 0.1 to about 4.
    assert mean_error < hidden_by_the_first_noise(law[0]) + 0.01
    assert covariance_error < 0.02


@pytest.mark.parametrize('sampler', [MultistepSampler(10), AncestralSampler(10)])
def test_each_row_may_have_features_of_its_own_and_rows_never_meet(sampler):
    """Every pattern of known features in one block; a row has the same bits when the other rows are given otherwise."""
    patterns = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
    values = torch.randn(8, 3, generator=generator(), dtype=torch.float64)
    rows = sampler.sample(gaussian(EDM), 8, 3, generator(), Given(values, patterns))
    assert torch.equal(rows[patterns], values[patterns])
    for place in range(8):
        turned = Given(torch.full_like(values, 9.0), ~patterns)
        turned.rows[place], turned.known[place] = values[place], patterns[place]
        others = sampler.sample(gaussian(EDM), 8, 3, generator(), turned)
        assert torch.equal(others[place], rows[place])


@pytest.mark.parametrize('correlation', [0.3, 0.7, 0.9])
def test_noise_of_a_few_deviations_hides_no_condition(correlation):
    """A denoiser that has measured its rows starts at five times their width; of normal rows it is exact."""
    root = torch.linalg.cholesky(numbers([1.0, correlation], [correlation, 1.0]))
    x_0 = torch.randn(4096, 2, generator=generator(), dtype=torch.float64)
    x_0 = (x_0 - x_0.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x_0.T.cov())).T @ root.T
    none = torch.nn.Linear(6, 2).double()
    torch.nn.init.zeros_(none.weight)
    torch.nn.init.zeros_(none.bias)
    denoiser = PreconditionedDenoiser(_WithoutTime(none), EDM, Layout(2), known_share=0.5)
    denoiser.measure(x_0)
    assert denoiser.schedule.largest < 7
    given = Given(numbers([2.0, 0.0]).expand(4096, 2), torch.tensor([[True, False]]).expand(4096, 2))
    with torch.no_grad():
        rows = MultistepSampler(30).sample(denoiser, 4096, 2, generator(1), given)
    deviation = (1 - correlation**2) ** 0.5
    # Evenly spread noise: no Monte-Carlo error to speak of. Steps: 2 % of a variance.
    assert rows[:, 1].mean().item() == pytest.approx(2 * correlation, abs=0.01 * deviation)
    assert rows[:, 1].std().item() == pytest.approx(deviation, rel=0.03)


class _WithoutTime(torch.nn.Module):
    """A network that is told the time and does not heed it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, rows, t):
        return self.network(rows)


def test_nothing_given_is_plain_sampling():
    nothing = Given(torch.full((6, 3), torch.nan).double(), torch.zeros(6, 3).bool())
    for sampler, schedule in ((MultistepSampler(8), EDM), (AncestralSampler(8), linear_schedule(100))):
        plain = sampler.sample(gaussian(schedule), 6, 3, generator())
        assert torch.equal(sampler.sample(gaussian(schedule), 6, 3, generator(), nothing), plain)


CASES = [
    pytest.param({}, id='nothing'),
    pytest.param({'label': 0}, id='category'),
    pytest.param({'label': 1}, id='other category'),
    pytest.param({'number': 0.3}, id='number'),
    pytest.param({'number': -1.0}, id='other number'),
    pytest.param({'number': 0.3, 'label': 0}, id='number and category'),
]


def labelled_law(number=None, label=None):
    """Each component's weight, mean and covariance of the numbers that are left."""
    weights, means, covariances = MIXTURE
    if number is not None:
        spread = covariances[:, 0, 0]
        weights = weights * torch.exp(-((number - means[:, 0]) ** 2) / (2 * spread)) / spread.sqrt()
        laws = [conditional_law((0,), numbers(number, 0.0), *law) for law in zip(means, covariances, strict=True)]
        means, covariances = (torch.stack(moments) for moments in zip(*laws, strict=True))
    if label is not None:
        weights = weights * (torch.arange(2) == label)
    return weights / weights.sum(), means, covariances


@pytest.mark.parametrize('fixed', CASES)
def test_a_mixture_with_its_component_as_a_category(fixed):
    """Numbers and category together, drawn by the default sampler: shares, and each component's mean and covariance."""
    num_rows = 8000
    denoiser = MixtureDenoiser(EDM, *MIXTURE, labelled=True, conditional=True)
    known, rows = torch.zeros(num_rows, 4).bool(), torch.zeros(num_rows, 4).double()
    if 'number' in fixed:
        known[:, 0], rows[:, 0] = True, fixed['number']
    if 'label' in fixed:
        known[:, 2:], rows[:, 2 + fixed['label']] = True, 1.0
    drawn = MultistepSampler(80).sample(denoiser, num_rows, 4, generator(), Given(rows, known))
    assert torch.equal(drawn[known], rows[known])
    labels = denoiser.masking.layout.codes(drawn)[:, 0]
    free = ~known[0, :2]
    for component, (weight, mean, covariance) in enumerate(zip(*labelled_law(**fixed), strict=True)):
        mine = drawn[labels == component][:, :2][:, free]
        share = len(mine) / num_rows
        # Four standard errors, and one per cent for 80 steps in which numbers move and the category does not.
        assert share == pytest.approx(weight.item(), abs=4 * math.sqrt(weight * (1 - weight) / num_rows) + 0.01)
        if len(mine) < 200:
            continue
        spread = covariance.diagonal()
        # Four standard errors, what the first noise hides, and what is seen of 80 steps with many more rows.
        chance = 4 / math.sqrt(len(mine))
        assert ((mine.mean(0) - mean).abs() < spread.sqrt() * (chance + hidden_by_the_first_noise(mean) + 0.01)).all()
        bound = (spread[:, None] * spread + covariance**2).sqrt() * chance + 0.03 * (spread[:, None] * spread).sqrt()
        assert ((torch.cov(mine.T).reshape(covariance.shape) - covariance).abs() < bound).all()


@functools.cache
def resampling_moments(schedule, num_steps, num_resamplings, known, eta=1.0):
    """Mean and covariance of the free features under re-noising and resampling: the algorithm as a recursion.

    With the exact denoiser of a Gaussian every move is affine in rows and noise, so the law stays Gaussian.
    """
    known = list(known)
    free = [feature for feature in range(3) if feature not in known]
    grid = schedule.grid(num_steps)
    unit = torch.eye(3, dtype=torch.float64)
    first = schedule.noise(grid[0])
    m, C = torch.zeros(len(free)).double(), (first.alpha**2 + first.sigma**2) * unit[free][:, free]
    for t, s in itertools.pairwise(grid):
        at, to = schedule.noise(t), schedule.noise(s)
        gain = at.alpha * COVARIANCE @ torch.linalg.inv(at.alpha**2 * COVARIANCE + at.sigma**2 * unit)
        rate = at.alpha * to.sigma / (to.alpha * at.sigma)
        fresh = to.sigma**2 * (1 - rate**2) * eta**2
        on_noise = (to.sigma**2 - fresh).sqrt()
        # x_s = on_x0 x0_hat + on_xt x_t + noise, with x0_hat = MEAN + gain (x_t - alpha MEAN).
        on_xt = on_noise / at.sigma
        on_x0 = to.alpha - on_xt * at.alpha
        matrix = (on_x0 * gain)[free] + on_xt * unit[free]
        offset = on_x0 * (MEAN - at.alpha * gain @ MEAN)[free] + matrix[:, known] @ (at.alpha * VALUE[known])
        from_known = at.sigma**2 * matrix[:, known] @ matrix[:, known].T
        on_free = matrix[:, free]
        for turn in range(num_resamplings if to.sigma > 0 else 1):
            if turn:
                back = at.alpha / to.alpha
                m, C = back * m, back**2 * C + (at.sigma**2 - (back * to.sigma) ** 2) * unit[free][:, free]
            m, C = on_free @ m + offset, on_free @ C @ on_free.T + from_known + fresh * unit[free][:, free]
    return m, C


@pytest.mark.parametrize('known', [(0,), (0, 2)], ids=str)
@pytest.mark.parametrize('schedule', [EDM, linear_schedule(100), cosine_schedule(100)], ids=['EDM', 'linear', 'cosine'])
@pytest.mark.parametrize(('num_resamplings', 'eta'), [(1, 1.0), (3, 1.0), (2, 0.5)])
def test_resampling_is_its_recursion(schedule, known, num_resamplings, eta):
    """Known numbers that the denoiser must see noised: rows against the recursion's mean and covariance."""
    num_rows, denoiser = 6000, gaussian(schedule, conditional=False)
    features = given_of(known, num_rows=num_rows)
    rows = AncestralSampler(10, eta, num_resamplings).sample(denoiser, num_rows, 3, generator(), features)
    assert torch.equal(rows[features.known], features.rows[features.known])
    free = rows[:, ~features.known[0]]
    mean, covariance = resampling_moments(schedule, 10, num_resamplings, known, eta)
    spread = covariance.diagonal()
    # Four standard errors of a mean and of a covariance.
    assert ((free.mean(0) - mean).abs() < 4 * (spread / num_rows).sqrt()).all()
    standard_error = ((spread[:, None] * spread + covariance**2) / num_rows).sqrt()
    assert ((torch.cov(free.T).reshape(covariance.shape) - covariance).abs() < 4 * standard_error).all()


@pytest.mark.parametrize('known', [(0,), (2, 1)], ids=str)
@pytest.mark.parametrize('schedule', [EDM, linear_schedule(1000)], ids=['EDM', 'linear'])
def test_resampling_approaches_the_conditional_law(schedule, known):
    """The recursion's error: the mean comes right with the turns, the covariance with turns and steps together."""

    def errors(num_steps, num_resamplings):
        return relative_errors(resampling_moments(schedule, num_steps, num_resamplings, known), conditional_law(known))

    means = [errors(100, turns)[0] for turns in (1, 2, 4, 8, 16)]
    assert means[0] > 0.4  # else there would be nothing to come right
    # Twice the turns leave half of the error: seen 0.46 to 0.58 of it.
    assert all(after < 0.6 * before for before, after in itertools.pairwise(means))
    mean, covariance = errors(400, 16)
    # Seen 0.035 to 0.075, and 0.005 to 0.10. Too few steps for the turns shrink the covariance.
    assert mean < 0.08
    assert covariance < 0.11
    assert covariance < 0.6 * errors(100, 16)[1]


class Listening(MixtureDenoiser):
    """Remembers what it was asked."""

    def __init__(self, *law, **settings):
        super().__init__(*law, **settings)
        self.asked = []

    def forward(self, x_t, t, known=None):
        self.asked.append((x_t.clone(), t[0].item(), known))
        return super().forward(x_t, t, known)


def asked(sampler, schedule, conditional, features):
    denoiser = Listening(schedule, numbers(1.0), MEAN[None], COVARIANCE[None], conditional=conditional)
    sampler.sample(denoiser, len(features.rows), 3, generator(), features)
    assert all(torch.equal(known, features.known) for _, _, known in denoiser.asked)
    return denoiser.asked


@pytest.mark.parametrize('turns', [1, 3])
def test_a_step_is_taken_again_where_known_numbers_are_noised(turns):
    """Every step but the last, which leads to clean rows, and only if the denoiser is not conditional."""
    sampler, schedule = AncestralSampler(4, 1.0, turns), linear_schedule(100)
    for conditional, repeats in ((False, turns), (True, 1)):
        times = [t for _, t, _ in asked(sampler, schedule, conditional, given_of((0,)))]
        start = [100.0] * conditional  # what is known moves the start
        assert times == start + [100.0] * repeats + [75.0] * repeats + [50.0] * repeats + [25.0]


@pytest.mark.parametrize('sampler', [MultistepSampler(4), AncestralSampler(4)])
def test_a_conditional_denoiser_sees_known_numbers_as_they_are(sampler):
    features = given_of((0, 2))
    for x_t, _, _ in asked(sampler, EDM, True, features):
        assert torch.equal(x_t[features.known], features.rows[features.known])


@pytest.mark.parametrize('sampler', [MultistepSampler(4), AncestralSampler(4)])
@pytest.mark.parametrize('schedule', [EDM, linear_schedule(100)], ids=['EDM', 'linear'])
def test_any_other_denoiser_sees_known_numbers_with_the_times_noise_drawn_anew(sampler, schedule):
    num_rows = 4000
    seen = asked(sampler, schedule, False, given_of((0, 2), num_rows=num_rows))
    noises = []
    for x_t, t, _ in seen:
        alpha, sigma = schedule.noise(numbers(t)[0])
        noise = (x_t[:, [0, 2]] - alpha * VALUE[[0, 2]]) / sigma
        # 8,000 standard normals: five standard errors of mean and variance.
        assert noise.mean().item() == pytest.approx(0, abs=5 / math.sqrt(2 * num_rows))
        assert noise.var().item() == pytest.approx(1, rel=5 * math.sqrt(1 / num_rows))
        noises.append(noise[:, 0])
    correlations = torch.corrcoef(torch.stack(noises)) - torch.eye(len(noises))
    assert correlations.abs().max() < 5 / math.sqrt(num_rows)


def partly_independent():
    """A network that says nothing, which is right for normal rows: numbers 0 and 2 are independent, 1 follows them."""
    z = torch.special.ndtri(latin_hypercube(4096, 3, generator(5)))
    rows = torch.stack([z[:, 0], 0.6 * z[:, 0] - 0.6 * z[:, 2] + 0.5 * z[:, 1], z[:, 2]], dim=1)
    none = torch.nn.Linear(9, 3).double()
    torch.nn.init.zeros_(none.weight)
    torch.nn.init.zeros_(none.bias)
    denoiser = PreconditionedDenoiser(_WithoutTime(none), EDM, Layout(3), 0.5, independent_first=True)
    denoiser.measure(rows)
    return denoiser.requires_grad_(False), rows


def test_numbers_drawn_first_are_independent_and_the_others_follow_them():
    """Moments of the whole rows, and of the first numbers any cosine of their ranks."""
    denoiser, real = partly_independent()
    rows = MultistepSampler(40).sample(denoiser, 4096, 3, generator())
    # Four standard errors of a covariance of 4,096 independent rows, about three of a variance; evenly spread noise
    # scatters less, and its means are nearly exact (3e-4 seen).
    torch.testing.assert_close(torch.cov(rows.T), torch.cov(real.T), rtol=0, atol=4 / 64)
    assert float((rows.mean(0) - real.mean(0)).abs().max()) < 2e-3
    assert independent_numbers(rows[:, [0, 2]]).all()
    places = torch.special.ndtr(rows[:, [0, 2]])
    assert (places * 4096).long().sort(dim=0).values.tolist() == [[row, row] for row in range(4096)]


def test_of_numbers_drawn_first_any_can_be_given():
    denoiser, real = partly_independent()
    rows = MultistepSampler(40).sample(denoiser, 4096, 3, generator(), given_of((2,), numbers(0.0, 0, 1.5), 4096))
    law = conditional_law((2,), numbers(0.0, 0, 1.5), real.mean(0), torch.cov(real.T))
    assert rows[:, 2].eq(1.5).all()
    places = torch.special.ndtr(rows[:, 0])
    assert (places * 4096).long().sort().values.tolist() == list(range(4096))
    # As above; the first noise hides 0.007 of the mean, see `hidden_by_the_first_noise`.
    assert float((rows[:, :2].mean(0) - law[0]).abs().max()) < 0.01
    torch.testing.assert_close(torch.cov(rows[:, :2].T), law[1], rtol=0, atol=4 / 64)


@pytest.mark.parametrize('known', [(1,), (1, 2)], ids=str)
def test_given_another_number_none_is_drawn_first(known):
    """What is given tells of them. Exactly: rows are affine in the first noise, which is the generator's first draw."""
    denoiser, real = partly_independent()
    given = given_of(known)
    rows = MultistepSampler(160).sample(denoiser, 16, 3, generator(1), given)[:, ~given.known[0]]
    z = torch.special.ndtri(evenly_spread(16, 3, generator(1)))
    design = torch.cat([z, torch.ones(16, 1).double()], dim=1)
    solution = torch.linalg.lstsq(design, rows).solution
    torch.testing.assert_close(design @ solution, rows, rtol=0, atol=1e-9)
    law = conditional_law(known, VALUE, real.mean(0), torch.cov(real.T))
    mean, covariance = relative_errors((solution[-1], solution[:-1].T @ solution[:-1]), law)
    # Seen 0.0011 and, from 160 steps, 0.0009; started from noise alone, rows would be narrower by 0.004 and 0.014.
    assert mean < 0.002
    assert covariance < 0.002


def test_rows_of_one_block_begin_each_by_what_is_given_of_it():
    """Nothing, a number that is drawn first, another one: as in blocks of rows of which the same is given."""
    denoiser, _ = partly_independent()
    patterns = [(), (2,), (1,)]
    alone = [MultistepSampler(5).sample(denoiser, 9, 3, generator(), given_of(each, VALUE, 9)) for each in patterns]
    own = torch.cat([given_of(each, VALUE, 3).known for each in patterns])
    together = MultistepSampler(5).sample(denoiser, 9, 3, generator(), Given(VALUE.expand(9, -1), own))
    expected = torch.cat([rows[3 * place : 3 * place + 3] for place, rows in enumerate(alone)])
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-9)  # products of parts of a block round otherwise


@settings(max_examples=20)
@given(st.integers(1, 200), st.integers(0, 5), st.integers(0, 100))
def test_each_place_is_as_even_as_rows_can_be(num_rows, num_places, seed):
    places = latin_hypercube(num_rows, num_places, generator(seed))
    assert (places * num_rows).long().sort(dim=0).values.tolist() == [[row] * num_places for row in range(num_rows)]
    assert ((places > 0) & (places < 1)).all()


def test_pairs_of_places_are_independent():
    """Where a Sobol' sequence of so many is not."""
    apart, evenly = (
        independent_numbers(torch.special.ndtri(spread(1024, 100, generator()))).sum()
        for spread in (latin_hypercube, evenly_spread)
    )
    assert apart >= 98  # tests of level 0.02 may leave one out, or two
    assert evenly < 50  # seen 21
