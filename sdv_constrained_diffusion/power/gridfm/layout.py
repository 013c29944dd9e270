"""Names in GridFM's files, and which of a grid's elements stand at which place there."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Complex, Float, Int

from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.tables import BASE, JOIN

BUS, GEN, BRANCH, Y_BUS = 'bus_data.parquet', 'gen_data.parquet', 'branch_data.parquet', 'y_bus_data.parquet'
NUM_SCENARIOS = 'n_scenarios.txt'
LOAD, ROW, NAMES = 'load_data.parquet', 'row_data.parquet', 'names.json'
SCENARIO = '__scenario__'

UNFINISHED = '.unfinished-'
"""How the name of a folder begins that files are written to, until all of them are complete."""

FLOW_NAMES = {'p_from_mw': 'pf', 'q_from_mvar': 'qf', 'p_to_mw': 'pt', 'q_to_mvar': 'qt'}
"""GridFM's names of the flows of a branch."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The places of a grid's elements in GridFM's files.

    Attributes:
        grid: the network's data.
        buses: shape (bus,), the position in `grid.buses` of GridFM's bus 0, 1, ...
        branches: shape (branch,), the position in `grid.branches` of GridFM's branch 0, 1, ...: those with both ends at
            buses.
        ends: shape (2, branch), the rows of `grid.y_ends` of their 'from' and 'to' ends.
    """

    grid: Grid
    buses: Int[np.ndarray, ' bus']
    branches: Int[np.ndarray, ' branch']
    ends: Int[np.ndarray, '2 branch']

    @classmethod
    def of(cls, grid: Grid) -> 'Layout':
        """Orders the elements of a grid."""
        ends = np.full((2, len(grid.branches)), -1)
        ends[grid.end_side, grid.end_branch] = np.arange(len(grid.end_branch))
        branches = np.flatnonzero((ends >= 0).all(axis=0))
        return cls(grid, np.argsort(grid.buses), branches, ends[:, branches])

    @property
    def number(self) -> Int[np.ndarray, ' bus']:
        """GridFM's number of each bus, in the order of `grid.buses`."""
        return np.argsort(self.buses)

    @property
    def ends_at(self) -> Int[np.ndarray, '2 branch']:
        """GridFM's numbers of the buses at the branches' ends: the first bus of each end's node."""
        return self.number[self.grid.representative][self.grid.end_node[self.ends]]

    @property
    def branch_labels(self) -> list[str]:
        """Labels of GridFM's branches."""
        return [self.grid.branches[place] for place in self.branches]

    @property
    def names(self) -> dict[str, list[Any]]:
        """What GridFM's numbers stand for: pandapower's ids of the buses, in the grid's order, and labels."""
        grid = self.grid
        elements = {'loads': [*grid.loads], 'generators': [*grid.generators], 'branches': self.branch_labels}
        return {'buses': [*grid.buses], **elements}

    def admittances(self) -> Complex[np.ndarray, '4 branch']:
        """Yff, Yft, Ytf, Ytt of the branches, per unit."""
        nodes, y = self.grid.end_node[self.ends], self.grid.y_ends
        return np.stack([np.asarray(y[self.ends[end], nodes[other]]).ravel() for end in (0, 1) for other in (0, 1)])

    def out_of_service(self, topology: str) -> Int[np.ndarray, ' some'] | None:
        """Which of GridFM's branches a topology takes out; None where one is not among them."""
        labels = [] if topology == BASE else topology.split(JOIN)
        known = {label: place for place, label in enumerate(self.branch_labels)}
        if not known.keys() >= set(labels):
            return None
        return np.array([known[label] for label in labels], dtype=np.int64)

    def flows(
        self, vm_pu: Float[np.ndarray, 'row bus'], va_degree: Float[np.ndarray, 'row bus']
    ) -> dict[str, Float[np.ndarray, 'row branch']]:
        r"""What enters the branches at either end, $V \overline{Y V}$, in MW and Mvar by GridFM's names.

        Args:
            vm_pu: voltage magnitudes, p.u.
            va_degree: voltage angles, degrees.
        """
        grid = self.grid
        v = (vm_pu * np.exp(1j * np.deg2rad(va_degree)))[:, grid.representative]
        s = grid.sn_mva * v[:, grid.end_node] * np.conj((grid.y_ends @ v.T).T)
        s_from, s_to = s[:, self.ends[0]], s[:, self.ends[1]]
        return {'pf': s_from.real, 'qf': s_from.imag, 'pt': s_to.real, 'qt': s_to.imag}
