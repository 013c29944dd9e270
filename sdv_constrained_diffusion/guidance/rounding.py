"""Projection of rows whose columns have few decimals: the rounded row is the one that is judged.

Columns are rounded one after the other, those first whose last decimal moves the equations most; after each, the
columns that are not yet rounded are projected again, so that the last and finest take up what rounding left over.
"""

from collections.abc import Sequence

import numpy as np
import torch

from sdv_constrained_diffusion._types import ColumnMask, Table
from sdv_constrained_diffusion.guidance.chord import Chord, standardised_move
from sdv_constrained_diffusion.guidance.projection import Projected, ResultCode, project

MOST_DECIMALS = 10
"""Columns of more decimals are not rounded at all."""

TRIAL_ROWS = 256
SHAKEN = 0.1
"""The trial moves training rows by this many column standard deviations."""

ENOUGH = 0.9
"""Share of the trial's rows that must be found on their decimals again, or no column is rounded."""

Decimals = Sequence[int | None]
"""Of each column; None for one that is not rounded."""


def observed_decimals(values: Table) -> list[int | None]:
    """The fewest decimals of each column that leave all its values as they are, None for more than `MOST_DECIMALS`."""
    found: list[int | None] = []
    for column in values.numpy().T:
        fewest = (number for number in range(MOST_DECIMALS + 1) if (np.round(column, number) == column).all())
        found.append(next(fewest, None))
    return found


def attainable_decimals(chord: Chord, values: Table) -> list[int | None]:
    """The observed decimals if rows can be brought onto them, else None for all columns.

    Training rows are shaken and projected; equations that hold on rounded rows by chance only are found out so.

    Args:
        chord: the constraints and their linearisation.
        values: constrained columns of the training rows.
    """
    decimals = observed_decimals(values)
    few = values[:TRIAL_ROWS]
    noise = torch.randn(few.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shaken = few + SHAKEN * chord.scale * noise
    tried = project_rounded(chord, shaken, torch.zeros_like(shaken, dtype=torch.bool), decimals)
    share = float((tried.codes == ResultCode.CONVERGED).double().mean())
    return decimals if share >= ENOUGH else [None] * len(decimals)


def project_rounded(chord: Chord, values: Table, fixed: ColumnMask, decimals: Decimals) -> Projected:
    """As `project`, but columns with decimals are rounded to them.

    Args:
        chord: the constraints and their linearisation.
        values: constrained columns, shape (row, column), float64.
        fixed: columns that may not move, shape (row, column); they are not rounded either.
        decimals: of each column.
    """
    projected = project(chord, values, fixed)
    # A constant column does not move, so it stands where it should.
    varies = (chord.scale > 0).tolist()
    rounded = {place: number for place, number in enumerate(decimals) if number is not None and varies[place]}
    if not rounded:
        return projected
    current, held = projected.values.clone(), fixed.clone()
    for place in sorted(rounded, key=lambda each: -float(chord.sensitivity[each]) * 10.0 ** -rounded[each]):
        column = torch.from_numpy(np.round(current[:, place].numpy(), rounded[place]))
        current[:, place] = torch.where(held[:, place], current[:, place], column)
        held[:, place] = True
        current = project(chord, current, held).values
    feasible = chord.system.feasible(current)
    codes = torch.where(feasible, int(ResultCode.CONVERGED), projected.codes.clamp(min=int(ResultCode.MAX_STEPS)))
    return Projected(current, codes, standardised_move(current, values, chord.scale))
