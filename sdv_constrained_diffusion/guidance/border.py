r"""Steps of rows that hold columns of their own, from one factorisation of the equalities that all rows share.

The shortest move that meets the equalities `J d = -h` is `d_0 = -K h`. Further equations `B_S d = r` of a row, unit
vectors of columns that stay (`r = 0`) and gradients of inequalities that it breaks (`r = -h`), change it by a move in
the null space of `J`, onto which `N = I - Q Q^T` projects:

    d = d_0 + N B_S^T (B_S N B_S^T)^+ (r - B_S d_0),

which is the shortest move that meets both (the Schur complement of the bordered system; Golub and Van Loan 2013, sec.
6.2). Each row solves a system as small as its own pattern.
"""

import functools

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdv_constrained_diffusion._batches import SIZE, filled
from sdv_constrained_diffusion._types import ColumnMask, EquationMask, Residuals, Table

SOFT = 1e-4
"""Smallest pivot of a well-posed system; rows below it, whose pattern the equalities nearly decide, get a
pseudo-inverse."""

NULL = 1e-9
"""Eigenvalues below this count as zero there."""


class Border:
    """The shared factorisation, in standardised columns and equations."""

    def __init__(
        self,
        gain: Float[Tensor, 'column equation'],
        basis: Float[Tensor, 'column rank'],
        jacobian: Float[Tensor, 'equation column'],
        inequality: Bool[Tensor, ' equation'],
    ) -> None:
        """Keeps the parts.

        Args:
            gain: K of the equalities; zero for other equations.
            basis: Q, an orthonormal basis of the equalities' gradients.
            jacobian: of all equations, zero for columns that never move.
            inequality: which equations bind only where they are broken.
        """
        self._gain, self._basis, self._inequality = self._padded(gain), basis, inequality
        self._gradients = jacobian[inequality]
        self._gradients_whole = self._padded(self._gradients)
        self._moves = (jacobian != 0).any(0)

    def step(self, deviation: Residuals, fixed: ColumnMask, active: EquationMask) -> Table:
        """The shortest move, shape (row, column), in column standard deviations.

        Args:
            deviation: signed residuals outside their limits, shape (row, equation), standardised.
            fixed: columns that stay, shape (row, column).
            active: equations that are asked for, shape (row, equation); equalities always are.
        """
        move = -_product(deviation, self._gain)
        asked = self._padded(torch.cat([fixed & self._moves, active[:, self._inequality]], dim=1))
        count = asked.sum(1)
        if not count.any():
            return move
        wanted = torch.cat([torch.zeros_like(move), -deviation[:, self._inequality]], dim=1)
        missing = self._padded(wanted - torch.cat([move, _product(move, self._gradients_whole)], dim=1))
        # Rows are grouped by their own pattern's size, so that a row has the same bits in any company.
        size = (count + SIZE - 1) // SIZE * SIZE
        for each in size.unique().tolist():
            if each:
                rows = (size == each).nonzero()[:, 0]
                multiplier = self._solved(missing[rows], asked[rows], each)
                move[rows] += _product(multiplier, self._directions)
        return move

    def _solved(self, missing: Tensor, asked: Tensor, size: int) -> Tensor:
        """`(B_S N B_S^T)^+` applied in each row, scattered to all columns and inequalities."""
        place = asked.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :size]
        mine = asked.gather(1, place)
        both = mine[:, :, None] & mine[:, None, :]
        normal = self._normal[place[:, :, None], place[:, None, :]].masked_fill(~both, 0)
        normal = normal + torch.diag_embed((~mine).to(normal))
        right = missing.gather(1, place).masked_fill(~mine, 0)
        factor, failed = torch.linalg.cholesky_ex(normal)
        solved = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
        soft = (failed > 0) | (factor.diagonal(dim1=1, dim2=2).amin(1) < SOFT)
        if soft.any():
            solved[soft] = _pseudo_solved(normal[soft], right[soft])
        return torch.zeros_like(missing).scatter(1, place, solved.masked_fill(~mine, 0))

    @functools.cached_property
    def _directions(self) -> Float[Tensor, 'column asked']:
        """`N B^T`: unit vectors of the columns and gradients of the inequalities, projected onto the null space."""
        columns = torch.diag(self._moves.to(self._gain))
        asked = self._padded(torch.cat([columns, self._gradients.T], dim=1))
        return asked - self._basis @ (self._basis.T @ asked)

    @functools.cached_property
    def _normal(self) -> Float[Tensor, 'asked asked']:
        """`B N B^T`."""
        return self._padded(torch.cat([self._directions, self._gradients @ self._directions]).T)

    @staticmethod
    def _padded(matrix: Tensor) -> Tensor:
        """Further columns of nothing: small systems of whole sizes lie in memory alike, and round alike."""
        return torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % SIZE))


def _pseudo_solved(normal: Tensor, right: Tensor) -> Tensor:
    """Least squares of least norm, of each row by itself: products of batches would round by the batch's size."""
    values, vectors = torch.linalg.eigh(normal)
    weights = (vectors * right[:, :, None]).sum(1)
    weights = torch.where(values > NULL, weights / values, 0.0)
    return (vectors * weights[:, None, :]).sum(2)


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    """`rows @ matrix.T` with a padded matrix, the same bits in any company."""
    whole = torch.nn.functional.pad(filled(rows), (0, matrix.shape[1] - rows.shape[1]))
    return (whole @ matrix.T)[: len(rows)]
