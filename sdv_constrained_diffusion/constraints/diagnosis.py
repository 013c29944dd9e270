"""Do the training rows obey their constraints, and if not at all: which unit or sign was mistaken?"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from sdv_constrained_diffusion._numbers import finite_numbers
from sdv_constrained_diffusion.constraints.base import Constraint, Misreading, TableView, evaluate
from sdv_constrained_diffusion.constraints.system import ConstraintSystem, check_form
from sdv_constrained_diffusion.errors import ConstraintError, ConstraintMismatchError

FEW = 0.01
"""A constraint is missed grossly when fewer than this share of the rows are feasible and the median row is `GROSS` off.
A row of zeros obeys many laws in any unit, so a few feasible rows prove nothing."""

GROSS = 100.0
"""How many tolerances the median row is off when a constraint is missed grossly."""


def diagnose(constraints: Iterable[Constraint], data: pd.DataFrame) -> pd.DataFrame:
    """Measures the residuals of training rows and refuses rows that cannot be meant as they are.

    Args:
        constraints: the constraints.
        data: the training table.

    Returns:
        one row per constraint: `constraint`; `unit` and `tolerance` of its worst equation; `share_feasible`;
        `violation_median`, that equation's over rows; `violation_max`, the largest of all equations in that unit.

    Raises:
        ColumnMissingError: a constrained column is not in the table.
        DataError: a constrained column is not numeric, or holds NaN or inf.
        ConstraintError: a residual is not finite on a training row.
        ConstraintMismatchError: hardly any row is feasible and the median row is far off (`FEW`, `GROSS`).
    """
    return pd.DataFrame([_diagnose(constraint, data) for constraint in constraints])


def sentence(found: Any) -> str:
    """A row of the diagnosis, as `itertuples` gives it, in words."""
    return (
        f'{found.constraint}: {found.share_feasible:.1%} of the training rows within {found.tolerance:.3g} {found.unit}'
        f'; violation median {found.violation_median:.3g}, largest {found.violation_max:.3g} {found.unit}.'
    )


def refuse_contradictions(constraints: Iterable[Constraint], given: pd.DataFrame) -> None:
    """Refuses given values that fill all columns of a constraint and break it: no row can complete them.

    Args:
        constraints: the constraints.
        given: given values, any columns; rows with a missing value in a constraint's columns are not judged.

    Raises:
        ConstraintError: names the first such constraint and row.
    """
    for constraint in constraints:
        columns = list(constraint.columns)
        rows = given[columns].dropna() if set(columns) <= set(given.columns) else given.iloc[:0]
        if rows.empty:
            continue
        system = ConstraintSystem([constraint], rows)
        violation = system.violation(system.residual(system.values(rows)))
        excess, worst = (violation / system.tolerance).max(dim=1)
        broken = (~(excess <= 1)).nonzero()[:, 0].tolist()
        if broken:
            equation = system.equations[int(worst[broken[0]])]
            raise ConstraintError(
                f'{constraint.name} cannot be obeyed by {len(broken)} of {len(given)} rows of fixed values, which '
                f'leave none of its columns open: in row {rows.index[broken[0]]} {equation.name!r} is off by '
                f'{float(violation[broken[0]].max()):.4g} {equation.unit}, its tolerance is {equation.tolerance:.4g} '
                f'{equation.unit}. Mend the values, or leave a column open.'
            )


def _diagnose(constraint: Constraint, data: pd.DataFrame) -> dict[str, Any]:
    check_form(constraint)
    constraint.require(data.columns)
    for name in constraint.columns:
        finite_numbers(data[name], constraint.name)
    system = ConstraintSystem([constraint], data)
    violation = system.violation(system.finite_residual(data))
    in_tolerances = violation / system.tolerance
    excess, worst = in_tolerances.max(dim=1)
    # The equation in which most rows are worst speaks for the constraint: its unit is the one reported.
    equation = system.equations[int(worst.mode().values)]
    own = violation[:, int(worst.mode().values)]
    same_unit = [each.unit == equation.unit for each in system.equations]
    found: dict[str, Any] = {
        'constraint': constraint.name,
        'unit': equation.unit,
        'tolerance': equation.tolerance,
        'share_feasible': float((excess <= 1).double().mean()),
        'violation_median': float(own.median()),
        'violation_max': float(violation[:, same_unit].max()),
    }
    if found['share_feasible'] < FEW and float(excess.median()) > GROSS:
        raise ConstraintMismatchError(
            f'{constraint.name} holds in {int((excess <= 1).sum()) or "none"} of the {len(data)} training rows: the '
            f'median violation of {equation.name!r} is {found["violation_median"]:.4g} {equation.unit}, its tolerance '
            f'{equation.tolerance:.4g} {equation.unit}. {_likely_cause(constraint, system, data)}'
        )
    return found


def _likely_cause(constraint: Constraint, system: ConstraintSystem, data: pd.DataFrame) -> str:
    """Which misreading, or which few together, would make the rows feasible."""
    known = list(constraint.misreadings())
    table = TableView.from_dataframe(data, constraint.columns, constraint.name)
    combinations = itertools.chain.from_iterable(
        itertools.combinations(known, number) for number in range(1, len(known) + 1)
    )
    for combination in combinations:
        if _feasible_when_reread(constraint, system, table, combination):
            causes = ' and '.join(misreading.cause for misreading in combination)
            remedies = ' and '.join(misreading.remedy for misreading in combination)
            return f'Likely cause: {causes}. To mend it, {remedies}.'
    return (
        'Check the units and signs of its columns; if the values were rounded or measured, give the constraint a '
        'tolerance that allows it.'
    )


def _feasible_when_reread(
    constraint: Constraint, system: ConstraintSystem, table: TableView, combination: Sequence[Misreading]
) -> bool:
    """Whether most rows are within tolerance, or a thousandth of the size they were, when read another way."""
    before = system.violation(evaluate(constraint, table)) / system.tolerance
    for misreading in combination:
        table = misreading.reread(table)
    after = system.violation(evaluate(constraint, table)) / system.tolerance
    return bool(after.amax(1).median() <= max(1.0, 1e-3 * float(before.amax(1).median())))
