"""A test bench for operating points: the network with set-points in place of everything that injects power."""

import copy
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power.grid import PQ, PV, SLACK, Grid
from sdv_constrained_diffusion.power.nets import ENDS, import_pandapower, result_row, strip_options, title
from sdv_constrained_diffusion.power.tables import BASE, FLOWS, JOIN, WIDE, columns

INJECTING = ('ext_grid', 'gen', 'load', 'sgen', 'storage', 'motor', 'asymmetric_load', 'asymmetric_sgen', 'dcline')
"""Elements that an operating point's injections stand for."""


class Bench:
    """A copy of a network, in one topology, that pandapower solves for given set-points.

    An external grid is at every slack node, a generator at every PV node, a static generator at every other. Shunts
    stay, and so does the constant impedance of wards.

    Attributes:
        net: the copy.
        grid: the network's data in its base topology.
        slack: the nodes whose voltage is given.
        pv: the nodes whose active power and magnitude are given.
        pq: the nodes whose powers are given.
    """

    def __init__(
        self,
        net: Any,
        grid: Grid,
        who: str,
        topology: str = BASE,
        kind: Int[np.ndarray, ' node'] | None = None,
    ) -> None:
        """Builds the copy.

        Args:
            net: a `pandapowerNet`, left as it is.
            grid: its data.
            who: the caller, for messages.
            topology: `BASE`, or what is out of service, such as 'line_3' or 'line_3+trafo_0'.
            kind: shape (node,), kinds of the nodes by what is given there; those of the grid when None.

        Raises:
            GridError: the network has no such branch.
            MissingExtraError: pandapower is not installed.
        """
        self._pandapower = import_pandapower(who)
        self.grid = grid
        kind = grid.kind if kind is None else kind
        self.slack, self.pv, self.pq = (np.flatnonzero(kind == each) for each in (SLACK, PV, PQ))
        self.net = strip_options(copy.deepcopy(net))
        for element in INJECTING:
            self.net[element] = self.net[element].iloc[:0]
        self.net.ward[['ps_mw', 'qs_mvar']] = 0.0
        if topology != BASE:
            _take_out(self.net, topology, who)
        at = np.array(grid.buses)[grid.representative]
        for node in self.slack:
            self._pandapower.create_ext_grid(self.net, at[node])
        if len(self.pv):
            self._pandapower.create_gens(self.net, at[self.pv], p_mw=0.0)
        if len(self.pq):
            self._pandapower.create_sgens(self.net, at[self.pq], p_mw=0.0)

    def solve(self, setpoints: Float[np.ndarray, 'quantity node'], tolerance_mva: float) -> bool:
        """Runs pandapower's power flow with the set-points of one operating point.

        It starts at 1 p.u. and the angles of a DC power flow, or of 0 degrees where that fails. (Angles of 0 first
        would lead to low-voltage solutions behind transformers that turn the phase by 150 degrees.)

        Args:
            setpoints: `tables.WIDE` of every node; of each node only what is given there counts.
            tolerance_mva: the largest mismatch, in MVA, at which the power flow stops.

        Returns:
            whether it converged; the results are in `net`.
        """
        p_mw, q_mvar, vm_pu, va_degree = setpoints
        self.net.ext_grid['vm_pu'], self.net.ext_grid['va_degree'] = vm_pu[self.slack], va_degree[self.slack]
        self.net.gen['p_mw'], self.net.gen['vm_pu'] = p_mw[self.pv], vm_pu[self.pv]
        self.net.sgen['p_mw'], self.net.sgen['q_mvar'] = p_mw[self.pq], q_mvar[self.pq]
        return self._runpp('dc', tolerance_mva) or self._runpp('flat', tolerance_mva)

    def solution(self) -> Float[np.ndarray, 'quantity bus']:
        """What the power flow found: `tables.WIDE` of every bus, NaN where a bus has no voltage."""
        found = result_row(self.net).reindex(columns=columns(self.grid.buses))
        return found.to_numpy(dtype='float64').reshape(len(WIDE), -1)

    def flows(self) -> pd.DataFrame:
        """What the power flow found of the branches in service: one row, `tables.FLOWS`."""
        return result_row(self.net, FLOWS)

    def _runpp(self, init: str, tolerance_mva: float) -> bool:
        try:
            self._pandapower.runpp(
                self.net,
                calculate_voltage_angles=True,
                init=init,
                max_iteration=30,
                tolerance_mva=tolerance_mva,
                numba=False,
                lightsim2grid=False,
            )
        except self._pandapower.LoadflowNotConverged:
            return False
        return True


def sums_per_node(per_bus: Float[np.ndarray, 'row bus'], grid: Grid) -> Float[np.ndarray, 'row node']:
    """Sums over the buses that closed switches join to a node."""
    summed = np.zeros((len(per_bus), len(grid.y_bus)))
    np.add.at(summed.T, grid.node, per_bus.T)
    return summed


def _take_out(net: Any, topology: str, who: str) -> None:
    """Sets branches out of service."""
    for label in topology.split(JOIN):
        table, _, index = label.rpartition('_')
        if table not in ENDS or not index.isdecimal() or int(index) not in net[table].index:
            examples = [f'{each}_{net[each].index[0]}' for each in ENDS if len(net[each])]
            raise GridError(
                f'{who} needs topologies that name a branch of {title(net)}, but got {label!r}. Write {BASE!r} where '
                f'nothing is out of service, else labels such as {", ".join(map(repr, examples))}; several are joined '
                f'by {JOIN!r}.'
            )
        net[table].loc[int(index), 'in_service'] = False
