"""Newton power flow of all rows of a table by lightsim2grid's compiled solver, on pandapower's own admittances."""

import importlib
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Complex, Float
from scipy.sparse.linalg import splu

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power.grid import PQ, PV, SLACK, Grid
from sdv_constrained_diffusion.power.nets import energised, title
from sdv_constrained_diffusion.power.tables import WIDE
from sdv_constrained_diffusion.power.validation.bench import Bench
from sdv_constrained_diffusion.power.validation.peer_flows import PeerFlows

MAX_ITERATIONS = 30
"""Of Newton's method, from each start."""

NO_LOAD_TOLERANCE_MVA = 1e-6
"""Of the power flow without load, of which only the admittances and the angles count."""


class NewtonPeer:
    """A network in one topology, ready to be solved for many operating points.

    Inner nodes without a bus in the table, such as star points of three-winding transformers, are part of the problem,
    not eliminated: the admittances are those that `pandapower.runpp` itself uses. The solver (Donnot 2020,
    "Lightsim2grid") is C++ and shares no code with pandapower's or this package's Newton steps.

    Attributes:
        y_bus: shape (inner, inner), admittances per unit.
        at: shape (node,), the inner node of each node of the grid.
    """

    def __init__(self, net: Any, grid: Grid, who: str, topology: str) -> None:
        """Takes the admittances from pandapower's power flow without load, every node held at 1 p.u.

        Args:
            net: a `pandapowerNet`, left as it is.
            grid: its data.
            who: the caller, for messages.
            topology: `BASE`, or the label of the branch that is out of service.

        Raises:
            GridError: there is no such branch, or a bus is cut off from every slack.
            MissingExtraError: lightsim2grid is not installed.
        """
        self._algorithm = import_lightsim2grid(who)
        bench = Bench(net, grid, who, topology, kind=np.where(grid.kind == SLACK, SLACK, PV))
        no_load = np.zeros((len(WIDE), len(grid.y_bus)))
        no_load[WIDE.index('vm_pu')] = 1.0
        solved = bench.solve(no_load, NO_LOAD_TOLERANCE_MVA)
        internal = bench.net['_ppc']['internal'] if solved else {}
        if 'Bbus' not in internal:
            raise GridError(
                f'{who} needs a network that pandapower can solve without load, to read its admittances, but '
                f'{title(net)} in topology {topology!r} has no such solution. pandapower.diagnostic(net) lists the '
                'usual causes.'
            )
        cut_off = sorted(set(grid.buses) - set(energised(bench.net)))
        if cut_off:
            raise GridError(
                f'{who} needs topologies that leave every bus connected to a slack, but {topology!r} cuts off the '
                f'buses {", ".join(map(str, cut_off))} of {title(net)}. Remove the rows of that topology.'
            )
        self.y_bus, self._b_bus = sp.csc_matrix(internal['Ybus']), sp.csc_matrix(internal['Bbus'])
        self._base_mva = float(internal['baseMVA'])
        self.at = bench.net['_pd2ppc_lookups']['bus'][np.array(grid.buses)[grid.representative]]
        self._slack, self._given = np.flatnonzero(grid.kind == SLACK), np.flatnonzero(grid.kind != PQ)
        self._no_load = np.exp(1j * np.angle(internal['V']))
        self._flows = PeerFlows(bench.net)

    def solve(
        self, setpoints: Float[np.ndarray, 'quantity row node'], tolerance_mva: float
    ) -> tuple[Bool[np.ndarray, ' row'], Float[np.ndarray, 'quantity row node'], pd.DataFrame]:
        """Solves operating points from their set-points.

        Args:
            setpoints: `tables.WIDE` of every row and node; of each node only what is given there counts.
            tolerance_mva: the largest mismatch, in MVA, at which Newton's method stops.

        Returns:
            which rows converged; and of their solutions, NaN where there is none, `tables.WIDE` of the nodes and
            `tables.FLOWS` of the branches in service.
        """
        p_mw, q_mvar, vm_pu, va_degree = setpoints
        s = np.zeros((len(p_mw), len(self._no_load)), dtype=complex)
        s[:, self.at] = (p_mw + 1j * np.nan_to_num(q_mvar)) / self._base_mva
        flat = self._flat(vm_pu, va_degree)
        dc = self._dc(flat, s)
        converged = np.zeros(len(s), dtype=bool)
        v = np.full(s.shape, np.nan, dtype=complex)
        solver, nodes = self._algorithm.NRSing_SparseLU(), self._nodes()
        for row in np.flatnonzero(np.isfinite(dc).all(axis=1) & np.isfinite(s).all(axis=1)):
            for start in (dc[row], flat[row]):
                converged[row] = solver.solve(
                    self.y_bus, start.copy(), s[row], *nodes, MAX_ITERATIONS, tolerance_mva / self._base_mva
                )
                if converged[row]:
                    v[row] = solver.get_V()
                    break
        power = self._base_mva * (v * np.conj((self.y_bus @ v.T).T))[:, self.at]
        v_at = v[:, self.at]
        solution = np.stack([power.real, power.imag, np.abs(v_at), np.rad2deg(np.angle(v_at))])
        return converged, solution, self._flows.at(v)

    def _nodes(self) -> tuple[np.ndarray, ...]:
        """As the solver asks for them: slack nodes, their shares in a distributed slack, PV nodes, PQ nodes."""
        slack, given = self.at[self._slack], self.at[self._given]
        shares = np.zeros(len(self._no_load))
        shares[slack] = 1 / len(slack)
        pq = np.setdiff1d(np.arange(len(shares)), given)
        return slack.astype(np.int32), shares, np.setdiff1d(given, slack).astype(np.int32), pq.astype(np.int32)

    def _flat(self, vm_pu: np.ndarray, va_degree: np.ndarray) -> Complex[np.ndarray, 'row inner']:
        """Given magnitudes, 1 p.u. elsewhere; the angles of no load, turned by the first slack's, and given angles."""
        angle = np.exp(1j * np.deg2rad(va_degree[:, self._slack]))
        v = angle[:, :1] * self._no_load
        v[:, self.at[self._given]] *= vm_pu[:, self._given]
        v[:, self.at[self._slack]] = angle * vm_pu[:, self._slack]
        return v

    def _dc(self, flat: np.ndarray, s: np.ndarray) -> Complex[np.ndarray, 'row inner']:
        """The angles of a DC power flow, `theta = theta_no_load + B^-1 P` with pandapower's B (Stott et al. 2009)."""
        free = np.setdiff1d(np.arange(len(self._no_load)), self.at[self._slack])
        turned = flat.copy()
        turned[:, free] *= np.exp(1j * splu(self._b_bus[free][:, free]).solve(s.real[:, free].T).T)
        return turned


def import_lightsim2grid(who: str) -> Any:
    """Imports lightsim2grid's solvers on first use.

    Args:
        who: the feature that needs it, for the message.

    Raises:
        MissingExtraError: lightsim2grid is not installed.
    """
    try:
        return importlib.import_module('lightsim2grid.algorithm')
    except ModuleNotFoundError as error:
        if error.name != 'lightsim2grid':
            raise
        raise MissingExtraError.of(who, 'lightsim2grid', 'validation') from error
