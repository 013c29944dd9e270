"""The last step: rows of a delivered table onto the constraints and their steps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
import torch

from sdv_constrained_diffusion._types import ColumnMask, Table
from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.reading import Reading
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.projection import Projected, ResultCode
from sdv_constrained_diffusion.guidance.rounding import Steps, attainable_steps, observed_step, project_rounded
from sdv_constrained_diffusion.guidance.steering import SteeringPlan


@dataclass(frozen=True)
class Finisher:
    """Constraints bound to a table.

    Attributes:
        chord: the constraints and their linearisation.
        steps: on which constrained columns stand; None for one that is delivered with all digits.
        plan: which constraints the table does not obey, and what to do about it.
    """

    chord: Chord
    steps: Steps
    plan: SteeringPlan

    @classmethod
    def fit(
        cls, constraints: Iterable[Constraint], data: pd.DataFrame, steps: Mapping[str, float | None] | None = None
    ) -> 'Finisher':
        """Linearises the constraints at the mean row, for each combination of labels at its own.

        Args:
            constraints: the constraints.
            data: the training table, or rows that stand for it.
            steps: on which columns stand, kept where the constraints allow it; measured on `data` when None.
        """
        system = ConstraintSystem(constraints, data)
        values = system.values(data)
        chord = Chord(system, values)
        steps = observed_steps(data[list(system.columns)]) if steps is None else steps
        wanted = [steps.get(name) for name in system.columns]
        return cls(chord, attainable_steps(chord, values, wanted), SteeringPlan.of(chord, values))

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
        return [name for name in self.moving if steps[name] == 1.0 and not readings[name].moment]

    def finish(
        self, data: pd.DataFrame, fixed: ColumnMask | None = None, pinned: ColumnMask | None = None
    ) -> tuple[pd.DataFrame, Table, Projected]:
        """Projects rows.

        Args:
            data: rows with the constrained columns and others.
            fixed: constrained columns that may not move, shape (row, column); none by default.
            pinned: those that may only in rows that cannot obey otherwise, such as values at a limit.

        Returns:
            the rows that could be brought onto the constraints, those columns that can move in float64 or datetime64;
            the constrained columns as they were; and what happened to all rows.
        """
        system = self.chord.system
        values = system.values(data)
        fixed = torch.zeros_like(values, dtype=torch.bool) if fixed is None else fixed
        projected = self._project(values, fixed, fixed if pinned is None else fixed | pinned)
        finished = data.copy(deep=False)
        for name in self.moving:
            place = self.columns.index(name)
            written = pd.Series(system.readings[name].written(projected.values[:, place].numpy()), data.index)
            if system.readings[name].moment:
                moved = (projected.values[:, place] != values[:, place]).numpy()
                written = data[name].astype('datetime64[ns]').where(~moved, written)
            finished[name] = written
        return finished[(projected.codes == ResultCode.CONVERGED).numpy()], values, projected

    def _project(self, values: Table, fixed: ColumnMask, pinned: ColumnMask) -> Projected:
        system = self.chord.system
        refused = (system.violation(system.residual(values)) > system.tolerance)[:, self.plan.redrawn].any(1)
        projected = project_rounded(self.chord, values, pinned, self.steps)
        again = ((projected.codes != ResultCode.CONVERGED) & (pinned & ~fixed).any(1) & ~refused).nonzero()[:, 0]
        if len(again):
            released = project_rounded(self.chord, values[again], fixed[again], self.steps)
            for whole, part in zip(
                (projected.values, projected.codes, projected.displacement),
                (released.values, released.codes, released.displacement),
                strict=True,
            ):
                whole[again] = part
        projected.codes[refused] = int(ResultCode.REFUSED)
        return projected


def observed_steps(data: pd.DataFrame) -> dict[str, float | None]:
    """On which steps the columns of numbers and moments stand; None for those with more digits, or missing values."""
    found = {}
    for name in data.columns:
        reading = Reading.of(data[name])
        if not reading.discrete:
            found[name] = observed_step(reading.values(data[name].dropna()), reading.moment)
    return found
