"""The last step: rows of a delivered table onto the constraints and their steps."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from sdv_constrained_diffusion._categories import Categories
from sdv_constrained_diffusion._types import ColumnMask, PerColumn, Table
from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.reading import Reading
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.guidance.chord import Chord, standardised_move
from sdv_constrained_diffusion.guidance.projection import Projected, ResultCode
from sdv_constrained_diffusion.guidance.rounding import (
    Steps,
    attainable_steps,
    observed_step,
    project_rounded,
    rounded,
)
from sdv_constrained_diffusion.guidance.steering import SteeringPlan

SLIGHT = 1e-9
"""Limits this near to a step, as a share of it, are on it."""

ROUNDS = 4
"""How often columns that leave their limits are held there and the others projected again."""


@dataclass(frozen=True)
class Finisher:
    """Constraints bound to a table.

    Attributes:
        chord: the constraints and their linearisation.
        steps: on which constrained columns stand; None for one that is delivered with all digits.
        plan: which constraints the table does not obey, and what to do about it.
        limits: smallest and largest value of each constrained column, which it must not leave, both shape (column,).
    """

    chord: Chord
    steps: Steps
    plan: SteeringPlan
    limits: tuple[PerColumn, PerColumn]

    @classmethod
    def fit(
        cls,
        constraints: Iterable[Constraint],
        data: pd.DataFrame,
        steps: Mapping[str, float | None] | None = None,
        categories: Mapping[str, Categories] = MappingProxyType({}),
    ) -> 'Finisher':
        """Linearises the constraints at the mean row, for each combination of labels at its own.

        Args:
            constraints: the constraints.
            data: the training table, or rows that stand for it.
            steps: on which columns stand, kept where the constraints allow it; measured on `data` when None.
            categories: all labels of discrete columns, where `data` may lack some.
        """
        system = ConstraintSystem(constraints, data, categories)
        values = system.values(data)
        chord = Chord(system, values)
        steps = observed_steps(data[list(system.columns)]) if steps is None else steps
        wanted = [steps.get(name) for name in system.columns]
        anything = torch.full_like(chord.scale, math.inf)
        attainable = attainable_steps(chord, values, wanted)
        finisher = cls(chord, attainable, SteeringPlan.of(chord, values), (-anything, anything))
        for constraint in system.constraints:
            finisher = finisher.within(constraint.column_limits)
        return finisher

    def within(self, limits: Mapping[str, tuple[float, float]]) -> 'Finisher':
        """The same with columns that must stay between limits, too, moments in seconds.

        Of a column that stands on steps they are the outermost steps between the limits.
        """
        pairs = [limits.get(name, (-math.inf, math.inf)) for name in self.columns]
        low, high = np.array(pairs, dtype='float64').T.copy()
        for place, step in enumerate(self.steps):
            if step is not None:
                one = slice(place, place + 1)
                low[one] = rounded(np.ceil(low[one] / step - SLIGHT) * step, step)
                high[one] = rounded(np.floor(high[one] / step + SLIGHT) * step, step)
        own_low, own_high = self.limits
        limits_now = (own_low.maximum(torch.from_numpy(low)), own_high.minimum(torch.from_numpy(high)))
        return dataclasses.replace(self, limits=limits_now)

    @property
    def columns(self) -> list[str]:
        """The constrained columns."""
        return list(self.chord.system.columns)

    @property
    def moving(self) -> list[str]:
        """The constrained columns that are not labels."""
        return [name for name in self.columns if not self.chord.system.readings[name].discrete]

    @property
    def unrounded(self) -> list[str]:
        """The constrained columns that are delivered with all digits."""
        steps = dict(zip(self.columns, self.steps, strict=True))
        return [name for name in self.moving if steps[name] is None]

    @property
    def whole(self) -> list[str]:
        """The constrained columns of numbers that are delivered in whole numbers."""
        readings = self.chord.system.readings
        steps = dict(zip(self.columns, self.steps, strict=True))
        return [name for name in self.moving if (steps[name] or 0.0) >= 1.0 and not readings[name].moment]

    def finish(
        self,
        data: pd.DataFrame,
        fixed: Bool[Tensor, ' column'] | None = None,
        pinned: ColumnMask | None = None,
        refusing: bool = True,
        measure: Table | None = None,
    ) -> tuple[pd.DataFrame, Table, Projected]:
        """Projects rows.

        Args:
            data: rows with the constrained columns and others.
            fixed: constrained columns that may not move in any row, shape (column,); none by default.
            pinned: those that may only in rows that cannot obey otherwise, such as values at a limit, shape (row,
                column).
            refusing: whether rows that break what is met by drawing again are refused; if not, they are moved, too.
            measure: what counts as a move of one in each row, as in `project`.

        Returns:
            the rows that could be brought onto the constraints; the constrained columns as they were; and what happened
            to all rows.
        """
        system = self.chord.system
        values = system.values(data)
        fixed = torch.zeros(len(self.columns), dtype=torch.bool) if fixed is None else fixed
        pinned = torch.zeros_like(values, dtype=torch.bool) if pinned is None else pinned
        projected = self._project(values, fixed, pinned, refusing, measure)
        finished = data.copy(deep=False)
        for name in self.moving:
            moved = projected.values[:, self.columns.index(name)].numpy()
            finished[name] = system.readings[name].written(moved, data[name])
        return finished[(projected.codes == ResultCode.CONVERGED).numpy()], values, projected

    def _project(
        self,
        values: Table,
        fixed: Bool[Tensor, ' column'],
        pinned: ColumnMask,
        refusing: bool,
        measure: Table | None,
    ) -> Projected:
        """Pinned first; rows that do not get there once more with what was pinned set free."""
        system = self.chord.system
        refused = torch.zeros(len(values), dtype=torch.bool)
        if refusing:
            refused = (system.violation(system.residual(values)) > system.tolerance)[:, self.plan.redrawn].any(1)
        chord = self.chord.without(fixed)
        projected = self._project_within(chord, values, fixed | pinned, measure)
        again = ((projected.codes != ResultCode.CONVERGED) & (pinned & ~fixed).any(1) & ~refused).nonzero()[:, 0]
        if len(again):
            still = fixed.expand(len(again), -1)
            own = None if measure is None else measure[again]
            projected = _replaced(projected, again, self._project_within(chord, values[again], still, own))
        return dataclasses.replace(projected, codes=projected.codes.masked_fill(refused, int(ResultCode.REFUSED)))

    def _project_within(self, chord: Chord, values: Table, fixed: ColumnMask, measure: Table | None) -> Projected:
        """Columns that leave their limits are held there, and the others take up the constraints (an active set)."""
        low, high = self.limits
        if measure is not None:
            # From the start at a limit rather than beyond it; what is fixed or pinned is where it should be.
            beyond = ((values < low) | (values > high)) & ~fixed
            values, fixed = torch.where(beyond, values.clamp(low, high), values), fixed | beyond
        projected = project_rounded(chord, values, fixed, self.steps, measure)
        if not (low.isfinite() | high.isfinite()).any():
            return projected
        start, held = values, fixed
        for _ in range(ROUNDS):
            outside = ((projected.values < low) | (projected.values > high)) & ~fixed
            rows = outside.any(1).nonzero()[:, 0]
            if not len(rows):
                break
            inside = projected.values.clamp(low, high)
            start, held = torch.where(outside, inside, start), held | outside
            own = None if measure is None else measure[rows]
            projected = _replaced(projected, rows, project_rounded(chord, start[rows], held[rows], self.steps, own))
        outside = (((projected.values < low) | (projected.values > high)) & ~fixed).any(1)
        codes = torch.where(outside & (projected.codes == 0), int(ResultCode.MAX_STEPS), projected.codes)
        return Projected(projected.values, codes, standardised_move(projected.values, values, self.chord.scale))


def _replaced(whole: Projected, rows: Tensor, part: Projected) -> Projected:
    """Some rows replaced."""
    fields = {}
    for name in ('values', 'codes', 'displacement'):
        fields[name] = getattr(whole, name).clone()
        fields[name][rows] = getattr(part, name)
    return Projected(**fields)


def observed_steps(data: pd.DataFrame) -> dict[str, float | None]:
    """On which steps the columns of numbers and moments stand; None for those with more digits, or missing values."""
    found = {}
    for name in data.columns:
        reading = Reading.of(data[name])
        if not reading.discrete:
            found[name] = observed_step(reading.values(data[name].dropna()), reading.moment)
    return found
