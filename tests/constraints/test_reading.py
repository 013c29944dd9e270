"""What a residual sees of columns that are no plain numbers."""

import datetime

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdv_constrained_diffusion import constraint
from sdv_constrained_diffusion.constraints.base import TableView
from sdv_constrained_diffusion.constraints.moments import in_seconds, seconds
from sdv_constrained_diffusion.constraints.reading import Labels, Reading
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.errors import ConstraintError

COLOURS = pd.Series(['red', 'blue', None, 'red'], name='colour')


def view(**columns):
    data = pd.DataFrame(columns)
    return TableView.from_dataframe(data, list(data.columns), 'law')


def test_labels_are_compared_and_mapped():
    colour = view(colour=COLOURS).colour
    assert isinstance(colour, Labels)
    assert (colour == 'red').tolist() == [True, False, False, True]
    assert (colour != 'red').tolist() == [False, True, True, False]
    assert colour.isin(['red', 'blue']).tolist() == [True, True, False, True]
    assert colour.isin([]).tolist() == [False] * 4
    assert colour.map({'red': 1.5, 'blue': 2.0}, default=0.0).tolist() == [1.5, 2.0, 0.0, 1.5]
    assert torch.isnan(colour.map({'red': 1.5})).tolist() == [False, True, True, False]


def test_a_label_that_never_occurs_is_held_by_no_row():
    colour = view(colour=COLOURS).colour
    assert not (colour == 'green').any()
    # Rows whose label was not there when the reading was made hold none that is asked for either.
    reading = Reading.of(COLOURS)
    unseen = Labels('colour', torch.from_numpy(reading.values(pd.Series(['green']))), reading)
    assert not (unseen == 'green').any()
    assert not (unseen == 'red').any()


@pytest.mark.parametrize('column', [[True, False, True], pd.array([True, None, True], dtype='boolean')])
def test_truth_values_are_labels(column):
    assert (view(closed=column).closed == True).tolist() == [True, False, True]  # noqa: E712


def test_numbers_are_labels_where_a_constraint_says_so():
    @constraint(columns=['topology', 'p_mw'], discrete=['topology'])
    def piecewise(table):
        return table.p_mw - table.topology.map({1: 10.0, 2: 20.0})

    data = pd.DataFrame({'topology': [1, 2, 2], 'p_mw': [10.0, 20.0, 25.0]})
    system = ConstraintSystem([piecewise], data)
    assert system.residual(system.values(data)).tolist() == [[0.0], [0.0], [5.0]]
    assert system.discrete.tolist() == [True, False]
    assert system.jacobian(system.values(data)).tolist() == [[[0.0, 1.0]]] * 3


def test_a_column_may_be_a_number_for_one_constraint_and_a_label_for_another():
    @constraint(columns=['n', 'x'], discrete=['n'])
    def labelled(table):
        return torch.where(table.n == 3, table.x, 0.0)

    @constraint(columns=['n', 'x'])
    def number(table):
        return table.x - 2 * table.n

    data = pd.DataFrame({'n': [3, 4], 'x': [6.0, 7.0]})
    system = ConstraintSystem([labelled, number], data)
    assert system.residual(system.values(data)).tolist() == [[6.0, 0.0], [0.0, -1.0]]
    # A label never moves, so nothing is gained by moving it.
    assert (system.jacobian(system.values(data))[:, :, 0] == 0).all()


@pytest.mark.parametrize(
    'residual',
    [lambda colour: colour * 2.0, lambda colour: 1.0 - colour, lambda colour: colour < 2, lambda colour: -colour],
)
def test_arithmetic_on_labels_is_refused_in_words(residual):
    with pytest.raises(ConstraintError, match=r"'colour' is read as labels such as 'blue', .*map\("):
        residual(view(colour=COLOURS).colour)


def test_labels_among_numbers_are_refused_with_their_name():
    with pytest.raises(ConstraintError, match="law needs numbers in column 'colour', which holds labels"):
        view(colour=COLOURS, x=[1.0, 2.0, 3.0, 4.0])[['x', 'colour']]


def test_moments_are_seconds_since_1970():
    table = view(start=pd.to_datetime(['1970-01-01 00:00:01', '2024-02-29 12:00:00.25'], format='ISO8601'))
    # 2024-02-29 is day 19782; by GNU date, `date -ud '2024-02-29 12:00' +%s` prints 1709208000.
    assert table.start.tolist() == [1.0, 1709208000.25]


@given(
    st.lists(
        st.datetimes(min_value=datetime.datetime(1700, 1, 1), max_value=datetime.datetime(2200, 1, 1)),
        min_size=1,
        max_size=5,
    )
)
def test_moments_come_back_as_they_were_to_the_microsecond(moments):
    column = pd.Series(moments, dtype='datetime64[ns]')
    reading = Reading.of(column)
    assert reading.moment
    far = column - pd.Timedelta(days=1)
    back = reading.written(reading.values(column), far)
    # Seconds in float64 are good to 2^-20 s, a microsecond, at these dates.
    assert (back - column).abs().max() <= pd.Timedelta(microseconds=1)
    whole = column.dt.floor('s')
    assert (reading.written(reading.values(whole), far) == whole).all()
    # What has not moved is what it was, to the nanosecond.
    exact = column + pd.Timedelta(nanoseconds=3)
    assert (reading.written(reading.values(exact), exact) == exact).all()


def test_moments_with_a_time_zone_are_read_in_utc_and_written_in_their_zone():
    column = pd.Series(pd.to_datetime(['2024-07-01 12:00', '2024-01-01 12:00'])).dt.tz_localize('Europe/Berlin')
    reading = Reading.of(column)
    # Noon in Berlin is 10:00 UTC in summer and 11:00 in winter.
    expected = pd.Series(pd.to_datetime(['2024-07-01 10:00', '2024-01-01 11:00']))
    assert reading.values(column).tolist() == in_seconds(expected).tolist()
    moved = reading.written(reading.values(column) + 3600, column)
    assert (moved == column + pd.Timedelta(hours=1)).all()
    assert str(moved.dtype) == 'datetime64[ns, Europe/Berlin]'


def test_a_missing_moment_is_nan_and_comes_back_missing():
    column = pd.Series(pd.to_datetime(['2024-01-01', None]))
    values = in_seconds(column)
    assert np.isnan(values).tolist() == [False, True]
    assert Reading.of(column).written(values, column).isna().tolist() == [False, True]


def test_moments_and_numbers_are_compared_as_labels_with_what_they_hold():
    @constraint(columns=['day', 'n', 'x'], discrete=['day', 'n'])
    def law(table):
        return torch.where((table.day == '2024-01-02') & (table.n == 4), table.x, 0.0)

    data = pd.DataFrame({'day': pd.to_datetime(['2024-01-01', '2024-01-02']), 'n': [4, 4], 'x': [1.0, 2.0]})
    system = ConstraintSystem([law], data)
    assert system.residual(system.values(data))[:, 0].tolist() == [0.0, 2.0]
    for label, said in (('soon', "none of them is 'soon'"), (None, 'holds moments, and none of them is None')):
        with pytest.raises(ConstraintError, match=said):
            _ = TableView.from_dataframe(data, ['day'], readings={'day': Reading.of(data['day'], True)}).day == label


def test_a_rule_between_labels_alone_has_no_derivative_and_is_no_error():
    @constraint(columns=['kind', 'size'])
    def rule(table):
        return ((table.kind == 'a') & (table.size == 'L')).double()

    data = pd.DataFrame({'kind': ['a', 'b'], 'size': ['L', 'L']})
    system = ConstraintSystem([rule], data)
    assert system.rigid.tolist() == [True]
    assert (system.jacobian(system.values(data)) == 0).all()
    assert system.feasible(system.values(data)).tolist() == [False, True]


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ('1970-01-02', 86400.0),
        (pd.Timestamp('1970-01-01 00:01'), 60.0),
        (datetime.date(1970, 1, 2), 86400.0),
        (np.datetime64('1970-01-01T00:00:05'), 5.0),
        (pd.Timedelta(days=1), 86400.0),
        (np.timedelta64(3, 'm'), 180.0),
        (3.5, 3.5),
        (float('inf'), float('inf')),
    ],
)
def test_limits_may_be_moments_and_spans(given, expected):
    assert seconds(given) == expected


def test_a_text_that_is_no_moment_is_refused():
    with pytest.raises(ConstraintError, match="'soon' is no moment"):
        seconds('soon')
