"""Fixed values: each row that is asked for comes back, with exactly the values that it was asked for."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sdv.sampling import Condition, DataFrameCondition

from mixed_table import CATEGORIES, make_synthesizer, mixed_table
from sdv_version import TABLE, fit, sample, sample_from_conditions, sample_remaining_columns

LEARNED = ['x', 'price', 'count', 'visits', 'weight', 'gain', 'height', 'width', *CATEGORIES, 'day', 'when', 'fixed']
"""Columns that the model learns, those apart that never say anything."""


@pytest.fixture(scope='module')
def table():
    return mixed_table()


@pytest.fixture(scope='module')
def fitted(table):
    return fit(make_synthesizer(table), table)


@pytest.fixture
def fresh(fitted):
    """The fitted synthesizer as `fit` left it."""
    fitted.reset_sampling()
    return fitted


def assert_same_values(rows, known):
    """Equal cell by cell, where a missing value equals a missing value and 1 equals 1.0, exactly."""
    assert len(rows) == len(known)
    for column in known:
        found, wanted = rows[column].astype(object), known[column].astype(object)
        pd.testing.assert_series_equal(found.isna(), wanted.isna())
        pd.testing.assert_series_equal(found.dropna(), wanted.dropna(), check_dtype=False, check_exact=True)


@pytest.mark.parametrize(
    ('column', 'value'),
    [
        ('x', 0.1234567890123),
        ('x', 0.0),
        ('x', -1),
        ('price', 31.41),
        ('price', 31.4159265),  # more decimals than the data have
        ('count', 1003),
        ('visits', 17),
        ('weight', 64.5),
        ('gain', 0.0),
        ('gain', 2500.25),
        ('level', 3),
        ('flag', True),
        ('flag', np.False_),
        ('consent', True),
        ('colour', 'blue'),
        ('size', 'M'),
        ('town', 'Lyon'),
        ('day', pd.Timestamp('2020-05-17')),
        ('when', '17/05/2020'),
        ('fixed', 2.5),
        ('same', 'always'),
    ],
)
def test_one_value_is_in_every_row(fresh, table, column, value):
    rows = sample_from_conditions(fresh, [Condition({column: value}, num_rows=23)])
    assert list(rows.columns) == list(table.columns)
    assert len(rows) == 23
    assert (rows[column] == value).all()
    pd.testing.assert_series_equal(rows.dtypes, table.dtypes)
    free = rows['price'] if column == 'x' else rows['x']
    assert free.nunique() > 1  # the rest is drawn anew for every row


@pytest.mark.parametrize('value', [np.inf, 'many'])
def test_what_is_no_number_is_refused_by_name(fresh, value):
    with pytest.raises(Exception, match='price') as caught:
        sample_from_conditions(fresh, [Condition({'price': value}, num_rows=2)])
    assert str(value) in str(caught.value)


def test_a_fraction_is_refused_where_numbers_are_whole(fresh):
    with pytest.raises(ValueError, match=r"'count' holds whole numbers and cannot be 2\.5"):
        sample_from_conditions(fresh, [Condition({'count': 2.5}, num_rows=2)])


def test_values_far_outside_the_training_table_are_warned_of_and_no_others(fresh, table):
    """Numbers, those at the ends of their ranges included, dates and labels of the table itself say nothing."""
    known = table[['price', 'day', 'colour', 'visits']].head(20)
    known.loc[0, 'price'], known.loc[1, 'price'] = table['price'].min(), table['price'].max()
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='Fixed values')
        sample_remaining_columns(fresh, known)
    known.loc[3, 'price'] = table['price'].max() + 0.02 * np.ptp(table['price'])
    with pytest.warns(UserWarning, match=r"Fixed values of 'price' in 1 of 20 rows lie outside"):
        sample_remaining_columns(fresh, known)


@pytest.mark.parametrize('value', ['2020-05-17', pd.Timestamp('2020-05-17'), np.datetime64('2020-05-17')])
def test_a_date_may_be_given_as_text_or_as_time(fresh, value):
    rows = sample_from_conditions(fresh, [Condition({'day': value}, num_rows=5)])
    assert (rows['day'] == pd.Timestamp('2020-05-17')).all()


@pytest.mark.parametrize(
    ('column', 'value'),
    [
        ('height', np.nan),
        ('height', None),
        ('visits', pd.NA),
        ('weight', np.nan),
        ('colour', None),
        ('colour', np.nan),
        ('consent', None),
        ('day', pd.NaT),
        ('when', None),
        ('void', np.nan),
    ],
)
def test_a_missing_value_is_missing_in_every_row(fresh, column, value):
    rows = sample_from_conditions(fresh, [Condition({column: value}, num_rows=23)])
    assert len(rows) == 23
    assert rows[column].isna().all()


def test_several_values_at_once(fresh, table):
    values = {
        'colour': 'green',
        'x': 0.25,
        'flag': True,
        'visits': None,
        'day': pd.Timestamp('2020-05-17'),
        'level': 2,
        'gain': 0.0,
    }
    rows = sample_from_conditions(fresh, [Condition(values, num_rows=40)])
    assert_same_values(rows, pd.DataFrame([values] * 40))
    pd.testing.assert_series_equal(rows.dtypes, table.dtypes)


def test_several_conditions_come_back_one_after_the_other(fresh):
    conditions = [
        Condition({'colour': 'red'}, num_rows=7),
        Condition({'colour': 'blue'}, num_rows=5),
        Condition({'x': 1.5}, num_rows=3),
        DataFrameCondition(pd.DataFrame({'town': ['Oslo', 'Rome'], 'price': [10.0, 20.0]})),
    ]
    rows = sample_from_conditions(fresh, conditions)
    assert len(rows) == 17
    assert rows['colour'][:12].tolist() == ['red'] * 7 + ['blue'] * 5
    assert (rows['x'][12:15] == 1.5).all()
    assert rows['town'][15:].tolist() == ['Oslo', 'Rome']
    assert rows['price'][15:].tolist() == [10.0, 20.0]


@pytest.mark.parametrize('batch_size', [3, 20, 50])
def test_conditions_are_met_for_every_batch_size(fresh, batch_size):
    rows = sample_from_conditions(fresh, [Condition({'colour': 'red', 'x': 0.5}, num_rows=20)], batch_size=batch_size)
    assert_same_values(rows, pd.DataFrame({'colour': ['red'] * 20, 'x': [0.5] * 20}))


def test_conditions_are_drawn_anew_until_sampling_is_reset(fresh):
    conditions = [Condition({'colour': 'red'}, num_rows=10)]
    first, second = (sample_from_conditions(fresh, conditions) for _ in range(2))
    assert not first['x'].equals(second['x'])
    fresh.reset_sampling()
    pd.testing.assert_frame_equal(sample_from_conditions(fresh, conditions), first)


@pytest.mark.parametrize(
    ('column', 'value'), [('colour', 'mauve'), ('size', 'XXL'), ('town', 'Atlantis'), ('level', 99)]
)
def test_a_category_that_was_never_seen_is_refused_by_name(fresh, column, value):
    for ask in (
        lambda: sample_from_conditions(fresh, [Condition({column: value}, num_rows=3)]),
        lambda: sample_remaining_columns(fresh, pd.DataFrame({'x': [0.5, 0.6], column: [value, value]})),
    ):
        with pytest.raises(Exception, match=column) as caught:
            ask()
        assert str(value) in str(caught.value)


def test_a_missing_value_in_a_column_that_misses_none_is_refused_or_obeyed(fresh):
    try:
        rows = sample_from_conditions(fresh, [Condition({'town': None}, num_rows=3)])
    except Exception as error:
        assert 'town' in str(error)  # either answer is honest; rows with a town would not be
    else:
        assert rows['town'].isna().all()


def test_columns_that_the_table_lacks_and_keys_are_refused_as_sdv_does(fresh):
    with pytest.raises(ValueError, match="Unexpected column name 'weather'"):
        sample_from_conditions(fresh, [Condition({'weather': 1.0})])
    with pytest.raises(ValueError, match="'id' because it is the primary key"):
        sample_remaining_columns(fresh, pd.DataFrame({'id': [1, 2]}))


def test_personal_data_and_ids_come_back_as_given(fresh):
    known = pd.DataFrame(
        {
            'email': [f'me{each}@home.org' for each in range(12)],
            'ref': [f'R{each:04d}' for each in range(500, 512)],
            'name': [f'Someone {each}' for each in range(12)],
            'note': 'mine',
            'x': np.linspace(-1, 1, 12),
        }
    )
    rows = sample_remaining_columns(fresh, known)
    assert_same_values(rows, known)
    assert rows['id'].is_unique
    only = sample_from_conditions(fresh, [Condition({'email': 'me@home.org'}, num_rows=4)])
    assert only['email'].tolist() == ['me@home.org'] * 4
    assert only['x'].nunique() == 4


def test_two_hundred_distinct_rows_all_come_back_in_order(fresh, table):
    random = np.random.default_rng(1)
    known = pd.DataFrame({'x': random.normal(size=200), 'price': random.uniform(5, 90, 200)})
    before = known.copy(deep=True)
    rows = sample_remaining_columns(fresh, known)
    pd.testing.assert_frame_equal(known, before)
    assert_same_values(rows, known)
    assert list(rows.columns) == list(table.columns)
    pd.testing.assert_series_equal(rows.dtypes, table.dtypes)
    assert rows['id'].is_unique


def test_a_thousand_distinct_rows_ask_the_network_as_often_as_a_thousand_free_ones(fresh):
    calls = []
    hook = fresh._model.denoiser.register_forward_hook(lambda *_: calls.append(1))
    try:
        sample(fresh, 1000)
        free = len(calls)
        rows = sample_remaining_columns(fresh, pd.DataFrame({'x': np.random.default_rng(0).normal(size=1000)}))
    finally:
        hook.remove()
    assert len(rows) == 1000
    assert len(calls) == 2 * free + 1  # once more for the block, whose start what is known moves
    assert free > 0


def test_rows_of_every_kind_of_column_with_holes_come_back(fresh, table):
    known = mixed_table(120, seed=5)[
        ['x', 'height', 'visits', 'weight', 'colour', 'size', 'flag', 'consent', 'day', 'when']
    ]
    rows = sample_remaining_columns(fresh, known)
    assert_same_values(rows, known)
    pd.testing.assert_series_equal(rows.dtypes, table.dtypes)


def test_the_callers_index_leads_to_the_callers_rows(fresh, table):
    known = table[['x', 'colour', 'count']].sample(50, random_state=0)
    rows = sample_remaining_columns(fresh, known)
    assert_same_values(rows.loc[known.index], known)


def test_an_index_that_repeats_itself_loses_no_row(fresh, table):
    known = table[['x', 'town']].sample(60, replace=True, random_state=0)
    rows = sample_remaining_columns(fresh, known)
    assert_same_values(rows.sort_index(kind='stable'), known.sort_index(kind='stable'))


def test_rows_that_are_known_entirely_come_back_entirely(fresh, table):
    known = table[LEARNED].head(30)
    rows = sample_remaining_columns(fresh, known)
    assert_same_values(rows, known)
    assert rows['email'].notna().all()


def test_no_known_row_gives_no_row_or_sdvs_error(fresh, table):
    try:
        rows = sample_remaining_columns(fresh, table[['x', 'colour']].head(0))
    except ValueError:
        return
    assert len(rows) == 0


def test_the_file_holds_the_rows_that_are_returned(fresh, table, tmp_path):
    rows = sample_remaining_columns(fresh, table[['x', 'colour']].head(25), folder=tmp_path)
    assert (tmp_path / f'{TABLE}.csv').read_text() == rows.to_csv(index=False)


def test_conditions_in_a_table_whose_columns_are_numbers(table):
    numbered = table[['x', 'colour', 'flag', 'price']].set_axis(range(4), axis='columns')
    synthesizer = fit(make_synthesizer(numbered, epochs=1), numbered)
    rows = sample_from_conditions(synthesizer, [Condition({'0': 0.5, '1': 'red'}, num_rows=6)])
    rows.columns = rows.columns.astype(str)  # SDV returns the names as text
    assert_same_values(rows, pd.DataFrame({'0': [0.5] * 6, '1': ['red'] * 6}))


def test_conditions_in_a_table_of_words_only_and_of_numbers_only(table):
    words = table[['colour', 'town', 'flag', 'level']]
    rows = sample_from_conditions(
        fit(make_synthesizer(words, epochs=1), words), [Condition({'town': 'Rome', 'colour': None}, num_rows=9)]
    )
    assert (rows['town'] == 'Rome').all()
    assert rows['colour'].isna().all()
    numbers = table[['x', 'price', 'height']]
    known = numbers[['price', 'height']].head(40)
    assert_same_values(sample_remaining_columns(fit(make_synthesizer(numbers, epochs=1), numbers), known), known)


def test_the_rest_of_a_row_heeds_what_is_fixed():
    """A wide gap between two groups: the group that is fixed decides the number, and the number the group."""
    random = np.random.default_rng(0)
    group = random.choice(['low', 'high'], 600)
    table = pd.DataFrame({'group': group, 'number': np.where(group == 'low', -5.0, 5.0) + random.normal(size=600)})
    synthesizer = fit(make_synthesizer(table, epochs=150), table)
    # Ten standard deviations lie between the groups; a network trained for seconds errs in one row of ten.
    low = sample_from_conditions(synthesizer, [Condition({'group': 'low'}, num_rows=100)])
    assert (low['number'] < 0).mean() >= 0.9
    high = sample_from_conditions(synthesizer, [Condition({'number': 5.0}, num_rows=100)])
    assert (high['group'] == 'high').mean() >= 0.9


def test_columns_that_are_one_to_one_never_come_apart_unless_asked_to():
    """Sizes in words and by codes, lengths and their squares, after next to no training."""
    random = np.random.default_rng(0)
    size, length = random.integers(0, 3, 300), random.gamma(3, 2, 300)
    words, codes = np.array(['S', 'M', 'L']), np.array([10, 5, 20])
    table = pd.DataFrame({'size': words[size], 'code': codes[size], 'length': length, 'area': length**2})
    synthesizer = fit(make_synthesizer(table, epochs=2), table)
    code_of = dict(zip(words, codes, strict=True))

    def agree(rows):
        # The square bends, and 300 rows have gaps; at the ends these are wide.
        off = np.abs(np.sqrt(rows['area']) - rows['length']) / rows['length']
        return (rows['size'].map(code_of) == rows['code']) & (off < 0.05)

    rows = sample(synthesizer, 500)
    assert rows.nunique()['size'] == 3
    assert agree(rows).all()
    for known in ({'code': 5}, {'size': 'L'}, {'area': 30.25}, {'code': 20, 'length': 4.5}):
        rows = sample_from_conditions(synthesizer, [Condition(known, num_rows=20)])
        assert (rows[list(known)] == known).all(axis=None)
        assert agree(rows).all()
    asked = {'size': 'S', 'code': 20}
    rows = sample_from_conditions(synthesizer, [Condition(asked, num_rows=20)])
    assert (rows[list(asked)] == asked).all(axis=None)


def test_sampling_without_conditions_goes_on_as_before(fresh):
    first = sample(fresh, 20)
    fresh.reset_sampling()
    sample_from_conditions(fresh, [Condition({'colour': 'red'}, num_rows=5)])
    fresh.reset_sampling()
    pd.testing.assert_frame_equal(sample(fresh, 20), first)
