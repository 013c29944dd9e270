"""What finishing did to the rows of several batches; the rows themselves are not kept."""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sdv_constrained_diffusion._types import Residuals, Table
from sdv_constrained_diffusion.constraints.system import ConstraintSystem, quantity
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.projection import Projected, ResultCode


class FinishingRecord:
    """Codes and moves of rows, all together and by constraint."""

    def __init__(self) -> None:
        """Starts empty."""
        self._codes = [torch.zeros(0, dtype=torch.int8)]
        self._moves = [torch.zeros(0, dtype=torch.float64)]
        self._by_constraint: dict[int, list[torch.Tensor]] = {}
        self._broken: dict[int, int] = {}
        self._nearest: tuple[float, str] = (math.inf, '')

    def add(self, chord: Chord, redrawn: Tensor, before: Table, projected: Projected) -> None:
        """Takes a batch down.

        Args:
            chord: the constraints.
            redrawn: equations for which rows are refused, shape (equation,).
            before: constrained columns of the rows as they were drawn, shape (row, column).
            projected: the same rows afterwards.
        """
        self._codes.append(projected.codes.to(torch.int8))
        self._moves.append(projected.displacement)
        system, converged = chord.system, projected.codes == ResultCode.CONVERGED
        varies = chord.scale > 0
        squares = ((projected.values - before)[converged] / torch.where(varies, chord.scale, 1.0)).square()
        # Rows that are refused are refused for what they were, and by these equations alone.
        refused = (projected.codes == ResultCode.REFUSED)[~converged, None]
        failed = torch.where(refused, before[~converged], projected.values[~converged])
        violation = system.violation(system.residual(failed)).masked_fill(refused & ~redrawn, 0)
        broken = ~(violation <= system.tolerance)
        self._look_for_nearest(system, violation)
        for place, constraint in enumerate(system.constraints):
            own = torch.tensor([name in constraint.columns for name in system.columns]) & varies
            moves = (squares[:, own].sum(1) / max(int(own.sum()), 1)).sqrt()
            self._by_constraint.setdefault(place, []).append(moves.float())
            missed = int(broken[:, system.owners == place].any(1).sum()) if len(failed) else 0
            self._broken[place] = self._broken.get(place, 0) + missed

    @property
    def nearest_miss(self) -> str:
        """What the failed row that came nearest misses, and by how much; empty where no row failed."""
        return self._nearest[1]

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return sum(map(len, self._codes))

    def failures(self) -> dict[str, int]:
        """How many rows failed, by the name of their `ResultCode`."""
        codes = torch.cat(self._codes)
        return {ResultCode(code).name: int((codes == code).sum()) for code in codes.unique().tolist() if code}

    def summary(self) -> pd.DataFrame:
        """One row: `num_rows`, `num_replaced`, `displacement_median`, `displacement_p99`, `displacement_max`."""
        kept = torch.cat(self._moves)[torch.cat(self._codes) == ResultCode.CONVERGED].numpy()
        median, p99, largest = np.quantile(kept, [0.5, 0.99, 1.0]) if len(kept) else [np.nan] * 3
        return pd.DataFrame(
            {
                'num_rows': [self.num_rows],
                'num_replaced': [sum(self.failures().values())],
                'displacement_median': [median],
                'displacement_p99': [p99],
                'displacement_max': [largest],
            }
        )

    def by_constraint(self, number: int) -> pd.DataFrame:
        """One row per constraint: `displacement_median`, `displacement_p99` of its columns, and `num_redrawn`.

        Args:
            number: how many constraints there are.
        """
        lines = []
        for place in range(number):
            moves = torch.cat(self._by_constraint.get(place, [torch.zeros(0)])).double().numpy()
            median, p99 = np.quantile(moves, [0.5, 0.99]) if len(moves) else (np.nan, np.nan)
            lines.append((median, p99, self._broken.get(place, 0)))
        return pd.DataFrame(lines, columns=['displacement_median', 'displacement_p99', 'num_redrawn'])

    def _look_for_nearest(self, system: ConstraintSystem, violation: Residuals) -> None:
        if not len(violation):
            return
        excess, worst = system.worst(violation.nan_to_num(math.inf))
        row = int(excess.argmin())
        equation = system.equations[int(worst[row])]
        if float(excess[row]) < self._nearest[0]:
            said = f'{equation.name!r} by {quantity(float(violation[row, int(worst[row])]), equation.unit)}'
            tolerance = quantity(equation.tolerance, equation.unit)
            self._nearest = float(excess[row]), f'{said} (tolerance {tolerance})'
