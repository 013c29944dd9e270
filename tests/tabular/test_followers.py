"""Columns that are one-to-one with an earlier one: how they are found, and that they never come apart from it."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdv_constrained_diffusion.tabular.encoder import TableEncoder
from sdv_constrained_diffusion.tabular.followers import FEWEST_OFF, MOST_KNOTS, STATE, CurveCodec, leaders
from sdv_constrained_diffusion.tabular.quantiles import QuantileCodec

WORDS = np.array(['low', 'middle', 'high'], dtype=object)
NAMES = np.array(['b', 'c', 'a'], dtype=object)
CODES = np.array([7.0, np.nan, -1.0])


def demands(num_rows=500):
    """A column of numbers of every kind that leads, and those that follow it; labels and those that follow them."""
    rng = np.random.default_rng(0)
    p = rng.lognormal(3, 1, num_rows)
    free = rng.normal(size=num_rows)
    often = np.where(rng.uniform(size=num_rows) < 0.3, 0.0, rng.gamma(2, 1, num_rows))
    holes = np.where(rng.uniform(size=num_rows) < 0.2, np.nan, often)
    level = rng.integers(0, 3, num_rows)
    return pd.DataFrame(
        {
            'p': p,
            'q': 0.3 * p - 5,
            'loss': np.exp(-p / 50),  # falls as p rises, and is curved
            'free': free,
            'gain': holes,  # zero, missing, or a number
            'tax': holes**2 + 1,
            'word': WORDS[level],
            'name': NAMES[level],
            'code': CODES[level],
        }
    )


TABLE = demands()
LABELS = ('word', 'name')
FOLLOWS = {'q': 'p', 'loss': 'p', 'tax': 'gain', 'name': 'word', 'code': 'word'}
ENCODER = TableEncoder.fit(TABLE, discrete=LABELS)
VALUES = ENCODER.values(TABLE)


def place(name):
    return TABLE.columns.get_loc(name)


def random_rows(num_rows=300, seed=0):
    """Wide numbers, so that some lie beyond all knots, and of each block one level."""
    draw, layout = torch.Generator().manual_seed(seed), ENCODER.layout
    numbers = 2 * torch.randn(num_rows, layout.num_numbers, generator=draw, dtype=torch.float64)
    levels = torch.randint(0, 3, (num_rows, layout.num_blocks), generator=draw)
    return torch.cat([numbers, layout.one_hot(levels)], dim=1)


def features_of(name):
    return ENCODER.select([name]).features(torch.ones(1, 1).bool())[0]


def test_followers_have_the_features_of_their_leaders():
    alone = TableEncoder.fit(TABLE.drop(columns=list(FOLLOWS)), discrete=LABELS)
    assert (ENCODER.layout.num_numbers, ENCODER.layout.num_blocks) == (3, 2)
    assert ENCODER.num_features == alone.num_features
    for follower, leader in FOLLOWS.items():
        assert torch.equal(features_of(follower), features_of(leader))
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    encoded = ENCODER.encode(VALUES, draws[0])
    assert torch.equal(encoded, alone.encode(alone.values(TABLE[list(alone.columns)]), draws[1]))


def test_minmax_keeps_every_column():
    assert TableEncoder.fit(TABLE, 'minmax', LABELS).layout.num_numbers == 7


@pytest.mark.parametrize('draw', [None, torch.Generator().manual_seed(0)], ids=['medians', 'drawn'])
@pytest.mark.parametrize('columns', [list(TABLE), list(FOLLOWS), ['code'], ['tax', 'loss']])
def test_round_trip(columns, draw):
    """Also of followers without their leaders."""
    part = ENCODER.select(columns)
    values = part.values(TABLE)
    back = part.decode(part.encode(values, draw))
    # Some eps of a column's largest value, and of a curve's slope.
    torch.testing.assert_close(back, values, rtol=1e-12, atol=1e-12, equal_nan=True)
    exact = part.point_masses(values)
    assert torch.equal(back[exact].nan_to_num(-7), values[exact].nan_to_num(-7))
    words = [name for name in columns if name in LABELS]
    assert part.frame(back)[words].equals(TABLE[words])


def test_rows_never_leave_their_relation():
    """Whatever the features are; linear relations hold beyond the training rows, too."""
    frame = ENCODER.frame(ENCODER.decode(random_rows()))
    assert frame['p'].min() < TABLE['p'].min()
    assert frame['p'].max() > TABLE['p'].max()
    np.testing.assert_allclose(frame['q'], 0.3 * frame['p'] - 5, rtol=1e-12, atol=1e-10)  # some eps of p
    inside = frame['p'].between(TABLE['p'].min(), TABLE['p'].quantile(0.9))
    # Linear between neighbours of 500 rows.
    np.testing.assert_allclose(frame['loss'][inside], np.exp(-frame['p'][inside] / 50), rtol=0, atol=1e-3)
    order = frame['p'].argsort()
    assert (frame['loss'][order].diff().dropna() <= 0).all()
    zero, missing = frame['gain'] == 0, frame['gain'].isna()
    assert zero.any()
    assert missing.any()
    assert (frame['tax'][zero] == 1).all()
    assert frame['tax'].isna().equals(missing)
    known = TABLE.drop_duplicates('word').set_index('word')
    assert frame['name'].equals(frame['word'].map(known['name']))
    assert frame['code'].astype(float).equals(frame['word'].map(known['code']))


def test_a_known_follower_makes_its_leader_known():
    columns = torch.zeros(1, len(TABLE.columns), dtype=torch.bool)
    columns[0, [place('loss'), place('code')]] = True
    known = ENCODER.known_columns(ENCODER.features(columns))[0]
    assert [name for name, own in zip(TABLE, known.tolist(), strict=True) if own] == [
        'p', 'q', 'loss', 'word', 'name', 'code',
    ]  # fmt: skip
    both = columns.clone()
    both[0, place('p')] = True
    assert torch.equal(ENCODER.features(both), ENCODER.features(columns))


def test_what_columns_ask_of_a_number_they_share_is_halved():
    rows = ENCODER.encode(VALUES)
    other = VALUES.roll(1, 0)
    where = torch.zeros_like(VALUES, dtype=torch.bool)
    where[:, place('q')] = True
    (number,) = features_of('q').nonzero()[:, 0].tolist()
    alone = ENCODER.replace(rows, other, where)
    # Of the follower, within some eps of its leader.
    torch.testing.assert_close(alone[:, number], rows.roll(1, 0)[:, number], rtol=0, atol=1e-10)
    where[:, place('p')] = True
    halves = ENCODER.replace(rows, torch.where(torch.arange(len(TABLE.columns)) == place('p'), VALUES, other), where)
    torch.testing.assert_close(halves[:, number], (rows + alone)[:, number] / 2, rtol=0, atol=1e-10)
    assert torch.equal(halves[:, ~features_of('q')], rows[:, ~features_of('q')])


def test_derivative_of_a_follower():
    """Autograd against central differences; linear between knots, so exact up to eps over the step."""
    row = random_rows(1)[0]
    jacobian = torch.autograd.functional.jacobian(lambda x: ENCODER.decode(x[None])[0], row)
    (number,) = features_of('loss').nonzero()[:, 0].tolist()
    step = torch.zeros_like(row)
    step[number] = 1e-6
    difference = (ENCODER.decode((row + step)[None]) - ENCODER.decode((row - step)[None]))[0] / 2e-6
    assert (jacobian[[place('p'), place('q'), place('loss')], number] != 0).all()
    torch.testing.assert_close(jacobian[:, number], difference.nan_to_num(), rtol=1e-6, atol=1e-7)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    num_rows=st.integers(FEWEST_OFF + 1, 80),
    num_values=st.integers(2, 80),
    falls=st.booleans(),
    data=st.data(),
)
def test_columns_of_the_same_ranks_follow(seed, num_rows, num_values, falls, data):
    """Ties and missing values included, the direction aside; one row that differs is enough to part them."""
    rng = np.random.default_rng(seed)
    column = np.round(rng.uniform(size=num_rows) * num_values)
    column[rng.uniform(size=num_rows) < 0.1] = np.nan
    curve = np.sort(rng.normal(size=num_values + 1))[:: -1 if falls else 1]
    follower = np.where(np.isnan(column), np.nan, curve[np.nan_to_num(column).astype(int)])
    counts = np.unique(column, return_counts=True)[1]
    expected = {1: 0} if num_rows - counts.max() >= FEWEST_OFF else {}
    assert leaders(np.stack([column, follower], axis=1), ['number', 'number']) == expected
    assert leaders(np.stack([column, follower], axis=1), ['number', 'continuous']) == {}
    assert leaders(np.stack([column, follower], axis=1), ['number', None]) == {}
    odd = data.draw(st.integers(0, num_rows - 1))
    others = np.delete(column, odd)
    if np.isin(column[odd], others) or (np.isnan(column[odd]) and np.isnan(others).any()):
        follower[odd] = 99.5  # no other row has it
        assert leaders(np.stack([column, follower], axis=1), ['number', 'number']) == {}


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), num_levels=st.integers(2, 10))
def test_states_follow_in_any_order(seed, num_levels):
    rng = np.random.default_rng(seed)
    column = rng.integers(0, num_levels, 200).astype(float)
    shuffled = rng.permutation(num_levels).astype(float)[column.astype(int)]
    assert leaders(np.stack([column, shuffled], axis=1), [STATE, STATE]) == {1: 0}
    merged = np.where(shuffled == 0, 1, shuffled)
    assert leaders(np.stack([column, merged], axis=1), [STATE, STATE]) == {}


def test_one_rare_value_in_common_is_chance():
    column = np.zeros(1000)
    column[: FEWEST_OFF - 1] = 1
    assert leaders(np.stack([column, 1 - column], axis=1), [STATE, STATE]) == {}
    column[:FEWEST_OFF] = 1
    assert leaders(np.stack([column, 1 - column], axis=1), [STATE, STATE]) == {1: 0}


def test_a_follower_of_a_follower_follows_the_first():
    column = np.arange(50.0)
    assert leaders(np.stack([column, -column, column**3], axis=1), ['number'] * 3) == {1: 0, 2: 0}


def test_a_curve_of_many_rows_is_kept_in_small():
    """Two thousand knots, and the point masses to the last digit."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=50_000), -1.0)
    x[x > -1] += 1e-9 * rng.normal(size=(x > -1).sum())
    y = np.arctan(x)
    codec = QuantileCodec.fit(x[:, None])
    curve = CurveCodec.fit(codec, torch.from_numpy(x), torch.from_numpy(y))
    assert len(curve.leading) <= MOST_KNOTS + 4
    values = torch.from_numpy(y)[:, None]
    back = curve.decode(curve.encode(values))
    # Linear between two thousandths of the rows, but for the ends.
    torch.testing.assert_close(back, values, rtol=0, atol=1e-12)
    limit = torch.from_numpy(x == -1.0)
    assert limit.sum() > 5000
    assert torch.equal(curve.point_masses(values)[:, 0], limit)
    assert (back[limit] == np.arctan(-1.0)).all()
    numbers = torch.linspace(-0.5, 3, 1000, dtype=torch.float64)[:, None]
    # As far as two knots are apart: the arctangent bends by less than 1 / 3 of the square of their distance.
    torch.testing.assert_close(curve.decode(numbers), codec.decode(numbers).arctan(), rtol=0, atol=1e-3)
