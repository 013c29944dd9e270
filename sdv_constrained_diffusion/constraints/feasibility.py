"""How well a delivered table obeys its constraints: violations per equation, in physical units."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.system import ConstraintSystem, Equation
from sdv_constrained_diffusion.errors import DataError

COLUMNS = ('constraint', 'equation', 'unit', 'tolerance', 'max', 'p99', 'mean', 'share_within_tolerance')
"""The columns of `feasibility`."""

BY_CONSTRAINT = ('constraint', 'unit', 'tolerance', 'share_within_tolerance', 'max', 'p99', 'mean', 'worst_rows')
"""The columns of `by_constraint`."""

NUM_WORST = 3
"""Rows that are named as the worst."""


def violations(constraints: Iterable[Constraint], data: pd.DataFrame) -> tuple[tuple[Equation, ...], np.ndarray]:
    """How far every row misses every equation.

    Args:
        constraints: the constraints, at least one.
        data: the table as it is delivered, at least one row, physical units.

    Returns:
        the equations and their violations, at least 0, shape (row, equation), each in its equation's unit, float64. A
        row with a missing number has NaN.

    Raises:
        DataError: there is no constraint, or the table has no row.
        ColumnMissingError: the table lacks a column of a constraint.
        ConstraintError: a residual has a wrong shape.
    """
    constraints = tuple(constraints)
    if not constraints:
        raise DataError('The violations need at least one constraint; none came. Pass constraints=[...].')
    if data.empty:
        raise DataError(f'The violations need at least one row; the table has shape {data.shape}.')
    system = ConstraintSystem(constraints, data)
    return system.equations, system.violation(system.residual(system.values(data))).numpy()


def feasibility(constraints: Iterable[Constraint], data: pd.DataFrame) -> pd.DataFrame:
    """Statistics of the violations of a table, one line per equation.

    Args:
        constraints: the constraints, at least one.
        data: the table as it is delivered, physical units.

    Returns:
        the columns `COLUMNS`: largest violation, its 99th percentile and its mean over the rows, in the equation's
        unit, and the share of rows whose violation is at most the tolerance. A row with a missing number is outside
        every tolerance, and makes the statistics NaN, so that it cannot be overlooked.

    Raises:
        DataError, ColumnMissingError, ConstraintError: as in `violations`.
    """
    equations, violation = violations(constraints, data)
    tolerance = np.array([equation.tolerance for equation in equations])
    return pd.DataFrame(
        {
            'constraint': [equation.constraint for equation in equations],
            'equation': [equation.name for equation in equations],
            'unit': [equation.unit for equation in equations],
            'tolerance': tolerance,
            'max': violation.max(axis=0),
            'p99': np.percentile(violation, 99, axis=0),
            'mean': violation.mean(axis=0),
            'share_within_tolerance': (violation <= tolerance).mean(axis=0),
        }
    )[list(COLUMNS)]


def by_constraint(constraints: Iterable[Constraint], data: pd.DataFrame) -> pd.DataFrame:
    """Statistics of the violations of a table, one line per constraint.

    Args:
        constraints: the constraints; may be none.
        data: the table as it is delivered, at least one row, physical units.

    Returns:
        `constraint`; `unit` and `tolerance` of the equation that is missed most in units of its tolerance;
        `share_within_tolerance`, of rows that obey all equations; `max`, `p99` and `mean` over rows of the largest
        violation of the equations in that unit; `worst_rows`, up to three index labels of rows outside the tolerance,
        the worst first. A row with a missing number is outside every tolerance, and makes the statistics NaN.

    Raises:
        DataError, ColumnMissingError, ConstraintError: as in `violations`.
    """
    return pd.DataFrame([_of_constraint(each, data) for each in constraints], columns=list(BY_CONSTRAINT))


def _of_constraint(constraint: Constraint, data: pd.DataFrame) -> tuple[Any, ...]:
    equations, violation = violations([constraint], data)
    tolerance = np.array([equation.tolerance for equation in equations])
    excess = violation / tolerance
    # NaN counts as the largest.
    worst = equations[int(np.argmax(np.nan_to_num(excess, nan=np.inf).max(axis=0)))]
    same_unit = [equation.unit == worst.unit for equation in equations]
    largest = violation[:, same_unit].max(axis=1)
    by_row = np.nan_to_num(excess, nan=np.inf).max(axis=1)
    broken = np.argsort(-by_row, kind='stable')[: min(NUM_WORST, int((by_row > 1).sum()))]
    return (
        constraint.name,
        worst.unit,
        worst.tolerance,
        float((by_row <= 1).mean()),
        float(largest.max()),
        float(np.percentile(largest, 99)),
        float(largest.mean()),
        data.index[broken].tolist(),
    )


def share_feasible(constraints: Iterable[Constraint], data: pd.DataFrame) -> float:
    """Share of rows that obey every equation of every constraint within its tolerance.

    Args:
        constraints: the constraints, at least one.
        data: the table as it is delivered, physical units.

    Returns:
        from 0 to 1; a row with a missing number does not count.

    Raises:
        DataError, ColumnMissingError, ConstraintError: as in `violations`.
    """
    equations, violation = violations(constraints, data)
    tolerance = np.array([equation.tolerance for equation in equations])
    return float((violation <= tolerance).all(axis=1).mean())
