"""Normal scores: round trips, point masses, derivatives, and columns that do not meet."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from sdv_constrained_diffusion.tabular.quantiles import QuantileCodec

ROUNDING = 1e-12
"""Relative to a column's largest value: a round trip interpolates and back, some eps times the ratio of neighbours."""


def column(*values):
    return np.array(values, dtype=float)[:, None]


def table(values):
    return torch.as_tensor(np.asarray(values, dtype=float))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def with_masses(num_rows=2000, seed=0):
    """Normal rows clipped at both ends, with a fifth of the rows at 0.25: masses at -1, 0.25 and 1."""
    values = normal(num_rows, 1, seed=seed).clip(-1, 1)
    values[: num_rows // 5] = 0.25
    return values


def features_on(low=-6.0, high=6.0, number=4001):
    return torch.linspace(low, high, number, dtype=torch.float64)[:, None]


finite_columns = hnp.arrays(
    float, st.tuples(st.integers(2, 60), st.just(1)), elements=st.floats(-1e6, 1e6, allow_subnormal=False)
)
columns_of_few_levels = hnp.arrays(
    float, st.tuples(st.integers(2, 60), st.just(1)), elements=st.integers(-3, 3).map(float)
)
any_column = st.one_of(finite_columns, columns_of_few_levels)


def fit_varied(values):
    """Fits a column that varies by more than its rounding, as the encoder lets through."""
    assume(np.ptp(values) > 1e-9 * abs(values).max())
    return QuantileCodec.fit(values)


@settings(deadline=None)
@given(values=any_column)
def test_training_values_return(values):
    codec = fit_varied(values)
    back = codec.decode(codec.encode(table(values)))
    # Values within the resolution of a point mass belong to it; all others are kept.
    tolerance = codec.resolution.item() + ROUNDING * abs(values).max()
    torch.testing.assert_close(back, table(values), rtol=0, atol=tolerance)


@settings(deadline=None)
@given(share=st.lists(st.floats(-2, 3), min_size=1, max_size=20), seed=st.integers(0, 50))
def test_any_value_of_a_column_without_masses_returns(share, seed):
    """Inside and outside of the training range: from twice the range below to twice the range above."""
    values = normal(300, 1, seed=seed)
    codec = QuantileCodec.fit(values)
    v = table(share)[:, None] * np.ptp(values) + values.min()
    back = codec.decode(codec.encode(v))
    torch.testing.assert_close(back, v, rtol=0, atol=ROUNDING * 30)  # numbers up to 30
    assert not codec.point_masses(v).any()


@settings(deadline=None)
@given(v=st.lists(st.floats(-50, 50), min_size=1, max_size=20))
def test_any_value_returns_or_goes_to_the_limit(v):
    codec = QuantileCodec.fit(with_masses())
    v = table(v)[:, None]
    back = codec.decode(codec.encode(v))
    torch.testing.assert_close(
        back, v.clamp(-1, 1), rtol=0, atol=codec.resolution.item()
    )  # masses take their neighbours
    beyond = v.abs() > 1
    assert torch.equal(back[beyond], v.clamp(-1, 1)[beyond])


@pytest.mark.parametrize('mass', [-1.0, 0.25, 1.0])
def test_a_point_mass_is_exact_from_anywhere_inside(mass):
    codec = QuantileCodec.fit(with_masses())
    assert codec.point_masses(table([[mass]])).all()
    drawn = codec.encode(torch.full((1000, 1), mass, dtype=torch.float64), generator())
    assert torch.equal(codec.decode(drawn), torch.full((1000, 1), mass, dtype=torch.float64))
    assert len(drawn.unique()) == 1000
    between = features_on(drawn.min(), drawn.max())
    assert torch.equal(codec.decode(between), torch.full_like(between, mass))


def test_limits_hold_far_outside():
    codec = QuantileCodec.fit(with_masses())
    assert torch.equal(codec.decode(table([[-40.0], [-9.0], [9.0], [40.0]])), table([[-1.0], [-1], [1], [1]]))


def test_a_mass_owns_its_share_of_the_normal():
    """The interval of features of a value that a share of the rows holds has that probability under the normal."""
    values = with_masses()
    codec = QuantileCodec.fit(values)
    features = table(stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000))[:, None]
    decoded = codec.decode(features).numpy()
    for mass in (-1.0, 0.25, 1.0):
        # Each border lies within half a row of the empirical step: 1/2000, and 1e-5 of the grid.
        assert (decoded == mass).mean() == pytest.approx((values == mass).mean(), abs=2 * 0.5 / 2000 + 1e-5)


def test_decoded_normals_have_the_columns_distribution():
    """Two-sample KS distance between rows and decoded quantiles of the normal: within a knot's share, 1/200."""
    for values in (normal(2000, 1), with_masses(), np.exp(2 * normal(2000, 1)), normal(2000, 1).round(1)):
        features = table(stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000))[:, None]
        decoded = QuantileCodec.fit(values).decode(features).numpy()
        assert (
            stats.ks_2samp(decoded[:, 0], values[:, 0]).statistic < 0.006
        )  # rounded levels between two knots add a bit: seen 0.0053


@pytest.mark.parametrize(
    'values',
    [
        with_masses(5000),
        np.random.default_rng(1).integers(0, 2, (5000, 1)).astype(float),
        np.random.default_rng(2).poisson(3, (5000, 1)).astype(float),
        np.random.default_rng(3).standard_cauchy((5000, 1)),
        np.random.default_rng(4).uniform(size=(5000, 1)),
    ],
    ids=['masses', 'binary', 'counts', 'Cauchy', 'uniform'],
)
def test_features_are_standard_normal(values):
    features = QuantileCodec.fit(values).encode(table(values), generator())[:, 0].numpy()
    assert stats.kstest(features, 'norm').pvalue > 0.01  # seeded: a good codec sits near 1, since ranks are even
    assert abs(features.mean()) < 4 / np.sqrt(5000)  # four standard errors
    assert features.std() == pytest.approx(1, abs=4 / np.sqrt(2 * 5000))


def test_medians_without_a_generator():
    """A third of the rows at each of three levels: the medians of their intervals are at 1/6, 1/2 and 5/6."""
    codec = QuantileCodec.fit(np.repeat([0.0, 1, 2], 1000)[:, None])
    features = codec.encode(column_tensor(0.0, 1, 2))[:, 0].numpy()
    # A border is a quarter of a row, 1/12000, from the empirical step.
    np.testing.assert_allclose(stats.norm.cdf(features), [1 / 6, 1 / 2, 5 / 6], atol=1e-4)


def test_a_mass_at_an_end_reaches_to_the_end_of_the_normal():
    """Two of four rows at each value; a border is a quarter of a row inside the step: medians at 7/32 and 25/32."""
    features = QuantileCodec.fit(column(0, 0, 1, 1)).encode(column_tensor(0, 1))[:, 0].numpy()
    np.testing.assert_allclose(stats.norm.cdf(features), [7 / 32, 25 / 32], atol=1e-14)  # a few roundings


def test_the_map_continues_with_the_slopes_of_its_last_deviation():
    """The knots of seven rows by hand, and lines beyond; the same beside a column of more knots.

    The knots a deviation inside: from the first, -1.465, the third, -0.464, and from the last, 1.465, the third again.
    """
    values = np.array([[0.0, 1, 2, 2, 2, 2, 5], [0, 1, 2, 3, 4, 5, 6]]).T
    ranks = stats.norm.ppf(np.array([0.5, 1.5, 2.25, 5.75, 6.5]) / 7)
    heights = np.array([0.0, 1, 2, 2, 5])
    x = np.array([ranks[0] - 30, ranks[0] - 0.5, *ranks, 0, ranks[-1] + 0.5, ranks[-1] + 30])
    below, above = ((heights[2] - heights[end]) / (ranks[2] - ranks[end]) for end in (0, -1))
    expected = np.interp(x, ranks, heights)
    expected += np.minimum(x - ranks[0], 0) * below + np.maximum(x - ranks[-1], 0) * above
    for codec in (QuantileCodec.fit(values[:, :1]), QuantileCodec.fit(values)):
        decoded = codec.decode(table(x)[:, None].expand(-1, len(codec.features)))[:, 0].numpy()
        np.testing.assert_allclose(decoded, expected, atol=1e-12)  # numbers up to 300, a few roundings


def column_tensor(*values):
    return table(column(*values))


def test_point_masses_marks_exactly_the_masses():
    values = with_masses()
    codec = QuantileCodec.fit(values)
    marked = codec.point_masses(table(values)).numpy()
    np.testing.assert_array_equal(marked, np.isin(values, [-1.0, 0.25, 1.0]))
    near = np.nextafter([-1.0, 0.25, 1.0, -1, 0.25, 1], [2, 2, 2, -2, -2, -2])
    assert not codec.point_masses(column_tensor(*near)).any()


@pytest.mark.parametrize(('count', 'is_mass'), [(20, False), (21, True)])
def test_a_mass_has_more_than_one_per_cent_of_the_rows(count, is_mass):
    values = normal(2000, 1)
    values[:count] = 0.3
    codec = QuantileCodec.fit(values, num_knots=20)  # so few that no knot repeats by chance
    assert codec.point_masses(column_tensor(0.3)).item() == is_mass


def test_values_within_the_resolution_snap():
    """Solver noise around a limit is the limit; the same distance elsewhere stays."""
    values = with_masses()
    codec = QuantileCodec.fit(values)
    gap = codec.resolution.item()
    assert gap == pytest.approx(1e-6 * np.ptp(np.quantile(values, [0.01, 0.99])) / (2 * stats.norm.ppf(0.99)), rel=1e-9)
    for mass in (-1.0, 0.25, 1.0):
        near = mass + gap * np.array([-0.9, -0.5, 0.5, 0.9])
        assert torch.equal(codec.decode(codec.encode(column_tensor(*near))), torch.full((4, 1), mass).double())
    outside = np.array([0.25 - 2 * gap, 0.25 + 2 * gap, 0.5])
    back = codec.decode(codec.encode(column_tensor(*outside)))
    torch.testing.assert_close(back, column_tensor(*outside), rtol=0, atol=ROUNDING)


def test_solver_noise_around_a_limit_is_one_mass():
    values = normal(2000, 1).clip(max=0.5)
    at_limit = values == 0.5
    values[at_limit] += 1e-9 * normal(int(at_limit.sum()))
    codec = QuantileCodec.fit(values)
    back = codec.decode(codec.encode(table(values), generator())).numpy()[at_limit]
    assert len(np.unique(back)) == 1
    assert back[0] == pytest.approx(0.5, abs=1e-8)  # five deviations of the noise
    assert codec.point_masses(table(back[:, None])).all()


def test_a_crowd_of_close_values_is_no_point_mass():
    """Each row is closer to the next than the resolution, but the crowd is over a thousand times wider than that."""
    values = np.concatenate([np.linspace(0, 1e-3, 5000), [-1.0, 1.0]])[:, None]
    codec = QuantileCodec.fit(values, resolution=2e-3)
    assert np.diff(values[:5000, 0]).max() < codec.resolution.item() < 1e-3 / 1000
    back = codec.decode(codec.encode(table(values)))
    torch.testing.assert_close(back, table(values), rtol=0, atol=codec.resolution.item())
    features = codec.encode(table(values), generator())[:, 0].numpy()
    assert stats.kstest(features, 'norm').pvalue > 0.01
    decoded = codec.decode(table(stats.norm.ppf((np.arange(1000) + 0.5) / 1000))[:, None])
    assert len(decoded.unique()) > 900


@pytest.mark.parametrize('power', [0.5, 1.0, 2.0], ids=['densest above', 'even', 'densest below'])
def test_no_value_belongs_to_two_masses(power):
    """A crowd a few resolutions wide breaks into masses that are farther apart than the resolution, and are kept."""
    values = np.concatenate([2e-4 * np.linspace(0, 1, 5000) ** power, normal(5000, 1)[:, 0]])[:, None]
    codec = QuantileCodec.fit(values, resolution=7e-5)
    masses = codec.values[0, :-1][codec.values[0].diff() == 0]
    assert len(masses) >= 2
    assert (masses.diff() >= codec.resolution).all()
    assert torch.equal(codec.decode(codec.encode(masses[:, None])), masses[:, None])


def test_a_mass_inside_a_crowd_is_found():
    """Half of the rows at a limit, the others right below it and as dense as above: the limit alone is a mass."""
    values = np.concatenate([np.linspace(0, 1e-3, 5000), np.full(5000, 1e-3), [-1.0]])[:, None]
    codec = QuantileCodec.fit(values, resolution=2e-5)
    assert codec.point_masses(column_tensor(1e-3, 5e-4)).tolist() == [[True], [False]]
    back = codec.decode(codec.encode(table(values)))
    torch.testing.assert_close(back, table(values), rtol=0, atol=codec.resolution.item())
    assert torch.equal(back[5000:-1], table(values)[5000:-1])


def test_a_binary_column():
    values = np.repeat([0.0, 1.0], [700, 300])[:, None]
    codec = QuantileCodec.fit(values)
    assert torch.equal(codec.decode(codec.encode(table(values), generator())), table(values))
    assert codec.point_masses(table(values)).all()
    decoded = codec.decode(table(stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000))[:, None])
    assert (decoded == 0).double().mean().item() == pytest.approx(0.7, abs=5e-4)  # a quarter row, 1/4000, at the step
    assert (decoded == 1).double().mean().item() == pytest.approx(0.3, abs=5e-4)


@pytest.mark.parametrize('values', [[0.0, 1.0], [0.0, 0.0, 1.0], [5.0, 5, 5, 7, 7], [1.0, 2.0, 2.0, 2.0, 3.0]])
def test_few_rows(values):
    codec = QuantileCodec.fit(column(*values))
    for draw in (None, generator()):
        back = codec.decode(codec.encode(column_tensor(*values), draw))
        torch.testing.assert_close(back, column_tensor(*values), rtol=0, atol=1e-14)  # a few roundings


def test_counts_with_ties():
    """Levels of a few per cent are masses, rare levels are not; all return."""
    values = np.random.default_rng(0).poisson(3, (3000, 1)).astype(float)
    codec = QuantileCodec.fit(values)
    back = codec.decode(codec.encode(table(values), generator()))
    torch.testing.assert_close(back, table(values), rtol=0, atol=1e-12)  # rare levels are interpolated
    marked = codec.point_masses(table(values)).numpy()
    common = np.isin(values, [k for k in range(20) if (values == k).mean() > 0.01])
    assert marked[common].all()
    assert torch.equal(back[marked], table(values)[marked])


@pytest.mark.parametrize('values', [np.random.default_rng(0).standard_cauchy((2000, 1)), np.exp(2 * normal(2000, 1))])
def test_heavy_tails_keep_small_and_large_values(values):
    codec = QuantileCodec.fit(values)
    back = codec.decode(codec.encode(table(values)))
    # Interpolation between knots whose values differ by a factor costs that factor in eps: seen 3e-14.
    torch.testing.assert_close(back, table(values), rtol=1e-11, atol=0)


def test_columns_of_any_magnitude_side_by_side():
    scales = np.array([1e30, 1e-30, 1.0, 1e-30, 1e300, 1e-300])
    values = with_masses() * scales
    codec = QuantileCodec.fit(values)
    features = codec.encode(table(values))
    torch.testing.assert_close(
        features, features[:, 2:3].expand(-1, 6), rtol=1e-9, atol=1e-9
    )  # rounding of scaled knots
    back = codec.decode(features).numpy()
    np.testing.assert_allclose(back / scales, values / scales, rtol=0, atol=codec.resolution[2].item())
    assert codec.point_masses(table(values)).equal(codec.point_masses(table(values))[:, 2:3].expand(-1, 6))


def test_a_small_spread_on_a_large_offset():
    values = 1e9 + normal(1000, 1)
    codec = QuantileCodec.fit(values)
    back = codec.decode(codec.encode(table(values)))
    # eps of 1e9 is 1.2e-7, and the inverse map multiplies it by at most a ratio of slopes.
    torch.testing.assert_close(back, table(values), rtol=0, atol=1e-6)


MIXED = np.concatenate(
    [
        with_masses(400),
        normal(400, 1, seed=1),
        np.repeat([0.0, 1], [300, 100])[:, None],
        normal(400, 1, seed=2).round(),
    ],
    axis=1,
)
"""Columns of 3 masses, none, two adjacent ones and several: 150 to 200 knots, and 4."""


@pytest.mark.parametrize('position', range(4))
def test_a_column_does_not_depend_on_those_beside_it(position):
    """Knots are padded to the longest column; that must not be seen."""
    together, alone = QuantileCodec.fit(MIXED), QuantileCodec.fit(MIXED[:, [position]])
    v = torch.cat([table(MIXED), table(MIXED) + 0.3, 3 * table(MIXED)])
    one = v[:, [position]]
    # The padding repeats the last segment's slope by sums of up to 200 terms: some hundred eps.
    close = {'rtol': 1e-11, 'atol': 1e-11}
    torch.testing.assert_close(together.encode(v)[:, [position]], alone.encode(one), **close)
    x = features_on(-12, 12)
    torch.testing.assert_close(together.decode(x.expand(-1, 4))[:, [position]], alone.decode(x), **close)
    assert torch.equal(together.point_masses(v)[:, [position]], alone.point_masses(one))


@settings(deadline=None)
@given(positions=st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
def test_select_is_the_whole_restricted(positions):
    whole = QuantileCodec.fit(MIXED)
    part = whole.select(positions)
    v = table(MIXED)
    assert torch.equal(part.encode(v[:, positions]), whole.encode(v)[:, positions])
    x = features_on(number=400).reshape(100, 4)
    assert torch.equal(part.decode(x[:, positions]), whole.decode(x)[:, positions])
    assert torch.equal(part.point_masses(v[:, positions]), whole.point_masses(v)[:, positions])


@settings(deadline=None)
@given(values=any_column, seed=st.integers(0, 100))
def test_monotone_both_ways(values, seed):
    codec = fit_varied(values)
    x = torch.sort(3 * table(normal(200, 1, seed=seed)), dim=0).values
    # Interpolation rounds: two neighbours may swap by an eps of the values.
    assert (codec.decode(x).diff(dim=0) >= -1e-15 * (abs(values).max() + np.ptp(values) * 20)).all()
    v = torch.sort(table(values) * 1.5, dim=0).values
    assert (codec.encode(v).diff(dim=0) >= -1e-9).all()


def test_derivative_is_the_finite_difference_away_from_knots():
    codec = QuantileCodec.fit(MIXED)
    x = table(normal(300, 4, seed=5) * 2)
    step = 1e-6
    to_knot = (x.T[:, :, None] - codec.features[:, None, :]).abs().min(2).values.T
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(codec.decode(x).sum(), x)
    x = x.detach()
    difference = (codec.decode(x + step) - codec.decode(x - step)) / (2 * step)
    away = to_knot > 2 * step
    assert away.double().mean() > 0.99
    # The map is linear there: the difference is exact up to rounding of numbers below 20, divided by the step.
    torch.testing.assert_close(gradient[away], difference[away], rtol=1e-8, atol=1e-8)
    flat = codec.point_masses(codec.decode(x)) & away
    assert flat.any()
    assert (gradient[flat] == 0).all()
    assert (gradient[away & ~flat] > 0).all()


def test_rows_never_meet():
    codec = QuantileCodec.fit(MIXED)
    v = table(MIXED[:20])
    assert torch.equal(codec.encode(v), torch.cat([codec.encode(row[None]) for row in v]))
    x = table(normal(20, 4))
    assert torch.equal(codec.decode(x), torch.cat([codec.decode(row[None]) for row in x]))


def test_the_generator_is_the_only_randomness():
    codec, v = QuantileCodec.fit(MIXED), table(MIXED)
    torch.manual_seed(1)
    first = codec.encode(v, generator(3))
    torch.manual_seed(2)
    assert torch.equal(codec.encode(v, generator(3)), first)
    assert not torch.equal(codec.encode(v, generator(4)), first)


def test_a_far_outlier_does_not_swallow_the_column():
    """With the standard deviation for a scale, 1e9 among 1,000 normal values made one point mass of all the others."""
    values = np.append(np.random.default_rng(0).normal(size=1000), 1e9)[:, None]
    codec = QuantileCodec.fit(values)
    assert not codec.point_masses(table(values)).any()
    # Rounding of the linear map between knots, relative to the segment's ends: those of the bulk are below 4.
    torch.testing.assert_close(codec.decode(codec.encode(table(values)))[:-1], table(values)[:-1], rtol=0, atol=1e-6)


@pytest.mark.parametrize('num_others', [5, 1])
def test_a_value_that_nearly_all_rows_share_is_a_mass(num_others):
    """Its central 98 % are one value, so the resolution is 0: the search for masses must end all the same."""
    values = np.zeros((1000, 1))
    values[:num_others, 0] = normal(num_others, 1)[:, 0]
    codec = QuantileCodec.fit(values)
    assert codec.point_masses(column_tensor(0.0)).item()
    assert torch.equal(codec.decode(codec.encode(table(values), generator()))[num_others:], table(values)[num_others:])


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 400), min_size=2, max_size=60))
def test_a_stepped_column_keeps_the_shares_of_its_values(counts):
    """However rare: of evenly spread normal scores each value gets its share, but for the half rows between steps."""
    values = np.repeat(np.arange(len(counts)) ** 1.5, counts)[:, None]
    codec = QuantileCodec.fit(values, stepped=[True])
    many = 40 * len(values)
    scores = torch.special.ndtri((torch.arange(many).double() + 0.5) / many)[:, None]
    levels = np.arange(len(counts)) ** 1.5
    nearest = np.abs(codec.decode(scores).numpy() - levels).argmin(1)
    # Half a row between two values is either's, on both sides of a value; one score in 40 per row and rounding.
    np.testing.assert_allclose(np.bincount(nearest, minlength=len(counts)) / 40, counts, rtol=0, atol=0.5 + 2 / 40)
    assert codec.point_masses(torch.from_numpy(values)).all()


def test_heavy_tails_bend_as_the_values_do():
    """The outermost values come back at their own ranks: rows 1, 2, 4, ... from either end are knots."""
    values = np.sort(np.random.default_rng(0).standard_t(2.5, 2500))
    codec = QuantileCodec.fit(values[:, None])
    for rank in 2 ** np.arange(7) - 1:
        for place in (rank, 2499 - rank):
            score = torch.special.ndtri(torch.tensor([[(place + 0.5) / 2500]], dtype=torch.float64))
            assert codec.decode(score).item() == pytest.approx(values[place], rel=1e-9)


def test_equal_values_at_an_end_are_no_point_mass_and_near_ones_no_cliff():
    """Two largest values that are equal, or a billionth apart: the map goes on about as steeply as inside."""
    values = np.sort(np.random.default_rng(0).normal(size=2500))
    for last in (values[-2], values[-2] + 1e-9):
        table = np.r_[values[:-1], last][:, None]
        codec = QuantileCodec.fit(table)
        assert not codec.point_masses(torch.from_numpy(table)).any()
        beyond = codec.encode(torch.tensor([[last + 0.5]], dtype=torch.float64)).item()
        # The last rank is at 3.54, and half a deviation more is half a score at a normal's slope, at most three times
        # that where the last values are near to each other; the slope of the last two alone gives 1e8, or nothing.
        assert 3.54 < beyond < 5
