r"""Voltages that a table does not hold: they are solved for, so that the laws that remain can be asked of the row.

With the seen columns u, the unseen voltages x and the equations h(u, x), the derivative by x at the network's own
operating point `x_0` is `U S V^T` (singular values; the parts that are zero left out). Then `x = x_0 + V z`, where z
is the solution of `K_0 h(u, x_0 + V z) = 0` with `K_0 = S^{-1} U^T`: as many equations as unknowns, and `h = 0`
wherever a row is feasible. Directions that no equation asks for, such as a common turn of all angles, stay at rest.
What is left of h is the residual. Its derivative follows from the implicit function theorem,
`\partial x / \partial u = -V (K_0 h_x V)^{-1} K_0 h_u`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sdv_constrained_diffusion._batches import SIZE, filled
from sdv_constrained_diffusion._types import Residuals
from sdv_constrained_diffusion.power.equations import DENSE_NODES, Nodes

CHORD_STEPS = 40
FITTING_STEPS = 20
NEWTON_STEPS = 40
SETTLED = 1e-14
"""Steps below this, in p.u. and radians, end the search."""

FOUND = 1e-12
"""Rows whose last step is larger than this, in p.u. and radians, are searched on by Newton's method."""

FIRST_DAMPING, LAST_DAMPING = 1e-3, 1e3
"""Of the least-squares steps, as a share of the diagonal; beyond the last there is no way down."""

LEAST_SHARE = 1e-6
"""Newton's steps are cut down to this share of their length before a row is given up."""

RANK_TOLERANCE = 1e-9
"""Singular values below this share of the largest count as zero: far above rounding, far below physics."""

Voltages = tuple[Nodes, Nodes]
"""Magnitudes in p.u. and angles in radians."""


class UnseenVoltages:
    """Solves for the voltages of which a table holds no column.

    Attributes:
        where: places of the unseen ones among all magnitudes, then all angles, shape (unseen,).
        num_unknowns: how many equations are used up by the search.
        gain: `K_0`, shape (unknown, equation), both filled up to whole sizes.
        along: `V`, shape (unseen, unknown), filled up likewise.
    """

    def __init__(self, where: Tensor, at_rest: Float[Tensor, 'equation state']) -> None:
        """Decomposes the derivative.

        Args:
            where: places of the unseen voltages among the states.
            at_rest: derivative of the equations by all states at the network's own operating point.
        """
        self.where = where
        left, sizes, right = torch.linalg.svd(at_rest[:, where], full_matrices=False)
        told = sizes > RANK_TOLERANCE * sizes.amax() if len(sizes) else sizes > 0
        self.num_unknowns = int(told.sum())
        self.gain, self.along = _padded((left[:, told] / sizes[told]).T), _padded(right[told].T)

    def solve(
        self,
        voltages: Voltages,
        linear: Residuals,
        implied: Callable[[Voltages], Tensor],
        derivative: Callable[[Voltages], Tensor],
    ) -> Voltages:
        """Unseen voltages replaced by the solution, where there is one within reach.

        Args:
            voltages: those of the rows, the unseen ones as they are to start from.
            linear: what the voltages must imply, shape (row, equation).
            implied: what voltages imply, shape (row, equation).
            derivative: of what they imply by all states, shape (row, equation, state).
        """
        if not self.num_unknowns:
            return voltages
        chord = self._chord(voltages, lambda at: self._image(linear - implied(at)))
        left = self._image(linear - implied(chord)).norm(dim=1)
        lost = (~(left <= FOUND)).nonzero()[:, 0]
        if not len(lost):
            return chord
        # A chord that does not settle may have gone anywhere.
        nearer = (left < self._image(linear - implied(voltages)).norm(dim=1))[:, None]
        vm, va = (torch.where(nearer, at, start) for at, start in zip(chord, voltages, strict=True))
        found_vm, found_va = chord[0].clone(), chord[1].clone()
        # Derivatives of a large grid fill the memory: row by row there.
        small = voltages[0].shape[1] <= DENSE_NODES
        for rows in lost.split(SIZE if small else 1):
            some = filled(rows[:, None])[:, 0] if small else rows
            near = self._fitted((vm[some], va[some]), linear[some], implied, derivative)
            few_vm, few_va = self._newton(near, linear[some], implied, derivative)
            found_vm[rows], found_va[rows] = few_vm[: len(rows)], few_va[: len(rows)]
        return found_vm, found_va

    def eliminated(self, derivative: Tensor, by: Tensor) -> Tensor:
        """Derivative of the mismatch by columns when the unseen voltages follow, shape (row, equation, column).

        Args:
            derivative: of the mismatch by all states, shape (row, equation, state).
            by: derivative of the mismatch by the columns alone, shape (row, equation, column).
        """
        by_unseen, whole = self._by_unseen(derivative), _padded(by)
        image = _each(self.gain.to(by), whole)
        follow = _each(self.along.to(by), torch.linalg.solve_ex(self._inner(by_unseen), image)[0])
        return (whole - _each(by_unseen, follow))[:, : by.shape[1], : by.shape[2]]

    def newton(self, voltages: Voltages, mismatch: Tensor, derivative: Tensor) -> Voltages:
        """One step of Newton's method: at a solution it moves nothing but brings the implicit derivative.

        Args:
            voltages: those of the rows.
            mismatch: shape (row, equation).
            derivative: of the mismatch by all states, shape (row, equation, state).
        """
        return self._moved(voltages, self._newton_move(self._image(mismatch), derivative))

    def _moved(self, voltages: Voltages, move: Tensor) -> Voltages:
        """Unseen voltages less a move, shape (row, unknown)."""
        states = torch.cat(voltages, dim=1)
        step = (move @ self.along.to(move).T)[:, : len(self.where)]
        states = states.index_add(1, self.where.to(states.device), -step)
        vm, va = states.chunk(2, dim=1)
        return vm, va

    def _chord(self, voltages: Voltages, image_at: Callable[[Voltages], Tensor]) -> Voltages:
        """Moves each row while its steps shrink; none is left out of the arithmetic, so that rows never meet."""
        before: Tensor | float = torch.inf
        for _ in range(CHORD_STEPS):
            move = image_at(voltages)
            size = move.norm(dim=1)
            going = (size > SETTLED) & (size < before)
            if not going.any():
                break
            voltages = self._moved(voltages, torch.where(going[:, None], move, 0.0))
            before = torch.where(going, size, 0.0)
        return voltages

    def _fitted(
        self,
        voltages: Voltages,
        linear: Residuals,
        implied: Callable[[Voltages], Tensor],
        derivative: Callable[[Voltages], Tensor],
    ) -> Voltages:
        """Least squares of all equations (Marquardt 1963): near the solution that meets them all, if there is one.

        `K_0 h = 0` may have others, which meet only as many equations as there are unknowns.
        """
        mismatch = linear - implied(voltages)
        damping = torch.full_like(mismatch[:, :1], FIRST_DAMPING)
        for _ in range(FITTING_STEPS):
            slopes = _each(self._by_unseen(-derivative(voltages)), self.along.to(mismatch))
            normal = _each(slopes.mT, slopes)
            size = normal.diagonal(dim1=1, dim2=2)
            normal = normal + torch.diag_embed(torch.where(size > 0, damping * size, 1.0))
            right = _each(slopes.mT, _padded(mismatch[:, :, None]))
            trial = self._moved(voltages, torch.linalg.solve_ex(normal, right)[0][:, :, 0])
            left = linear - implied(trial)
            better = left.norm(dim=1, keepdim=True) < mismatch.norm(dim=1, keepdim=True)
            vm, va = (torch.where(better, there, here) for there, here in zip(trial, voltages, strict=True))
            voltages, mismatch = (vm, va), torch.where(better, left, mismatch)
            damping = torch.where(better, damping / 10, damping * 10)
            if (damping > LAST_DAMPING).all():
                break
        return voltages

    def _newton(
        self,
        voltages: Voltages,
        linear: Residuals,
        implied: Callable[[Voltages], Tensor],
        derivative: Callable[[Voltages], Tensor],
    ) -> Voltages:
        """Newton's method; a row's steps are cut until its image shrinks, and grow again when it does."""
        image = self._image(linear - implied(voltages))
        share = torch.ones_like(image[:, :1])
        for _ in range(NEWTON_STEPS):
            size = image.norm(dim=1, keepdim=True)
            going = (size > SETTLED) & (share > LEAST_SHARE)
            if not going.any():
                break
            trial = self._moved(voltages, share * self._newton_move(image, -derivative(voltages)))
            trial_image = self._image(linear - implied(trial))
            better = going & (trial_image.norm(dim=1, keepdim=True) < size)
            vm, va = (torch.where(better, there, here) for there, here in zip(trial, voltages, strict=True))
            voltages, image = (vm, va), torch.where(better, trial_image, image)
            share = torch.where(better, (2 * share).clamp(max=1.0), share / 4)
        return voltages

    def _newton_move(self, image: Tensor, derivative: Tensor) -> Tensor:
        """`(K_0 h_x V)^{-1} K_0 h`, shape (row, unknown)."""
        inner = self._inner(self._by_unseen(derivative))
        return torch.linalg.solve_ex(inner, image[:, :, None])[0][:, :, 0]

    def _image(self, mismatch: Tensor) -> Tensor:
        """`K_0 h`, shape (row, unknown)."""
        whole = torch.nn.functional.pad(mismatch, (0, -mismatch.shape[1] % SIZE))
        return whole @ self.gain.to(mismatch).T

    def _by_unseen(self, derivative: Tensor) -> Tensor:
        """`h_x`, shape (row, equation, unseen)."""
        return _padded(derivative[:, :, self.where.to(derivative.device)])

    def _inner(self, by_unseen: Tensor) -> Tensor:
        """`K_0 h_x V`, shape (row, unknown, unknown)."""
        inner = _each(_each(self.gain.to(by_unseen), by_unseen), self.along.to(by_unseen))
        filling = torch.arange(inner.shape[1]) >= self.num_unknowns
        return inner + torch.diag(filling).to(inner)


def _padded(matrix: Tensor) -> Tensor:
    """Zeros to whole sizes in the last two axes: matrices of whole sizes lie in memory alike, and round alike."""
    return torch.nn.functional.pad(matrix, (0, -matrix.shape[-1] % SIZE, 0, -matrix.shape[-2] % SIZE))


def _each(left: Tensor, right: Tensor) -> Tensor:
    """Products of each row's own matrices, of which one factor may be the same for all."""
    rows = max(each.shape[0] for each in (left, right) if each.ndim == 3)
    return torch.bmm(left.expand(rows, -1, -1), right.expand(rows, -1, -1))
