"""AC power flow: the injections that voltages imply, and their derivatives. Per unit, radians, batched over rows.

Real arithmetic throughout: `e = vm cos va`, `f = vm sin va`, `Y = G + jB`.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

Nodes = Float[Tensor, 'row node']
"""One number per node of the grid."""

NodeJacobians = Float[Tensor, 'row node node']
"""Derivative of one node's injection (second axis) by another node's voltage (third axis)."""

Admittances = Complex[Tensor, 'node node']
"""The bus admittance matrix, per unit."""


def injections(vm: Nodes, va: Nodes, y_bus: Admittances) -> tuple[Nodes, Nodes]:
    r"""Power that each node feeds into the network, $S_i = V_i \overline{(Y V)_i}$.

    (Grainger and Stevenson 1994, ch. 9; shunts are part of Y.)

    Args:
        vm: shape (row, node), voltage magnitudes, p.u.
        va: shape (row, node), voltage angles, radians.
        y_bus: shape (node, node), admittances, p.u.

    Returns:
        active and reactive power, each of shape (row, node), p.u.
    """
    g, b = y_bus.real.T, y_bus.imag.T
    e, f = vm * va.cos(), vm * va.sin()
    i_real = e @ g - f @ b
    i_imag = f @ g + e @ b
    p = e * i_real + f * i_imag
    q = f * i_real - e * i_imag
    return p, q


def injection_jacobians(
    vm: Nodes, va: Nodes, y_bus: Admittances
) -> tuple[NodeJacobians, NodeJacobians, NodeJacobians, NodeJacobians]:
    r"""Derivatives of the injections by magnitude and angle of the voltages.

    With the summands $a_{ik} + j b_{ik} = V_i \overline{Y_{ik} V_k}$ of $P_i + j Q_i = \sum_k a_{ik} + j b_{ik}$
    (Grainger and Stevenson 1994, sec. 9.4):
    $\partial P/\partial vm_k = (a + \mathrm{diag} P)/vm_k$, $\partial P/\partial va = b - \mathrm{diag} Q$,
    $\partial Q/\partial vm_k = (b + \mathrm{diag} Q)/vm_k$, $\partial Q/\partial va = \mathrm{diag} P - a$.

    Args:
        vm: shape (row, node), voltage magnitudes, p.u., not zero.
        va: shape (row, node), voltage angles, radians.
        y_bus: shape (node, node), admittances, p.u.

    Returns:
        dP/dvm, dP/dva, dQ/dvm, dQ/dva, each of shape (row, node, node), p.u. per p.u. and p.u. per radian.
    """
    g, b_bus = y_bus.real, y_bus.imag
    e, f = vm * va.cos(), vm * va.sin()
    cosine = e[:, :, None] * e[:, None, :] + f[:, :, None] * f[:, None, :]  # vm_i vm_k cos(va_i - va_k)
    sine = f[:, :, None] * e[:, None, :] - e[:, :, None] * f[:, None, :]  # vm_i vm_k sin(va_i - va_k)
    a = g * cosine + b_bus * sine
    b = g * sine - b_bus * cosine
    p, q = torch.diag_embed(a.sum(dim=2)), torch.diag_embed(b.sum(dim=2))
    vm_k = vm[:, None, :]
    return (a + p) / vm_k, b - q, (b + q) / vm_k, p - a
