"""A network as the data of its equations: admittances, and which element is connected where."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Complex, Float, Int

from sdv_constrained_diffusion.errors import GridError, close_names
from sdv_constrained_diffusion.power import nets
from sdv_constrained_diffusion.power.tables import KINDS, WIDE, column

LINKED = 1e-12
"""Admittances below this share of the largest are what rounding leaves of branches that were taken out."""

PQ, PV, SLACK = 1, 2, 3
"""Kinds of nodes by what is given there (MATPOWER's numbers): powers, active power and magnitude, the voltage."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A network in one state of its switches and taps: `I = Y V` per unit, and which element is at which node.

    A node is a set of buses joined by closed switches. What is out of service does not appear. A `Grid` is plain data
    that lives, pickles and is written without pandapower.

    Attributes:
        name: the network's name, for messages.
        sn_mva: base power; one per unit of `y_bus` times squared voltage is `sn_mva` MW.
        buses: pandapower's ids of the buses, in the order of `net.bus`.
        node: shape (bus,), the row of `y_bus` that each bus belongs to.
        y_bus: shape (node, node), admittances per unit, shunts and line charging included.
        kind: shape (node,), `PQ`, `PV` or `SLACK`, as pandapower's power flow takes them.
        vm_pu: shape (node,), voltage magnitudes of the network's own power flow, p.u.
        va_degree: shape (node,), its angles, degrees.
        loads: labels of the loads, pandapower's indices.
        load_at: shape (load,), the position in `buses` of each load.
        generators: labels of the external grids, generators and static generators, such as 'gen_3'.
        generator_at: shape (generator,), the position in `buses` of each.
        rest_mw: shape (bus,), what all other elements inject, MW, generation positive; NaN where it is not constant.
        rest_mvar: the same in Mvar.
        branches: labels of the branches that end at buses, such as 'line_0', 'trafo_2', 'trafo3w_0_hv'.
        end_branch: shape (end,), the position in `branches` of each end that is at a bus.
        end_side: shape (end,), 0 for the 'from' end of its branch, 1 for the 'to' end.
        end_node: shape (end,), the node of each end.
        y_ends: shape (end, node), what enters the branches: `I = Y V`, per unit.
        loading_per_pu: shape (end,), percent of the branch's rating that 1 p.u. of current is; NaN without a rating.
    """

    name: str
    sn_mva: float
    buses: tuple[int, ...]
    node: Int[np.ndarray, ' bus']
    y_bus: Complex[np.ndarray, 'node node']
    kind: Int[np.ndarray, ' node']
    vm_pu: Float[np.ndarray, ' node']
    va_degree: Float[np.ndarray, ' node']
    loads: tuple[str, ...]
    load_at: Int[np.ndarray, ' load']
    generators: tuple[str, ...]
    generator_at: Int[np.ndarray, ' generator']
    rest_mw: Float[np.ndarray, ' bus']
    rest_mvar: Float[np.ndarray, ' bus']
    branches: tuple[str, ...]
    end_branch: Int[np.ndarray, ' end']
    end_side: Int[np.ndarray, ' end']
    end_node: Int[np.ndarray, ' end']
    y_ends: sp.csr_matrix
    loading_per_pu: Float[np.ndarray, ' end']

    @property
    def representative(self) -> Int[np.ndarray, ' node']:
        """Shape (node,): the position in `buses` of each node's first bus, whose voltage is the node's."""
        return np.unique(self.node, return_index=True)[1]

    @property
    def fused(self) -> Int[np.ndarray, ' fused']:
        """Shape (fused,): the positions in `buses` of the buses that share a node with an earlier one."""
        return np.setdiff1d(np.arange(len(self.buses)), self.representative)

    def labels(self, quantity: str) -> list[str]:
        """What the names of a quantity's columns end with: buses, loads, generators or branches."""
        kind = KINDS[quantity]
        if kind != 'branch':
            return {'bus': [*map(str, self.buses)], 'load': [*self.loads], 'generator': [*self.generators]}[kind]
        return [self.branches[place] for place in self.end_branch[self.ends(quantity)].tolist()]

    def ends(self, quantity: str) -> Int[np.ndarray, ' some']:
        """The ends of branches that a quantity of branches belongs to; of `loading_percent`, one of each branch."""
        if quantity == 'loading_percent':
            rated = np.flatnonzero(np.isfinite(self.loading_per_pu))
            return rated[np.unique(self.end_branch[rated], return_index=True)[1]]
        return np.flatnonzero(self.end_side == int('_to_' in quantity))

    def columns(self, quantities: Sequence[str] = WIDE) -> list[str]:
        """Names of the columns of some quantities: a column for every element, quantity by quantity.

        Raises:
            GridError: a quantity is unknown.
        """
        nets.check_quantities(quantities, 'Grid.columns')
        return [column(quantity, label) for quantity in quantities for label in self.labels(quantity)]

    @classmethod
    def from_pandapower(cls, net: Any) -> 'Grid':
        """Reads pandapower's own conversion of a network.

        Inner nodes without a bus in the table (the star point of a three-winding transformer, the open end of a
        line) carry no injection; they are eliminated exactly, `Y - Y_ab Y_bb^-1 Y_ba` (Kron 1939). Controllers are not
        run: taps and set-points are those of the network. Motors, storage units, wards' constant power and unsymmetric
        elements inject what they do in the network's power flow; so do DC lines, whose reactive power is not constant.

        Args:
            net: a `pandapowerNet`, left as it is: the power flow runs on a copy.

        Returns:
            the grid, with the switches, taps and services of `net`.

        Raises:
            GridError: a bus in service has no connection to a slack, the power flow fails, or an element has no
                admittance that is independent of the operating point.
            MissingExtraError: pandapower is not installed.
        """
        solved = nets.solve(net, who='Grid.from_pandapower')
        internal = solved['_ppc']['internal']
        if internal['Ybus'].shape[0] == 0:
            raise GridError(
                f'Grid.from_pandapower needs a bus besides the slacks, but every bus of {nets.title(net)} is a slack. '
                'Add the buses that the slacks supply.'
            )
        buses = nets.energised(solved)
        inner = solved['_pd2ppc_lookups']['bus'][buses]
        kept, node = np.unique(inner, return_inverse=True)
        loads, generators = nets.loads(solved), nets.generators(solved)
        found = nets.branch_ends(solved)
        branches = tuple(dict.fromkeys(end.label for end in found))
        y_end, end_inner = _ends(internal, found)
        return cls(
            name=str(net.name or ''),
            sn_mva=float(internal['baseMVA']),
            buses=tuple(int(bus) for bus in buses),
            node=node.astype(np.int64),
            y_bus=_kron(internal['Ybus'], internal['Ybus'], kept)[kept].toarray(),
            kind=_kinds(internal)[kept],
            vm_pu=np.abs(internal['V'][kept]),
            va_degree=np.rad2deg(np.angle(internal['V'][kept])),
            loads=tuple(each.label for each in loads),
            load_at=buses.get_indexer([each.bus for each in loads]).astype(np.int64),
            generators=tuple(each.label for each in generators),
            generator_at=buses.get_indexer([each.bus for each in generators]).astype(np.int64),
            rest_mw=nets.rest(solved, 'p').reindex(buses, fill_value=0.0).to_numpy(dtype='float64'),
            rest_mvar=nets.rest(solved, 'q').reindex(buses, fill_value=0.0).to_numpy(dtype='float64'),
            branches=branches,
            end_branch=np.array([branches.index(end.label) for end in found], dtype=np.int64),
            end_side=np.array([end.side for end in found], dtype=np.int64),
            end_node=np.searchsorted(kept, end_inner),
            y_ends=_kron(y_end, internal['Ybus'], kept),
            loading_per_pu=nets.loading_per_pu(solved, found),
        )

    def without(self, *outages: str) -> 'Grid':
        """The grid with branches out of service, exactly as pandapower would read it then, but for its own voltages.

        Args:
            outages: labels such as 'line_3'; 'trafo3w_0' takes out all three windings, which go together only.

        Raises:
            GridError: a label is unknown, or buses lose their connection to a slack.
        """
        y_bus, y_ends, loading = self.y_bus.copy(), self.y_ends.tolil(copy=True), self.loading_per_pu.copy()
        elements = [each.rpartition('_')[0] if each.startswith('trafo3w') else each for each in self.branches]
        of_end = np.array(elements, dtype=object)[self.end_branch]
        for outage in dict.fromkeys(outages):
            gone = of_end == outage
            if not gone.any():
                known = list(dict.fromkeys(elements))
                close = close_names(outage, known) or known[:3]
                raise GridError(
                    f'Grid.without needs branches of {self.name!r}, but {outage!r} is none. Labels are such as '
                    f'{", ".join(map(repr, close))}.'
                )
            np.subtract.at(y_bus, self.end_node[gone], self.y_ends[gone].toarray())
            y_ends[gone] = 0.0
            loading[gone] *= 0.0
        linked = np.abs(y_bus) > LINKED * np.abs(self.y_bus).max()
        _, part = sp.csgraph.connected_components(sp.csr_matrix(linked), directed=False)
        away = ~np.isin(part, part[self.kind == SLACK])[self.node]
        if away.any():
            raise GridError(
                f'Grid.without needs every bus connected to a slack, but without {", ".join(outages)} the buses '
                f'{[bus for bus, lost in zip(self.buses, away, strict=True) if lost]} of {self.name!r} are not. Leave '
                'this outage out.'
            )
        return replace(self, y_bus=y_bus, y_ends=y_ends.tocsr(), loading_per_pu=loading)

    def to_dict(self) -> dict[str, Any]:
        """The grid as plain lists and numbers, ready for JSON; `from_dict` reads it back."""
        written = {}
        for each in fields(self):
            value = getattr(self, each.name)
            written[each.name] = _sparse(value) if each.name.startswith('y_') else _plain(value)
        return written

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> 'Grid':
        """Reads what `to_dict` wrote."""
        read: dict[str, Any] = {}
        for name, value in data.items():
            if name.startswith('y_'):
                real, imag = (np.array(value[part], dtype='float64') for part in ('real', 'imag'))
                places = np.array(value['places'], dtype=np.int64).reshape(2, -1)
                read[name] = sp.csr_matrix((real + 1j * imag, places), shape=value['shape'])
            elif name in _TUPLES:
                read[name] = tuple(value)
            elif isinstance(value, list):
                read[name] = np.array(value, dtype='int64' if name in _COUNTS else 'float64')
            else:
                read[name] = value
        return cls(**{**read, 'y_bus': read['y_bus'].toarray()})


_TUPLES = ('buses', 'loads', 'generators', 'branches')
_COUNTS = ('node', 'kind', 'load_at', 'generator_at', 'end_branch', 'end_side', 'end_node')


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else list(value) if isinstance(value, tuple) else value


def _sparse(matrix: Any) -> dict[str, Any]:
    """A complex matrix by its entries that are not zero."""
    entries = sp.coo_matrix(matrix)
    places = [entries.row.tolist(), entries.col.tolist()]
    parts = {'real': entries.data.real.tolist(), 'imag': entries.data.imag.tolist()}
    return {'shape': list(entries.shape), 'places': places, **parts}


def _ends(internal: Any, found: list[nets.BranchEnd]) -> tuple[sp.csr_matrix, Int[np.ndarray, ' end']]:
    """Rows of the branch admittances at the ends, shape (end, inner node), and the inner node of each."""
    # The model's matrices leave out the branches that are out of service.
    row_of = np.cumsum(internal['branch_is']) - 1
    both = sp.vstack([internal['Yf'], internal['Yt']]).tocsr()
    side = np.array([end.side for end in found], dtype=np.int64)
    rows = row_of[np.array([end.row for end in found], dtype=np.int64)]
    at = internal['branch'][rows, side].real.astype(np.int64) if len(found) else rows
    return both[rows + side * internal['Yf'].shape[0]], at


def _kinds(internal: Any) -> Int[np.ndarray, ' inner']:
    kind = np.full(internal['Ybus'].shape[0], PQ)
    kind[internal['pv']] = PV
    kind[internal['ref']] = SLACK
    return kind


def _kron(rows: sp.csr_matrix, y_bus: sp.csr_matrix, kept: Int[np.ndarray, ' node']) -> sp.csr_matrix:
    """Currents by the voltages of the kept nodes alone, where the others carry no injection."""
    rows, y_bus = sp.csr_matrix(rows), sp.csr_matrix(y_bus)
    eliminated = np.setdiff1d(np.arange(y_bus.shape[0]), kept)
    if not len(eliminated):
        return rows[:, kept]
    y_ba, y_bb = y_bus[eliminated][:, kept].toarray(), y_bus[eliminated][:, eliminated].toarray()
    return sp.csr_matrix(rows[:, kept] - rows[:, eliminated] @ np.linalg.solve(y_bb, y_ba))
