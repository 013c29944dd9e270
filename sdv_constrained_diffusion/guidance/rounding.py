"""Projection of rows whose columns stand on steps, such as cents or days: the rounded row is the one that is judged.

Columns are rounded one after the other, those first whose step moves the equations most; after each, the columns that
are not yet rounded are projected again, so that the last and finest take up what rounding left over.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sdv_constrained_diffusion._types import ColumnMask, Table
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.guidance.chord import Chord, standardised_move
from sdv_constrained_diffusion.guidance.projection import Projected, ResultCode, project

MOST_DECIMALS = 10
"""Columns of more decimals are not rounded at all."""

DECIMALS = [10.0**-number for number in range(MOST_DECIMALS + 1)]
"""Steps of numbers, the widest first."""

MOMENTS = [86400.0, 3600.0, 60.0, *DECIMALS[:7]]
"""Steps of moments in seconds, the widest first."""

TRIAL_ROWS = 256
SHAKEN = 0.1
"""The trial moves training rows by this many column standard deviations."""

ENOUGH = 0.9
"""Share of the trial's rows that must be found on their steps again, or no column of the same laws is rounded."""

Steps = Sequence[float | None]
"""Of each column: the distance between its values, such as 0.01; None for one that is not rounded."""


def rounded(column: np.ndarray, step: float) -> np.ndarray:
    """The nearest multiples of a step, shape (row,)."""
    return np.round(column / step) * step if step > 1 else np.round(column, round(-np.log10(step)))


def observed_step(column: np.ndarray, moment: bool = False) -> float | None:
    """The widest step of a column, shape (row,), on which all its values stand; None if there is none.

    Args:
        column: numbers, or moments in seconds.
        moment: whether they are moments, which stand on days, hours and minutes, too.
    """
    steps = MOMENTS if moment else DECIMALS
    step = next((step for step in steps if (rounded(column, step) == column).all()), None)
    if step == 1.0 and not moment and np.abs(column).max(initial=0.0) < 2**53:
        # Even numbers, or multiples of five.
        return float(max(np.gcd.reduce(column.astype('int64')), 1))
    return step


def attainable_steps(chord: Chord, values: Table, steps: Steps) -> list[float | None]:
    """The steps of those columns whose laws rows can obey on them; None for the others.

    Training rows are shaken and projected; equations that hold on rounded rows by chance only are found out so. Laws
    that share no column are judged apart.

    Args:
        chord: the constraints and their linearisation.
        values: constrained columns of the training rows.
        steps: on which the columns stand in the training rows.
    """
    few = values[:TRIAL_ROWS]
    noise = torch.randn(few.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shaken = few + SHAKEN * chord.scale * noise
    tried = project_rounded(chord, shaken, torch.zeros_like(shaken, dtype=torch.bool), steps).values
    obeyed = chord.system.violation(chord.system.residual(tried)) <= chord.system.tolerance
    found: list[float | None] = list(steps)
    for equations, columns in _separate_laws(chord.system):
        if obeyed[:, equations].all(1).double().mean() < ENOUGH:
            for column in columns:
                found[column] = None
    return found


def project_rounded(
    chord: Chord, values: Table, fixed: ColumnMask, steps: Steps, measure: Table | None = None
) -> Projected:
    """As `project`, but columns with a step are rounded to it.

    Args:
        chord: the constraints and their linearisation.
        values: constrained columns, shape (row, column), float64.
        fixed: columns that may not move, shape (row, column); they are not rounded either.
        steps: of each column.
        measure: as in `project`.
    """
    projected = project(chord, values, fixed, measure)
    # A constant column does not move, so it stands where it should.
    varies = (chord.scale > 0).tolist()
    stepped = {place: step for place, step in enumerate(steps) if step is not None and varies[place]}
    if not stepped:
        return projected
    current, held = projected.values.clone(), fixed.clone()
    for place in sorted(stepped, key=lambda each: -float(chord.sensitivity[each]) * stepped[each]):
        column = torch.from_numpy(rounded(current[:, place].numpy(), stepped[place]))
        current[:, place] = torch.where(held[:, place], current[:, place], column)
        held[:, place] = True
        current = project(chord, current, held, measure).values
    feasible = chord.system.feasible(current)
    codes = torch.where(feasible, int(ResultCode.CONVERGED), projected.codes.clamp(min=int(ResultCode.MAX_STEPS)))
    return Projected(current, codes, standardised_move(current, values, chord.scale))


def _separate_laws(system: ConstraintSystem) -> list[tuple[Tensor, set[int]]]:
    """Laws that share columns, labels aside, together: the mask of their equations, and their columns' places."""
    groups: list[tuple[set[int], set[int]]] = []
    for number, constraint in enumerate(system.constraints):
        laws, columns = {number}, {system.columns.index(name) for name in constraint.columns}
        columns -= set(system.discrete.nonzero()[:, 0].tolist())
        apart = []
        for other_laws, other_columns in groups:
            if columns & other_columns:
                laws, columns = laws | other_laws, columns | other_columns
            else:
                apart.append((other_laws, other_columns))
        groups = [*apart, (laws, columns)]
    return [(torch.isin(system.owners, torch.tensor(sorted(laws))), columns) for laws, columns in groups]
