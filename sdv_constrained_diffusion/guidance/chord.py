r"""The linearisation at the mean row, made once: what gradient, Gauss-Newton and projection share.

Where residuals read labels, each combination of them has a mean row of its own. Columns are standardised
(`u_i = v_i / s_i`) and so are equations (rows of the Jacobian have norm 1), so that volts and megawatts weigh the same.
The gain `K = C J_0^T (J_0 C J_0^T)^+` has `C = diag(s_i^2)`, 0 for columns that may not move;
the pseudo-inverse takes care of redundant equations. Rows with the same fixed columns and active equations share a K.
"""

import numpy as np
import torch
from scipy.linalg import qr

from sdv_constrained_diffusion._batches import filled
from sdv_constrained_diffusion._types import ColumnMask, PerColumn, Residuals, Table
from sdv_constrained_diffusion.constraints.linearisation import Linearisation, alike
from sdv_constrained_diffusion.constraints.system import ConstraintSystem

RANK_TOLERANCE = 1e-9
"""Singular values below this share of the largest count as zero: far above float64's rounding, far below physics."""

MOST_GAINS = 1024
"""Gains kept at a time; beyond it they are made anew, so that memory stays bounded on tables with many patterns."""


class Chord:
    """A constraint system with its Jacobians at typical rows.

    Attributes:
        system: the constraints.
        scale: standard deviation of each constrained column, 0 of labels, shape (column,).
        norm: largest spectral norm of a standardised Jacobian whose equations are divided by `equation_scale`.
        sensitivity: by how many tolerances one unit of each column moves the equations at typical rows, all together,
            shape (column,).
        equation_scale: norm of each equation's gradient by standardised columns, in the equation's unit.
    """

    def __init__(self, system: ConstraintSystem, values: Table) -> None:
        """Linearises at the mean of the training rows, for each combination of labels at its own.

        Args:
            system: the constraints.
            values: constrained columns of the training rows, shape (row, column).
        """
        self.system, self._at = system, Linearisation(system, values)
        self.scale, self.equation_scale = self._at.scale, self._at.equation_scale
        typical = torch.stack(self._at.jacobians)
        steps = torch.where(self.scale > 0, self.scale, 1.0)
        self.sensitivity = (typical.abs() / steps / system.tolerance[:, None]).amax(0).sum(0)
        self.norm = float(torch.linalg.matrix_norm(typical / self.equation_scale[:, None], 2).max())
        self._gains: dict[tuple[bytes, bytes], torch.Tensor] = {}

    def redundant(self) -> list[str]:
        """Names of the equations that the others imply at every typical row (pivoted QR factorisation)."""
        together = torch.cat(self._at.jacobians, dim=1) / self.equation_scale[:, None]
        _, triangle, pivots = qr(together.T.numpy(), mode='economic', pivoting=True)
        diagonal = np.abs(np.diag(triangle))
        rank = int((diagonal > RANK_TOLERANCE * diagonal.max(initial=0.0)).sum())
        return [self.system.equations[index].name for index in sorted(pivots[rank:])]

    def deviation(self, values: Table) -> Residuals:
        """Signed residuals outside their limits in units of `equation_scale`, so that equations weigh the same."""
        return self.system.deviation(self.system.residual(values)) / self.equation_scale

    def step(self, values: Table, deviation: Residuals, fixed: ColumnMask) -> Table:
        """One chord step `v <- v - K h`.

        Args:
            values: constrained columns, shape (row, column).
            deviation: signed residuals outside their limits, shape (row, equation); exact zeros of inequalities are
                left out of the step.
            fixed: columns that may not move, shape (row, column).
        """
        mask, labels = torch.cat([fixed, self.system.idle(deviation)], dim=1), values[:, self.system.discrete]
        if len(values) and (mask == mask[0]).all() and (labels == labels[0]).all():
            return values - _product(deviation, self._gain(mask[0], labels[0]))
        moved, packed = values.clone(), torch.from_numpy(np.packbits(mask.numpy(), axis=1))
        for rows in alike(packed, labels):
            gain = self._gain(mask[rows[0]], labels[rows[0]])
            moved[rows] = values[rows] - _product(deviation[rows], gain)
        return moved

    def _gain(self, pattern: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """K for one pattern of fixed columns and idle equations, shape (column, equation), in physical units."""
        key = pattern.numpy().tobytes(), self._at.key(labels)
        if key not in self._gains:
            if len(self._gains) >= MOST_GAINS:
                self._gains.clear()
            fixed, idle = pattern[: len(self.scale)], pattern[len(self.scale) :]
            jacobian = self._at.jacobian(labels) / self.equation_scale[:, None]
            jacobian = jacobian.masked_fill(fixed[None, :], 0).masked_fill(idle[:, None], 0)
            # The factorisation leaves rounding in the fixed columns, whose values must stay exact.
            inverse = torch.linalg.pinv(jacobian, rtol=RANK_TOLERANCE).masked_fill(fixed[:, None], 0)
            self._gains[key] = self.scale[:, None] * inverse / self.equation_scale
        return self._gains[key]


def _product(deviation: Residuals, gain: torch.Tensor) -> Table:
    """`K h` of each row, the same bits in any company."""
    return (filled(deviation) @ gain.T)[: len(deviation)]


def standardised_move(moved: Table, start: Table, scale: PerColumn) -> torch.Tensor:
    """How far rows moved: root mean square over columns that vary, in column standard deviations, shape (row,)."""
    varies = scale > 0
    squares = ((moved - start)[:, varies] / scale[varies]).square()
    return (squares.sum(1) / max(squares.shape[1], 1)).sqrt()
