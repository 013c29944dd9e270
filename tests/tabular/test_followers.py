"""Columns that are one-to-one with an earlier one: how they are found, and that they never come apart from it."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdv_constrained_diffusion.tabular.encoder import TableEncoder
from sdv_constrained_diffusion.tabular.followers import FEWEST_ROWS, NUMBER, STATE, CurveCodec, leaders
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
    # A curve comes to its rows within the resolution, a millionth of a standard deviation, of which the largest is 50.
    torch.testing.assert_close(back, values, rtol=0, atol=5e-5, equal_nan=True)
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


def found(*columns, kinds=NUMBER):
    kinds = [kinds] * len(columns) if isinstance(kinds, str) else kinds
    return leaders(np.stack(columns, axis=1).astype(float), kinds)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    num_rows=st.integers(FEWEST_ROWS, 2 * FEWEST_ROWS),
    num_values=st.integers(2, 300),
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
    assert found(column, follower) == ({1: 0} if num_rows - counts.max() >= FEWEST_ROWS else {})
    assert found(column, follower, kinds=[NUMBER, None]) == {}
    assert found(column, follower, kinds=[STATE, NUMBER]) == {}
    odd = data.draw(st.integers(0, num_rows - 1))
    others = np.delete(column, odd)
    if np.isin(column[odd], others) or (np.isnan(column[odd]) and np.isnan(others).any()):
        follower[odd] = 99.5  # no other row has it
        assert found(column, follower) == {}


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), num_levels=st.integers(2, 10))
def test_states_follow_in_any_order(seed, num_levels):
    rng = np.random.default_rng(seed)
    column = rng.integers(0, num_levels, 300)
    shuffled = rng.permutation(num_levels)[column]
    assert found(column, shuffled, kinds=STATE) == {1: 0}
    assert found(column, np.where(shuffled == 0, 1, shuffled), kinds=STATE) == {}


def test_rare_values_in_common_are_chance():
    column = np.zeros(1000)
    column[: FEWEST_ROWS - 1] = 1
    assert found(column, 1 - column, kinds=STATE) == {}
    column[:FEWEST_ROWS] = 1
    assert found(column, 1 - column, kinds=STATE) == {1: 0}


def test_labels_that_hardly_repeat_are_no_evidence():
    """Two columns in which every label occurs once are one-to-one whatever they are."""
    rng = np.random.default_rng(0)
    names, towns = rng.permutation(500), rng.permutation(500)
    assert found(names, towns, kinds=STATE) == {}
    twice = np.r_[np.arange(FEWEST_ROWS), np.arange(500)]
    assert found(twice, 600 - twice, kinds=STATE) == {1: 0}
    assert found(twice[1:], 600 - twice[1:], kinds=STATE) == {}


def test_a_follower_of_a_follower_follows_the_first():
    column = np.arange(150.0)
    assert found(column, -column, column**3) == {1: 0, 2: 0}


@pytest.mark.parametrize('num_levels', [None, 120])
def test_a_column_that_tells_its_values_apart_leads(num_levels):
    """Of acidities most concentrations are one point mass: the smallest are closer to each other than is told apart."""
    acidity = np.random.default_rng(0).uniform(1, 13, 3000)
    if num_levels is not None:
        acidity = np.round(acidity, 1)
    table = pd.DataFrame({'concentration': 10**-acidity, 'acidity': acidity})
    assert found(*table.to_numpy().T) == {0: 1}
    encoder = TableEncoder.fit(table)
    frame = encoder.frame(encoder.decode(encoder.encode(encoder.values(table))))
    np.testing.assert_allclose(frame['acidity'], acidity, rtol=1e-12)
    # The resolution: a millionth of the deviation, 0.02.
    np.testing.assert_allclose(frame['concentration'], table['concentration'], rtol=0, atol=2e-8)


def test_two_columns_that_each_merge_what_the_other_tells_apart_stay_by_themselves():
    x = np.random.default_rng(0).uniform(-13, 13, 3000)
    columns = np.where(x < 0, 10.0**x, 1 + x), np.where(x > 0, -(10.0**-x), x - 1)
    assert found(*columns) == {}


@pytest.mark.parametrize('size', [1e-310, 1e-300, 1e300, 1.7e308])
def test_numbers_at_the_ends_of_floating_point_stay_by_themselves(size):
    x = np.random.default_rng(0).normal(size=300)
    x /= np.abs(x).max()
    table = pd.DataFrame({'plain': x, 'extreme': x * size})
    assert TableEncoder.fit(table).layout.num_numbers == 2
    assert TableEncoder.fit(table[['extreme', 'plain']]).layout.num_numbers == 2


def test_every_value_of_many_rows_keeps_its_partner():
    """Rare ones, in twenty thousand rows, beside missing ones; labels of more values than a state takes."""
    rng = np.random.default_rng(0)
    age = np.minimum(rng.geometric(0.05, 20_000), 150).astype(float)
    age[rng.uniform(size=len(age)) < 0.2] = np.nan
    price = np.exp(np.arange(200) / 12)[np.nan_to_num(age).astype(int)]
    table = pd.DataFrame({'age': age, 'price': np.where(np.isnan(age), np.nan, price)})
    encoder = TableEncoder.fit(table)
    assert encoder.layout.num_columns == 2  # a number and a state
    pd.testing.assert_frame_equal(
        encoder.frame(encoder.decode(encoder.encode(encoder.values(table)))), table, check_exact=True
    )


def test_a_curve_of_many_rows_is_kept_in_small():
    """As many knots as it takes, and the point masses to the last digit."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=50_000), -1.0)
    codec = QuantileCodec.fit(x[:, None])
    limit = torch.from_numpy(x == -1.0)
    assert limit.sum() > 5000
    numbers = torch.linspace(-0.5, 6, 1000, dtype=torch.float64)[:, None]
    for curve, most in ((lambda v: 3 * v - 7, 5), (np.arctan, 2000)):
        y = curve(x)
        follower = CurveCodec.fit(codec, torch.from_numpy(x), torch.from_numpy(y))
        assert len(follower.leading) <= most
        values = torch.from_numpy(y)[:, None]
        back = follower.decode(follower.encode(values))
        torch.testing.assert_close(back, values, rtol=0, atol=3e-6)  # a millionth of the deviations
        assert torch.equal(follower.point_masses(values)[:, 0], limit)
        assert (back[limit] == y[limit.numpy()][0]).all()
        inside = codec.decode(numbers) <= x.max()
        expected = torch.from_numpy(curve(codec.decode(numbers).numpy()))
        # Lines between neighbouring rows err by an eighth of the squared gap times the bend, at most 0.1 beyond 2.
        gap = np.diff(np.unique(x)).max()
        error = (follower.decode(numbers) - expected).abs()[inside]
        assert error.max() <= gap**2 / 8 * 0.1 + 3e-6


def test_a_leader_is_cut_by_a_limit_where_its_follower_is():
    """As the follower would be by itself: no state beside the number, the limit in its tail."""
    column = np.minimum(np.random.default_rng(0).normal(size=4000), 0.5)
    table = pd.DataFrame({'leads': column, 'cut': -column})
    encoder = TableEncoder.fit(table, continuous=['cut'])
    assert (encoder.layout.num_numbers, encoder.layout.num_blocks) == (1, 0)
    values = encoder.values(table)
    assert torch.equal(encoder.point_masses(values), (values.abs() == 0.5) & (values[:, :1] == 0.5))
