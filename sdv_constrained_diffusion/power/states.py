r"""Voltages that a table does not hold: they are solved for, so that the laws that remain can be asked of the row.

With the seen columns u, the unseen voltages x and the equations h(u, x), x is the solution of `K_0 h(u, x) = 0`, where
`K_0` is the pseudo-inverse of the equations' derivative by x at the network's own operating point: as many equations as
unknowns, and `h = 0` wherever a row is feasible. What is left of h is the residual. Its derivative follows from the
implicit function theorem, `\partial x / \partial u = -(K_0 h_x)^{-1} K_0 h_u`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sdv_constrained_diffusion.power.equations import Nodes

CHORD_STEPS = 40
NEWTON_STEPS = 12
SETTLED = 1e-14
"""Steps below this, in p.u. and radians, end the search."""

FOUND = 1e-10
"""Rows whose last step is larger than this, in p.u. and radians, are searched on by Newton's method."""

Voltages = tuple[Nodes, Nodes]
"""Magnitudes in p.u. and angles in radians."""


class UnseenVoltages:
    """Solves for the voltages of which a table holds no column.

    Attributes:
        where: places of the unseen ones among all magnitudes, then all angles, shape (unseen,).
        gain: `K_0`, shape (unseen, equation).
    """

    def __init__(self, where: Tensor, at_rest: Float[Tensor, 'equation state']) -> None:
        """Inverts the derivative.

        Args:
            where: places of the unseen voltages among the states.
            at_rest: derivative of the equations by all states at the network's own operating point.
        """
        self.where = where
        self.gain = torch.linalg.pinv(at_rest[:, where])

    def solve(
        self, voltages: Voltages, mismatch: Callable[[Voltages], Tensor], derivative: Callable[[Voltages], Tensor]
    ) -> Voltages:
        """Unseen voltages replaced by the solution, where there is one within reach.

        Args:
            voltages: those of the rows, the unseen ones as they are to start from.
            mismatch: of voltages, shape (row, equation).
            derivative: of the mismatch by all states, shape (row, equation, state).
        """
        chord = self._search(voltages, torch.inf, CHORD_STEPS, lambda at: self._image(mismatch(at)))
        left = self._image(mismatch(chord)).abs().amax(1)
        if not (left > FOUND).any():
            return chord
        # From where the rows began: a chord that does not settle may have gone anywhere.
        vm, va = (torch.where((left > FOUND)[:, None], *each) for each in zip(voltages, chord, strict=True))
        return self._search(
            (vm, va),
            torch.where(left > FOUND, torch.inf, 0.0),
            NEWTON_STEPS,
            lambda at: self._newton_move(mismatch(at), derivative(at)),
        )

    def sensitivity(self, derivative: Tensor, by: Tensor) -> Tensor:
        """Derivative of the unseen voltages by columns, shape (row, unseen, column).

        Args:
            derivative: of the mismatch by all states, shape (row, equation, state).
            by: derivative of the mismatch by the columns, shape (row, equation, column).
        """
        return -torch.linalg.solve_ex(self._inner(derivative), self.gain.to(by) @ by)[0]

    def newton(self, voltages: Voltages, mismatch: Tensor, derivative: Tensor) -> Voltages:
        """One step of Newton's method: at a solution it moves nothing but brings the implicit derivative."""
        return self.moved(voltages, self._newton_move(mismatch, derivative))

    def moved(self, voltages: Voltages, move: Tensor) -> Voltages:
        """Unseen voltages less a move, shape (row, unseen)."""
        states = torch.cat(voltages, dim=1)
        states = states.index_add(1, self.where.to(states.device), -move)
        vm, va = states.chunk(2, dim=1)
        return vm, va

    def _search(
        self, voltages: Voltages, before: Tensor | float, num_steps: int, move_of: Callable[[Voltages], Tensor]
    ) -> Voltages:
        """Moves each row while its steps shrink; none is left out of the arithmetic, so that rows never meet."""
        for _ in range(num_steps):
            move = move_of(voltages)
            size = move.abs().amax(1)
            going = (size > SETTLED) & (size < before)
            if not going.any():
                break
            voltages = self.moved(voltages, torch.where(going[:, None], move, 0.0))
            before = torch.where(going, size, 0.0)
        return voltages

    def _newton_move(self, mismatch: Tensor, derivative: Tensor) -> Tensor:
        """`(K_0 h_x)^{-1} K_0 h`, shape (row, unseen)."""
        return torch.linalg.solve_ex(self._inner(derivative), self._image(mismatch)[:, :, None])[0][:, :, 0]

    def _image(self, mismatch: Tensor) -> Tensor:
        """`K_0 h`, shape (row, unseen)."""
        return mismatch @ self.gain.to(mismatch).T

    def _inner(self, derivative: Tensor) -> Tensor:
        """`K_0 h_x`, shape (row, unseen, unseen)."""
        return self.gain.to(derivative) @ derivative[:, :, self.where.to(derivative.device)]
