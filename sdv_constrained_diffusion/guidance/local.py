r"""Chord steps that are the shortest in each row's own measure.

A column does not weigh the same in every row: near the end of its range, or where values are dense, a move of the same
size changes more of what was learned. With the row's own measures `d_i` of its columns (how far column i goes for one
unit of model space there), the Jacobian J of typical rows and `G = J diag(d)`, the shortest move that meets the
linearised equations is `diag(d) x`, `x = -G^T (G G^T)^{-1} h`: one factorisation for each row, made once.

Equations A that share no column with one another are met first, and the others B by moves that leave them alone, so
that the matrix to factorise is smaller (the Schur complement of A; Golub and Van Loan 2013, sec. 3.2.11):

    x = x_A - C^T (C C^T)^{-1} (h_B + G_B x_A),    x_A = -G_A^T (G_A G_A^T)^{-1} h_A,
    C = G_B - (G_B G_A^T) (G_A G_A^T)^{-1} G_A.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdv_constrained_diffusion._types import ColumnMask, EquationMask, Residuals, Table
from sdv_constrained_diffusion.guidance.entries import Matrices, Pattern

RIDGE = 1e-6
"""Added to the diagonal of the equilibrated matrix: the factorisation is in single precision, and of redundant
equations any one will do."""

WHOLE = 0.5
"""Share of the rows above which a step is made for all of them."""


class LocalSteps:
    """The factorisations of some rows."""

    def __init__(
        self,
        jacobian: Float[Tensor, 'some equation column'],
        measure: Table,
        fixed: ColumnMask,
        idle: EquationMask,
        used: Bool[Tensor, ' any'],
        apart: Bool[Tensor, ' equation'],
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
            apart: equations that share no column with one another, whatever the rows.
            sparse: whether to leave out products of zeros. It may not hang on the rows: it is seen in the last bits.
        """
        self._own = measure.masked_fill(fixed, 0).float().T
        self._places = [used.nonzero()[chosen, 0] for chosen in (apart, ~apart)]
        where = (jacobian != 0).any(0)

        def scaled(chosen: Tensor) -> Matrices:
            pattern = Pattern(where[chosen])
            values = jacobian[:, chosen][:, pattern.equation, pattern.column].float().T * self._own[pattern.column]
            return Matrices(pattern, values * (~idle[:, chosen]).float().T[pattern.equation])

        self._first, self._others = scaled(apart), scaled(~apart)
        squares, size = self._first.squares(), self._others.squares().sqrt()
        self._inverse = torch.where(squares > 0, 1 / squares, 0.0)
        self._size = torch.where(size > 0, size, 1.0)
        self._rest = self._others.without(self._first, self._inverse)
        normal = self._rest.normal(sparse)
        whole = torch.nn.functional.pad(self._size.T, (0, normal.shape[1] - len(size)), value=1.0)
        normal /= whole[:, :, None]
        normal /= whole[:, None, :]
        diagonal = normal.diagonal(dim1=1, dim2=2)
        diagonal.copy_(torch.where(diagonal > 0, diagonal + RIDGE, 1.0))
        self._factor, _ = torch.linalg.cholesky_ex(normal)

    def move(self, deviation: Residuals, rows: Int[Tensor, ' some']) -> Table:
        """The shortest moves, in column standard deviations, shape (some, column).

        Args:
            deviation: signed residuals outside their limits, standardised, of some of the rows.
            rows: which of them.
        """
        if len(rows) > WHOLE * len(self._factor):  # to copy most of the factors costs more than to use them all
            whole = deviation.new_zeros(len(self._factor), deviation.shape[1]).index_put((rows,), deviation)
            return self._move(whole, slice(None))[rows]
        return self._move(deviation, rows)

    def _move(self, deviation: Tensor, rows: Tensor | slice) -> Tensor:
        first, others, rest = (each.of_rows(rows) for each in (self._first, self._others, self._rest))
        own, inverse, size = (part[:, rows] for part in (self._own, self._inverse, self._size))
        asked_first, asked = (deviation[:, places].float().T for places in self._places)
        move = -first.transposed_times(inverse * asked_first)
        right = (asked + others.times(move)) / size
        right = torch.nn.functional.pad(right.T, (0, self._factor.shape[1] - len(size)))
        multiplier = torch.cholesky_solve(right[:, :, None], self._factor[rows])[:, : len(size), 0].T / size
        return ((move - rest.transposed_times(multiplier)) * own).T.to(deviation)
