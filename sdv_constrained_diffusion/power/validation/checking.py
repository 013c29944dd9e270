"""An independent check of finished rows: do other power-flow programs come to the same operating points?"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.operating_points import OperatingPoints
from sdv_constrained_diffusion.power.tables import WIDE
from sdv_constrained_diffusion.power.validation.bench import Bench, sums_per_node
from sdv_constrained_diffusion.power.validation.newton_peer import NewtonPeer, import_lightsim2grid

ERRORS = tuple(f'error_{quantity}' for quantity in WIDE)
"""Columns of the largest differences between a solution and a row, in MW, Mvar, p.u. and degrees."""

FLOW_ERRORS = ('error_flow', 'error_loading_percent')
"""The same of branches, where the table has their flows: in MW or Mvar, and in percent of the rating."""

CHUNK_ROWS = 256
"""Rows whose voltages the compiled solver's side holds at a time."""


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
    active power and magnitude at the nodes with a generator, both powers at all others. It never starts at the row's
    own voltages. What it finds for the rest, the slack's power and the generators' reactive power included, must be
    what the row says. (How several generators at one node share its power is no matter of power flow.)

    Args:
        net: the `pandapowerNet` whose equations the rows should obey, left as it is.
        rows: columns of the quantities `tables.WIDE` or `tables.APART`, in MW, Mvar, p.u. and degrees; without any
            `va_degree`, the slacks' angles are the network's. A column `topology` may name, row by row, the branch that
            is out of service ('line_3'), or 'base'.
        num_rows: how many rows to check, drawn without replacement; all of them when None or more than there are.
        seed: seed of the draw.
        columns: from the standard name of a column to the table's own, as in `PowerFlow`.
        tolerance_mva: the largest mismatch, in MVA, at which the power flow stops.

    Returns:
        one row for each row checked, under its index: `converged`, and the largest absolute difference between
        solution and row over all nodes (powers) and buses (voltages): `error_p_mw`, `error_q_mvar`, `error_vm_pu`,
        `error_va_degree` (modulo full turns; only if the table has angles). If it has columns of `tables.FLOWS`, then
        also `error_flow` in MW or Mvar and `error_loading_percent` over all of those; a branch that is out of service
        has none, 0 or NaN. The differences are NaN where `runpp` did not converge or a value of the row is no finite
        number. pandapower divides reactive power among generators in steps of about 1e-7 Mvar, the floor of
        `error_q_mvar`.

    Raises:
        ColumnMissingError: `rows` lacks a column.
        GridError: as in `Grid.from_pandapower`, or a topology names no branch.
        MissingExtraError: pandapower is not installed.
    """
    who = 'verify_with_runpp'
    grid = Grid.from_pandapower(net)
    chosen = np.arange(len(rows))
    if num_rows is not None and num_rows < len(rows):
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), num_rows, replace=False))
    points = OperatingPoints.read(rows.iloc[chosen], grid, who, columns)
    setpoints = _per_node(points, grid)
    converged = np.zeros(len(chosen), dtype=bool)
    found = np.full((len(WIDE), len(chosen), len(grid.buses)), np.nan)
    flows = points.flows * np.nan
    for topology, members in _by_topology(points):
        bench = Bench(net, grid, who, topology)
        for row in members:
            if bench.solve(setpoints[:, row], tolerance_mva):
                converged[row], found[:, row] = True, bench.solution()
                if len(flows.columns):
                    flows.iloc[row] = bench.flows().reindex(columns=flows.columns).iloc[0]
    p_mw, q_mvar, vm_pu, va_degree = found
    solution = np.stack([sums_per_node(p_mw, grid), sums_per_node(q_mvar, grid)])
    return _report(points, grid, converged, solution, np.stack([vm_pu, va_degree]), flows)


def verify_with_lightsim2grid(
    net: Any,
    rows: pd.DataFrame,
    columns: Mapping[str, str] | None = None,
    tolerance_mva: float = 1e-8,
) -> pd.DataFrame:
    """Solves all rows anew with lightsim2grid's compiled Newton solver and compares the solutions with the rows.

    The set-points are those of `verify_with_runpp`, the admittances pandapower's own. Newton's method starts at the
    angles of a DC power flow, then at those of no load; never at the row's own voltages.

    Args:
        net: the `pandapowerNet` whose equations the rows should obey, left as it is.
        rows: as in `verify_with_runpp`.
        columns: from the standard name of a column to the table's own, as in `PowerFlow`.
        tolerance_mva: the largest mismatch, in MVA, at which Newton's method stops.

    Returns:
        one row for each row, as in `verify_with_runpp`.

    Raises:
        ColumnMissingError: `rows` lacks a column.
        GridError: as in `Grid.from_pandapower`; or a topology names no branch, or cuts off a bus.
        MissingExtraError: lightsim2grid or pandapower is not installed.
    """
    who = 'verify_with_lightsim2grid'
    import_lightsim2grid(who)
    grid = Grid.from_pandapower(net)
    points = OperatingPoints.read(rows, grid, who, columns)
    setpoints = _per_node(points, grid)
    converged = np.zeros(len(rows), dtype=bool)
    found = np.full_like(setpoints, np.nan)
    flows = points.flows * np.nan
    for topology, members in _by_topology(points):
        peer = NewtonPeer(net, grid, who, topology)
        for some in np.array_split(members, len(members) // CHUNK_ROWS + 1):
            converged[some], found[:, some], of_branches = peer.solve(setpoints[:, some], tolerance_mva)
            flows.iloc[some] = of_branches.reindex(columns=flows.columns).to_numpy()
    return _report(points, grid, converged, found[:2], found[2:, :, grid.node], flows)


def _per_node(points: OperatingPoints, grid: Grid) -> Float[np.ndarray, 'quantity row node']:
    """Injections summed per node, in MW and Mvar, and the voltage of its first bus, in p.u. and degrees."""
    p_mw, q_mvar = (sums_per_node(each, grid) for each in (points.p_mw, points.q_mvar))
    return np.stack([p_mw, q_mvar, *(each[:, grid.representative] for each in (points.vm_pu, points.va_degree))])


def _by_topology(points: OperatingPoints) -> Iterator[tuple[str, Int[np.ndarray, ' some']]]:
    """Each topology of the complete rows, and which rows have it."""
    for topology in dict.fromkeys(points.topology[points.complete].tolist()):
        yield topology, np.flatnonzero(points.complete & (points.topology == topology))


def _report(
    points: OperatingPoints,
    grid: Grid,
    converged: Bool[np.ndarray, ' row'],
    powers: Float[np.ndarray, '2 row node'],
    voltages: Float[np.ndarray, '2 row bus'],
    flows: pd.DataFrame,
) -> pd.DataFrame:
    """Largest differences of each row."""
    said = np.isin(np.arange(len(grid.y_bus)), grid.node[~points.said], invert=True)
    p_mw, q_mvar = powers - _per_node(points, grid)[:2]
    errors = [np.abs(p_mw), np.abs(q_mvar[:, said]), np.abs(voltages[0] - points.vm_pu)]
    if 'va_degree' in points.quantities:
        errors.append(np.abs((voltages[1] - points.va_degree + 180) % 360 - 180))
    largest = {name: error.max(axis=1) for name, error in zip(ERRORS, errors, strict=False)}
    report = pd.DataFrame({'converged': converged, **largest}, index=points.flows.index)
    loading = flows.columns.str.startswith('loading_percent')
    for name, some in zip(FLOW_ERRORS, (~loading, loading), strict=True):
        if some.any():
            report[name] = _of_flows(points.flows.loc[:, some], flows.loc[:, some]).where(converged)
    return report


def _of_flows(said: pd.DataFrame, found: pd.DataFrame) -> pd.Series:
    """Largest difference of each row; a branch that the solver has no flow of is out of service, with flow 0."""
    out = found.isna()
    return (said.where(~out, said.fillna(0.0)) - found.fillna(0.0)).abs().max(axis=1, skipna=False)
