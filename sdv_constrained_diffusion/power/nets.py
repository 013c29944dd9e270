"""pandapower networks: their power flow, what their results say about each element, and what can be read at all.

Everything that needs pandapower gets it here, on first use. Importing this module does not import it.
"""

import copy
import importlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power.tables import KINDS, WIDE, column

MODEL_OPTIONS = (
    'trafo_model', 'trafo3w_losses', 'switch_rx_ratio', 'consider_line_temperature', 'neglect_open_switch_branches',
)  # fmt: skip
"""pandapower's user options that shape the admittances; the others choose a solver or an operating point."""

UNSUPPORTED = {
    'xward': 'Replace them with pandapower.toolbox.replace_xward_by_internal_elements(net).',
    'svc': 'Replace them with shunts of fixed admittance, or set them out of service.',
    'tcsc': 'Replace them with impedances of fixed reactance, or set them out of service.',
    'ssc': 'Replace them with generators, or set them out of service.',
    'vsc': 'Replace them with generators or static generators, or set them out of service.',
    'b2b_vsc': 'Replace them with generators or static generators, or set them out of service.',
    'vsc_stacked': 'Replace them with generators or static generators, or set them out of service.',
    'vsc_bipolar': 'Replace them with generators or static generators, or set them out of service.',
}
"""Elements whose inner state is neither an admittance nor an injection at a bus of the table; and the way out."""


GENERATING = ('ext_grid', 'gen', 'sgen', 'asymmetric_sgen')
CONSUMING = ('load', 'storage', 'motor', 'asymmetric_load')
"""Elements that inject power at one bus, by the sign of their results; wards and DC lines come on top."""

BASE_KV = 9
"""Column of the nominal voltage in pandapower's bus matrix (PYPOWER's `idx_bus`)."""

GENERATORS = ('ext_grid', 'gen', 'sgen')
"""Elements whose generation can have columns of its own."""

ENDS: dict[str, dict[str, tuple[str | None, str | None]]] = {
    'line': {'': ('from', 'to')},
    'trafo': {'': ('hv', 'lv')},
    'trafo3w': {'_hv': ('hv', None), '_mv': (None, 'mv'), '_lv': (None, 'lv')},
    'impedance': {'': ('from', 'to')},
}
"""Of each element the branches of pandapower's model: suffix of the label, and how results call their two ends.

None is a star point.
"""


@dataclass(frozen=True)
class Element:
    """An element of a network that can have columns.

    Attributes:
        label: what its columns' names end with.
        table: pandapower's table.
        index: its index there.
        bus: the bus it is at.
    """

    label: str
    table: str
    index: int
    bus: int


@dataclass(frozen=True)
class BranchEnd:
    """An end of a branch that is at a bus.

    Attributes:
        label: of the branch.
        table: pandapower's table.
        index: its index there.
        row: of the branch in pandapower's model.
        side: 0 for the model's 'from' end, 1 for its 'to' end.
        name: how pandapower calls the end: 'from', 'to', 'hv', 'mv' or 'lv'.
    """

    label: str
    table: str
    index: int
    row: int
    side: int
    name: str


def solved_row(net: Any, tolerance_mva: float = 1e-8, quantities: Sequence[str] = WIDE) -> pd.DataFrame:
    """Solves a network's power flow on a copy and gives the operating point as a row of a table.

    Args:
        net: a `pandapowerNet`, left as it is.
        tolerance_mva: the largest mismatch, in MVA, at which the power flow stops.
        quantities: as in `result_row`.

    Raises:
        GridError: as in `Grid.from_pandapower`.
        MissingExtraError: pandapower is not installed.
    """
    return result_row(solve(net, who='solved_row', tolerance_mva=tolerance_mva), quantities)


def result_row(net: Any, quantities: Sequence[str] = WIDE) -> pd.DataFrame:
    """Reads the results that a network already holds, of `runpp` or `runopp`, as a row of a table.

    An injection is summed from the elements' own results, `sum GENERATING - sum CONSUMING` per bus. Shunts and the
    constant-impedance part `pz_mw vm_pu^2` of wards are left out: Y-bus holds them. (So `p_mw` is
    `-(res_bus.p_mw - shunts - wards' pz_mw vm_pu^2)`, save that pandapower 3.5 leaves DC lines out of `res_bus`.)

    pandapower applies the voltage dependence of a load to all constant power at its bus. Where such a load has a
    neighbour at its bus that does not share its percentages, the results do not satisfy the network's equations.

    Args:
        net: a `pandapowerNet` with results; `runpp` must have calculated voltage angles, as it does by default.
        quantities: names in `tables.KINDS`, such as `tables.WIDE` (buses only) or `tables.APART` (loads, generators and
            voltages).

    Returns:
        one row with a column for each quantity of each element in service, in the units of their names.

    Raises:
        GridError: the network holds no results, or a quantity is unknown.
    """
    require_net(net, 'result_row')
    buses = energised(net)
    if buses.empty:
        raise GridError(
            f'result_row needs a solved network, but {title(net)} holds no bus voltages. Run pandapower.runpp or '
            'runopp first, or call solved_row(net).'
        )
    read = {'bus': _of_buses, 'load': _of_elements, 'generator': _of_elements, 'branch': _of_branches}
    parts = []
    for quantity in check_quantities(quantities, 'result_row'):
        values = read[KINDS[quantity]](net, quantity, buses)
        parts.append(pd.Series(values.to_numpy(dtype='float64'), [column(quantity, each) for each in values.index]))
    return pd.concat(parts).to_frame().T


def check_quantities(quantities: Sequence[str], who: str) -> Sequence[str]:
    """The quantities, if all are known.

    Raises:
        GridError: one is not.
    """
    wrong = [quantities] if isinstance(quantities, str) else [each for each in quantities if each not in KINDS]
    if wrong:
        raise GridError(
            f'{who} needs quantities of {list(KINDS)}, but got {wrong[0]!r}. Pass a list of them, such as tables.WIDE '
            'or tables.APART.'
        )
    return quantities


def loads(net: Any) -> list[Element]:
    """The loads in service at energised buses, in the order of `net.load`."""
    return [Element(str(index), 'load', index, bus) for index, bus in _in_service(net, 'load').items()]


def generators(net: Any) -> list[Element]:
    """External grids, generators and static generators in service at energised buses."""
    return [
        Element(f'{table}_{index}', table, index, bus)
        for table in GENERATORS
        for index, bus in _in_service(net, table).items()
    ]


def branch_ends(net: Any) -> list[BranchEnd]:
    """Ends of branches at buses: lines, transformers and impedances in service.

    Of a three-winding transformer each winding is a branch; the star point is no bus, and neither is the open end of a
    line.

    Args:
        net: a `pandapowerNet` with results of its power flow.
    """
    found = []
    in_service, model = net._ppc['internal']['branch_is'], net._ppc['branch']
    at_bus = np.zeros(len(net._ppc['bus']), dtype=bool)
    at_bus[net._pd2ppc_lookups['bus'][energised(net)]] = True
    for table, (first, _) in net._pd2ppc_lookups['branch'].items():
        for turn, (suffix, names) in enumerate(ENDS.get(table, {}).items()):
            for number, index in enumerate(net[table].index):
                row = first + turn * len(net[table]) + number
                for side, name in enumerate(names):
                    if name is not None and in_service[row] and at_bus[int(model[row, side].real)]:
                        found.append(BranchEnd(f'{table}_{index}{suffix}', table, index, row, side, name))
    return found


def loading_per_pu(net: Any, ends: list[BranchEnd]) -> np.ndarray:
    """Percent of the branch's rating that a current of 1 p.u. at each end is, shape (end,); NaN without a rating.

    Args:
        net: a `pandapowerNet` with results of its power flow.
        ends: of its branches.
    """
    nodes = [int(net._ppc['branch'][end.row, end.side].real) for end in ends]
    base_ka = net.sn_mva / (np.sqrt(3) * net._ppc['bus'][nodes, BASE_KV].real)
    return 100 * base_ka / np.array([_rating_ka(net, end) for end in ends], dtype='float64')


def _rating_ka(net: Any, end: BranchEnd) -> float:
    """The current that is 100 % of a branch's loading, as pandapower has it by default; NaN if none."""
    element = net[end.table].loc[end.index]
    if end.table == 'line':
        rating_ka = element['max_i_ka'] * element['df'] * element['parallel']
    elif end.table == 'trafo':
        rating_ka = element['sn_mva'] * element['df'] * element['parallel']
    elif end.table == 'trafo3w':
        rating_ka = element[f'sn_{end.name}_mva']
    else:
        return np.nan
    if end.table != 'line':
        rating_ka = rating_ka / (np.sqrt(3) * element[f'vn_{end.name}_kv'])
    return rating_ka if rating_ka > 0 else np.nan


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
    require_net(net, who)
    solved = strip_options(copy.deepcopy(net))
    _reject_unsupported(solved, who)
    try:
        # numba's compilation costs more than it saves here, and asking for it where it is missing logs a warning.
        pandapower.runpp(solved, calculate_voltage_angles=True, numba=False, lightsim2grid=False, **options)
    except Exception as error:
        raise GridError(
            f'{who} needs a network whose power flow pandapower can solve, but pandapower.runpp failed for '
            f'{title(net)}: {type(error).__name__}: {error} '
            'Check that a slack exists and that loads and set-points are within reach; pandapower.diagnostic(net) '
            'lists the usual causes.'
        ) from error
    isolated = solved.bus.index[solved.bus['in_service'].astype(bool)].difference(energised(solved))
    if len(isolated):
        raise GridError(
            f'{who} needs every bus in service connected to a slack, but of {title(net)} these buses are not: '
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


def require_net(net: Any, who: str) -> None:
    """Refuses what is no network; `who` asks for it.

    Raises:
        GridError: it is no `pandapowerNet`.
        MissingExtraError: pandapower is not installed.
    """
    if not isinstance(net, import_pandapower(who).pandapowerNet):
        raise GridError(
            f'{who} needs a pandapowerNet, but got {type(net).__name__} {str(net)[:40]!r}. Networks of '
            'pandapower.networks, and files, are read by read_network.'
        )


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


def _of_buses(net: Any, quantity: str, buses: pd.Index) -> pd.Series:
    """A bus quantity by bus."""
    if quantity in ('p_mw', 'q_mvar'):
        return injection(net, quantity[0]).reindex(buses, fill_value=0.0)
    return net.res_bus.loc[buses, quantity]


def _of_elements(net: Any, quantity: str, _: pd.Index) -> pd.Series:
    """Demand by load, or generation by generator."""
    elements = loads(net) if KINDS[quantity] == 'load' else generators(net)
    result = quantity.replace('d_', '_').replace('g_', '_')
    values = [net[f'res_{each.table}'].at[each.index, result] for each in elements]
    return pd.Series(values, [each.label for each in elements])


def _of_branches(net: Any, quantity: str, _: pd.Index) -> pd.Series:
    """Flow into one end of each branch, or its loading."""
    values: dict[str, float] = {}
    for end in branch_ends(net):
        results, side = net[f'res_{end.table}'], ('from', 'to')[end.side]
        if quantity != 'loading_percent':
            if f'_{side}_' in quantity:
                values[end.label] = results.at[end.index, quantity.replace(side, end.name)]
        elif np.isfinite(rating := _rating_ka(net, end)):
            loading = 100 * results.at[end.index, f'i_{end.name}_ka'] / rating
            values[end.label] = max(loading, values.get(end.label, 0.0))
    return pd.Series(values, dtype='float64')


def _in_service(net: Any, table: str) -> pd.Series:
    """The bus of each element that is in service and energised."""
    elements = net[table]
    return elements.loc[elements['in_service'].astype(bool) & elements['bus'].isin(energised(net)), 'bus']


def injection(net: Any, power: str) -> pd.Series:
    """Generation minus load by bus, in MW for power 'p' and Mvar for 'q', read from results."""
    own = ('ext_grid', 'gen', 'sgen', 'load')
    return _added([*(_results(net, each, power) for each in own), *_rest(net, power)])


def rest(net: Any, power: str) -> pd.Series:
    """What others than loads and `GENERATORS` inject by bus, as `injection`; NaN where it is not constant."""
    found = _added(_rest(net, power))
    if power == 'q':
        lines = net.dcline[net.dcline['in_service'].astype(bool)]
        for bus in {*lines['from_bus'], *lines['to_bus']}:
            found[bus] = np.nan
    return found


def _rest(net: Any, power: str) -> list[pd.Series]:
    unit, ward = {'p': 'mw', 'q': 'mvar'}[power], net.ward[net.ward['in_service'].astype(bool)]
    return [
        *(_results(net, each, power) for each in (*GENERATING, *CONSUMING) if each not in (*GENERATORS, 'load')),
        *(-net.res_dcline[f'{power}_{end}_{unit}'].groupby(net.dcline[f'{end}_bus']).sum() for end in ('from', 'to')),
        -ward[f'{power}s_{unit}'].groupby(ward['bus']).sum(),
    ]


def _results(net: Any, table: str, power: str) -> pd.Series:
    """What one kind of element injects by bus."""
    results = net[f'res_{table}'][f'{power}_{"mw" if power == "p" else "mvar"}']
    return results.groupby(net[table]['bus']).sum() * (-1.0 if table in CONSUMING else 1.0)


def _added(terms: list[pd.Series]) -> pd.Series:
    terms = [term for term in terms if len(term)]
    by_bus = pd.concat(terms) if terms else pd.Series(dtype='float64')
    return by_bus.groupby(by_bus.index).sum()


def _reject_unsupported(net: Any, who: str) -> None:
    for element, way_out in UNSUPPORTED.items():
        # Older networks lack the tables of newer elements.
        table = net.get(element, pd.DataFrame({'in_service': []}))
        ids: list[Hashable] = table.index[table['in_service'].astype(bool)].tolist()
        if ids:
            raise GridError(
                f'{who} needs elements that are an admittance or an injection at a bus, but {title(net)} has the '
                f'{element} {", ".join(map(str, ids))} in service. {way_out}'
            )


def title(net: Any) -> str:
    """How messages call a network."""
    return f'the network {net.name!r}' if net.name else 'the network'
