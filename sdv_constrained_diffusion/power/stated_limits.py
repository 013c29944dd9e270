"""The limits that a pandapower network states: those that its optimal power flow is given."""

from typing import Any

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.implied import APPARENT
from sdv_constrained_diffusion.power.tables import FlowLimit, column

IN_PANDAPOWER = {'vm_pu': 'vm_pu', 'pg_mw': 'p_mw', 'qg_mvar': 'q_mvar'}
"""Quantities that have limits of their own, and what pandapower calls them in `min_...` and `max_...`."""


def stated_limits(net: Any, grid: Grid, flow_limit: FlowLimit) -> dict[str, tuple[float, float]]:
    """Lower and upper limits by the standard names of `OperatingLimits`, infinite where the network states none.

    Args:
        net: a `pandapowerNet`.
        grid: its data.
        flow_limit: what a branch's rating limits.
    """
    return {**_of_voltages(net, grid), **_of_generators(net, grid), **_of_branches(net, grid, flow_limit)}


def _band(table: pd.DataFrame, index: int, quantity: str) -> tuple[float, float]:
    """Limits of one element's quantity, infinite where pandapower has none."""
    name = IN_PANDAPOWER[quantity]
    low, high = (
        float(table[f'{side}_{name}'].get(index, np.nan)) if f'{side}_{name}' in table else np.nan
        for side in ('min', 'max')
    )
    return (-np.inf if np.isnan(low) else low), (np.inf if np.isnan(high) else high)


def _of_voltages(net: Any, grid: Grid) -> dict[str, tuple[float, float]]:
    """The bands of buses; generators set narrower ones, also for the buses that closed switches join to theirs."""
    bands = {bus: _band(net.bus, bus, 'vm_pu') for bus in grid.buses}
    node_of = dict(zip(grid.buses, grid.node.tolist(), strict=True))
    for index in net.gen.index[net.gen['in_service'].astype(bool)]:
        narrow = _band(net.gen, index, 'vm_pu')
        for bus, (low, high) in bands.items():
            if node_of[bus] == node_of.get(net.gen.at[index, 'bus']):
                # What lies beyond the bus's own band does not count.
                bands[bus] = (
                    narrow[0] if low <= narrow[0] <= high else low,
                    narrow[1] if low <= narrow[1] <= high else high,
                )
    return {column('vm_pu', str(bus)): band for bus, band in bands.items()}


def _of_generators(net: Any, grid: Grid) -> dict[str, tuple[float, float]]:
    """Ranges of what an optimal power flow dispatches, and q of generators whose p it leaves as it is."""
    found: dict[str, tuple[float, float]] = {}
    for label in grid.generators:
        kind, _, index = label.rpartition('_')
        dispatched = kind == 'ext_grid' or _controllable(net, kind, int(index))
        for quantity in ('pg_mw', 'qg_mvar'):
            if dispatched or (kind == 'gen' and quantity == 'qg_mvar'):
                found[column(quantity, label)] = _band(net[kind], int(index), quantity)
    return found


def _controllable(net: Any, kind: str, index: int) -> bool:
    """As `runopp` reads it: generators are unless they say otherwise, others only if they say so."""
    said = net[kind]['controllable'].get(index) if 'controllable' in net[kind] else None
    return kind == 'gen' if pd.isna(said) else bool(said)


def _of_branches(net: Any, grid: Grid, flow_limit: FlowLimit) -> dict[str, tuple[float, float]]:
    """Ratings of lines and transformers with a `max_loading_percent`, as pandapower's optimal power flow reads them.

    Of a three-winding transformer that is the rating of each winding.
    """
    found: dict[str, tuple[float, float]] = {}
    for label in grid.branches:
        table, index, *winding = label.split('_')
        if 'max_loading_percent' not in net[table]:
            continue
        element = net[table].loc[int(index)]
        share = float(element['max_loading_percent'])
        rating_mva = _rating_mva(net, table, element, *winding)
        # Zero is pandapower's word for no limit.
        if share > 0 and rating_mva > 0:
            quantity, limit = {
                'current': ('loading_percent', share),
                'apparent': (APPARENT, share / 100 * rating_mva),
            }[flow_limit]
            found[column(quantity, label)] = (-np.inf, limit)
    return found


def _rating_mva(net: Any, table: str, element: pd.Series, winding: str = '') -> float:
    if table == 'line':
        kv = net.bus.at[element['from_bus'], 'vn_kv']
        return float(np.sqrt(3) * kv * element['max_i_ka'] * element['df'] * element['parallel'])
    if table == 'trafo':
        return float(element['sn_mva'] * element['df'] * element['parallel'])
    return float(element[f'sn_{winding}_mva']) if winding else np.nan
