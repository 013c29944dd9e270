r"""Chord steps that are the shortest in each row's own measure.

A column does not weigh the same in every row: near the end of its range, or where values are dense, a move of the same
size changes more of what was learned. With the row's own measures `d_i` of its columns (how far column i goes for one
unit of model space there) the shortest move that meets the linearised equations is `-D J^T (J D J^T)^{-1} h`,
`D = diag(d_i^2)`, with the Jacobian J of typical rows: one factorisation for each row, made once.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdv_constrained_diffusion._batches import SIZE, filled
from sdv_constrained_diffusion._sparse import compressed
from sdv_constrained_diffusion._types import ColumnMask, EquationMask, Residuals, Table

RIDGE = 1e-6
"""Added to the diagonal of the equilibrated matrix: the factorisation is in single precision, and of redundant
equations any one will do."""

SPARSE = 0.1
"""Share of the products of a normal matrix up to which they are made one by one."""


class LocalSteps:
    """The factorisations of some rows."""

    def __init__(
        self,
        jacobian: Float[Tensor, 'some equation column'],
        measure: Table,
        fixed: ColumnMask,
        idle: EquationMask,
        used: Bool[Tensor, ' any'],
        sparse: bool,
    ) -> None:
        """Factorises.

        Args:
            jacobian: of the rows, in standardised columns and equations, shape (row, equation, column); one that all
                rows share, shape (1, equation, column).
            measure: of each row's columns, in column standard deviations.
            fixed: columns that may not move, shape (row, column).
            idle: equations that ask nothing of a row, shape (row, equation).
            used: which equations of the system these are. Bounds of single columns need none: a column is held there.
            sparse: whether to leave out products of zeros. It may not hang on the rows: it is seen in the last bits.
        """
        self._used, self._entries = used, _Entries((jacobian != 0).any(0))
        equation, column = self._entries.equation, self._entries.column
        self._own = measure.masked_fill(fixed, 0).float()
        # Shape (entry, row): rows lie side by side, and never meet.
        self._values = jacobian[:, equation, column].float().T * self._own.T[column] * (~idle).float().T[equation]
        normal = self._entries.normal(self._values, sparse)
        size = normal.diagonal(dim1=1, dim2=2).sqrt()
        self._size = torch.where(size > 0, size, 1.0)
        normal /= self._size[:, :, None]
        normal /= self._size[:, None, :]
        normal.diagonal(dim1=1, dim2=2).copy_(torch.where(size > 0, 1 + RIDGE, 1.0))
        self._factor, _ = torch.linalg.cholesky_ex(normal)

    def move(self, deviation: Residuals, rows: Int[Tensor, ' some']) -> Table:
        """The shortest moves, in column standard deviations, shape (some, column).

        Args:
            deviation: signed residuals outside their limits, standardised, of some of the rows.
            rows: which of them.
        """
        factor, size, values, own = self._factor, self._size, self._values, self._own
        if len(rows) < len(own):
            factor, size, values, own = factor[rows], size[rows], values[:, rows], own[rows]
        right = deviation[:, self._used].float()
        right = torch.nn.functional.pad(right, (0, size.shape[1] - right.shape[1])) / size
        multiplier = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0] / size
        return (-self._entries.by_columns(values, multiplier) * own).to(deviation)


class _Entries:
    """Where Jacobians are not zero.

    Attributes:
        equation: of each entry, column by column.
        column: of each entry.
    """

    def __init__(self, where: Bool[Tensor, 'equation column']) -> None:
        """Finds the entries, and the pairs of them that meet in a column."""
        self.column, self.equation = where.T.nonzero().unbind(1)
        self._shape = (len(where), where.shape[1])
        # Whole sizes, so that every row's matrices lie in memory alike, and round alike.
        self._whole = len(where) + -len(where) % SIZE

    def normal(self, values: Float[Tensor, 'entry row'], sparse: bool) -> Float[Tensor, 'row whole whole']:
        """`J J^T` of the rows; of a sparse one the lower triangle."""
        num_rows, size = values.shape[1], self._whole
        if not sparse:
            wide = self._shape[1] + -self._shape[1] % SIZE
            full = values.new_zeros(num_rows, size, wide)
            full[:, self.equation, self.column] = values.T
            return full @ full.mT
        one, other = self._pairs()
        cell = self.equation[one] * size + self.equation[other]
        cells, place = cell.unique(return_inverse=True)
        normal = values.new_zeros(num_rows, size * size)
        normal[:, cells] = _sums(values[one] * values[other], place, len(cells)).T
        return normal.view(num_rows, size, size)

    def by_columns(self, values: Float[Tensor, 'entry row'], multiplier: Float[Tensor, 'row whole']) -> Table:
        """`J^T` times a multiplier of each equation, shape (row, whole)."""
        return _sums(values * multiplier.T[self.equation], self.column, self._shape[1]).T

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Entries of one column, each with itself and those before it."""
        column = self.column.numpy()
        entry = np.arange(len(column))
        before = entry - np.searchsorted(column, column)
        one = np.repeat(entry, before + 1)
        back = np.arange(len(one)) - np.repeat(np.cumsum(before + 1) - (before + 1), before + 1)
        return torch.from_numpy(one), torch.from_numpy(one - back)


def num_products(where: Bool[Tensor, 'equation column']) -> float:
    """Products that a normal matrix needs, as a share of those with zeros."""
    in_column = where.sum(0).double()
    return float(in_column.square().sum() / max(len(where) ** 2 * where.shape[1], 1))


def _sums(terms: Float[Tensor, 'term row'], place: Int[Tensor, ' term'], number: int) -> Float[Tensor, 'place row']:
    """Sums of the terms that have one place, in their order."""
    order = place.argsort(stable=True)
    first = torch.nn.functional.pad(place.bincount(minlength=number).cumsum(0), (1, 0))
    matrix = compressed(first, order, terms.new_ones(len(order)), (number, len(terms)))
    return (matrix @ filled(terms.T).T.contiguous())[:, : terms.shape[1]]
