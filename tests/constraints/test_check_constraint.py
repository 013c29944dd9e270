import math

import numpy as np
import pandas as pd
import pytest
import torch

from cases import case, operating_points
from sdv_constrained_diffusion import Bounds, ConditionalOn, Ordered, SumTo
from sdv_constrained_diffusion.constraints.base import Constraint, constraint
from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.testing import GRADIENT_TOLERANCE, check_constraint


def circle_rows(number=8):
    angle = np.linspace(0.1, 1.4, number)
    return pd.DataFrame({'x': 2 * np.cos(angle), 'y': 2 * np.sin(angle), 'note': 'free'})


@constraint(columns=['x', 'y'], tolerance=1e-9, unit='m²')
def circle(table):
    return table.x**2 + table.y**2 - 4


class Doubled(Constraint):
    """The circle with a Jacobian of its own: `factor` times the true one, or with one entry of another sign."""

    columns = ('x', 'y')

    def __init__(self, factor=1.0, sign=1.0):
        self.factor, self.sign = factor, sign

    def residual(self, table):
        return table.x**2 + table.y**2 - 4

    def jacobian(self, table):
        return self.factor * torch.stack([2 * table.x, 2 * self.sign * table.y], dim=1)[:, None]


def test_power_flow_passes_on_solved_operating_points():
    check = check_constraint(PowerFlow.from_pandapower(case('case5')), operating_points())
    assert check.passed, str(check)
    assert (check.constraint, check.num_rows, check.num_equations) == ('PowerFlow', 7, 10)
    assert (check.rank, check.share_feasible) == (10, 1.0)
    # The solver stops below 1e-8 MVA, which is a hundredth of the tolerance of 1e-6 MW.
    assert check.median_violation <= 0.01


def test_a_decorated_function_passes():
    check = check_constraint(circle, circle_rows())
    assert check.passed, str(check)
    assert (check.rank, check.num_equations, check.share_feasible) == (1, 1, 1.0)
    assert 'FAIL' not in str(check)
    # Squares lose no derivative beyond the second, so only rounding of 1e-16 / 1e-5 is left.
    assert check.gradient_error <= 1e-9


def test_the_text_tells_every_finding():
    assert str(check_constraint(circle, circle_rows())).splitlines()[0] == 'circle: 1 equations on 8 rows'
    said = str(check_constraint(circle, circle_rows().assign(x=[9.0] * 2 + circle_rows()['x'].tolist()[2:])))
    assert 'info learned: 75.0% of the real rows within tolerance' in said
    assert 'ok   rows are independent of each other' in said
    assert 'info rank 1 of 1' in said.splitlines()


@pytest.mark.parametrize(('factor', 'sign'), [(2.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (1.0001, 1.0), (0.0, 1.0)])
def test_a_wrong_jacobian_fails(factor, sign):
    check = check_constraint(Doubled(factor, sign), circle_rows())
    assert not check.passed
    assert check.rows_independent
    assert 'FAIL gradient against central differences' in str(check)
    assert 'ok   rows are independent' in str(check)


def test_the_gap_is_a_share_of_the_equations_largest_derivative():
    # Off by the factor 1.0001: the gap is 1e-4 of the largest derivative. Central differences add about 1e-9.
    check = check_constraint(Doubled(1.0001), circle_rows())
    assert check.gradient_error == pytest.approx(1e-4, abs=1e-8)
    assert GRADIENT_TOLERANCE < 1e-4
    assert check_constraint(Doubled(), circle_rows()).passed


def test_an_equation_of_small_numbers_is_judged_by_its_own_size():
    class Units(Doubled):
        unit = ('m²', 'µm²')

        def residual(self, table):
            return torch.stack([1e12 * super().residual(table), super().residual(table)], dim=1)

        def jacobian(self, table):
            own = Doubled().jacobian(table)
            return torch.cat([1e12 * own, self.factor * own], dim=1)

    assert check_constraint(Units(), circle_rows()).passed
    assert check_constraint(Units(1.01), circle_rows()).gradient_error == pytest.approx(0.01, abs=1e-6)


def test_a_jacobian_with_nan_fails():
    assert not check_constraint(Doubled(math.nan), circle_rows()).passed


def mixing(weight):
    @constraint(columns=['x', 'y'])
    def mixes(table):
        return table.x - table.y - weight * (table.x - table.y).mean()

    return mixes


@pytest.mark.parametrize('weight', [1.0, 1e-3])
@pytest.mark.parametrize('number', [1, 2, 8])
def test_a_law_that_mixes_rows_fails(weight, number):
    check = check_constraint(mixing(weight), circle_rows(number))
    assert not check.passed
    assert not check.rows_independent
    assert 'FAIL rows are independent of each other' in str(check)


def test_a_law_that_mixes_rows_fails_even_where_real_rows_obey_it():
    # x - y is 3 in every row, so that the mean of the batch is the row's own value.
    data = pd.DataFrame({'x': np.arange(5.0) + 3, 'y': np.arange(5.0)})
    check = check_constraint(mixing(1.0), data)
    assert check.share_feasible == 1.0
    assert not check.rows_independent


def test_a_law_that_sorts_rows_fails():
    @constraint(columns=['x'])
    def ordered(table):
        return table.x - table.x.sort().values

    assert not check_constraint(ordered, circle_rows().sort_values('x')).rows_independent


def test_a_law_with_a_domain_that_ends_near_the_rows_is_no_mixing_of_rows():
    # A tenth of the columns' standard deviation beyond the smallest x, its logarithm is NaN.
    @constraint(columns=['x', 'y'])
    def logarithm(table):
        return table.x.log() - table.y

    x = np.append(np.full(10, 1e-3), np.linspace(1, 10, 10))
    check = check_constraint(logarithm, pd.DataFrame({'x': x, 'y': np.log(x)}))
    assert check.share_feasible == 1.0
    assert check.rows_independent


def test_rank_counts_independent_equations():
    @constraint(columns=['x', 'y'])
    def thrice(table):
        return torch.stack([table.x - table.y, table.x + table.y, 5 * table.x + 1e-3 * table.y], dim=1)

    check = check_constraint(thrice, circle_rows())
    assert (check.rank, check.num_equations) == (2, 3)
    assert 'info rank 2 of 3: 1 redundant' in str(check)


def test_a_small_unit_is_no_redundancy():
    @constraint(columns=['x', 'y'])
    def scaled(table):
        return torch.stack([1e12 * (table.x - table.y), 1e-12 * (table.x + table.y)], dim=1)

    assert check_constraint(scaled, circle_rows()).rank == 2


def test_share_and_median_of_feasible_rows_count_all_rows():
    @constraint(columns=['x'], lower=1.0, upper=2.0, tolerance=0.25)
    def within(table):
        return table.x

    data = pd.DataFrame({'x': [0.0, 0.5, 0.75, 1.5, 2.25, 2.5, 4.0]})
    check = check_constraint(within, data, num_rows=1)
    assert check.num_rows == 7
    assert check.share_feasible == 3 / 7
    # Violations in tolerances: 4, 2, 1, 0, 1, 2, 8.
    assert check.median_violation == 2.0


def test_a_constant_column_is_differentiated_too():
    data = circle_rows().assign(x=0.0, y=2.0)
    assert check_constraint(Doubled(), data).passed
    assert not check_constraint(Doubled(sign=-1.0), data).passed


@pytest.mark.parametrize(('cut', 'said'), [(lambda x: x.log(), 'nan'), (lambda x: 1 / (x + 1), 'inf')])
def test_a_residual_that_is_not_finite_is_refused_with_equation_and_row(cut, said):
    @constraint(columns=['x', 'y'])
    def guarded(table):
        return torch.stack([table.y, cut(table.x)], dim=1)

    data = pd.DataFrame({'x': [1.0, 2.0, -1.0], 'y': 0.0}, index=['a', 'b', 'c'])
    with pytest.raises(ConstraintError, match=rf"guarded must be finite .*'guarded\[1\]' gives {said} in row c"):
        check_constraint(guarded, data)


def test_no_rows_and_missing_columns_are_refused():
    with pytest.raises(ConstraintError, match='needs at least one row to try circle on; it got none'):
        check_constraint(circle, circle_rows().head(0))
    with pytest.raises(ColumnMissingError, match="circle needs column 'y'"):
        check_constraint(circle, circle_rows().drop(columns='y'))


def tariffs():
    rng = np.random.default_rng(0)
    kind = rng.choice(['day', 'night'], 60)
    use = rng.uniform(1, 9, 60)
    cost = use * np.where(kind == 'day', 0.31, 0.24)
    return pd.DataFrame({'kind': kind, 'use': use, 'cost': cost})


@constraint(columns=['kind', 'use', 'cost'], unit='EUR')
def tariff(table):
    return table.cost - table.kind.map({'day': 0.31, 'night': 0.24}) * table.use


def test_a_law_that_depends_on_a_label_passes():
    check = check_constraint(tariff, tariffs())
    assert check.passed, str(check)
    assert (check.labels, check.kind, check.share_feasible) == (('kind',), 'learned', 1.0)
    assert 'labels: kind' in str(check)


def test_a_conditional_law_has_full_rank_though_the_mean_row_says_nothing():
    check = check_constraint(ConditionalOn('kind', 'day', SumTo(['use'], 5.0)), tariffs())
    assert check.passed, str(check)
    # Rows of the other tariff obey, but were not asked.
    assert (check.rank, check.kind) == (1, 'steering')


def test_steering_constraints_pass_and_are_called_so():
    check = check_constraint(SumTo(['use'], 5.0), tariffs())
    assert check.passed, str(check)
    assert (check.kind, check.share_feasible, check.share_projected) == ('steering', 0.0, 1.0)
    assert 'info steering: 0.0% of the real rows' in str(check)


@pytest.mark.parametrize('law', [Bounds('use', 2, 4), Ordered('use', 'cost')])
def test_inequalities_pass(law):
    check = check_constraint(law, tariffs())
    assert check.passed, str(check)
    assert check.num_inequalities == 1


def test_a_law_that_no_row_can_be_moved_to_fails():
    @constraint(columns=['use'])
    def never(table):
        return table.use**2 + 1

    check = check_constraint(never, tariffs())
    assert not check.passed
    assert check.share_projected == 0
    assert 'FAIL projection of shaken rows' in str(check)
