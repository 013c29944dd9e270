r"""Chord steps that are the shortest in each row's own measure.

A column does not weigh the same in every row: near the end of its range, or where values are dense, a move of the same
size changes more of what was learned. With the row's own measures `d_i` of its columns (how far column i goes for one
unit of model space there) the shortest move that meets the linearised equations is `-D J^T (J D J^T)^{-1} h`,
`D = diag(d_i^2)`, with the Jacobian J of typical rows: one factorisation for each row, made once.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdv_constrained_diffusion._batches import SIZE
from sdv_constrained_diffusion._types import ColumnMask, EquationMask, Residuals, Table

RIDGE = 1e-6
"""Added to the diagonal of the equilibrated matrix: the factorisation is in single precision, and of redundant
equations any one will do."""


class LocalSteps:
    """The factorisations of some rows."""

    def __init__(
        self,
        jacobian: Float[Tensor, 'row equation column'],
        measure: Table,
        fixed: ColumnMask,
        idle: EquationMask,
        used: Bool[Tensor, ' any'],
    ) -> None:
        """Factorises.

        Args:
            jacobian: of the rows, in standardised columns and equations, shape (row, equation, column).
            measure: of each row's columns, in column standard deviations.
            fixed: columns that may not move, shape (row, column).
            idle: equations that ask nothing of a row, shape (row, equation).
            used: which equations of the system these are. Bounds of single columns need none: a column is held there.
        """
        # Whole sizes, so that every row's matrices lie in memory alike, and round alike.
        self._used, columns = used, measure.shape[1]
        equations = int(used.sum())
        wide, high = -columns % SIZE, -equations % SIZE
        self._scaled = torch.nn.functional.pad(jacobian.float(), (0, wide, 0, high))
        own = torch.nn.functional.pad(measure.masked_fill(fixed, 0), (0, wide)).float()
        asked = torch.nn.functional.pad(~idle, (0, high)).float()
        self._scaled *= own[:, None, :] * asked[:, :, None]
        normal = self._scaled @ self._scaled.mT
        size = normal.diagonal(dim1=1, dim2=2).sqrt()
        self._size = torch.where(size > 0, size, 1.0)
        normal = normal / (self._size[:, :, None] * self._size[:, None, :])
        normal.diagonal(dim1=1, dim2=2).copy_(torch.where(size > 0, 1 + RIDGE, 1.0))
        self._factor, _ = torch.linalg.cholesky_ex(normal)
        self._own, self._shape = own, (equations, columns)

    def move(self, deviation: Residuals, rows: Int[Tensor, ' some']) -> Table:
        """The shortest moves, in column standard deviations, shape (some, column).

        Args:
            deviation: signed residuals outside their limits, standardised, of some of the rows.
            rows: which of them.
        """
        equations, columns = self._shape
        everyone = len(rows) == len(self._own)
        scaled, factor, size, own = (
            each if everyone else each[rows] for each in (self._scaled, self._factor, self._size, self._own)
        )
        right = torch.nn.functional.pad(deviation[:, self._used].float(), (0, size.shape[1] - equations)) / size
        multiplier = torch.cholesky_solve(right[:, :, None], factor) / size[:, :, None]
        return -((scaled.mT @ multiplier)[:, :, 0] * own)[:, :columns].to(deviation)
