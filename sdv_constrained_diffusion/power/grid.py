"""A pandapower network as the data of its equations: the bus admittance matrix and the names of its buses.

Everything that needs pandapower gets it here, on first use. Importing this module does not import it, and a `Grid`
is plain data that lives and pickles without it.
"""

import copy
import importlib
from collections.abc import Hashable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Complex, Int

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power.tables import columns

MODEL_OPTIONS = ('trafo_model', 'trafo3w_losses', 'switch_rx_ratio', 'consider_line_temperature')
"""pandapower's user options that shape the admittances; the others choose a solver or an operating point."""

UNSUPPORTED = {
    'xward': 'Replace them with pandapower.toolbox.replace_xward_by_internal_elements(net).',
    'svc': 'Replace them with shunts of fixed admittance, or set them out of service.',
    'tcsc': 'Replace them with impedances of fixed reactance, or set them out of service.',
    'ssc': 'Replace them with generators, or set them out of service.',
    'vsc': 'Replace them with generators or static generators, or set them out of service.',
    'vsc_stacked': 'Replace them with generators or static generators, or set them out of service.',
    'vsc_bipolar': 'Replace them with generators or static generators, or set them out of service.',
}
"""Elements whose inner state is neither an admittance nor an injection at a bus of the table; and the way out."""


GENERATING = ('ext_grid', 'gen', 'sgen', 'asymmetric_sgen')
CONSUMING = ('load', 'storage', 'motor', 'asymmetric_load')
"""Elements that inject power at one bus, by the sign of their results; wards and DC lines come on top."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A network in one state of its switches and taps: `I = Y V` per unit, and which bus of the table is which node.

    A node is a set of buses joined by closed switches. Buses that are out of service do not appear.

    Attributes:
        name: the network's name, for messages.
        sn_mva: base power; one per unit of `y_bus` times squared voltage is `sn_mva` MW.
        buses: pandapower's ids of the buses that have columns, in the order of `net.bus`.
        node: shape (bus,), the row of `y_bus` that each bus belongs to.
        y_bus: shape (node, node), admittances per unit, shunts and line charging included.
    """

    name: str
    sn_mva: float
    buses: tuple[int, ...]
    node: Int[np.ndarray, ' bus']
    y_bus: Complex[np.ndarray, 'node node']

    @property
    def representative(self) -> Int[np.ndarray, ' node']:
        """Shape (node,): the position in `buses` of each node's first bus, whose voltage is the node's."""
        return np.unique(self.node, return_index=True)[1]

    @property
    def fused(self) -> Int[np.ndarray, ' fused']:
        """Shape (fused,): the positions in `buses` of the buses that share a node with an earlier one."""
        return np.setdiff1d(np.arange(len(self.buses)), self.representative)

    @classmethod
    def from_pandapower(cls, net: Any) -> 'Grid':
        """Reads pandapower's own conversion of a network.

        Inner nodes without a bus in the table (the star point of a three-winding transformer, the open end of a
        line) carry no injection; they are eliminated exactly, `Y - Y_ab Y_bb^-1 Y_ba` (Kron 1939).

        Args:
            net: a `pandapowerNet`, left as it is: the power flow runs on a copy.

        Returns:
            the grid, with the switches, taps and services of `net`.

        Raises:
            GridError: a bus in service has no connection to a slack, the power flow fails, or an element has no
                admittance that is independent of the operating point.
            MissingExtraError: pandapower is not installed.
        """
        solved = solve(net, who='Grid.from_pandapower')
        internal = solved['_ppc']['internal']
        if internal['Ybus'].shape[0] == 0:
            raise GridError(
                f'Grid.from_pandapower needs a bus besides the slacks, but every bus of {_title(net)} is a slack. '
                'Add the buses that the slacks supply.'
            )
        buses = energised(solved)
        inner = solved['_pd2ppc_lookups']['bus'][buses]
        kept, node = np.unique(inner, return_inverse=True)
        return cls(
            name=str(net.name or ''),
            sn_mva=float(internal['baseMVA']),
            buses=tuple(int(bus) for bus in buses),
            node=node.astype(np.int64),
            y_bus=_kron(internal['Ybus'].toarray(), kept),
        )

    def to_dict(self) -> dict[str, Any]:
        """The grid as plain lists and numbers, ready for JSON; `from_dict` reads it back."""
        return {
            'name': self.name,
            'sn_mva': self.sn_mva,
            'buses': list(self.buses),
            'node': self.node.tolist(),
            'y_bus_real': self.y_bus.real.tolist(),
            'y_bus_imag': self.y_bus.imag.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> 'Grid':
        """Reads what `to_dict` wrote."""
        return cls(
            name=data['name'],
            sn_mva=float(data['sn_mva']),
            buses=tuple(data['buses']),
            node=np.array(data['node'], dtype=np.int64),
            y_bus=np.array(data['y_bus_real']) + 1j * np.array(data['y_bus_imag']),
        )


def solved_row(net: Any, tolerance_mva: float = 1e-8) -> pd.DataFrame:
    """Solves a network's power flow on a copy and gives the operating point as a row of the wide table.

    Args:
        net: a `pandapowerNet`, left as it is.
        tolerance_mva: the largest mismatch, in MVA, at which the power flow stops.

    Returns:
        one row with the columns `tables.columns(grid.buses)`, in MW, Mvar, p.u. and degrees.

    Raises:
        GridError: as in `Grid.from_pandapower`.
        MissingExtraError: pandapower is not installed.
    """
    return result_row(solve(net, who='solved_row', tolerance_mva=tolerance_mva))


def result_row(net: Any) -> pd.DataFrame:
    """Reads the results that a network already holds, of `runpp` or `runopp`, as a row of the wide table.

    An injection is summed from the elements' own results, `sum GENERATING - sum CONSUMING` per bus. Shunts and the
    constant-impedance part `pz_mw vm_pu^2` of wards are left out: Y-bus holds them. (So `p_mw` is
    `-(res_bus.p_mw - shunts - wards' pz_mw vm_pu^2)`, save that pandapower 3.5 leaves DC lines out of `res_bus`.)

    pandapower applies the voltage dependence of a load to all constant power at its bus. Where such a load has a
    neighbour at its bus that does not share its percentages, the results do not satisfy the network's equations.

    Args:
        net: a `pandapowerNet` with results; `runpp` must have calculated voltage angles, as it does by default.

    Returns:
        one row with the columns `tables.columns` of the buses in service, in MW, Mvar, p.u. and degrees.

    Raises:
        GridError: the network holds no results.
    """
    buses = energised(net)
    if buses.empty:
        raise GridError(
            f'result_row needs a solved network, but {_title(net)} holds no bus voltages. Run pandapower.runpp or '
            'runopp first, or call solved_row(net).'
        )
    voltage = net.res_bus.loc[buses]
    injections = [_injection(net, power).reindex(buses, fill_value=0.0) for power in ('p', 'q')]
    values = np.concatenate([*injections, voltage['vm_pu'], voltage['va_degree']])
    return pd.DataFrame(values[None], columns=columns(buses.tolist()))


def solve(net: Any, who: str, **options: Any) -> Any:
    """Runs pandapower's power flow on a copy.

    Of the network's own user options only those that shape its admittances are kept: reactive limits or a distributed
    slack choose another operating point, not another network.

    Args:
        net: a `pandapowerNet`, left as it is.
        who: the caller, for messages.
        options: passed on to `pandapower.runpp`.

    Returns:
        the solved copy.

    Raises:
        GridError: as in `Grid.from_pandapower`.
        MissingExtraError: pandapower is not installed.
    """
    pandapower = import_pandapower(who)
    solved = strip_options(copy.deepcopy(net))
    _reject_unsupported(solved, who)
    try:
        # numba's compilation costs more than it saves here, and asking for it where it is missing logs a warning.
        pandapower.runpp(solved, calculate_voltage_angles=True, numba=False, lightsim2grid=False, **options)
    except Exception as error:
        raise GridError(
            f'{who} needs a network whose power flow pandapower can solve, but pandapower.runpp failed for '
            f'{_title(net)}: {type(error).__name__}: {error} '
            'Check that a slack exists and that loads and set-points are within reach; pandapower.diagnostic(net) '
            'lists the usual causes.'
        ) from error
    isolated = solved.bus.index[solved.bus['in_service'].astype(bool)].difference(energised(solved))
    if len(isolated):
        raise GridError(
            f'{who} needs every bus in service connected to a slack, but of {_title(net)} these buses are not: '
            f'{", ".join(map(str, isolated))}. Connect them, or set them out of service with '
            'pandapower.toolbox.set_isolated_areas_out_of_service(net).'
        )
    return solved


def strip_options(net: Any) -> Any:
    """Keeps only those of the network's user options that shape its admittances; changes and returns `net`."""
    net['user_pf_options'] = {
        key: net['user_pf_options'][key] for key in MODEL_OPTIONS if key in net['user_pf_options']
    }
    return net


def energised(net: Any) -> pd.Index:
    """Ids of the buses that are in service and have a voltage in the network's results, in the order of `net.bus`."""
    return net.bus.index[net.bus['in_service'].astype(bool) & net.res_bus['vm_pu'].reindex(net.bus.index).notna()]


def import_pandapower(who: str) -> ModuleType:
    """Imports pandapower on first use.

    Args:
        who: the feature that needs it, for the message.

    Raises:
        MissingExtraError: pandapower is not installed.
    """
    try:
        return importlib.import_module('pandapower')
    except ModuleNotFoundError as error:
        # A library that pandapower itself misses is another matter, and its own message says which.
        if error.name != 'pandapower':
            raise
        raise MissingExtraError.of(who, 'pandapower', 'power') from error


def _injection(net: Any, power: str) -> pd.Series:
    """Generation minus load by bus, in MW for power 'p' and Mvar for 'q'."""
    unit = {'p': 'mw', 'q': 'mvar'}[power]
    result, ward = f'{power}_{unit}', net.ward[net.ward['in_service'].astype(bool)]
    terms = [
        *(net[f'res_{element}'][result].groupby(net[element]['bus']).sum() for element in GENERATING),
        *(-net[f'res_{element}'][result].groupby(net[element]['bus']).sum() for element in CONSUMING),
        *(-net.res_dcline[f'{power}_{end}_{unit}'].groupby(net.dcline[f'{end}_bus']).sum() for end in ('from', 'to')),
        -ward[f'{power}s_{unit}'].groupby(ward['bus']).sum(),
    ]
    by_bus = pd.concat([term for term in terms if len(term)])
    return by_bus.groupby(by_bus.index).sum()


def _kron(
    y_bus: Complex[np.ndarray, 'inner inner'], kept: Int[np.ndarray, ' node']
) -> Complex[np.ndarray, 'node node']:
    eliminated = np.setdiff1d(np.arange(len(y_bus)), kept)
    y_aa, y_ab = y_bus[np.ix_(kept, kept)], y_bus[np.ix_(kept, eliminated)]
    y_ba, y_bb = y_bus[np.ix_(eliminated, kept)], y_bus[np.ix_(eliminated, eliminated)]
    return y_aa - y_ab @ np.linalg.solve(y_bb, y_ba)


def _reject_unsupported(net: Any, who: str) -> None:
    for element, way_out in UNSUPPORTED.items():
        # Older networks lack the tables of newer elements.
        table = net.get(element, pd.DataFrame({'in_service': []}))
        ids: list[Hashable] = table.index[table['in_service'].astype(bool)].tolist()
        if ids:
            raise GridError(
                f'{who} needs elements that are an admittance or an injection at a bus, but {_title(net)} has the '
                f'{element} {", ".join(map(str, ids))} in service. {way_out}'
            )


def _title(net: Any) -> str:
    return f'the network {net.name!r}' if net.name else 'the network'
