r"""The linearisation at the mean row, made once: what gradient, Gauss-Newton and projection share.

Columns are standardised (`u_i = v_i / s_i`) and so are equations (rows of the Jacobian have norm 1), so that volts and
megawatts weigh the same. The gain `K = C J_0^T (J_0 C J_0^T)^+` has `C = diag(s_i^2)`, 0 for columns that may not move;
the pseudo-inverse takes care of redundant equations. Rows with the same fixed columns and active equations share a K.
"""

import numpy as np
import torch
from scipy.linalg import qr

from sdv_constrained_diffusion._types import ColumnMask, PerColumn, Residuals, Table
from sdv_constrained_diffusion.constraints.system import ConstraintSystem

RANK_TOLERANCE = 1e-9
"""Singular values below this share of the largest count as zero: far above float64's rounding, far below physics."""

MOST_GAINS = 1024
"""Gains kept at a time; beyond it they are made anew, so that memory stays bounded on tables with many patterns."""


class Chord:
    """A constraint system with its Jacobian at the mean row.

    Attributes:
        system: the constraints.
        scale: standard deviation of each constrained column, shape (column,).
        norm: spectral norm of the standardised Jacobian whose equations are divided by `equation_scale`.
        sensitivity: by how many tolerances one unit of each column moves the equations at the mean row, all together,
            shape (column,).
        equation_scale: norm of each equation's gradient by standardised columns, in the equation's unit.
    """

    def __init__(self, system: ConstraintSystem, values: Table) -> None:
        """Linearises at the mean of the training rows.

        Args:
            system: the constraints.
            values: constrained columns of the training rows, shape (row, column).
        """
        self.system = system
        self.scale = values.std(0, correction=int(len(values) > 1))
        derivative = system.jacobian(values.mean(0, keepdim=True))[0]
        self.sensitivity = (derivative.abs() / system.tolerance[:, None]).sum(0)
        jacobian = derivative * self.scale
        length = jacobian.norm(dim=1)
        # An equation that is flat at the mean row keeps its own unit; no chord step serves it.
        self.equation_scale = torch.where(length > 0, length, 1.0)
        self._jacobian = jacobian / self.equation_scale[:, None]
        self.norm = float(torch.linalg.matrix_norm(self._jacobian, 2))
        self._gains: dict[bytes, torch.Tensor] = {}

    def redundant(self) -> list[str]:
        """Names of the equations that the others imply at the mean row (pivoted QR factorisation)."""
        _, triangle, pivots = qr(self._jacobian.T.numpy(), mode='economic', pivoting=True)
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
        idle = self.system.idle(deviation)
        moved = values.clone()
        for rows, pattern in _patterns(torch.cat([fixed, idle], dim=1)):
            gain = self._gain(pattern, values.shape[1])
            moved[rows] = values[rows] - deviation[rows] @ gain.T
        return moved

    def _gain(self, pattern: torch.Tensor, num_columns: int) -> torch.Tensor:
        """K for one pattern of fixed columns and idle equations, shape (column, equation), in physical units."""
        key = pattern.numpy().tobytes()
        if key not in self._gains:
            if len(self._gains) >= MOST_GAINS:
                self._gains.clear()
            fixed, idle = pattern[:num_columns], pattern[num_columns:]
            jacobian = self._jacobian.masked_fill(fixed[None, :], 0).masked_fill(idle[:, None], 0)
            # The factorisation leaves rounding in the fixed columns, whose values must stay exact.
            inverse = torch.linalg.pinv(jacobian, rtol=RANK_TOLERANCE).masked_fill(fixed[:, None], 0)
            self._gains[key] = self.scale[:, None] * inverse / self.equation_scale
        return self._gains[key]


def standardised_move(moved: Table, start: Table, scale: PerColumn) -> torch.Tensor:
    """How far rows moved: root mean square over columns that vary, in column standard deviations, shape (row,)."""
    varies = scale > 0
    squares = ((moved - start)[:, varies] / scale[varies]).square()
    return (squares.sum(1) / max(squares.shape[1], 1)).sqrt()


def _patterns(mask: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Groups rows that have the same mask: pairs of row numbers and mask."""
    packed = np.packbits(mask.numpy(), axis=1)
    keys = packed.view([('', packed.dtype)] * packed.shape[1]).ravel() if packed.shape[1] else np.zeros(len(mask))
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    if len(first) == 1:
        return [(torch.arange(len(mask)), mask[0])]
    order = torch.from_numpy(np.argsort(group, kind='stable'))
    counts = np.bincount(group).tolist()
    return [(rows, mask[int(i)]) for rows, i in zip(order.split(counts), first, strict=True)]
