r"""The linearisation at the mean row, made once: what gradient, Gauss-Newton and projection share.

Where residuals read labels, each combination of them has a mean row of its own. Columns are standardised
(`u_i = v_i / s_i`) and so are equations (rows of the Jacobian have norm 1), so that volts and megawatts weigh the same.
A step is the shortest move that meets the linearised equations: `d = -K h`, with `K = J^T (J J^T)^{-1}` of the
equalities that are independent. What holds in some rows only, a column that may not move or an inequality that is
broken, borders the equalities (see `Border`), so that rows of any pattern share one factorisation.
"""

import copy

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.linalg import qr, solve_triangular
from torch import Tensor

from sdv_constrained_diffusion._types import ColumnMask, PerColumn, Residuals, Table
from sdv_constrained_diffusion.constraints.linearisation import Linearisation, alike
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.guidance.border import Border
from sdv_constrained_diffusion.guidance.entries import SPARSE, num_products
from sdv_constrained_diffusion.guidance.local import LocalSteps

RANK_TOLERANCE = 1e-9
"""Pivots below this share of the largest count as zero: far above float64's rounding, far below physics."""

MOST_COLUMNS = 4
"""Columns of an equation up to which it pays to meet it before the others."""

MOST_BASES = 64
"""Factorisations kept at a time, so that memory stays bounded on tables of many labels."""


class Chord:
    """A constraint system with its Jacobians at typical rows.

    Attributes:
        system: the constraints.
        scale: standard deviation of each constrained column, 0 of labels, shape (column,).
        norm: largest spectral norm of a standardised Jacobian whose equations are divided by `equation_scale`.
        sensitivity: by how many tolerances one unit of each column moves the equations at typical rows, all together,
            shape (column,).
        equation_scale: norm of each equation's gradient by standardised columns, in the equation's unit.
        bounds: equations that are limits of single columns (`Constraint.column_limits`), shape (equation,).
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
        self.bounds = _bounds(system, typical)
        self._apart = _apart(typical, system.weighted & ~self.bounds)
        self._sparse = num_products((typical[:, ~self.bounds] != 0).any(0)) < SPARSE
        self._free = self.scale > 0
        self._bases: dict[bytes, Border] = {}
        self._without: dict[bytes, Chord] = {}

    def without(self, columns: Bool[Tensor, ' column']) -> 'Chord':
        """The same for rows in none of which these columns may move."""
        if not (columns & self._free).any():
            return self
        key = np.packbits(columns.numpy()).tobytes()
        part = self._without.get(key)
        if part is None:
            if len(self._without) >= MOST_BASES:
                self._without.clear()
            part = copy.copy(self)
            part._free, part._bases, part._without = self._free & ~columns, {}, {}
            self._without[key] = part
        return part

    def redundant(self) -> list[str]:
        """Names of the equations that the others imply at every typical row (pivoted QR factorisation)."""
        together = torch.cat(self._at.jacobians, dim=1) / self.equation_scale[:, None]
        _, triangle, pivots = qr(together.T.numpy(), mode='economic', pivoting=True)
        return [self.system.equations[index].name for index in sorted(pivots[_rank(triangle) :])]

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
        standardised, idle = deviation / self.equation_scale, self.system.idle(deviation)
        labels, moved = values[:, self.system.discrete], torch.empty_like(values)
        for rows in alike(labels) if labels.shape[1] else [torch.arange(len(values))]:
            move = self._base(labels[rows]).step(standardised[rows], fixed[rows], ~idle[rows])
            moved[rows] = values[rows] + self.scale * move
        # Rounding leaves traces in the columns that are fixed, whose values must stay exact.
        return torch.where(fixed | ~self._free, values, moved)

    def local(self, values: Table, measure: Table, fixed: ColumnMask, own: bool) -> LocalSteps:
        """Steps that are the shortest in measures of these rows' own.

        Args:
            values: constrained columns, shape (row, column).
            measure: what counts as a move of one, shape (row, column), in standard deviations.
            fixed: columns that may not move, shape (row, column).
            own: whether each row gets a Jacobian of its own, or that of typical rows.
        """
        idle, used = self.system.idle(self.system.deviation(self.system.residual(values))), ~self.bounds
        equation_scale = self.equation_scale[used, None]
        if own:
            jacobian = self.system.jacobian(values)[:, used] * self.scale / equation_scale
        else:
            labels = values[:, self.system.discrete]
            groups = alike(labels) if labels.shape[1] else [torch.arange(len(values))]
            typical = torch.stack([self._at.jacobian(labels[rows[0]])[used] / equation_scale for rows in groups])
            group = torch.empty(len(values), dtype=torch.int64)
            for number, rows in enumerate(groups):
                group[rows] = number
            jacobian = typical if len(groups) == 1 else typical[group]
        return LocalSteps(jacobian, measure, fixed | ~self._free, idle[:, used], used, self._apart[used], self._sparse)

    def _base(self, labels: Tensor) -> Border:
        """What the rows of one combination of labels, shape (row, label), share."""
        first = labels[0] if len(labels) else labels.new_zeros(labels.shape[1])
        key = self._at.key(first)
        base = self._bases.get(key)
        if base is None:
            if len(self._bases) >= MOST_BASES:
                self._bases.clear()
            jacobian = self._at.jacobian(first) / self.equation_scale[:, None] * self._free
            base = self._bases[key] = _factorised(jacobian, self.system.lower == self.system.upper)
        return base


def _bounds(system: ConstraintSystem, typical: Float[Tensor, 'combination equation column']) -> Tensor:
    """Which inequalities are limits that constraints set single columns."""
    alone = ((typical != 0).sum(2) <= 1).all(0) & (system.lower < system.upper)
    limited = torch.tensor([bool(each.column_limits) for each in system.constraints])
    return alone & limited[system.owners]


def _apart(typical: Float[Tensor, 'combination equation column'], chosen: Bool[Tensor, ' equation']) -> Tensor:
    """Which of the chosen equations, whose weights are the same in all rows, share no column: the shortest first."""
    where = (typical != 0).any(0)
    taken, apart = torch.zeros(where.shape[1], dtype=torch.bool), torch.zeros_like(chosen)
    for equation in where.sum(1).argsort(stable=True).tolist():
        own = where[equation]
        if chosen[equation] and own.sum() <= MOST_COLUMNS and not (own & taken).any():
            taken, apart[equation] = taken | own, True
    return apart


def _factorised(jacobian: Tensor, equality: Bool[Tensor, ' equation']) -> Border:
    """The gain of the equalities, shape (column, equation), and what borders it."""
    own = jacobian[equality].T.numpy()
    gain, basis = np.zeros((jacobian.shape[1], jacobian.shape[0])), np.zeros((jacobian.shape[1], 0))
    if own.size:
        basis, triangle, pivots = qr(own, mode='economic', pivoting=True)
        rank = _rank(triangle)
        basis = basis[:, :rank]
        independent = np.flatnonzero(equality.numpy())[pivots[:rank]]
        gain[:, independent] = solve_triangular(triangle[:rank, :rank], basis.T).T
    return Border(torch.from_numpy(gain), torch.from_numpy(basis), jacobian, ~equality)


def _rank(triangle: np.ndarray) -> int:
    """Of a pivoted QR factorisation."""
    diagonal = np.abs(np.diag(triangle))
    return int((diagonal > RANK_TOLERANCE * diagonal.max(initial=0.0)).sum())


def standardised_move(moved: Table, start: Table, scale: PerColumn) -> torch.Tensor:
    """How far rows moved: root mean square over columns that vary, in column standard deviations, shape (row,)."""
    varies = scale > 0
    squares = ((moved - start)[:, varies] / scale[varies]).square()
    return (squares.sum(1) / max(squares.shape[1], 1)).sqrt()
