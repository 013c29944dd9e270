"""What GridFM's files say of the network itself: limits, costs, branch parameters, admittances."""

import importlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power import nets
from sdv_constrained_diffusion.power.gridfm.layout import Layout

NO_VM_PU, NO_POWER, NO_RATE_MVA = (0.0, 2.0), 1e9, 99999.0
"""What stands for a limit that the network does not state: pandapower's own values in its OPF and its converter."""

Constants = dict[str, np.ndarray]
"""Columns of one of GridFM's files that are the same for every operating point: one number per bus, or branch, ..."""


@dataclass(frozen=True)
class Parameters:
    """Columns that only the network knows, not its `Grid`.

    Attributes:
        bus: vn_kv, min_vm_pu, max_vm_pu, GS, BS.
        gen: min_p_mw, ..., cp2_eur_per_mw2; by the generators of the grid.
        branch: r, x, b, tap, shift, ang_min, ang_max.
    """

    bus: Constants = field(default_factory=dict)
    gen: Constants = field(default_factory=dict)
    branch: Constants = field(default_factory=dict)

    @classmethod
    def of(cls, net: Any, layout: Layout, who: str) -> 'Parameters':
        """Reads pandapower's own conversion of a network, as `runpp` makes it.

        Args:
            net: the `pandapowerNet`, left as it is.
            layout: of its grid.
            who: the caller, for messages.

        Raises:
            GridError: the network is another than the grid's.
        """
        solved, grid = nets.solve(net, who), layout.grid
        known = (tuple(nets.energised(solved)), tuple(each.label for each in nets.generators(solved)))
        if known != (grid.buses, grid.generators):
            raise GridError(
                f'{who} needs the network that the grid was made from, but {nets.title(net)} has {len(known[0])} buses '
                f'and {len(known[1])} generators in service, the grid {len(grid.buses)} and {len(grid.generators)}, or '
                'other ones. Pass grid=Grid.from_pandapower(net).'
            )
        return cls(_buses(solved, layout), _generators(solved), _branches(solved, layout))


def branch_constants(layout: Layout) -> Constants:
    """Ends, admittances and ratings of the branches; a branch out of service has admittance 0 instead."""
    rating = 100 * layout.grid.sn_mva / layout.grid.loading_per_pu[layout.ends[0]]
    admittances = dict(zip(('Yff', 'Yft', 'Ytf', 'Ytt'), layout.admittances(), strict=True))
    from_bus, to_bus = layout.ends_at
    return {
        'idx': np.arange(len(layout.branches), dtype='float64'),
        'from_bus': from_bus,
        'to_bus': to_bus,
        **{f'{name}_r': y.real for name, y in admittances.items()},
        **{f'{name}_i': y.imag for name, y in admittances.items()},
        'rate_a': np.where(np.isnan(rating), NO_RATE_MVA, rating),
    }


def y_bus_entries(layout: Layout, out: Int[np.ndarray, ' some']) -> Constants:
    """The entries of the bus admittance matrix that are not zero, some branches taken out."""
    grid, y = layout.grid, layout.grid.y_bus.copy()
    nodes, admittances = grid.end_node[layout.ends], layout.admittances()
    for branch in out:
        at = np.ix_(nodes[:, branch], nodes[:, branch])
        before, taken = y[at], admittances[:, branch].reshape(2, 2)
        # Where nothing else joins the two, the difference is rounding.
        y[at] = np.where(np.abs(before - taken) < 1e-12 * np.abs(taken), 0, before - taken)
    at_bus = layout.number[grid.representative]
    row, col = np.nonzero(y)
    return {'index1': at_bus[row], 'index2': at_bus[col], 'G': y[row, col].real, 'B': y[row, col].imag}


def _buses(solved: Any, layout: Layout) -> Constants:
    grid, idx = layout.grid, importlib.import_module('pandapower.pypower.idx_bus')
    buses = solved.bus.loc[list(grid.buses)]
    model = solved._ppc['bus'][solved._pd2ppc_lookups['bus'][list(grid.buses)]]
    # The admittance of a node is written at its first bus.
    first = np.isin(np.arange(len(grid.buses)), grid.representative)
    lowest, highest = NO_VM_PU
    constants = {
        'vn_kv': buses['vn_kv'].to_numpy(dtype='float64'),
        'min_vm_pu': _numbers(buses, 'min_vm_pu', lowest),
        'max_vm_pu': _numbers(buses, 'max_vm_pu', highest),
        'GS': np.where(first, model[:, idx.GS] / grid.sn_mva, 0.0),
        'BS': np.where(first, model[:, idx.BS] / grid.sn_mva, 0.0),
    }
    return {name: values[layout.buses] for name, values in constants.items()}


def _generators(solved: Any) -> Constants:
    rows = []
    for each in nets.generators(solved):
        element, costs = solved[each.table].loc[[each.index]], solved.poly_cost
        cost = costs[(costs['et'] == each.table) & (costs['element'] == each.index)]
        limits = {
            f'{side}_{power}': _numbers(element, f'{side}_{power}', -NO_POWER if side == 'min' else NO_POWER)[0]
            for power in ('p_mw', 'q_mvar')
            for side in ('min', 'max')
        }
        terms = {name: float(cost[name].sum()) for name in ('cp0_eur', 'cp1_eur_per_mw', 'cp2_eur_per_mw2')}
        rows.append({**limits, **terms})
    return {name: values.to_numpy() for name, values in pd.DataFrame(rows).items()}


def _branches(solved: Any, layout: Layout) -> Constants:
    idx = importlib.import_module('pandapower.pypower.idx_brch')
    rows = {end.label: end.row for end in nets.branch_ends(solved)}
    model = solved._ppc['branch'][[rows[label] for label in layout.branch_labels]]
    names = {'r': 'BR_R', 'x': 'BR_X', 'b': 'BR_B', 'tap': 'TAP', 'shift': 'SHIFT'}
    columns = {name: model[:, getattr(idx, symbol)] for name, symbol in names.items()}
    return {**columns, 'ang_min': model[:, idx.ANGMIN], 'ang_max': model[:, idx.ANGMAX]}


def _numbers(table: pd.DataFrame, name: str, default: float) -> np.ndarray:
    """A column, the default where it has no number or is not there."""
    if name not in table:
        return np.full(len(table), default)
    return table[name].astype('float64').fillna(default).to_numpy()
