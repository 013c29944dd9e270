"""What counts as exact, against counts by hand and a search without tricks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sdv_constrained_diffusion.tabular.masses import (
    FEW_LEVELS,
    MOST_LEVELS,
    NORMAL_WIDTH,
    ROUNDING,
    SOLVER_DIGITS,
    exact_values,
    is_constant,
    mass_windows,
    observed_levels,
    resolution_of,
)


def normal(num_rows, seed=0):
    return np.random.default_rng(seed).normal(size=num_rows)


def test_normal_width():
    assert pytest.approx(stats.norm.ppf(0.99) - stats.norm.ppf(0.01), rel=1e-15) == NORMAL_WIDTH


@settings(deadline=None)
@given(scale=st.sampled_from([1e-300, 1e-30, 1.0, 1e30, 1e300]), share=st.floats(1e-9, 1e-1), seed=st.integers(0, 99))
def test_resolution_is_a_share_of_a_normals_deviation(scale, share, seed):
    values = scale * np.stack([normal(500, seed), np.random.default_rng(seed).uniform(size=500)], axis=1)
    low, high = (np.percentile(values / scale, percent, axis=0) for percent in (1, 99))
    expected = share * (high - low) / (2 * stats.norm.ppf(0.99))
    np.testing.assert_allclose(resolution_of(values, share) / scale, expected, rtol=1e-12)  # a few roundings
    np.testing.assert_allclose(resolution_of(values[:, 1], share), resolution_of(values, share)[1], rtol=0)


def test_one_far_outlier_hardly_changes_the_resolution():
    values = normal(1000)
    spoiled = np.append(values, 1e9)
    # The quantiles move by a thousandth of a rank at most; the standard deviation would grow by 3e7.
    assert resolution_of(spoiled) == pytest.approx(resolution_of(values), rel=0.05)


@pytest.mark.parametrize(
    ('values', 'constant'),
    [
        ([0.0, 0.0], True),
        ([7.0], True),
        ([1e30, 1e30], True),
        ([50.0, 50.0 * (1 + 5e-10)], True),
        ([50.0, 50.0 * (1 + 5e-9)], False),
        ([-50.0, -50.0 * (1 + 5e-10)], True),
        ([0.0, 1e-300], False),
        ([-1e-30, 1e-30], False),
        ([np.nan, np.nan], True),
        ([1.0, np.nan], False),  # missing beside a value is a distinction to be learned
    ],
)
def test_constant_means_one_value_up_to_a_solvers_last_digits(values, constant):
    assert is_constant(np.array(values), SOLVER_DIGITS) == constant


@pytest.mark.parametrize('values', [1e10 + np.arange(10), 1.7e12 + np.arange(1500), 1.6e18 + 1e9 * np.arange(3)])
def test_long_whole_numbers_that_vary_are_not_constant(values):
    """Account numbers, moments in milliseconds and in nanoseconds: their spread is small beside their size."""
    assert not is_constant(values, ROUNDING)


def windows_by_hand(ordered, resolution, fewest):
    """Takes the fullest run of values within the resolution, bars what is nearer than that to it, and so on."""
    found, free = [], np.ones(len(ordered), dtype=bool)
    while True:
        best = (0, 0)
        for start in range(len(ordered)):
            end = start
            while end < len(ordered) and free[end] and ordered[end] <= ordered[start] + resolution:
                end += 1
            if end - start > best[1] - best[0]:
                best = (start, end)
        start, end = best
        if end - start <= fewest:
            return sorted(found)
        found.append(best)
        free &= (ordered < ordered[start] - resolution) | (ordered > ordered[end - 1] + resolution)


@settings(deadline=None)
@given(
    values=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    resolution=st.sampled_from([0.0, 0.5, 1.0, 2.5]),
    fewest=st.integers(1, 6).map(float),
)
def test_windows_are_those_of_a_search_by_hand(values, resolution, fewest):
    ordered = np.sort(np.array(values, dtype=float))
    found = mass_windows(ordered, resolution, fewest)
    assert found == windows_by_hand(ordered, resolution, fewest)
    for start, end in found:
        assert end - start > fewest
        assert ordered[end - 1] - ordered[start] <= resolution
    for (_, end), (start, _) in itertools.pairwise(found):
        assert ordered[start] - ordered[end - 1] > resolution


@settings(deadline=None)
@given(values=st.lists(st.integers(-20, 20), min_size=1, max_size=80))
def test_every_value_of_a_short_scale_is_exact(values):
    column = np.array(values, dtype=float)
    exact, _ = exact_values(column)
    levels = sorted({float(value) for value in values})
    if len(levels) <= FEW_LEVELS and len(values) > 2 * len(levels):
        assert exact == levels
    assert set(exact) <= set(levels)


def test_nothing_is_exact_in_a_continuous_column_or_an_empty_one():
    assert exact_values(normal(3000))[0] == []
    assert exact_values(np.zeros(0)) == ([], 0.0)
    assert exact_values(np.array([3.0]))[0] == []


@pytest.mark.parametrize(('count', 'is_spike'), [(30, False), (31, True)])
def test_a_spike_has_more_than_one_per_cent_of_the_rows(count, is_spike):
    values = normal(3000)
    values[:count] = 0.25
    exact, resolution = exact_values(values)
    assert exact == ([0.25] if is_spike else [])
    assert resolution == resolution_of(values)


@pytest.mark.parametrize(('count', 'is_spike'), [(150, False), (151, True)])
def test_a_spike_is_taken_three_times_as_often_as_its_neighbours(count, is_spike):
    """A fine scale of 60 steps with 50 rows each, one of them with more: ages are numbers, a peak among them is not."""
    values = np.concatenate([np.repeat(np.arange(60.0), 50), np.full(count - 50, 30.0)])
    assert exact_values(values)[0] == ([30.0] if is_spike else [])


def test_limits_of_a_clipped_column_are_spikes():
    values = normal(3000).clip(-1, 1.5)
    assert exact_values(values)[0] == [-1.0, 1.5]


def test_a_spike_with_a_solvers_digits_is_one_value():
    values = normal(3000)
    values[:600] = 1.05 + 1e-9 * normal(600, seed=1)
    exact, resolution = exact_values(values)
    assert len(exact) == 1
    assert abs(exact[0] - 1.05) < 5e-9  # five deviations of the digits
    assert (np.abs(values[:600] - exact[0]) <= resolution).all()


def test_a_zero_that_nearly_all_rows_share():
    """Capital gains: the central 98 % may be one value, the resolution is 0, and the search must end."""
    values = np.zeros(4000)
    values[:30] = np.random.default_rng(0).lognormal(8, 1, 30)
    assert exact_values(values) == ([0.0], 0.0)


@given(
    levels=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20, unique=True),
    repeats=st.integers(1, 20),
    num_missing=st.integers(0, 3),
)
def test_observed_levels_of_a_coarse_scale(levels, repeats, num_missing):
    column = np.concatenate([np.repeat(levels, repeats), np.full(num_missing, np.nan)])
    often = 2 <= len(levels) <= min(MOST_LEVELS, len(column) / 10)
    assert observed_levels(column).tolist() == (sorted(levels) if often else [])


@pytest.mark.parametrize(('num_levels', 'found'), [(MOST_LEVELS, MOST_LEVELS), (MOST_LEVELS + 1, 0)])
def test_a_long_scale_is_none(num_levels, found):
    assert len(observed_levels(np.repeat(np.arange(float(num_levels)), 20))) == found
