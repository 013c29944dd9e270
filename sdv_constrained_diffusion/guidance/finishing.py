"""The last step: rows of a delivered table onto the constraints and their decimals."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import torch

from sdv_constrained_diffusion._types import ColumnMask, Table
from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.projection import Projected, ResultCode
from sdv_constrained_diffusion.guidance.rounding import Decimals, attainable_decimals, project_rounded


@dataclass(frozen=True)
class Finisher:
    """Constraints bound to a training table, and the decimals that its constrained columns keep.

    Attributes:
        chord: the constraints and their linearisation.
        decimals: of each constrained column; None for one that is delivered with all digits.
    """

    chord: Chord
    decimals: Decimals

    @classmethod
    def fit(cls, constraints: Iterable[Constraint], data: pd.DataFrame, rounding: bool = True) -> 'Finisher':
        """Linearises the constraints at the mean training row.

        Args:
            constraints: the constraints.
            data: the training table.
            rounding: whether columns keep their decimals where the constraints allow it.
        """
        system = ConstraintSystem(constraints, data)
        values = system.values(data)
        chord = Chord(system, values)
        return cls(chord, attainable_decimals(chord, values) if rounding else [None] * len(system.columns))

    @property
    def columns(self) -> list[str]:
        """The constrained columns."""
        return list(self.chord.system.columns)

    @property
    def unrounded(self) -> list[str]:
        """The constrained columns that are delivered with all digits."""
        return [name for name, number in zip(self.columns, self.decimals, strict=True) if number is None]

    @property
    def whole(self) -> list[str]:
        """The constrained columns that are delivered in whole numbers."""
        return [name for name, number in zip(self.columns, self.decimals, strict=True) if number == 0]

    def values(self, data: pd.DataFrame) -> Table:
        """The constrained columns of a table, shape (row, column), float64."""
        return self.chord.system.values(data)

    def finish(self, data: pd.DataFrame, fixed: ColumnMask | None = None) -> tuple[pd.DataFrame, Projected]:
        """Projects rows.

        Args:
            data: rows with the constrained columns and others.
            fixed: constrained columns that may not move, shape (row, column); none by default.

        Returns:
            the rows that could be brought onto the constraints, constrained columns in float64, and what happened to
            all of them.
        """
        values = self.values(data)
        fixed = torch.zeros_like(values, dtype=torch.bool) if fixed is None else fixed
        projected = project_rounded(self.chord, values, fixed, self.decimals)
        finished = data.astype(dict.fromkeys(self.columns, 'float64'))
        finished[self.columns] = projected.values.numpy()
        return finished[(projected.codes == ResultCode.CONVERGED).numpy()], projected
