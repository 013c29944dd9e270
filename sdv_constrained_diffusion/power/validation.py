"""An independent check of finished rows: does pandapower's own power flow come to the same operating point?"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.nets import import_pandapower, result_row, strip_options
from sdv_constrained_diffusion.power.tables import WIDE, columns

INJECTING = ('ext_grid', 'gen', 'load', 'sgen', 'storage', 'motor', 'asymmetric_load', 'asymmetric_sgen', 'dcline')
"""Elements that a row's injections stand for."""


def verify_with_runpp(
    net: Any,
    rows: pd.DataFrame,
    num_rows: int | None = 50,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    tolerance_mva: float = 1e-9,
) -> pd.DataFrame:
    """Solves rows anew with `pandapower.runpp` and compares the solution with the row.

    The power flow is given what a dispatcher would set, and nothing else: magnitude and angle at the slack nodes,
    `p_mw` and `vm_pu` at the nodes with a generator, `p_mw` and `q_mvar` at all others. It never starts at the row's
    own voltages, but at 1 p.u. and the angles of a DC power flow, or of 0 degrees where that fails. (Angles of 0 first
    would lead to low-voltage solutions behind transformers that turn the phase by 150 degrees.) What the power flow
    finds for the rest, the slack's power and the generators' `q_mvar` included, must be what the row says.

    Args:
        net: the `pandapowerNet` whose equations the rows should obey, left as it is.
        rows: wide table with the columns `tables.columns(grid.buses)`, in MW, Mvar, p.u. and degrees.
        num_rows: how many rows to check, drawn without replacement; all of them when None or more than there are.
        seed: seed of the draw.
        columns: from the standard name of a column to the table's own, as in `PowerFlow`.
        tolerance_mva: the largest mismatch, in MVA, at which the power flow stops.

    Returns:
        one row for each row checked, under its index: `converged`, and the largest absolute difference between
        solution and row over all nodes (powers) and buses (voltages): `error_p_mw`, `error_q_mvar`, `error_vm_pu`,
        `error_va_degree` (modulo full turns). The differences are NaN where `runpp` did not converge. pandapower
        divides reactive power among generators in steps of about 1e-7 Mvar, which is the floor of `error_q_mvar`.

    Raises:
        ColumnMissingError: `rows` lacks a column.
        GridError: as in `Grid.from_pandapower`.
        MissingExtraError: pandapower is not installed.
    """
    who = 'verify_with_runpp'
    pandapower = import_pandapower(who)
    constraint = PowerFlow(Grid.from_pandapower(net), columns)
    constraint.require(rows.columns)
    chosen = np.arange(len(rows))
    if num_rows is not None and num_rows < len(rows):
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), num_rows, replace=False))
    values = rows[list(constraint.columns)].to_numpy(dtype='float64')[chosen]
    bench = _Bench(pandapower, net, constraint.grid, tolerance_mva)
    report = pd.DataFrame([bench.compare(row) for row in values], index=rows.index[chosen], columns=_Bench.REPORT)
    return report.astype({'converged': bool})


class _Bench:
    """A copy of the network in which a row's values replace everything that injects power; built once."""

    REPORT = ('converged', *(f'error_{quantity}' for quantity in WIDE))

    def __init__(self, pandapower: Any, net: Any, grid: Grid, tolerance_mva: float) -> None:
        self.pandapower, self.grid, self.tolerance_mva = pandapower, grid, tolerance_mva
        self.slack, self.pv, self.pq = _node_types(net, grid)
        self.net = strip_options(copy.deepcopy(net))
        for element in INJECTING:
            self.net[element] = self.net[element].iloc[:0]
        # The row's injections hold the wards' constant power; their constant impedance is part of the network.
        self.net.ward[['ps_mw', 'qs_mvar']] = 0.0
        at = np.array(grid.buses)[grid.representative]
        for node in self.slack:
            pandapower.create_ext_grid(self.net, at[node])
        if len(self.pv):
            pandapower.create_gens(self.net, at[self.pv], p_mw=0.0)
        if len(self.pq):
            pandapower.create_sgens(self.net, at[self.pq], p_mw=0.0)

    def compare(self, row: np.ndarray) -> tuple[Any, ...]:
        """Solves one row; its values in the order of `tables.columns(grid.buses)`."""
        p_mw, q_mvar, vm_pu, va_degree = row.reshape(len(WIDE), -1)
        if not (np.isfinite(row).all() and self._solve(row)):
            return (False, *[np.nan] * len(WIDE))
        solution = result_row(self.net)[columns(self.grid.buses)].to_numpy()
        p, q, vm, va = solution.reshape(len(WIDE), -1)
        return (
            True,
            np.abs(self._sum_per_node(p - p_mw)).max(),
            np.abs(self._sum_per_node(q - q_mvar)).max(),
            np.abs(vm - vm_pu).max(),
            np.abs((va - va_degree + 180) % 360 - 180).max(),
        )

    def _solve(self, row: np.ndarray) -> bool:
        p_mw, q_mvar, vm_pu, va_degree = row.reshape(len(WIDE), -1)
        p, q = self._sum_per_node(p_mw), self._sum_per_node(q_mvar)
        vm, va = vm_pu[self.grid.representative], va_degree[self.grid.representative]
        self.net.ext_grid['vm_pu'], self.net.ext_grid['va_degree'] = vm[self.slack], va[self.slack]
        self.net.gen['p_mw'], self.net.gen['vm_pu'] = p[self.pv], vm[self.pv]
        self.net.sgen['p_mw'], self.net.sgen['q_mvar'] = p[self.pq], q[self.pq]
        return self._runpp('dc') or self._runpp('flat')

    def _runpp(self, init: str) -> bool:
        try:
            self.pandapower.runpp(
                self.net,
                calculate_voltage_angles=True,
                init=init,
                max_iteration=30,
                tolerance_mva=self.tolerance_mva,
                numba=False,
                lightsim2grid=False,
            )
        except self.pandapower.LoadflowNotConverged:
            return False
        return True

    def _sum_per_node(self, per_bus: np.ndarray) -> np.ndarray:
        return np.bincount(self.grid.node, weights=per_bus, minlength=len(self.grid.y_bus))


def _node_types(net: Any, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nodes whose voltage is given, those whose active power and magnitude are given, and the others."""

    def nodes_of(table: pd.DataFrame, *bus_columns: str) -> np.ndarray:
        buses = table.loc[table['in_service'].astype(bool), list(bus_columns)].to_numpy().ravel()
        return grid.node[np.isin(grid.buses, buses)]

    slack = np.union1d(nodes_of(net.ext_grid, 'bus'), nodes_of(net.gen[net.gen['slack'].astype(bool)], 'bus'))
    regulated = np.union1d(nodes_of(net.gen, 'bus'), nodes_of(net.dcline, 'from_bus', 'to_bus'))
    pv = np.setdiff1d(regulated, slack)
    pq = np.setdiff1d(np.arange(len(grid.y_bus)), np.union1d(slack, pv))
    return slack, pv, pq
