"""What voltages imply for nodes and branches: powers, flows, loadings, differences of angles, in a table's units."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdv_constrained_diffusion.power.equations import Admittances, Nodes, power_jacobians, powers
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.tables import FLOWS

AT_NODES = ('p_mw', 'q_mvar')
APPARENT, ANGLE = 's_mva', 'angle_difference_degree'
"""Apparent power into a branch at one end; angle of that end less that of the other."""

TINY = 1e-24
"""Squared power, p.u., below which a flow is taken for nothing where its direction is asked for."""

Wanted = Sequence[tuple[str, Int[np.ndarray, ' _']]]
"""Quantities, and the nodes or ends of branches they are wanted at; of `loading_percent`, one end of each branch."""

Implied = Float[Tensor, 'row wanted']
ImpliedJacobians = Float[Tensor, 'row wanted state']


class ImpliedQuantities:
    """Some quantities of a grid as functions of its states: all magnitudes in p.u., then all angles in radians."""

    def __init__(self, grid: Grid, wanted: Wanted) -> None:
        """Chooses the quantities, in this order."""
        self._sn_mva, self._asked = grid.sn_mva, list(wanted)
        other, at_nodes = _other_ends(grid), np.zeros(0, dtype=np.int64)
        flows = [at for quantity, at in wanted if quantity not in AT_NODES]
        # Only the ends that are asked for, and those on the other side of their branches.
        used = np.unique(np.concatenate([at_nodes, *flows, *(other[at] for at in flows)]))
        self._ends = Admittances.of(grid.y_ends[used], grid.end_node[used])
        self._per_pu = torch.from_numpy(grid.loading_per_pu[used]).nan_to_num(0.0)
        self._other = torch.from_numpy(np.searchsorted(used, other[used]))
        self._flowing = len(used) > 0
        self._nodes = Admittances.of(grid.y_bus) if any(quantity in AT_NODES for quantity, _ in wanted) else None
        self._wanted = [
            (quantity, torch.as_tensor(at if quantity in AT_NODES else np.searchsorted(used, at)))
            for quantity, at in wanted
            if len(at)
        ]

    def on(self, grid: Grid) -> 'ImpliedQuantities':
        """The same quantities on another state of the grid."""
        return ImpliedQuantities(grid, self._asked)

    def values(self, vm: Nodes, va: Nodes) -> Implied:
        """The quantities, in MW, Mvar, MVA, percent or degrees."""
        at_nodes = {} if self._nodes is None else dict(zip(AT_NODES, powers(vm, va, self._nodes), strict=True))
        p, q = powers(vm, va, self._ends) if self._flowing else (vm[:, :0], vm[:, :0])
        return torch.cat([vm[:, :0], *(self._value(each, at, vm, va, at_nodes, p, q) for each, at in self._wanted)], 1)

    def jacobian(self, vm: Nodes, va: Nodes) -> ImpliedJacobians:
        """Their derivatives by magnitudes (per p.u.) and angles (per radian), shape (row, wanted, 2 node)."""
        by_nodes = {} if self._nodes is None else dict(zip(AT_NODES, _by_states(vm, va, self._nodes), strict=True))
        nothing = vm.new_zeros(len(vm), 0, 2 * vm.shape[1])
        p, q, by_p, by_q = vm[:, :0], vm[:, :0], nothing, nothing
        if self._flowing:
            (p, q), (by_p, by_q) = powers(vm, va, self._ends), _by_states(vm, va, self._ends)
        parts = [nothing]
        for quantity, at in self._wanted:
            if quantity in AT_NODES:
                parts.append(self._sn_mva * by_nodes[quantity][:, at])
            elif quantity == ANGLE:
                parts.append(self._angle_jacobian(at, vm).expand(len(vm), -1, -1))
            elif quantity in (APPARENT, 'loading_percent'):
                parts.append(self._size_jacobian(quantity, at, vm, p, q, by_p, by_q))
            else:
                parts.append(self._sn_mva * (by_p if quantity.startswith('p') else by_q)[:, at])
        return torch.cat(parts, dim=1)

    def _value(
        self, quantity: str, at: Tensor, vm: Nodes, va: Nodes, at_nodes: dict[str, Tensor], p: Tensor, q: Tensor
    ) -> Tensor:
        if quantity in AT_NODES:
            return self._sn_mva * at_nodes[quantity][:, at]
        if quantity == ANGLE:
            own, other = self._ends.at[at], self._ends.at[self._other[at]]
            return torch.rad2deg(va[:, own] - va[:, other])
        if quantity == APPARENT:
            return self._sn_mva * _size(p, q)[:, at]
        if quantity == 'loading_percent':
            loading = self._loading(vm, p, q)
            return loading.gather(1, self._heavier(loading, at))
        assert quantity in FLOWS
        return self._sn_mva * (p if quantity.startswith('p') else q)[:, at]

    def _loading(self, vm: Nodes, p: Tensor, q: Tensor) -> Tensor:
        r"""Percent of the rating at every end, $100 |I| / I_{max}$ with $|I| = |S| / vm$; 0 without a rating."""
        return self._per_pu.to(vm) * _size(p, q) / vm[:, self._ends.at]

    def _heavier(self, loading: Tensor, at: Tensor) -> Tensor:
        """Of each branch, given by one of its ends, the end that carries the larger current, shape (row, branch)."""
        pairs = torch.stack([at, self._other[at]], dim=1)
        return pairs[torch.arange(len(at)), loading[:, pairs].argmax(2)]

    def _size_jacobian(
        self, quantity: str, at: Tensor, vm: Nodes, p: Tensor, q: Tensor, by_p: Tensor, by_q: Tensor
    ) -> Tensor:
        r"""Of $|S|$, $(P \partial P + Q \partial Q) / |S|$, or of the loading, which has another `vm` below."""
        size, ends = _size(p, q), self._ends.at
        by = (p[:, :, None] * by_p + q[:, :, None] * by_q) / size[:, :, None]
        if quantity == APPARENT:
            return self._sn_mva * by[:, at]
        loading, below = self._loading(vm, p, q), vm[:, ends]
        by = by * (self._per_pu.to(vm) / below)[:, :, None]
        by[:, torch.arange(len(ends)), ends] -= loading / below
        return by.gather(1, self._heavier(loading, at)[:, :, None].expand(-1, -1, by.shape[2]))

    def _angle_jacobian(self, at: Tensor, vm: Nodes) -> Tensor:
        by = vm.new_zeros(1, len(at), 2 * vm.shape[1])
        row, nodes = torch.arange(len(at)), vm.shape[1]
        by[0, row, nodes + self._ends.at[at]] += 180 / torch.pi
        by[0, row, nodes + self._ends.at[self._other[at]]] -= 180 / torch.pi
        return by


def _size(p: Tensor, q: Tensor) -> Tensor:
    """Apparent power, per unit."""
    return (p.square() + q.square()).clamp(min=TINY).sqrt()


def _by_states(vm: Nodes, va: Nodes, y: Admittances) -> tuple[Tensor, Tensor]:
    """Derivatives of P and of Q by all magnitudes, then all angles."""
    p_vm, p_va, q_vm, q_va = power_jacobians(vm, va, y)
    return torch.cat([p_vm, p_va], dim=2), torch.cat([q_vm, q_va], dim=2)


def _other_ends(grid: Grid) -> Int[np.ndarray, ' end']:
    """Shape (end,): the other end of each end's branch, or itself where that is at no bus."""
    other = np.arange(len(grid.end_branch))
    order = np.argsort(grid.end_branch, kind='stable')
    first, second = order[:-1], order[1:]
    pair = grid.end_branch[first] == grid.end_branch[second]
    other[first[pair]], other[second[pair]] = second[pair], first[pair]
    return other
