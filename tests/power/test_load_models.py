"""Load and infeed models: their distributions against closed forms, their profiles hour by hour."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power.scenarios import (
    CostPerturbation,
    NormalLoads,
    ProfileInfeed,
    ProfileLoads,
    UniformInfeed,
    UniformLoads,
)
from sdv_constrained_diffusion.power.scenarios.models.profiles import Chunk, read_profile

LOADS = ('0', '1', '2')
PROFILE = pd.DataFrame({'2': [0.2, 0.5, 0.9, 1.0], '0': [1.1, 1.2, 1.3, 1.4], '1': [0.0, 0.1, 0.2, 0.3]})


def chunk(count, first=0, seed=0):
    return Chunk(np.arange(first, first + count), np.random.default_rng(seed).random(count))


def drawn(model, count, seed=0, labels=LOADS):
    return model.factors(np.random.default_rng(seed), labels, chunk(count))


@settings(max_examples=30, deadline=None)
@given(
    model=st.one_of(
        st.builds(
            lambda low, width, power: UniformLoads(low, low + width, power),
            *2 * [st.floats(0, 3)],
            st.sampled_from(['independent', 'constant']),
        ),
        st.builds(
            NormalLoads,
            std=st.floats(1e-6, 3),
            correlation=st.floats(0, 1),
            mean=st.floats(0, 2),
            power_factor=st.sampled_from(['independent', 'constant']),
        ),
        st.builds(ProfileLoads, st.just(PROFILE), st.sampled_from(['drawn', 'in_turn'])),
    ),
    seed=st.integers(0, 2**32),
    count=st.integers(1, 40),
)
def test_factors_are_finite_and_no_load_turns_round(model, seed, count):
    factors = drawn(model, count, seed)
    assert factors.shape == (count, 2, 3)
    assert np.isfinite(factors).all()
    assert (factors >= 0).all()
    if isinstance(model, ProfileLoads) or model.power_factor == 'constant':
        assert np.array_equal(factors[:, 0], factors[:, 1])
    else:
        assert count * model_spread(model) < 1e-9 or not np.array_equal(factors[:, 0], factors[:, 1])
    np.testing.assert_array_equal(factors, drawn(model, count, seed))


def model_spread(model):
    return model.high - model.low if isinstance(model, UniformLoads) else model.std


def test_normal_loads_have_their_mean_deviation_and_correlation():
    factors = drawn(NormalLoads(std=0.1, correlation=0.6, mean=0.9), 20_000)[:, 0]
    # Standard errors: 0.1 / sqrt(20000) = 7e-4 of a mean, 5e-4 of a deviation, (1 - 0.36) / sqrt(20000) = 4.5e-3 of a
    # correlation; five of each.
    np.testing.assert_allclose(factors.mean(axis=0), 0.9, atol=3.5e-3)
    np.testing.assert_allclose(factors.std(axis=0), 0.1, atol=2.5e-3)
    correlation = np.corrcoef(factors.T)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(correlation, 0.6, atol=0.023)


@pytest.mark.parametrize('mean', [0.0, 0.3, 1.0])
def test_a_load_alone_follows_the_truncated_normal_distribution(mean):
    factors = drawn(NormalLoads(std=0.5, correlation=0.4, mean=mean), 5000, seed=3)[:, 0, 0]
    expected = stats.truncnorm(-mean / 0.5, np.inf, loc=mean, scale=0.5)
    # A Kolmogorov-Smirnov test at 1e-4; the rows are independent draws.
    assert stats.kstest(factors, expected.cdf).pvalue > 1e-4


def test_where_the_cut_is_far_away_factors_are_plain_normal():
    generator = np.random.default_rng(7)
    common, own = generator.standard_normal((50, 2, 1)), generator.standard_normal((50, 2, 3))
    expected = 1 + 0.05 * (np.sqrt(0.3) * common + np.sqrt(0.7) * own)
    model = NormalLoads(std=0.05, correlation=0.3, power_factor='independent')
    np.testing.assert_allclose(drawn(model, 50, seed=7), expected, rtol=1e-12)


def test_full_correlation_moves_all_loads_as_one():
    factors = drawn(NormalLoads(std=0.2, correlation=1.0), 100)[:, 0]
    np.testing.assert_array_equal(factors, np.repeat(factors[:, :1], 3, axis=1))
    assert factors[:, 0].std() > 0.1


def test_profiles_run_through_their_hours_in_chunk():
    model = ProfileLoads(PROFILE, 'in_turn')
    factors = model.factors(np.random.default_rng(0), LOADS, chunk(6, first=3))
    np.testing.assert_array_equal(factors[:, 0], PROFILE[['0', '1', '2']].to_numpy()[[3, 0, 1, 2, 3, 0]])


def test_drawn_hours_are_all_taken_and_shared_by_profiles_of_one_length():
    infeed = ProfileInfeed(pd.DataFrame({'sgen_5': np.arange(4.0)}))
    hours = infeed.factors(np.random.default_rng(1), ['sgen_5'], chunk(200))[:, 0].astype(int)
    factors = drawn(ProfileLoads(PROFILE), 200, seed=2)
    np.testing.assert_array_equal(factors[:, 0], PROFILE[['0', '1', '2']].to_numpy()[hours])
    # 50 of 200 expected, with a deviation of sqrt(200 / 4 * 3 / 4) = 6.1; five of them.
    assert np.abs(np.bincount(hours, minlength=4) - 50).max() < 31


def test_infeed_and_cost_factors_fill_their_range():
    infeed = drawn(UniformInfeed(0.1, 0.7), 1000, labels=['sgen_0', 'sgen_1'])
    costs = drawn(CostPerturbation(0.3), 1000, labels=['gen_0', 'gen_1'])
    for factors, low, high in ((infeed, 0.1, 0.7), (costs, 0.7, 1.3)):
        assert factors.shape == (1000, 2)
        assert low <= factors.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < factors.max() <= high
        assert abs(np.corrcoef(factors.T)[0, 1]) < 5 / np.sqrt(1000)


def test_profiles_are_read_from_files_without_their_hour(tmp_path):
    table = PROFILE.assign(hour=range(4))
    table.to_csv(tmp_path / 'profile.csv', index=False)
    table.to_parquet(tmp_path / 'profile.parquet')
    for name in ('profile.csv', 'profile.parquet'):
        pd.testing.assert_frame_equal(read_profile(tmp_path / name), PROFILE)
    with pytest.raises(GridError, match=r'\.csv or \.parquet.*profile\.xlsx'):
        read_profile(tmp_path / 'profile.xlsx')


@pytest.mark.parametrize(
    ('make', 'facts'),
    [
        (lambda: UniformLoads(1.2, 0.8), ['UniformLoads', 'low=1.2, high=0.8', 'for example']),
        (lambda: UniformLoads(power_factor='fixed'), ["got 'fixed'", "'constant'"]),
        (lambda: NormalLoads(std=0.0), ['NormalLoads', 'std=0', 'for example']),
        (lambda: NormalLoads(correlation=-0.1), ['correlation=-0.1']),
        (lambda: NormalLoads(mean=float('nan')), ['mean=nan']),
        (lambda: UniformInfeed(high=-1.0), ['UniformInfeed', 'high=-1']),
        (lambda: CostPerturbation(1.0), ['CostPerturbation', 'got 1', 'example 0.2']),
        (lambda: ProfileLoads(PROFILE, 'sorted'), ['ProfileLoads', "got 'sorted'", "'in_turn'"]),
        (lambda: ProfileLoads(PROFILE[:0]), ['a row for each hour', '(0, 3)']),
        (lambda: ProfileLoads(PROFILE.replace(0.9, -0.9)), ["hour 2 of column '2' is -0.9", '1 such']),
        (lambda: ProfileLoads(PROFILE.astype(object).replace(1.4, 'a')), ["hour 3 of column '0' is a"]),
        (lambda: drawn(ProfileLoads(PROFILE), 3, labels=['0', '3']), ["lacks '3'", 'pd_mw_3']),
    ],
)
def test_what_is_out_of_range_is_named(make, facts):
    with pytest.raises(GridError) as error:
        make()
    for fact in facts:
        assert fact in str(error.value)
