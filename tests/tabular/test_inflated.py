"""A state beside a number: what each row's state is, and that neither part hears of the other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sdv_constrained_diffusion.tabular.columns import AffineCodec
from sdv_constrained_diffusion.tabular.inflated import InflatedCodec
from sdv_constrained_diffusion.tabular.quantiles import QuantileCodec

GAP = 1e-6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def table(values):
    return torch.as_tensor(np.asarray(values, dtype=float))[:, None]


def inflated(num_rows=2000, seed=0):
    """Half zeros, a tenth at a limit of 3, a fifth missing, and numbers between 1 and 2 that are dense at 1."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(4, num_rows, p=[0.5, 0.1, 0.2, 0.2])
    return np.choose(kind, [0.0, 3.0, np.nan, 1 + rng.uniform(size=num_rows) ** 3])


VALUES = inflated()
CODECS = {kind: InflatedCodec.fit(VALUES, [3.0, 0.0], GAP, kind.fit) for kind in (QuantileCodec, AffineCodec)}
kinds = pytest.mark.parametrize('kind', [QuantileCodec, AffineCodec])


def assert_same(found, wanted, **close):
    torch.testing.assert_close(found, wanted, equal_nan=True, **({'rtol': 0, 'atol': 0} | close))


@kinds
def test_states_and_their_shares_are_counts(kind):
    codec = CODECS[kind]
    expected = np.select([VALUES == 0, VALUES == 3, np.isnan(VALUES)], [0, 1, 2], 3)
    assert codec.states(table(VALUES))[:, 0].tolist() == expected.tolist()
    assert codec.frequencies[0].tolist() == (np.bincount(expected) / len(VALUES)).tolist()
    assert codec.num_numbers == 1
    assert_same(codec.exact, torch.tensor([0.0, 3.0, torch.nan]).double())


@kinds
@pytest.mark.parametrize('draw', [None, generator()], ids=['medians', 'drawn'])
def test_round_trip(kind, draw):
    codec, values = CODECS[kind], table(VALUES)
    back = codec.decode(codec.encode(values, draw), codec.states(values))
    exact = codec.point_masses(values)
    assert_same(back[exact], values[exact])
    assert_same(back, values, rtol=0, atol=1e-14)  # interpolated numbers: some eps


@settings(deadline=None)
@given(
    kinds=st.lists(st.sampled_from(['exact', 'missing', 'number']), min_size=2, max_size=30),
    exact=st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=3, unique=True),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
    seed=st.integers(0, 100),
)
def test_round_trip_of_any_column(kinds, exact, scale, seed):
    """Numbers lie between the exact values, at halves; with fewer than two of them there is no number at all."""
    rng = np.random.default_rng(seed)
    draws = {'exact': lambda: rng.choice(exact), 'missing': lambda: np.nan, 'number': lambda: rng.integers(-9, 9) + 0.5}
    column = scale * np.array([draws[kind]() for kind in kinds])
    points = [scale * value for value in exact]
    rest = np.setdiff1d(column[~np.isnan(column)], points)
    if len(rest) == 1:
        points.append(rest[0])
    codec = InflatedCodec.fit(column, points, GAP * scale, AffineCodec.fit if len(rest) > 1 else None)
    values = table(column)
    back = codec.decode(codec.encode(values, generator(seed)), codec.states(values))
    assert codec.num_numbers == (len(rest) > 1)
    assert sum(codec.frequencies[0].tolist()) == pytest.approx(1, rel=1e-12)
    assert_same(back / scale, values / scale, rtol=0, atol=1e-14)  # numbers up to 9, scaled and back


@kinds
def test_numbers_are_those_of_a_codec_of_the_rest_alone(kind):
    """Neither the exact values nor the missing ones may bend the map of the numbers."""
    rest = VALUES[(VALUES > 0) & (VALUES < 3)]
    alone = kind.fit(rest[:, None])
    codec = CODECS[kind]
    assert_same(codec.encode(table(rest)), alone.encode(table(rest)))
    numbers = torch.linspace(-3, 3, 100, dtype=torch.float64)[:, None]
    assert_same(codec.decode(numbers, torch.full((100, 1), 3)), alone.decode(numbers))


@kinds
def test_where_nothing_is_said_the_number_is_a_standard_normal(kind):
    codec, exact = CODECS[kind], CODECS[kind].point_masses(table(VALUES))
    drawn = codec.encode(table(VALUES), generator())[exact]
    assert stats.kstest(drawn.numpy(), 'norm').pvalue > 1e-3  # seeded
    assert torch.equal(codec.encode(table(VALUES), generator())[exact], drawn)
    assert not torch.equal(codec.encode(table(VALUES), generator(1))[exact], drawn)
    assert (codec.encode(table(VALUES))[exact] == 0).all()


@kinds
def test_the_state_alone_decides_what_is_exact(kind):
    numbers = torch.tensor([[-40.0], [0.3], [40.0]]).double().requires_grad_()
    for state, value in ((0, 0.0), (1, 3.0), (2, torch.nan)):
        decoded = CODECS[kind].decode(numbers, torch.full((3, 1), state))
        assert_same(decoded, torch.full((3, 1), value).double())
        (gradient,) = torch.autograd.grad(decoded.nansum(), numbers)
        assert (gradient == 0).all()
    (gradient,) = torch.autograd.grad(CODECS[kind].decode(numbers, torch.full((3, 1), 3)).sum(), numbers)
    assert (gradient > 0).all()


def test_values_within_the_resolution_are_exact():
    near = table([0.9 * GAP, 1.1 * GAP, 3 - 0.9 * GAP, 3 + 1.1 * GAP, 1.5])
    codec = CODECS[AffineCodec]
    assert codec.point_masses(near)[:, 0].tolist() == [True, False, True, False, False]
    assert codec.decode(codec.encode(near), codec.states(near))[[0, 2], 0].tolist() == [0.0, 3.0]


def test_a_value_between_two_exact_ones_is_the_nearer():
    """A short scale of 1, 2 and 4 has no number; a given 2.9 is its 2, and the scale is where the table is exact."""
    codec = InflatedCodec.fit(np.repeat([1.0, 2, 4], 5), [1.0, 2.0, 4.0], GAP, None)
    given_values = table([-7, 1.4, 1.6, 2.9, 3.1, 1e6])
    assert codec.states(given_values)[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert codec.encode(given_values).shape == (6, 0)
    assert codec.point_masses(table([1, 1.4, 4])).tolist() == [[True], [False], [True]]
    close = InflatedCodec.fit(np.repeat([1.0, 1 + GAP / 3], 5), [1.0, 1 + GAP / 3], GAP, None)
    assert close.states(table([1.0, 1 + GAP / 3])).tolist() == [[0], [1]]


def test_missing_counts_as_exact_only_where_it_was_seen():
    complete = InflatedCodec.fit(np.repeat([1.0, 2], 5), [1.0, 2.0], GAP, None)
    assert complete.point_masses(table([np.nan, 1])).tolist() == [[False], [True]]
    assert CODECS[AffineCodec].point_masses(table([np.nan])).all()


def test_decoding_without_states_is_refused():
    with pytest.raises(ValueError, match=r'InflatedCodec\.decode needs the states'):
        CODECS[AffineCodec].decode(torch.zeros(2, 1).double())


@kinds
def test_rows_never_meet(kind):
    codec, values = CODECS[kind], table(VALUES[:20])
    numbers, states = codec.encode(values), codec.states(values)
    rows = [value[None] for value in values]
    assert torch.equal(numbers, torch.cat([codec.encode(row) for row in rows]))
    assert torch.equal(states, torch.cat([codec.states(row) for row in rows]))
    alone = [codec.decode(number[None], state[None]) for number, state in zip(numbers, states, strict=True)]
    assert_same(codec.decode(numbers, states), torch.cat(alone))
