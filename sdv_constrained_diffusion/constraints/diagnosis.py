"""Do the training rows obey their constraints, and if not: are rows to be steered there, or was a unit mistaken?"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from sdv_constrained_diffusion._numbers import finite_numbers
from sdv_constrained_diffusion._types import PerEquation, Residuals
from sdv_constrained_diffusion.constraints.base import Constraint, Misreading, TableView, evaluate
from sdv_constrained_diffusion.constraints.feasibility import NUM_WORST
from sdv_constrained_diffusion.constraints.linearisation import Linearisation
from sdv_constrained_diffusion.constraints.reading import Reading
from sdv_constrained_diffusion.constraints.system import ConstraintSystem, check_form, quantity
from sdv_constrained_diffusion.errors import ConstraintError, ConstraintMismatchError, LabelsError

LEARNED, STEERING = 'learned', 'steering'
"""The training rows obey a constraint, or they do not and synthetic rows are to be elsewhere."""

TRAINING_ROWS = 'training rows'

FEW = 0.01
"""A constraint is missed grossly when fewer than this share of the rows are feasible and the median row is `GROSS` off.
A row of zeros obeys many laws in any unit, so a few feasible rows prove nothing."""

GROSS = 100.0
"""How many tolerances the median row is off when a constraint is missed grossly."""

MOSTLY = 0.5
"""Share of the rows from which on an equality is learned, the others being errors in the data."""

ALMOST_ALL = 0.99
"""Share of the rows from which on an inequality is learned; below it, its limits cut through the data."""

NEAR = 0.01
"""Rows that miss an equation by no more than this, in column standard deviations, count as obeying it when learned is
told from steering. Measured or rounded data do."""


def diagnose(constraints: Iterable[Constraint], data: pd.DataFrame, rows: str = TRAINING_ROWS) -> pd.DataFrame:
    """Measures the residuals of training rows and refuses rows that cannot be meant as they are.

    Args:
        constraints: the constraints.
        data: the training table, or rows that stand for it.
        rows: what messages call its rows.

    Returns:
        one row per constraint: `constraint`; `kind`, 'steering' if one of its equations is, else 'learned'; `unit` and
        `tolerance` of its worst equation; `share_feasible`; `violation_median`, that equation's over rows;
        `violation_max`, the largest of all equations in that unit; `worst_rows`, up to three index labels of rows that
        are not feasible, the worst first; `share_bound`, of rows that it asks anything of.

    Raises:
        ColumnMissingError: a constrained column is not in the table.
        DataError: a constrained column of numbers or moments holds NaN or inf, or text where the constraint computes.
        ConstraintError: a residual is not finite on a training row.
        ConstraintMismatchError: hardly any row is feasible, the median row is far off (`FEW`, `GROSS`), and either a
            misreading explains it or the limits lie beyond what the rows come near to.
    """
    return pd.DataFrame([_diagnose(constraint, data, rows) for constraint in constraints])


def steering(system: ConstraintSystem, values: Tensor, equation_scale: PerEquation) -> Tensor:
    """Which equations the rows do not obey, so that synthetic rows are steered there, shape (equation,), bool.

    Args:
        system: the constraints.
        values: constrained columns of the training rows, shape (row, column).
        equation_scale: norm of each equation's gradient by standardised columns.
    """
    violation, binds = system.violation(system.residual(values)), system.binds(values)
    near = violation <= torch.maximum(system.tolerance, NEAR * equation_scale)
    # NaN where an equation binds no row: there is nothing to be steered.
    share = (near & binds).double().sum(0) / binds.double().sum(0)
    return share < torch.where(system.lower == system.upper, MOSTLY, ALMOST_ALL)


def sentence(found: Any, rows: str = TRAINING_ROWS) -> str:
    """A row of the diagnosis, as `itertuples` gives it, in words."""
    if found.share_bound == 0:
        return f'{found.constraint} binds none of the {rows}: none holds its label. Check how the label is written.'
    named = found.worst_rows if rows == TRAINING_ROWS else []
    worst = f' (worst rows: {", ".join(map(str, named))})' if named else ''
    return (
        f'{found.constraint} ({found.kind}): {found.share_feasible:.1%} of the {rows} within '
        f'{quantity(found.tolerance, found.unit, 3)}; violation median {found.violation_median:.3g}, largest '
        f'{quantity(found.violation_max, found.unit, 3)}{worst}.'
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
        excess, worst = system.worst(violation)
        broken = (~(excess <= 1)).nonzero()[:, 0].tolist()
        if broken:
            equation = system.equations[int(worst[broken[0]])]
            raise ConstraintError(
                f'{constraint.name} cannot be obeyed by {len(broken)} of {len(given)} rows of fixed values, which '
                f'leave none of its columns open: in row {rows.index[broken[0]]} {equation.name!r} is off by '
                f'{quantity(float(violation[broken[0]].max()), equation.unit)}, its tolerance is '
                f'{quantity(equation.tolerance, equation.unit)}. Mend the values, or leave a column open.'
            )


def _diagnose(constraint: Constraint, data: pd.DataFrame, rows: str) -> dict[str, Any]:
    check_form(constraint)
    constraint.require(data.columns)
    for name in constraint.columns:
        reading = Reading.of(data[name], name in constraint.discrete)
        if not reading.discrete:
            moments = pd.Series(reading.values(data[name]), data.index, name=name)
            finite_numbers(moments if reading.moment else data[name], constraint.name)
    try:
        system = ConstraintSystem([constraint], data)
    except LabelsError as error:
        finite_numbers(data[error.column], constraint.name)  # names the row that holds no number
        raise
    residual = system.finite_residual(data)
    violation = system.violation(residual)
    excess, worst = system.worst(violation)
    # The equation in which most rows are worst speaks for the constraint: its unit is the one reported.
    speaker = int(worst.mode().values)
    equation = system.equations[speaker]
    same_unit = [each.unit == equation.unit for each in system.equations]
    by_excess = excess.argsort(descending=True, stable=True)[: min(NUM_WORST, int((excess > 1).sum()))]
    found: dict[str, Any] = {
        'constraint': constraint.name,
        'kind': LEARNED,
        'unit': equation.unit,
        'tolerance': equation.tolerance,
        'share_feasible': float((excess <= 1).double().mean()),
        'violation_median': float(violation[:, speaker].median()),
        'violation_max': float(violation[:, same_unit].max()),
        'worst_rows': data.index[by_excess.numpy()].tolist(),
        'share_bound': float(system.binds(system.values(data)).any(1).double().mean()),
    }
    if found['share_feasible'] < FEW and float(excess.median()) > GROSS:
        cause = _likely_cause(constraint, system, data)
        if cause or _out_of_reach(system, residual):
            raise ConstraintMismatchError(
                f'{constraint.name} holds in {int((excess <= 1).sum()) or "none"} of the {len(data)} {rows}: '
                f'the median violation of {equation.name!r} is {quantity(found["violation_median"], equation.unit)}, '
                f'its tolerance {quantity(equation.tolerance, equation.unit)}. {cause or UNEXPLAINED}'
            )
    values = system.values(data)
    if steering(system, values, Linearisation(system, values).equation_scale).any():
        found['kind'] = STEERING
    return found


UNEXPLAINED = (
    'No row comes near it. Check the units and signs of its columns; if the values were rounded or measured, give the '
    'constraint a tolerance that allows it.'
)


def _out_of_reach(system: ConstraintSystem, residual: Residuals) -> bool:
    """Whether limits lie farther beyond the rows' residuals than these are wide: no target for steering, a mistake."""
    low, high = residual.amin(0), residual.amax(0)
    width = high - low
    return bool(((system.lower > high + width) | (system.upper < low - width)).any())


def _likely_cause(constraint: Constraint, system: ConstraintSystem, data: pd.DataFrame) -> str:
    """Which misreading, or which few together, would make the rows feasible; empty if none."""
    known = list(constraint.misreadings())
    table = system.view(0, system.values(data))
    combinations = itertools.chain.from_iterable(
        itertools.combinations(known, number) for number in range(1, len(known) + 1)
    )
    for combination in combinations:
        if _feasible_when_reread(constraint, system, table, combination):
            causes = ' and '.join(misreading.cause for misreading in combination)
            remedies = ' and '.join(misreading.remedy for misreading in combination)
            return f'Likely cause: {causes}. To mend it, {remedies}.'
    return ''


def _feasible_when_reread(
    constraint: Constraint, system: ConstraintSystem, table: TableView, combination: Sequence[Misreading]
) -> bool:
    """Whether most rows are within tolerance, or a thousandth of the size they were, when read another way."""
    before = system.violation(evaluate(constraint, table)) / system.tolerance
    for misreading in combination:
        table = misreading.reread(table)
    after = system.violation(evaluate(constraint, table)) / system.tolerance
    return bool(after.amax(1).median() <= max(1.0, 1e-3 * float(before.amax(1).median())))
