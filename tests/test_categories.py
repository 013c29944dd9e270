"""Levels of a discrete column: what was observed, nothing else, and words for what was not."""

import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdv_constrained_diffusion._categories import Categories
from sdv_constrained_diffusion.errors import DataError

EVE, DAY = datetime.date(2019, 12, 31), datetime.date(2020, 1, 1)

missing = st.sampled_from([None, np.nan, pd.NA, pd.NaT])
words, numbers, flags = st.text(max_size=4), st.integers(-5, 5), st.booleans()
fractions = st.floats(-9, 9, allow_subnormal=False)
columns_of_objects = st.one_of(
    *(st.lists(kind | missing, min_size=1, max_size=30) for kind in (words, numbers, flags, fractions, words | numbers))
)


@settings(deadline=None)
@given(values=columns_of_objects)
def test_round_trip(values):
    column = pd.Series(values, dtype=object, name='kind')
    categories = Categories.fit(column)
    codes = categories.codes(column)
    assert codes.dtype == 'int64'
    back = pd.Series(categories.values(codes), dtype=object)
    assert back.isna().equals(column.isna())
    assert back.dropna().tolist() == column.dropna().tolist()
    # Every level is one that was observed, once; the missing one is last.
    assert sorted(set(codes)) == list(range(len(categories.levels)))
    assert categories.has_missing == column.isna().any()
    assert [pd.isna(level) for level in categories.levels[:-1]] == [False] * (len(categories.levels) - 1)
    assert pd.isna(categories.levels[-1]) == categories.has_missing


@pytest.mark.parametrize(
    ('column', 'levels'),
    [
        (pd.Series([3, 1, 2, 1]), [1, 2, 3]),
        (pd.Series([2.5, np.nan, -1.0]), [-1.0, 2.5]),
        (pd.Series([True, False, None], dtype='boolean'), [False, True]),
        (pd.Series([3, None, 1], dtype='Int64'), [1, 3]),
        (pd.Series(['b', 'a', None]), ['a', 'b']),
        (pd.Series(['b', 'a', pd.NA], dtype='string'), ['a', 'b']),
        (pd.Series(pd.Categorical(['S', 'L', None], categories=['L', 'S', 'XL'])), ['L', 'S']),  # 'XL': not observed
        (pd.Series([DAY, EVE, None]), [EVE, DAY]),
        (pd.Series(['b', 1, 'a', 0.5, None]), ['b', 1, 'a', 0.5]),  # nothing orders text and numbers: as they appear
    ],
    ids=['int', 'float', 'boolean', 'Int64', 'text', 'string', 'categorical', 'dates', 'text and numbers'],
)
def test_levels_of_every_kind_are_in_order(column, levels):
    found = Categories.fit(column)
    assert found.levels[: len(levels)].tolist() == levels
    assert len(found.levels) == len(levels) + column.isna().any()
    back = pd.Series(found.values(found.codes(column)), dtype=object)
    assert back.dropna().tolist() == column.dropna().tolist()


def test_numbers_are_found_in_every_dtype():
    """A condition may come as a float, or as what NumPy made of it."""
    categories = Categories.fit(pd.Series([1, 2, 3]))
    for dtype in ('int8', 'float64', 'Int64', 'Float32', 'object'):
        assert categories.codes(pd.Series([3, 1], dtype=dtype)).tolist() == [2, 0]
    truth = Categories.fit(pd.Series([True, False]))
    for values in ([True, False], np.array([True, False]), pd.array([True, False], dtype='boolean')):
        assert truth.codes(pd.Series(values)).tolist() == [1, 0]


def test_an_all_missing_column_has_one_level():
    column = pd.Series([None, np.nan], dtype=object)
    categories = Categories.fit(column)
    assert len(categories.levels) == 1
    assert pd.isna(categories.values(categories.codes(column))).all()


@pytest.mark.parametrize('kind', [['red', 'green'], ['red', 'green', None]])
def test_an_unseen_value_is_named_with_those_that_are_known(kind):
    categories = Categories.fit(pd.Series(kind, name='colour'))
    with pytest.raises(DataError, match=r"Column 'colour' cannot be 'blue'.*'green', 'red'\.$"):
        categories.codes(pd.Series(['red', 'blue', 'pink']))


def test_a_long_list_of_known_values_is_cut():
    categories = Categories.fit(pd.Series(range(11), name=7))
    with pytest.raises(DataError, match=r"Column 7 cannot be 'eleven':.* 8, 9, \.\.\.\.$"):
        categories.codes(pd.Series(['eleven']))


def test_an_unseen_number_is_shown_as_a_number():
    with pytest.raises(DataError, match=r"Column 'n' cannot be 11:"):
        Categories.fit(pd.Series([1, 2], name='n')).codes(pd.Series([11]))


@pytest.mark.parametrize('value', [None, np.nan, pd.NA])
def test_missing_where_it_never_was_is_refused(value):
    categories = Categories.fit(pd.Series(['red', 'green'], name='colour'))
    with pytest.raises(DataError, match=r"Column 'colour' cannot be (None|nan|<NA>)"):
        categories.codes(pd.Series(['red', value], dtype=object))
