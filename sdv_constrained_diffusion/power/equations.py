"""AC power flow: the powers that voltages imply, and their derivatives. Per unit, radians, batched over rows.

Real arithmetic throughout: `e = vm cos va`, `f = vm sin va`, `Y = G + jB`. A terminal is where power enters: a node,
with its row of the bus admittance matrix, or an end of a branch, with that end's row of the branch admittances.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdv_constrained_diffusion._batches import SIZE
from sdv_constrained_diffusion._sparse import CompressedRows

Nodes = Float[Tensor, 'row node']
"""One number per node of the grid."""

Terminals = Float[Tensor, 'row terminal']
"""One number per terminal."""

TerminalJacobians = Float[Tensor, 'row terminal node']
"""Derivative of one terminal's quantity by one node's voltage."""

DENSE_NODES = 64
"""Up to this many nodes a product with all zeros is faster than one that skips them."""


@dataclass(frozen=True, eq=False)
class Admittances:
    """The currents `I = Y V` that enter at terminals.

    Attributes:
        at: shape (terminal,), the node of each terminal.
        g: shape (terminal, node), real part of Y, per unit, as `packed`.
        b: shape (terminal, node), its imaginary part.
    """

    at: Int[Tensor, ' terminal']
    g: Tensor | CompressedRows
    b: Tensor | CompressedRows

    @classmethod
    def of(cls, matrix: Any, at: np.ndarray | None = None) -> 'Admittances':
        """Reads a complex matrix, shape (terminal, node).

        Args:
            matrix: admittances per unit, dense or sparse.
            at: shape (terminal,), the node of each terminal; terminal i is node i when None.
        """
        rows = sp.csr_matrix(matrix)
        at = np.arange(rows.shape[0]) if at is None else at
        return cls(torch.as_tensor(at, dtype=torch.int64), packed(rows.real), packed(rows.imag))

    def to(self, like: Tensor) -> 'Admittances':
        """The same in the dtype and on the device of a tensor."""
        if like.dtype == self.g.dtype and like.device == self.g.device:
            return self
        return Admittances(self.at.to(like.device), self.g.to(like), self.b.to(like))

    def currents(self, e: Nodes, f: Nodes) -> tuple[Terminals, Terminals]:
        """Real and imaginary part of the currents at voltages `e + jf`, p.u."""
        return product(e, self.g) - product(f, self.b), product(f, self.g) + product(e, self.b)

    def entries(self, nodes: int) -> tuple[Tensor, Tensor]:
        """Both parts as they are written, zeros included, shape (terminal, node)."""
        return self.g.to_dense()[:, :nodes], self.b.to_dense()[:, :nodes]


def powers(vm: Nodes, va: Nodes, y: Admittances) -> tuple[Terminals, Terminals]:
    r"""Power that enters at each terminal, $S_t = V_t \overline{(Y V)_t}$.

    At nodes it is what they feed into the network (Grainger and Stevenson 1994, ch. 9; shunts are part of Y).

    Args:
        vm: shape (row, node), voltage magnitudes, p.u.
        va: shape (row, node), voltage angles, radians.
        y: admittances of the terminals.

    Returns:
        active and reactive power, each of shape (row, terminal), p.u.
    """
    y = y.to(vm)
    e, f = vm * va.cos(), vm * va.sin()
    i_real, i_imag = y.currents(e, f)
    e, f = e[:, y.at], f[:, y.at]
    return e * i_real + f * i_imag, f * i_real - e * i_imag


def power_jacobians(
    vm: Nodes, va: Nodes, y: Admittances
) -> tuple[TerminalJacobians, TerminalJacobians, TerminalJacobians, TerminalJacobians]:
    r"""Derivatives of the powers by magnitude and angle of the voltages.

    With the summands $a_{tk} + j b_{tk} = V_t \overline{Y_{tk} V_k}$ of $P_t + j Q_t = \sum_k a_{tk} + j b_{tk}$
    (Grainger and Stevenson 1994, sec. 9.4), and $\delta$ for the terminal's own node:
    $\partial P/\partial vm_k = (a + \delta P)/vm_k$, $\partial P/\partial va_k = b - \delta Q$,
    $\partial Q/\partial vm_k = (b + \delta Q)/vm_k$, $\partial Q/\partial va_k = \delta P - a$.

    Args:
        vm: shape (row, node), voltage magnitudes, p.u., not zero.
        va: shape (row, node), voltage angles, radians.
        y: admittances of the terminals.

    Returns:
        dP/dvm, dP/dva, dQ/dvm, dQ/dva, each of shape (row, terminal, node), p.u. per p.u. and p.u. per radian.
    """
    y = y.to(vm)
    g, b_bus = y.entries(vm.shape[1])
    e, f = vm * va.cos(), vm * va.sin()
    e_t, f_t = e[:, y.at, None], f[:, y.at, None]
    cosine = e_t * e[:, None, :] + f_t * f[:, None, :]  # vm_t vm_k cos(va_t - va_k)
    sine = f_t * e[:, None, :] - e_t * f[:, None, :]  # vm_t vm_k sin(va_t - va_k)
    a = g * cosine + b_bus * sine
    b = g * sine - b_bus * cosine
    own = torch.nn.functional.one_hot(y.at, vm.shape[1]).to(vm)
    p, q = own * a.sum(dim=2, keepdim=True), own * b.sum(dim=2, keepdim=True)
    vm_k = vm[:, None, :]
    return (a + p) / vm_k, b - q, (b + q) / vm_k, p - a


def packed(matrix: Any) -> Tensor | CompressedRows:
    """A real matrix as a tensor: with few columns dense, filled up with columns of zeros; else compressed.

    Rows of an odd length lie in memory otherwise from one to the next, and a product of them rounds otherwise.

    Args:
        matrix: numpy's or scipy's.
    """
    rows = sp.csr_matrix(matrix)
    if rows.shape[1] <= DENSE_NODES:
        return torch.nn.functional.pad(torch.from_numpy(rows.toarray()), (0, -rows.shape[1] % SIZE))
    return CompressedRows.of(rows)


def product(rows: Float[Tensor, 'row many'], matrix: Tensor | CompressedRows) -> Float[Tensor, 'row few']:
    """`rows @ matrix.T` with a packed matrix, shape (few, many)."""
    if isinstance(matrix, Tensor):
        return torch.nn.functional.pad(rows, (0, matrix.shape[1] - rows.shape[1])) @ matrix.T
    return matrix.applied_to(rows)
