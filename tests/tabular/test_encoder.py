"""Tables that mix kinds of columns: round trips, parts of the whole, and what is refused."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from sdv_constrained_diffusion.errors import DataError
from sdv_constrained_diffusion.tabular.arrangement import SCALINGS
from sdv_constrained_diffusion.tabular.encoder import TableEncoder

FEATURES = {
    'p': (1, 0),  # a density
    'zero': (0, 0),
    'kind': (0, 4),  # three words, or missing
    'vm': (1, 2),  # at its limit, or a number
    'on': (0, 2),
    'big': (0, 0),
    'gap': (1, 2),  # missing, or a number
    'stars': (0, 5),  # a short scale of numbers
    'q': (1, 0),
    'age': (1, 0),  # steps of a fine scale
    'flag': (0, 2),
    'grade': (0, 3),  # numbers that are categories
    'void': (0, 0),
    'mixed': (0, 4),  # text, numbers, or missing
    'blank': (0, 0),
    'gain': (1, 3),  # zero, missing, or a number
}
"""For each column, how many numbers and how many levels it has under normal scores."""

MINMAX = FEATURES | {'vm': (1, 0), 'on': (1, 0), 'stars': (1, 0), 'gain': (1, 2)}
"""The same when numbers are scaled only: there a state says no more than whether a value is missing."""

DISCRETE = ('kind', 'flag', 'grade', 'mixed', 'blank')
CONSTANT = ('zero', 'big', 'void', 'blank')


def every_kind(num_rows=400):
    rng = np.random.default_rng(0)

    def choice(*values):
        return rng.choice(np.array(values, dtype=object), num_rows)

    return pd.DataFrame(
        {
            'p': rng.normal(100, 20, num_rows),
            'zero': 0.0,
            'kind': choice('b', 'a', None, 'c'),
            'vm': rng.normal(1, 0.05, num_rows).clip(max=1.05),
            'on': np.arange(num_rows) % 2,
            'big': 1e12,
            'gap': np.where(rng.uniform(size=num_rows) < 0.2, np.nan, rng.normal(1.7, 0.1, num_rows)),
            'stars': rng.integers(1, 6, num_rows),
            'q': rng.standard_cauchy(num_rows),
            'age': rng.integers(18, 50, num_rows),
            'flag': rng.uniform(size=num_rows) < 0.3,
            'grade': rng.choice([10, 20, 30], num_rows),
            'void': np.full(num_rows, np.nan),
            'mixed': choice('x', 1, 0.5, np.nan),
            'blank': np.full(num_rows, None, dtype=object),
            'gain': rng.choice([0.0, np.nan, 1.0], num_rows, p=[0.6, 0.2, 0.2]) * rng.lognormal(8, 1, num_rows),
        }
    )


TABLE = every_kind()
ENCODERS = {scaling: TableEncoder.fit(TABLE, scaling, DISCRETE) for scaling in SCALINGS}
VALUES = ENCODERS['quantile'].values(TABLE)
SCALES = VALUES.nan_to_num().abs().max(0).values.clamp(min=1)
some_columns = st.lists(st.sampled_from(list(TABLE.columns)), min_size=1, unique=True)
scalings = pytest.mark.parametrize('scaling', SCALINGS)


def places(columns):
    return [TABLE.columns.get_loc(name) for name in columns]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_rows(encoder, num_rows=50, seed=0):
    """Random numbers and random levels, of each block one."""
    layout, draw = encoder.layout, generator(seed)
    numbers = 2 * torch.randn(num_rows, layout.num_numbers, generator=draw, dtype=torch.float64)
    sizes = torch.tensor([len(each) for each in layout.frequencies])
    place = torch.rand(num_rows, layout.num_blocks, generator=draw)
    return torch.cat([numbers, layout.one_hot((place * sizes).long())], dim=1)


def random_mask(num_rows, seed):
    return torch.rand(num_rows, len(TABLE.columns), generator=generator(seed)) < 0.5


def assert_same(found, wanted, atol=0.0):
    """Equal up to `atol`, and missing where the other is missing."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol, equal_nan=True)


def assert_same_cells(found, wanted):
    """What a caller sees: the same values, whatever the columns' dtypes; missing is missing."""
    for name in wanted:
        cells = zip(found[name], wanted[name], strict=True)
        assert all((pd.isna(one) and pd.isna(other)) or one == other for one, other in cells), name


@scalings
@pytest.mark.parametrize('draw', [None, generator()], ids=['medians', 'drawn'])
def test_round_trip(scaling, draw):
    encoder = ENCODERS[scaling]
    back = encoder.decode(encoder.encode(VALUES, draw))
    assert encoder.columns == tuple(TABLE.columns)
    # Some eps of a column's largest value, by which it is scaled and back.
    assert_same(back / SCALES, VALUES / SCALES, atol=1e-14)
    exact = encoder.point_masses(VALUES)
    assert_same(back[exact], VALUES[exact])


@scalings
def test_round_trip_of_the_table(scaling):
    """Text, numbers, booleans and missing values, as they came; numbers of few values to the last digit."""
    encoder = ENCODERS[scaling]
    frame = encoder.frame(encoder.decode(encoder.encode(encoder.values(TABLE), generator())))
    assert list(frame.columns) == list(TABLE.columns)
    assert list(frame.index) == list(range(400))
    rounded = ['p', 'vm', 'gap', 'q', 'gain']
    assert_same_cells(frame.drop(columns=rounded), TABLE.drop(columns=rounded))
    for name in rounded:
        # As above: some eps of the largest value.
        np.testing.assert_allclose(frame[name], TABLE[name], rtol=0, atol=1e-14 * TABLE[name].abs().max())


@pytest.mark.parametrize(('scaling', 'expected'), [('quantile', FEATURES), ('minmax', MINMAX)])
def test_each_column_has_the_features_of_its_kind(scaling, expected):
    encoder = ENCODERS[scaling]
    owned = encoder.features(torch.eye(len(TABLE.columns)).bool())
    found = zip(
        encoder.layout.numbers(owned).sum(1).tolist(), encoder.layout.levels(owned).sum(1).tolist(), strict=True
    )
    assert dict(zip(TABLE.columns, found, strict=True)) == expected
    assert owned.sum(0).tolist() == [1] * encoder.num_features  # no feature has two owners
    assert encoder.num_features == sum(map(sum, expected.values()))


@scalings
def test_blocks_of_one_size_are_neighbours(scaling):
    """So that one operation serves all columns of one size."""
    layout = ENCODERS[scaling].layout
    sizes = [len(each) for each in layout.frequencies]
    assert len(layout.views(torch.zeros(1, sum(sizes)))) == len(set(sizes))


@scalings
def test_frequencies_are_the_shares_of_the_training_rows(scaling):
    encoder = ENCODERS[scaling]
    shares = encoder.layout.levels(encoder.encode(VALUES)).mean(0)
    torch.testing.assert_close(torch.cat(encoder.layout.frequencies), shares, rtol=0, atol=1e-14)  # sum of 400


def test_what_a_value_leaves_open_is_drawn():
    """Places in the steps of 'age', and the number beside the limit of 'vm'; medians of these without a generator."""
    encoder = ENCODERS['quantile']
    medians, drawn = encoder.encode(VALUES), encoder.encode(VALUES, generator())
    assert torch.equal(encoder.encode(VALUES, generator()), drawn)
    for name, rows, number in (('age', VALUES[:, 9] == 30, 1), ('vm', VALUES[:, 3] == 1.05, 1)):
        (own,) = encoder.select([name]).features(torch.ones(1, 1).bool())[0, : encoder.layout.num_numbers].nonzero()
        assert rows.sum() > 4
        assert len(medians[rows, own].unique()) == number
        assert len(drawn[rows, own].unique()) == rows.sum()
    assert (medians[VALUES[:, 3] == 1.05, own] == 0).all()


@scalings
def test_constant_columns_come_back_from_any_features(scaling):
    encoder = ENCODERS[scaling]
    assert encoder.encode(VALUES).shape == (400, encoder.num_features)
    decoded = encoder.decode(random_rows(encoder))
    assert_same(decoded[:, places(CONSTANT)], VALUES[:50, places(CONSTANT)])


@pytest.mark.parametrize(('relative_spread', 'num_features'), [(0.0, 0), (5e-10, 0), (5e-9, 1)])
def test_a_column_is_constant_when_its_range_is_rounding(relative_spread, num_features):
    """Up to 1e-9 of its largest value, the digits that a solver leaves, where a constraint moves the column."""
    data = pd.DataFrame({'x': 50 * (1 + relative_spread * np.linspace(0, 1, 5))})
    assert TableEncoder.fit(data, continuous=['x']).num_features == num_features


@pytest.mark.parametrize('values', [10**10 + np.arange(100) % 20, 1.7e12 + np.arange(100.0)])
def test_long_numbers_that_vary_come_back(values):
    encoder = TableEncoder.fit(pd.DataFrame({'x': values}))
    given_values = encoder.values(pd.DataFrame({'x': values}))
    assert torch.equal(encoder.decode(encoder.encode(given_values)).round(), given_values)


def test_a_table_of_constants():
    encoder = TableEncoder.fit(pd.DataFrame({'a': [2.0, 2.0], 'b': [3, 3]}))
    values = torch.tensor([[2.0, 3.0]]).double()
    assert encoder.encode(values).shape == (1, 0)
    assert torch.equal(encoder.decode(encoder.encode(values)), values)
    assert encoder.point_masses(values).all()
    assert encoder.select(['b']).decode(torch.zeros(2, 0).double()).tolist() == [[3.0], [3.0]]


@pytest.mark.parametrize('columns', [('p', 'q'), ('kind', 'flag'), ('kind',), ('void',), ('gap', 'void')])
@scalings
def test_tables_of_a_few_kinds(scaling, columns):
    """Only numbers, only categories, only missing values."""
    table = TABLE[list(columns)]
    encoder = TableEncoder.fit(table, scaling, DISCRETE)
    values = encoder.values(table)
    assert_same(encoder.decode(encoder.encode(values)), values, atol=1e-11)  # 'p' and 'q' reach 200
    assert encoder.num_features == sum(map(sum, ((FEATURES if scaling == 'quantile' else MINMAX)[c] for c in columns)))


@pytest.mark.parametrize('num_rows', [1, 2, 3])
@scalings
def test_hardly_any_rows(scaling, num_rows):
    table = TABLE.head(num_rows)
    encoder = TableEncoder.fit(table, scaling, DISCRETE)
    frame = encoder.frame(encoder.decode(encoder.encode(encoder.values(table), generator())))
    for name in table:
        if name in DISCRETE:
            assert_same_cells(frame[[name]], table[[name]])
        else:
            np.testing.assert_allclose(frame[name], table[name], rtol=1e-14)  # some eps


def test_minmax_maps_to_minus_one_and_one():
    features = ENCODERS['minmax'].encode(VALUES)[:, : ENCODERS['minmax'].layout.num_numbers]
    own = ENCODERS['minmax'].select(['p', 'q', 'on']).features(torch.eye(3).bool())[:, : features.shape[1]]
    ends = torch.ones(3, dtype=torch.float64)
    for name, mask in zip(('p', 'q', 'on'), own, strict=True):
        value, feature = VALUES[:, TABLE.columns.get_loc(name)], features[:, mask][:, 0]
        # Shift and scale are halves of sums: an eps of the values over the range.
        expected = 2 * (value - value.min()) / (value.max() - value.min()) - 1
        torch.testing.assert_close(feature, expected, rtol=0, atol=1e-14)
        torch.testing.assert_close(torch.stack([-feature.min(), feature.max()]), ends[:2], rtol=0, atol=1e-14)


@pytest.mark.parametrize('magnitudes', [(1e30, 1e-30, 1.0), (1e300, 1e-300, 1e-30)])
@scalings
def test_magnitudes_side_by_side(scaling, magnitudes):
    """Densities, spikes and missing values of every size in one table give the features of the table in one size."""
    rng = np.random.default_rng(0)
    column = rng.normal(size=300)
    column[:60], column[60:90] = 0.5, np.nan
    # In another order in each column, or they would share their features.
    columns = {name: (size, rng.permutation(column)) for name, size in zip('abc', magnitudes, strict=True)}
    table = pd.DataFrame({name: size * values for name, (size, values) in columns.items()})
    encoder, plain = TableEncoder.fit(table, scaling), TableEncoder.fit(pd.DataFrame({'a': column}), scaling)
    features = encoder.encode(encoder.values(table))
    back = encoder.frame(encoder.decode(features))
    for name, (size, values) in columns.items():
        own = features[:, encoder.select([name]).features(torch.ones(1, 1).bool())[0]]
        expected = plain.encode(torch.from_numpy(values)[:, None])
        # Knots are rounded after scaling: some eps of a number's neighbours, over their distance.
        torch.testing.assert_close(own[:, :1], expected[:, :1], rtol=0, atol=1e-10)
        assert torch.equal(own[:, 1:], expected[:, 1:])
        np.testing.assert_allclose(back[name] / size, values, rtol=0, atol=1e-14)  # some eps of 3


@scalings
def test_point_masses(scaling):
    """Constants, categories, missing values; spikes, short scales and the steps of 'age' where a state or an interval
    of the scores says so."""
    everywhere = TABLE.isna() | TABLE.columns.isin([*CONSTANT, *DISCRETE])
    if scaling == 'quantile':
        often = TABLE['age'].map(TABLE['age'].value_counts()) > 4  # more than one per cent of 400 rows
        everywhere |= TABLE.columns.isin(['on', 'stars'])
        everywhere |= pd.DataFrame({'vm': TABLE.vm == 1.05, 'gain': TABLE.gain == 0, 'age': often}).reindex(
            columns=TABLE.columns, fill_value=False
        )
    assert torch.equal(ENCODERS[scaling].point_masses(VALUES), torch.tensor(everywhere.to_numpy()))


@scalings
@settings(deadline=None, max_examples=40)
@given(columns=some_columns)
def test_select_is_the_whole_restricted(scaling, columns):
    encoder = ENCODERS[scaling]
    part, chosen = encoder.select(columns), places(columns)
    rows, values = random_rows(encoder), VALUES[:, chosen]
    assert part.columns == tuple(columns)
    assert part.num_features == encoder.num_features
    assert_same(part.values(TABLE), values)
    assert_same(part.decode(rows), encoder.decode(rows)[:, chosen])
    assert torch.equal(part.point_masses(values), encoder.point_masses(VALUES)[:, chosen])
    assert_same_cells(part.frame(values), encoder.frame(VALUES)[columns])
    own = part.features(torch.ones_like(values).bool())
    assert torch.equal(part.encode(values)[own], encoder.encode(VALUES)[own])
    assert (part.encode(values)[~own] == 0).all()


@scalings
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000))
def test_features_of_columns_and_columns_of_features_are_inverse(scaling, seed):
    """Columns without a feature apart, which are never known by their features."""
    encoder, mask = ENCODERS[scaling], random_mask(20, seed)
    features = encoder.features(mask)
    expected = mask.clone()
    expected[:, places(CONSTANT)] = False
    assert torch.equal(encoder.known_columns(features), expected)
    assert torch.equal(encoder.features(expected), features)
    # A column's value hangs on its own features and on no other: the other features are drawn anew.
    rows, others = random_rows(encoder, 20, seed), random_rows(encoder, 20, seed + 1)
    kept = encoder.decode(torch.where(features, rows, others))
    assert_same(kept[mask], encoder.decode(rows)[mask])
    assert_same(kept[~mask], encoder.decode(others)[~mask])


@scalings
@settings(deadline=None, max_examples=40)
@given(columns=some_columns, seed=st.integers(0, 1000))
def test_replace_by_a_part_is_replace_by_the_whole(scaling, columns, seed):
    """Where asked, and only there, a number takes the new value; all other features keep their bits."""
    encoder = ENCODERS[scaling]
    part, chosen = encoder.select(columns), places(columns)
    rows = random_rows(encoder, 400, seed)
    before, decoded = rows.clone(), encoder.decode(rows)
    # Numbers can be set where a number stands and a number comes.
    free = ~(encoder.point_masses(decoded) | encoder.point_masses(VALUES))
    free[:, places(['age'])] = True
    where = torch.zeros(VALUES.shape, dtype=torch.bool)
    where[:, chosen] = (free & random_mask(400, seed))[:, chosen]
    replaced = encoder.replace(rows, VALUES, where)
    assert torch.equal(rows, before)
    assert torch.equal(part.replace(rows, VALUES[:, chosen], where[:, chosen]), replaced)
    expected = torch.where(where, VALUES, decoded)
    assert_same(encoder.decode(replaced) / SCALES, expected / SCALES, atol=1e-13)  # some eps; 'q' strides its tails
    numbers = encoder.features(where)
    numbers[:, encoder.layout.num_numbers :] = False
    assert torch.equal(replaced[~numbers], rows[~numbers])


@scalings
def test_derivative_of_decode(scaling):
    """Autograd against central differences, in every number; numbers reach no column but their own."""
    encoder = ENCODERS[scaling]
    row = encoder.encode(VALUES[[17]], generator(3))
    row[:, : encoder.layout.num_numbers] /= 2
    jacobian = torch.autograd.functional.jacobian(lambda x: encoder.decode(x[None])[0], row[0])
    step, own = 1e-6, encoder.features(torch.eye(len(TABLE.columns)).bool())
    assert (jacobian[~own] == 0).all()
    for feature in range(encoder.layout.num_numbers):
        move = torch.zeros_like(row)
        move[0, feature] = step
        difference = (encoder.decode(row + move) - encoder.decode(row - move))[0] / (2 * step)
        # Linear between knots, so exact up to eps of the values, 2e-14 for 'p', over the step.
        torch.testing.assert_close(
            jacobian[:, feature], difference.nan_to_num(), rtol=1e-6, atol=1e-7, msg=f'feature {feature}'
        )
    moves = jacobian[places(['p', 'q'])].abs().sum(1)
    assert (moves > 0).all()


@scalings
def test_rows_never_meet(scaling):
    encoder = ENCODERS[scaling]
    rows, values, where = random_rows(encoder, 20), VALUES[:20], random_mask(20, 0)
    assert torch.equal(encoder.encode(values), torch.cat([encoder.encode(v[None]) for v in values]))
    assert_same(encoder.decode(rows), torch.cat([encoder.decode(row[None]) for row in rows]))
    alone = [encoder.replace(*(x[None] for x in row)) for row in zip(rows, values, where, strict=True)]
    assert torch.equal(encoder.replace(rows, values, where), torch.cat(alone))


@scalings
def test_training_rows_are_what_encode_gives(scaling):
    encoder = ENCODERS[scaling]
    rows = encoder.training_rows(VALUES, generator(5))
    encoded = encoder.encode(VALUES, generator(5))
    batch = torch.randperm(400, generator=generator())[:37]
    assert len(rows) == 400
    assert torch.equal(rows[batch], encoded[batch])


def test_ten_thousand_levels_are_kept_as_codes():
    """One-hot, 30,000 rows would be 2.4 GB. What stays in memory between steps is one code a row, and the levels."""
    table = pd.DataFrame({'town': np.arange(30_000) % 10_000, 'x': np.random.default_rng(0).normal(size=30_000)})
    encoder = TableEncoder.fit(table, discrete=['town'])
    rows = encoder.training_rows(encoder.values(table))
    assert encoder.num_features == 10_001
    # Two numbers of eight bytes a row, and the frequencies of the levels, eight bytes each.
    assert len(pickle.dumps(rows)) < 30_000 * 16 + 10_000 * 8 + 100_000
    batch = torch.tensor([29_999, 3])
    assert rows[batch][:, 1:].nonzero().tolist() == [[0, 9_999], [1, 3]]


def nearest_by_hand(value, levels):
    """The first of the nearest: a tie goes to the smaller."""
    return value if np.isnan(value) else min(levels, key=lambda level: (abs(level - value), level))


@settings(deadline=None)
@given(
    levels=st.lists(st.integers(-50, 50), min_size=2, max_size=20, unique=True),
    values=st.lists(st.integers(-120, 120).map(lambda halves: halves / 2) | st.just(np.nan), min_size=1, max_size=20),
)
@example(levels=[3, 0, 1], values=[0.5, 2.0, np.nan, -9.0, 9.0])  # ties, missing, and beyond both ends
def test_a_number_is_delivered_as_the_nearest_that_was_observed(levels, values):
    data = pd.DataFrame({'n': np.repeat(np.array(levels, dtype=float), 20), 'm': np.repeat(levels, 20)})
    encoder = TableEncoder.fit(data, continuous=['m'])
    table = torch.tensor(values, dtype=torch.float64)[:, None].expand(-1, 2)
    frame = encoder.frame(table)
    expected = [nearest_by_hand(value, levels) for value in values]
    np.testing.assert_array_equal(frame['n'], expected)
    np.testing.assert_array_equal(frame['m'], values)  # asked to be left alone


def test_a_column_of_many_values_is_left_alone():
    data = pd.DataFrame({'x': np.random.default_rng(0).normal(size=300)})
    values = torch.linspace(-3, 3, 50, dtype=torch.float64)[:, None]
    np.testing.assert_array_equal(TableEncoder.fit(data).frame(values)['x'], values[:, 0].numpy())


@pytest.mark.parametrize('bad', [np.inf, -np.inf])
@scalings
def test_refuses_infinite_numbers(scaling, bad):
    data = pd.DataFrame({'good': [1.0, 2.0, 3.0], 'vm_pu': [1.0, bad, 2.0]}, index=['r1', 'r2', 'r3'])
    with pytest.raises(DataError, match=r"'vm_pu'.*row r2"):
        TableEncoder.fit(data, scaling)


@pytest.mark.parametrize(
    'values', [['1.0', 'off', '2.0'], pd.Categorical(['u', 'off', 'u']), pd.array(['u', 'off', 'u'], dtype='string')]
)
def test_refuses_text_that_is_not_said_to_be_discrete(values):
    with pytest.raises(DataError, match="'state'"):
        TableEncoder.fit(pd.DataFrame({'good': [1.0, 2.0, 3.0], 'state': values}))


@scalings
@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('kind', 'z', r"Column 'kind' cannot be 'z'"),
        ('grade', 11.5, r"Column 'grade' cannot be 11\.5"),
        ('flag', None, r"Column 'flag' cannot be None"),
        ('mixed', 2, r"Column 'mixed' cannot be 2"),
        ('p', np.nan, r"Column 'p' cannot be missing"),
        ('vm', np.nan, r"Column 'vm' cannot be missing"),
        ('on', None, r"Column 'on' cannot be missing"),
        ('p', np.inf, r"column 'p'.*inf"),
        ('q', 'many', r"column 'q'.*'many'"),
    ],
)
def test_a_value_that_a_column_cannot_take_is_named(scaling, name, value, message):
    given_values = pd.DataFrame({name: pd.Series([TABLE[name].dropna().iloc[0], value], dtype=object)})
    with pytest.raises(DataError, match=message):
        ENCODERS[scaling].select([name]).values(given_values)


def test_a_constant_column_cannot_be_missing_and_takes_another_number_as_any_column_does():
    constant = ENCODERS['quantile'].select(['big'])
    with pytest.raises(DataError, match=r"Column 'big' cannot be missing"):
        constant.values(pd.DataFrame({'big': [np.nan]}))
    assert constant.values(pd.DataFrame({'big': [7.0]})).item() == 7.0


@pytest.mark.parametrize(
    ('scaling', 'column'),
    [
        ('minmax', [5.0, 5.0 * (1 + 1e-10), 5.0, np.nan]),
        ('quantile', [*1000 * (1 + 1e-11 * np.arange(20)), *np.zeros(4000)]),
    ],
)
def test_a_rest_that_is_constant_but_for_rounding_is_one_state(scaling, column):
    encoder = TableEncoder.fit(pd.DataFrame({'x': column}), scaling, continuous=['x'])
    shares = encoder.encode(torch.tensor(column, dtype=torch.float64)[:, None]).mean(0)
    torch.testing.assert_close(encoder.layout.frequencies[0], shares, rtol=0, atol=1e-12)  # a mean of 4,000


@pytest.mark.parametrize('dtype', ['int8', 'uint16', 'float32', 'bool', 'Int64', 'Float64', 'boolean', 'Float32'])
@scalings
def test_takes_every_dtype_of_numbers(scaling, dtype):
    data = pd.DataFrame({'n': pd.Series([0, 1, 1, 0, 1]).astype(dtype)})
    encoder = TableEncoder.fit(data, scaling)
    values = torch.tensor([[0.0], [1], [1], [0], [1]]).double()
    assert torch.equal(encoder.values(data), values)
    assert torch.equal(encoder.decode(encoder.encode(values)), values)


@pytest.mark.parametrize('dtype', ['Int64', 'Float32', 'boolean'])
@scalings
def test_takes_missing_values_of_every_dtype(scaling, dtype):
    data = pd.DataFrame({'n': pd.array([1, None, 0, 1, None], dtype=dtype)})
    encoder = TableEncoder.fit(data, scaling)
    expected = torch.tensor([[1.0], [torch.nan], [0], [1], [torch.nan]]).double()
    assert_same(encoder.values(data), expected)
    assert_same(encoder.decode(encoder.encode(expected)), expected, atol=1e-15)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_round_trip_of_any_table(data):
    """Columns of any kind in any order, of any few rows."""
    num_rows = data.draw(st.integers(1, 25))
    number = st.sampled_from([0.0, 1.0, -3.0, 2.5, np.nan]) | st.floats(-1e6, 1e6)
    word = st.sampled_from(['a', 'b', 1, True, None])
    kinds = data.draw(st.lists(st.booleans(), min_size=1, max_size=5))
    columns = {
        f'c{place}': data.draw(st.lists(word if discrete else number, min_size=num_rows, max_size=num_rows))
        for place, discrete in enumerate(kinds)
    }
    table = pd.DataFrame(
        {name: pd.Series(v, dtype=object if d else float) for d, (name, v) in zip(kinds, columns.items(), strict=True)}
    )
    discrete = [name for name, d in zip(columns, kinds, strict=True) if d]
    for scaling in SCALINGS:
        encoder = TableEncoder.fit(table, scaling, discrete)
        frame = encoder.frame(encoder.decode(encoder.encode(encoder.values(table), generator())))
        for name in table:
            if name in discrete:
                assert_same_cells(frame[[name]], table[[name]])
                continue
            column = table[name].to_numpy(dtype=float)
            # Within the resolution, 1e-6 deviations, values are one; so are those that differ by 1e-9 of the largest.
            tolerance = 3e-6 * np.nanstd(column) + 2e-9 * np.nanmax(np.abs(column)) if np.isfinite(column).any() else 0
            np.testing.assert_allclose(frame[name].to_numpy(dtype=float), column, rtol=0, atol=tolerance)


def test_a_limit_that_cuts_a_column_needs_no_state_where_values_are_continuous():
    """A spike at the end of the range is encoded as what it is, numbers beyond the limit: the tail of a normal law."""
    column = np.minimum(np.random.default_rng(0).normal(size=4000), 0.5)
    data = pd.DataFrame({'cut': column, 'free': column[::-1]})
    encoder = TableEncoder.fit(data, continuous=['cut'])
    assert (encoder.layout.num_numbers, encoder.layout.num_blocks) == (2, 1)
    values = encoder.values(data)
    scores = encoder.encode(values, torch.Generator().manual_seed(0))[:, int(encoder.numbers_of_columns()[0])]
    # Normal in all: four thousand draws; seeded.
    assert stats.kstest(scores.numpy(), 'norm').pvalue > 1e-3
    at_limit = torch.from_numpy(column == 0.5)
    assert scores[at_limit].min() > scores[~at_limit].max()
    assert torch.equal(encoder.decode(encoder.encode(values))[at_limit, 0], values[at_limit, 0])
    assert torch.equal(encoder.point_masses(values)[:, 0], at_limit)


def test_a_column_of_few_values_is_delivered_in_its_proportions():
    """Ages: levels that few rows have, too; a column that a constraint reads stays between its values."""
    random = np.random.default_rng(0)
    ages = np.minimum(17 + random.gamma(2.5, 9, 5000).astype(int), 90).astype(float)
    table = pd.DataFrame({'age': ages, 'weight': random.normal(size=5000)})
    encoder = TableEncoder.fit(table)
    scores = torch.special.ndtri((torch.arange(50_000).double() + 0.5) / 50_000)
    delivered = encoder.frame(encoder.decode(torch.stack([scores, scores.flip(0)], dim=1)))['age']
    shares = pd.concat([delivered.value_counts(normalize=True), table['age'].value_counts(normalize=True)], axis=1)
    # Half a row of 5,000 goes to a neighbour at most.
    assert (shares.fillna(0).diff(axis=1).iloc[:, 1].abs() <= 1.1e-4).all()
    free = TableEncoder.fit(table, continuous=['age'])
    between = free.frame(free.decode(torch.stack([scores, scores.flip(0)], dim=1)))['age']
    assert (between % 1 != 0).mean() > 0.01
