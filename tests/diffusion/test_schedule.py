"""Noise scales against the formulas of Ho et al. (2020), Nichol and Dhariwal (2021) and Karras et al. (2022)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sdv_constrained_diffusion.diffusion.schedule import (
    DiscreteSchedule,
    EDMSchedule,
    cosine_schedule,
    linear_schedule,
)

ROUNDING = 1e-12
"""A product of a thousand float64 factors is good to about 1000 eps = 2e-13."""

betas_of_any_kind = st.lists(st.floats(1e-5, 0.5), min_size=1, max_size=50)


def times(*t):
    return torch.tensor(t, dtype=torch.float64)


def draw(schedule, num_rows=20_000, seed=0):
    return schedule.draw(num_rows, torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(betas=betas_of_any_kind, mean=st.floats(-3, 3), variance=st.floats(0, 4))
def test_marginal_is_the_chain_of_forward_steps(betas, mean, variance):
    """Iterates eq. (3), `x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) eps`, on mean and variance; eq. (4) must agree."""
    schedule = DiscreteSchedule(times(*betas))
    chain_mean, chain_variance = mean, variance
    for t, beta in enumerate(betas, start=1):
        chain_mean, chain_variance = math.sqrt(1 - beta) * chain_mean, (1 - beta) * chain_variance + beta
        alpha, sigma = schedule.noise(times(t))
        assert (alpha * mean).item() == pytest.approx(chain_mean, rel=ROUNDING, abs=ROUNDING)
        marginal = (alpha**2 * variance + sigma**2).item()
        assert marginal == pytest.approx(chain_variance, rel=ROUNDING, abs=ROUNDING)


def test_linear_betas_and_their_products():
    schedule = linear_schedule()
    product = 1.0
    for t in range(1, 1001):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * (t - 1) / 999)
        assert schedule.alpha_bar[t].item() == pytest.approx(product, rel=ROUNDING)
    assert schedule.num_levels == 1000
    assert schedule.alpha_bar[0] == 1


@pytest.mark.parametrize('schedule', [linear_schedule(), cosine_schedule(), linear_schedule(7)])
def test_variance_is_preserved_and_signal_falls(schedule):
    alpha, sigma = schedule.noise(torch.arange(schedule.num_levels + 1, dtype=torch.float64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=0, atol=4e-16)  # two roundings of 1
    assert (alpha.diff() < 0).all()
    assert (alpha[0], sigma[0]) == (1, 0)


@settings(deadline=None)
@given(num_levels=st.integers(2, 2000), offset=st.floats(0.001, 0.1))
def test_cosine_formula(num_levels, offset):
    r"""`\bar\alpha_t = f(t) / f(0)`; the last step is cut at beta = 0.999, as in section 3.2 there."""
    alpha_bar = cosine_schedule(num_levels, offset).alpha_bar

    def f(t):
        return math.cos((t / num_levels + offset) / (1 + offset) * math.pi / 2) ** 2

    for t in {0, 1, num_levels // 2, num_levels - 1}:
        if f(t) > 1e-3 * f(max(t - 1, 0)):
            # Near the end f is a square of a small cosine: its relative error is eps / cos, at most 2000 eps, twice.
            assert alpha_bar[t].item() == pytest.approx(f(t) / f(0), rel=1e-10)
    assert alpha_bar[-1].item() == pytest.approx(1e-3 * alpha_bar[-2].item(), rel=ROUNDING)


def test_discrete_times_are_uniform_on_one_to_last():
    schedule = linear_schedule(10)
    t = draw(schedule)
    counts = torch.bincount(t.long(), minlength=11)
    assert t.dtype == torch.float64
    assert counts[0] == 0
    assert len(counts) == 11
    assert stats.chisquare(counts[1:].numpy()).pvalue > 1e-3  # seeded: passes or fails for good


@settings(deadline=None)
@given(data=st.data(), num_levels=st.integers(1, 1000))
def test_discrete_grid_is_an_even_subsequence(data, num_levels):
    num_steps = data.draw(st.integers(1, num_levels))
    grid = linear_schedule(num_levels).grid(num_steps)
    assert grid.shape == (num_steps + 1,)
    assert (grid[0], grid[-1]) == (num_levels, 0)
    gaps = -grid.diff()
    assert (gaps >= 1).all()
    assert ((gaps - num_levels / num_steps).abs() <= 1).all()  # both ends of a gap are rounded by at most 1/2
    assert (grid == grid.round()).all()


def test_discrete_grid_of_all_steps():
    torch.testing.assert_close(linear_schedule(1000).grid(1000), torch.arange(1000, -1, -1, dtype=torch.float64))


def test_discrete_grid_refuses_more_steps_than_levels():
    """Two equal times, or a step from 0 to 0, would divide by a noise of zero and give NaN."""
    with pytest.raises(ValueError, match=r'10 noise levels.*11 steps'):
        linear_schedule(10).grid(11)


@settings(deadline=None)
@given(num_steps=st.integers(2, 60), smallest=st.floats(1e-4, 0.1), largest=st.floats(1, 200), rho=st.floats(1, 10))
def test_edm_grid_formula_and_ends(num_steps, smallest, largest, rho):
    grid = EDMSchedule(smallest, largest, rho).grid(num_steps)
    assert grid.shape == (num_steps + 1,)
    assert grid[-1] == 0
    # A tenth power multiplies the rounding error of its base by ten; the base itself is a difference of roots.
    assert grid[0].item() == pytest.approx(largest, rel=ROUNDING)
    assert grid[-2].item() == pytest.approx(smallest, rel=1e-10)
    for i in range(num_steps):
        share = i / (num_steps - 1)
        root = largest ** (1 / rho) + share * (smallest ** (1 / rho) - largest ** (1 / rho))
        assert grid[i].item() == pytest.approx(root**rho, rel=1e-10)


def test_edm_default_is_karras_et_al_but_for_the_largest_noise():
    """Rows of unit variance are drowned by a noise of 20; the 80 there are for pictures."""
    grid, theirs = EDMSchedule().grid(18), EDMSchedule(0.002, 20.0, 7.0).grid(18)
    assert (grid[0].item(), grid[-2].item()) == pytest.approx((20.0, 0.002), rel=ROUNDING)
    assert torch.equal(grid, theirs)


def test_edm_leaves_the_signal_unscaled():
    t = times(0.0, 0.002, 1.0, 80.0)
    alpha, sigma = EDMSchedule().noise(t)
    assert torch.equal(alpha, torch.ones_like(t))
    assert torch.equal(sigma, t)


def log_law(schedule):
    """Law of the logarithms of a schedule's times: normal, cut to its range."""
    ends = [(math.log(end) - schedule.log_mean) / schedule.log_std for end in (schedule.smallest, schedule.largest)]
    return stats.truncnorm(*ends, loc=schedule.log_mean, scale=schedule.log_std)


@pytest.mark.parametrize('num_rows', [1, 2, 1000])
def test_edm_times_are_log_normal_within_the_range_and_evenly_spread(num_rows):
    """Each of as many intervals of equal probability has one time; in which order is random."""
    schedule = EDMSchedule(smallest=0.01, largest=20.0, log_mean=-0.8, log_std=1.6)
    places = log_law(schedule).cdf(draw(schedule, num_rows).log().numpy()) * num_rows
    assert sorted(places.astype(int)) == list(range(num_rows))


def test_edm_times_come_in_random_order_and_anywhere_in_their_interval():
    schedule = EDMSchedule(smallest=0.01, largest=20.0, log_mean=-0.8, log_std=1.6)
    law = log_law(schedule)
    first, second = (law.cdf(draw(schedule, 1000, seed).log().numpy()) * 1000 for seed in (0, 1))
    assert stats.spearmanr(np.arange(1000), first).pvalue > 1e-3  # seeded
    assert stats.spearmanr(second, first).pvalue > 1e-3
    assert stats.kstest(first % 1, 'uniform').pvalue > 1e-3


@settings(deadline=None)
@given(sigma=st.floats(1e-3, 100))
def test_edm_condition_is_a_quarter_of_the_logarithm_in_thousandths(sigma):
    assert EDMSchedule().time_feature(times(sigma)).item() == pytest.approx(1000 * math.log(sigma) / 4, abs=1e-10)


@pytest.mark.parametrize('schedule', [linear_schedule(), EDMSchedule()])
def test_times_come_from_the_generator_alone(schedule):
    torch.manual_seed(1)
    first = draw(schedule, seed=3)
    torch.manual_seed(2)
    assert torch.equal(draw(schedule, seed=3), first)
    assert not torch.equal(draw(schedule, seed=4), first)


@pytest.mark.parametrize(('smallest', 'largest', 'rho'), [(0.002, 80.0, 7.0), (0.002, 20.0, 7.0), (0.01, 20.0, 3.0)])
def test_edm_even_times_spread_as_the_grid(smallest, largest, rho):
    """Each step of a grid is as likely as any other: a chi-square test, seeded."""
    schedule = EDMSchedule(smallest, largest, rho)
    t = schedule.draw_evenly(20_000, torch.Generator().manual_seed(0))
    counts, _ = np.histogram(t.numpy(), bins=schedule.grid(21)[:-1].flip(0).numpy())
    assert counts.sum() == 20_000
    assert stats.chisquare(counts).pvalue > 1e-3


def test_discrete_even_times_are_those_of_training():
    schedule = linear_schedule(10)
    even = schedule.draw_evenly(1000, torch.Generator().manual_seed(0))
    assert torch.equal(even, draw(schedule, 1000))


@settings(deadline=None)
@given(num_levels=st.integers(1, 2000))
def test_discrete_columns_are_hidden_in_proportion_to_the_time(num_levels):
    schedule = linear_schedule(num_levels)
    t = torch.arange(num_levels + 1, dtype=torch.float64)
    torch.testing.assert_close(schedule.hidden_share(t), t / num_levels, rtol=0, atol=0)


@settings(deadline=None)
@given(num_steps=st.integers(2, 60), smallest=st.floats(1e-4, 0.1), largest=st.floats(1, 200), rho=st.floats(1, 10))
def test_edm_hides_all_at_first_and_nothing_at_last(num_steps, smallest, largest, rho):
    """Along the grid the share of steps that are left, to the power 3/4: `m^(4/3)` falls by as much in each step."""
    schedule = EDMSchedule(smallest, largest, rho)
    hidden = schedule.hidden_share(schedule.grid(num_steps))
    assert hidden[0].item() == pytest.approx(1, abs=1e-12)
    assert hidden[-1] == 0
    assert (hidden.diff() <= 0).all()
    expected = 1 - torch.arange(num_steps, dtype=torch.float64) / (num_steps - 1)
    # The share is a quotient of differences of roots, which lie as near as 1 and 1.6.
    torch.testing.assert_close(hidden[:-1] ** (4 / 3), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('schedule', [linear_schedule(), cosine_schedule(), EDMSchedule()])
def test_the_first_step_hides_no_more_than_all_and_the_clean_time_nothing(schedule):
    grid = schedule.grid(50)
    assert schedule.hidden_share(grid[0]) == 1
    assert schedule.hidden_share(grid[-1]) == 0


@pytest.mark.parametrize(('deviation', 'largest'), [(0.0, 0.01), (0.5, 2.5), (1.0, 5.0), (4.0, 20.0), (10.0, 20.0)])
def test_the_first_noise_hides_the_widest_axis_and_no_more(deviation, largest):
    schedule = EDMSchedule(largest=20.0)
    reaching = schedule.reaching(deviation)
    whole, grid = schedule.grid(200), reaching.grid(200)
    assert grid[0].item() == pytest.approx(largest, rel=1e-14)
    assert grid[-2] == whole[-2]
    # One of a thousand times lies in the last thousandth of their law; its edge is known to some roundings.
    edge = math.exp(log_law(reaching).ppf(0.999))
    assert edge * (1 - 1e-12) <= draw(reaching, 1000).max() <= reaching.largest
    # Steps as large as those of the whole, but that their number is a whole one.
    shorter, longer = ((-(each[:-1] ** (1 / 7))).diff().mean().item() for each in (grid, whole))
    assert longer * (1 - 1 / len(grid)) < shorter <= longer * (1 + 1 / len(grid))
    assert len(grid) == len(whole) or largest < 20
    assert schedule.largest == 20  # is itself left alone
