import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sdv_constrained_diffusion.constraints.algebraic import Bounds, Linear, SumTo
from sdv_constrained_diffusion.constraints.base import Constraint, constraint
from sdv_constrained_diffusion.constraints.system import ConstraintSystem, Equation
from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError

COLUMNS = ('load', 'gen', 'note', 'loss', 'price')


@constraint(columns=['gen', 'load', 'loss'], tolerance=0.5, unit='MW')
def balance(table):
    return table.gen - table.load - table.loss


@constraint(columns=['price', 'gen'], lower=[0.0, 1.0], upper=[2.0, math.inf], tolerance=[0.1, 0.01], unit=['€', 'MW'])
def limits(table):
    return torch.stack([table.price, table.price * table.gen], dim=1)


def example():
    """Four rows whose residuals are worked out by hand below."""
    return pd.DataFrame(
        [
            (3.0, 5.0, 'a', 1.75, 1.0),
            (3.0, 5.0, 'b', 1.0, 2.25),
            (6.0, 5.0, 'c', 0.0, 0.125),
            (4.0, 4.0, 'd', 0.0, 2.1),
        ],
        columns=COLUMNS,
    )


RESIDUAL = [[0.25, 1.0, 5.0], [1.0, 2.25, 11.25], [-1.0, 0.125, 0.625], [0.0, 2.1, 8.4]]
VIOLATION = [[0.25, 0.0, 0.0], [1.0, 0.25, 0.0], [1.0, 0.0, 0.375], [0.0, 0.1, 0.0]]
DEVIATION = [[0.25, 0.0, 0.0], [1.0, 0.25, 0.0], [-1.0, 0.0, -0.375], [0.0, 0.1, 0.0]]
EXCESS = [0.5, 2.5, 37.5, 1.0]


def bound(*constraints):
    data = example()
    system = ConstraintSystem(constraints or (balance, limits), data)
    return system, system.values(data)


def float64(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def exact(actual, expected):
    # A handful of operations on short binary fractions; 2.1 and 0.1 bring one unit in the last place.
    assert_close(actual, float64(expected), rtol=0, atol=1e-13)


def test_columns_are_those_read_in_the_order_of_the_table():
    system, values = bound()
    assert system.columns == ('load', 'gen', 'loss', 'price')
    assert values.dtype == torch.float64
    exact(values, example()[['load', 'gen', 'loss', 'price']].to_numpy().tolist())


def test_equations_stand_constraint_by_constraint_with_their_own_facts():
    system, _ = bound()
    assert system.equations == (
        Equation('balance', 'balance', 'MW', 0.0, 0.0, 0.5),
        Equation('limits', 'limits[0]', '€', 0.0, 2.0, 0.1),
        Equation('limits', 'limits[1]', 'MW', 1.0, math.inf, 0.01),
    )
    assert system.lower.tolist() == [0.0, 0.0, 1.0]
    assert system.upper.tolist() == [0.0, 2.0, math.inf]
    assert system.tolerance.tolist() == [0.5, 0.1, 0.01]


def test_residuals_are_stacked_in_the_order_given():
    system, values = bound()
    exact(system.residual(values), RESIDUAL)
    swapped, _ = bound(limits, balance)
    exact(swapped.residual(values), [[*row[1:], row[0]] for row in RESIDUAL])


def test_deviation_violation_and_excess_are_the_numbers_worked_out_by_hand():
    system, values = bound()
    residual = system.residual(values)
    exact(system.deviation(residual), DEVIATION)
    exact(system.violation(residual), VIOLATION)
    # The last row's violation is 2.1 - 2 against a tolerance of 0.1.
    assert_close(system.excess(values), float64(EXCESS), rtol=1e-14, atol=0)


def test_feasible_up_to_and_including_the_tolerance():
    system, _ = bound(balance)
    values = float64([[0.0, gen, 0.0] for gen in (-0.5, 0.0, 0.5, np.nextafter(0.5, 1), np.nextafter(-0.5, -1))])
    assert system.feasible(values).tolist() == [True, True, True, False, False]


def test_nan_and_infinity_are_never_feasible():
    system, values = bound()
    for column in range(4):
        for bad in (math.nan, math.inf, -math.inf):
            broken = values[:1].clone()
            broken[0, column] = bad
            assert system.feasible(values[:1]).tolist() == [True]
            assert system.feasible(broken).tolist() == [False], (column, bad)


def test_jacobian_scatters_each_constraint_into_the_tables_columns():
    system, values = bound()
    # Columns load, gen, loss, price.
    expected = [
        [[-1.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, price, 0.0, gen]] for _, gen, _, price in values.tolist()
    ]
    exact(system.jacobian(values), expected)


def test_a_closed_form_jacobian_is_used_in_place_of_autograd():
    class Twice(Constraint):
        columns = ('price', 'load')

        def residual(self, table):
            return 2 * table.price

        def jacobian(self, table):
            assert table.names == ('price', 'load')
            return float64([[[7.0, 8.0]]]).expand(len(table.values), 1, 2)

    data = example()
    system = ConstraintSystem([Twice()], data)
    assert system.columns == ('load', 'price')
    exact(system.jacobian(system.values(data))[0], [[8.0, 7.0]])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(COLUMNS))
def test_the_tables_column_order_changes_no_verdict(seed, order):
    random = np.random.default_rng(seed)
    data = pd.DataFrame(random.normal(size=(5, 5)), columns=COLUMNS)
    system, shuffled = ConstraintSystem([balance, limits], data), ConstraintSystem([balance, limits], data[order])
    # The same operations on the same numbers.
    assert_close(
        shuffled.residual(shuffled.values(data)), system.residual(system.values(data)), rtol=0, atol=0, equal_nan=True
    )
    back = [shuffled.columns.index(name) for name in system.columns]
    assert_close(
        shuffled.jacobian(shuffled.values(data))[:, :, back],
        system.jacobian(system.values(data)),
        rtol=0,
        atol=0,
        equal_nan=True,
    )


@settings(max_examples=100, deadline=None)
@given(
    residual=st.floats(-1e9, 1e9),
    lower=st.floats(-1e9, 1e9) | st.just(-math.inf),
    width=st.floats(0, 1e9) | st.just(math.inf),
)
def test_violation_is_the_distance_to_the_interval(residual, lower, width):
    upper = width if lower == -math.inf else lower + width
    data = pd.DataFrame({'x': [residual]})

    @constraint(columns=['x'], lower=lower, upper=upper)
    def within(table):
        return table.x

    system = ConstraintSystem([within], data)
    violation = system.violation(system.residual(system.values(data)))
    assert violation.item() == max(lower - residual, 0.0, residual - upper)


def test_rows_never_meet():
    system, values = bound()
    # Each row goes through the same operations alone and together.
    assert_close(
        system.residual(values), torch.cat([system.residual(row[None]) for row in values]), rtol=1e-15, atol=1e-15
    )
    assert_close(
        system.jacobian(values), torch.cat([system.jacobian(row[None]) for row in values]), rtol=1e-15, atol=1e-15
    )


def test_a_missing_column_is_named_with_its_close_match():
    with pytest.raises(ColumnMissingError, match=r"balance needs column 'loss'.*look close: 'losses'"):
        ConstraintSystem([limits, balance], example().rename(columns={'loss': 'losses'}))


def limited(**data):
    """Two equations with the data given."""

    @constraint(columns=['gen', 'load'], **data)
    def pair(table):
        return table[['gen', 'load']]

    return ConstraintSystem([pair], example())


def test_one_number_counts_for_all_equations():
    system = limited(lower=-1.0, upper=3.5, tolerance=0.25, unit='MW')
    assert [(each.lower, each.upper, each.tolerance, each.unit) for each in system.equations] == [
        (-1, 3.5, 0.25, 'MW')
    ] * 2


def test_one_number_per_equation_keeps_its_order():
    system = limited(lower=(-1.0, 2.0), upper=[3.0, 4.0], tolerance=[0.25, 0.5], unit=('MW', 'kW'))
    assert [(each.lower, each.upper, each.tolerance, each.unit) for each in system.equations] == [
        (-1, 3, 0.25, 'MW'),
        (2, 4, 0.5, 'kW'),
    ]


def test_arrays_and_tensors_count_as_sequences():
    class Pair(Constraint):
        columns = ('gen', 'load')
        lower, upper, tolerance = np.array([-1.0, 2.0]), torch.tensor([3.0, 4.0]), np.array([0.25, 0.5])

        def residual(self, table):
            return table.values

    system = ConstraintSystem([Pair()], example())
    assert system.lower.tolist() == [-1.0, 2.0]
    assert system.upper.tolist() == [3.0, 4.0]
    assert system.tolerance.tolist() == [0.25, 0.5]


@pytest.mark.parametrize('attribute', ['lower', 'upper', 'tolerance', 'unit'])
@pytest.mark.parametrize('number', [1, 3])
def test_a_sequence_of_another_length_is_refused(attribute, number):
    entries = ['MW'] * number if attribute == 'unit' else [1.0] * number
    with pytest.raises(ConstraintError, match=f"pair has 2 equations, but its '{attribute}' has {number} entries"):
        limited(**{attribute: entries})


@pytest.mark.parametrize(('lower', 'upper'), [(1.0, 0.0), (0.0, -1.0), ([0.0, 2.0], [1.0, 1.0]), (math.nan, 1.0)])
def test_lower_above_upper_is_refused(lower, upper):
    with pytest.raises(ConstraintError, match='pair needs lower <= upper; it got'):
        limited(lower=lower, upper=upper)


@pytest.mark.parametrize('tolerance', [0.0, -1e-6, math.nan, [1e-6, 0.0]])
def test_a_tolerance_that_is_not_positive_is_refused(tolerance):
    with pytest.raises(ConstraintError, match='pair needs a tolerance above 0 MW; it got'):
        limited(tolerance=tolerance, unit='MW')


def test_a_constraints_own_equation_names_are_taken():
    class Named(Constraint):
        columns = ('gen', 'load')

        def residual(self, table):
            return table.values

        def equation_names(self, number):
            return [f'of {column}' for column in self.columns[:number]]

    system = ConstraintSystem([Named(), balance], example())
    assert [each.name for each in system.equations] == ['of gen', 'of load', 'balance']
    assert [each.constraint for each in system.equations] == ['Named', 'Named', 'balance']


def test_a_residual_of_the_wrong_shape_is_refused_when_bound():
    @constraint(columns=['gen'])
    def scalar(table):
        return table.gen.sum()

    with pytest.raises(ConstraintError, match=r'scalar\.residual must return shape'):
        ConstraintSystem([scalar], example())


class Doubled(Linear):
    """A weighted sum no more."""

    def residual(self, table):
        return super().residual(table) * table['gen']


def test_laws_that_are_sums_keep_their_places_among_the_others():
    laws = [
        limits,
        Linear({'gen': 2.0, 'price': -1.0}, upper=3.0),
        SumTo(['load', 'loss'], 'gen'),
        Doubled({'load': 1.0, 'gen': 0.5}),
        Linear({'loss': 4.0}, lower=-1.0, tolerance=0.25),
        Bounds('price', upper=2.0),
    ]
    data = example()
    system = ConstraintSystem(laws, data)
    values = system.values(data)
    alone = [ConstraintSystem([law], data) for law in laws]
    assert [each for one in alone for each in one.equations] == list(system.equations)
    residuals = [one.residual(one.values(data)) for one in alone]
    # Sums of two or three terms of order ten.
    assert_close(system.residual(values), torch.cat(residuals, dim=1), rtol=0, atol=1e-14)
    assert system.weighted.tolist() == [False, False, True, False, False, True, False]
    first = 0
    for one in alone:
        own = one.jacobian(one.values(data))
        places = [system.columns.index(name) for name in one.columns]
        ours = system.jacobian(values)[:, first : first + own.shape[1]]
        assert_close(ours[:, :, places], own, rtol=0, atol=1e-14)
        others = [place for place in range(len(system.columns)) if place not in places]
        assert (ours[:, :, others] == 0).all()
        first += own.shape[1]
