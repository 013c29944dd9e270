"""A pandapower network as the numbers of an optimal power flow: matrices, limits, costs, demand.

The conversion is pandapower's own, the one that `pandapower.runopp` uses.
"""

import copy
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power.nets import GENERATORS, MODEL_OPTIONS
from sdv_constrained_diffusion.power.scenarios.draws import Draw, Drawable
from sdv_constrained_diffusion.power.scenarios.models.outages import KINDS

try:
    import scipy.sparse as sp
    from pandapower.auxiliary import _init_runopp_options
    from pandapower.build_bus import _calc_pq_elements_and_add_on_ppc
    from pandapower.opf.validate_opf_input import _check_necessary_opf_parameters
    from pandapower.pd2ppc import _pd2ppc
    from pandapower.pypower import idx_brch, idx_bus, idx_cost, idx_gen
    from pandapower.pypower.makeYbus import makeYbus
except ImportError as error:
    raise MissingExtraError.of('AC optimal power flow', error.name or 'pandapower', 'power') from error

_NOT_CARRIED = (
    *('dcline', 'xward', 'svc', 'tcsc', 'ssc', 'vsc', 'vsc_stacked', 'b2b_vsc', 'asymmetric_load', 'asymmetric_sgen'),
    *('line_dc', 'load_dc', 'source_dc'),
)
_UNLIMITED_MW = 1e9  # what pandapower writes for a missing limit of p or q


@dataclass(frozen=True)
class Admittances:
    """What currents follow from voltages, per unit.

    Attributes:
        bus: shape (node, node), shunts included.
        ends: each of shape (branch, node), at the from and at the to end of the branches.
    """

    bus: sp.csr_matrix
    ends: tuple[sp.csr_matrix, sp.csr_matrix]


@dataclass(frozen=True)
class OpfCase:
    """The network as numbers, with the unknowns x = (vm, va, p, q).

    A bus is one of the table's. A node is one of pandapower's internal model: buses that closed switches join are one
    node, and the star point of a three-winding transformer is a node without a bus. A generator is what is dispatched:
    external grids, generators, and controllable static generators, loads and storage units.
    """

    sn_mva: float
    buses: np.ndarray
    node_of_bus: np.ndarray
    at_bus: sp.csr_matrix  # (node, bus)
    drawable: Drawable
    loads: tuple[str, ...]  # drawn or dispatched, in the order of net.load
    sources: tuple[str, ...]  # external grids, generators and static generators, drawn or dispatched
    at_load: sp.csr_matrix  # (bus, load)
    at_infeed: sp.csr_matrix  # (bus, infeed)
    generators: tuple[str, ...]
    at_generator: sp.csr_matrix  # (bus, generator)
    fixed_p_mw: np.ndarray  # per bus, demand that is neither drawn nor dispatched: wards, motors
    fixed_q_mvar: np.ndarray
    admittances: Admittances
    shunts: sp.csr_matrix  # (node, node), the part of the admittances that belongs to no branch
    end_nodes: tuple[np.ndarray, np.ndarray]
    branch_rows: dict[str, int]  # of lines and two-winding transformers
    rate: np.ndarray  # per unit; inf where a branch is unlimited
    cost: tuple[np.ndarray, np.ndarray]  # of p and of q: (generator, power 0..2), per MW, Mvar
    lower_x: np.ndarray  # per unit, radian
    upper_x: np.ndarray
    flat_x: np.ndarray

    @property
    def num_nodes(self) -> int:
        """Number of electrical nodes."""
        return self.shunts.shape[0]

    def split(self, x: Any) -> tuple[Any, Any, Any, Any]:
        """Parts vm, va, p, q of the unknowns, whether numbers or symbols."""
        n, g = self.num_nodes, self.at_generator.shape[1]
        return x[:n], x[n : 2 * n], x[2 * n : 2 * n + g], x[2 * n + g :]

    def demand(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """Shape (bus,) each: demand less what is not dispatched, MW and Mvar."""
        return (
            self.fixed_p_mw + self.at_load @ draw.pd_mw - self.at_infeed @ draw.infeed_mw,
            self.fixed_q_mvar + self.at_load @ draw.qd_mvar - self.at_infeed @ draw.infeed_mvar,
        )

    def mismatch_pu(self, x: np.ndarray, p_mw: np.ndarray, q_mvar: np.ndarray, y_bus: sp.csr_matrix) -> float:
        """The largest power mismatch of voltages and the buses' injections."""
        vm, va, *_ = self.split(x)
        voltage = vm * np.exp(1j * va)
        mismatch = voltage * np.conj(y_bus @ voltage) - self.at_bus @ (p_mw + 1j * q_mvar) / self.sn_mva
        return float(np.max(np.abs([mismatch.real, mismatch.imag])))

    def without(self, branch: str) -> Admittances:
        """The admittances when a branch is out of service; the zeros that it leaves are not written.

        Args:
            branch: a label, one of `branch_rows`.
        """
        kept = np.ones(len(self.rate))
        kept[self.branch_rows[branch]] = 0.0
        y_from, y_to = (sp.csr_matrix(sp.diags_array(kept) @ y_end) for y_end in self.admittances.ends)
        c_from, c_to = (_incidence(nodes, self.num_nodes) for nodes in self.end_nodes)
        return Admittances(sp.csr_matrix(c_from @ y_from + c_to @ y_to + self.shunts), (y_from, y_to))


def read_case(net: Any) -> OpfCase:
    """Numbers of the problem, by the conversion that `pandapower.runopp` uses, with limits kept exact (delta=0)."""
    _refuse_what_is_not_carried(net)
    net = copy.deepcopy(net)
    for table in ('ext_grid', 'sgen', 'load', 'storage'):
        if 'controllable' in net[table]:
            net[table]['controllable'] = net[table]['controllable'].astype('boolean').fillna(False).astype(bool)
    try:
        _check_necessary_opf_parameters(net, logging.getLogger(__name__))
        _init_runopp_options(net, True, True, 2, 0.0, 'flat', False, 'hv')
        # Those of the network that shape its admittances, which runopp does not look at.
        net._options |= {key: net.user_pf_options[key] for key in MODEL_OPTIONS if key in net.user_pf_options}
        _, ppc = _pd2ppc(net)
    except (KeyError, ValueError, UserWarning) as error:
        raise GridError(
            f'OptimalPowerFlow needs a network that pandapower can turn into an optimal power flow, but it refused '
            f'{net.name!r}: {error}. Make pandapower.runopp(net) start on this network first.'
        ) from error
    sn_mva, node, generator, branch = float(ppc['baseMVA']), ppc['bus'], ppc['gen'], ppc['branch']
    y_bus, y_from, y_to = makeYbus(sn_mva, node, branch)
    node_of_bus = net._pd2ppc_lookups['bus'][net.bus.index]
    supplied = node_of_bus < len(node)
    if dark := net.bus.index[~supplied & net.bus.in_service.to_numpy(dtype=bool)].tolist():
        raise GridError(
            f'OptimalPowerFlow needs every bus in service to be supplied by an external grid, but in {net.name!r} the '
            f'buses {dark} are isolated. Connect them, or set them out of service with '
            'pandapower.toolbox.set_isolated_areas_out_of_service(net).'
        )
    buses, node_of_bus = net.bus.index[supplied], node_of_bus[supplied].astype(int)
    load, infeed, dispatched = _undispatched(net, 'load', buses), _undispatched(net, 'sgen', buses), _dispatched(net)
    if load.empty:
        raise GridError(
            f'OptimalPowerFlow needs at least one load to draw, but {net.name!r} has none that is in service, supplied '
            "and not controllable. Add rows to net.load, or set net.load['controllable'] to False."
        )
    at_load = _incidence(buses.get_indexer(load['bus']), len(buses))
    at_infeed = _incidence(buses.get_indexer(infeed['bus']), len(buses))
    cost = _costs(ppc['gencost'], len(generator))
    priced = np.any([part.any(axis=1) for part in cost], axis=0)
    nominal = Draw(
        pd_mw=load['p_mw'].to_numpy(),
        qd_mvar=load['q_mvar'].to_numpy(),
        infeed_mw=infeed['p_mw'].to_numpy(),
        infeed_mvar=infeed['q_mvar'].to_numpy(),
        cost_factors=np.ones(priced.sum()),
    )
    drawable = Drawable(
        loads=tuple(map(str, load.index)),
        infeeds=tuple(f'sgen_{index}' for index in infeed.index),
        priced=tuple(label for label, has_cost in zip(dispatched.index, priced, strict=True) if has_cost),
        nominal=nominal,
    )
    demand_mw, demand_mvar = _demand(net, buses)
    rate = np.real(branch[:, idx_brch.RATE_A]) / sn_mva
    lower_x, upper_x = _limits(node, generator, sn_mva)
    return OpfCase(
        sn_mva=sn_mva,
        buses=buses.to_numpy(),
        node_of_bus=node_of_bus,
        at_bus=_incidence(node_of_bus, len(node)),
        drawable=drawable,
        loads=tuple(str(i) for i in net.load.index if str(i) in drawable.loads or f'load_{i}' in dispatched),
        sources=tuple(
            f'{table}_{i}'
            for table in GENERATORS
            for i in net[table].index
            if f'{table}_{i}' in (*drawable.infeeds, *dispatched.index)
        ),
        at_load=at_load,
        at_infeed=at_infeed,
        generators=tuple(dispatched.index),
        at_generator=_incidence(buses.get_indexer(dispatched), len(buses)),
        fixed_p_mw=_rest(demand_mw, at_load @ nominal.pd_mw - at_infeed @ nominal.infeed_mw),
        fixed_q_mvar=_rest(demand_mvar, at_load @ nominal.qd_mvar - at_infeed @ nominal.infeed_mvar),
        admittances=Admittances(y_bus.tocsr(), (y_from.tocsr(), y_to.tocsr())),
        shunts=sp.csr_matrix(sp.diags_array((node[:, idx_bus.GS] + 1j * node[:, idx_bus.BS]) / sn_mva)),
        end_nodes=(np.real(branch[:, idx_brch.F_BUS]).astype(int), np.real(branch[:, idx_brch.T_BUS]).astype(int)),
        branch_rows=_branch_rows(net, ppc['internal']['branch_is']),
        rate=np.where(rate > 0, rate, np.inf),
        cost=cost,
        lower_x=lower_x,
        upper_x=upper_x,
        flat_x=_flat_start(node, branch, lower_x, upper_x),
    )


def _refuse_what_is_not_carried(net: Any) -> None:
    name = net.name
    for element in _NOT_CARRIED:
        if element in net and len(net[element]) and net[element].get('in_service', np.array(True)).any():
            raise GridError(
                f'OptimalPowerFlow does not carry net.{element}, of which {name!r} has {len(net[element])} rows. '
                'Replace them by loads, static generators, wards or impedances, or set them out of service.'
            )
    if len(net.pwl_cost):
        raise GridError(
            f'OptimalPowerFlow needs polynomial costs, but {name!r} has {len(net.pwl_cost)} rows in net.pwl_cost. '
            'Replace them by net.poly_cost (up to quadratic), for example by a fit to the same points.'
        )
    dependent = [column for column in net.load if str(column).startswith('const_') and net.load[column].any()]
    if dependent:
        raise GridError(
            f'OptimalPowerFlow needs loads of constant power, but {name!r} has voltage dependent loads in net.load, '
            f'columns {", ".join(dependent)}. Set these columns to 0, or model constant impedance by shunts.'
        )
    for element in ('gen', 'sgen'):
        if 'reactive_capability_curve' in net[element] and net[element]['reactive_capability_curve'].any():
            raise GridError(
                f'OptimalPowerFlow needs constant limits of q, but net.{element} of {name!r} has reactive capability '
                'curves. Set reactive_capability_curve to False and give min_q_mvar and max_q_mvar.'
            )


def _undispatched(net: Any, table: str, buses: pd.Index) -> pd.DataFrame:
    """Bus and nominal p_mw and q_mvar of the loads or static generators in service that are not dispatched."""
    elements = net[table][net._is_elements[table].astype(bool)]
    elements = elements[elements['bus'].isin(buses)]
    powers = elements[['p_mw', 'q_mvar']].mul(elements['scaling'], axis=0).astype(float)
    return powers.assign(bus=elements['bus'])


def _dispatched(net: Any) -> pd.Series:
    """The bus by the label, in the order of pandapower's generator matrix."""
    labels, buses = {}, {}
    for name in net._gen_order:
        table = name.removesuffix('_controllable')
        for index in net[table].index[net._is_elements[name].astype(bool)]:
            row = net._pd2ppc_lookups[name][index]
            labels[row], buses[row] = f'{table}_{index}', net[table].at[index, 'bus']
    return pd.Series({labels[row]: buses[row] for row in sorted(labels)})


def _branch_rows(net: Any, in_service: np.ndarray) -> dict[str, int]:
    """The row of each line and two-winding transformer in the matrix of the branches in service."""
    row_of = np.cumsum(in_service) - 1
    rows = {}
    for table in KINDS:
        first, _ = net._pd2ppc_lookups['branch'].get(table, (0, 0))
        for number, index in enumerate(net[table].index):
            if in_service[first + number]:
                rows[f'{table}_{index}'] = int(row_of[first + number])
    return rows


def _demand(net: Any, buses: pd.Index) -> tuple[np.ndarray, np.ndarray]:
    """Pandapower's own sums of everything that is not dispatched, per bus, as if no switch joined buses."""
    apart = np.arange(net.bus.index.max() + 1)
    net['_pd2ppc_lookups'] = {**net['_pd2ppc_lookups'], 'bus': apart}
    ppc = {'bus': np.zeros((len(apart), idx_bus.bus_cols)), 'bus_dc': np.zeros((0, idx_bus.bus_cols))}
    _calc_pq_elements_and_add_on_ppc(net, ppc)
    return ppc['bus'][buses, idx_bus.PD], ppc['bus'][buses, idx_bus.QD]


def _rest(total: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Demand that is not drawn; what the rounding of pandapower's running sums leaves is zero.

    A bus with nothing but drawn loads so carries exactly its draw.
    """
    rest = total - drawn
    return np.where(np.abs(rest) > 1e-12 * np.abs(total).sum(), rest, 0.0)


def _incidence(place: np.ndarray, num_places: int) -> sp.csr_matrix:
    """Matrix of shape (place, element) with a one where the element is connected."""
    place = place.astype(int)
    return sp.csr_matrix((np.ones(len(place)), (place, np.arange(len(place)))), (num_places, len(place)))


def _limits(bus: np.ndarray, generator: np.ndarray, sn_mva: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper limits of (vm, va, p, q); the angle of reference buses is fixed, every other one is free."""
    reference = bus[:, idx_bus.BUS_TYPE] == idx_bus.REF
    va = np.deg2rad(bus[:, idx_bus.VA])
    sides = []
    for sign, vm, p, q in (
        (-1, idx_bus.VMIN, idx_gen.PMIN, idx_gen.QMIN),
        (+1, idx_bus.VMAX, idx_gen.PMAX, idx_gen.QMAX),
    ):
        power = np.concatenate([generator[:, p], generator[:, q]])
        power = np.where(np.abs(power) < _UNLIMITED_MW, power / sn_mva, sign * np.inf)
        sides.append(np.concatenate([bus[:, vm], np.where(reference, va, sign * np.inf), power]))
    return sides[0], sides[1]


def _costs(gencost: np.ndarray, num_generators: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of 1, p, p^2 and of 1, q, q^2, shape (generator, 3), from pandapower's highest-power-first rows."""
    coefficients = np.zeros((2 * num_generators, 3))
    for row, cost in enumerate(gencost):
        number = int(cost[idx_cost.NCOST])
        coefficients[row, :number] = cost[idx_cost.COST : idx_cost.COST + number][::-1]
    return coefficients[:num_generators], coefficients[num_generators:]


def _flat_start(bus: np.ndarray, branch: np.ndarray, lower_x: np.ndarray, upper_x: np.ndarray) -> np.ndarray:
    """One per unit everywhere, angles that differ by the transformers' phase shifts only, generators between limits."""
    n = len(bus)
    ends = [_incidence(np.real(branch[:, end]), n) for end in (idx_brch.F_BUS, idx_brch.T_BUS)]
    reference = np.flatnonzero(bus[:, idx_bus.BUS_TYPE] == idx_bus.REF)
    difference = sp.vstack([(ends[0] - ends[1]).T, sp.identity(n, format='csr')[reference]])
    shift = np.concatenate([np.real(branch[:, idx_brch.SHIFT]), bus[reference, idx_bus.VA]])
    va = np.deg2rad(sp.linalg.lsqr(difference, shift, atol=1e-10, btol=1e-10)[0])
    bounded = np.isfinite(lower_x) & np.isfinite(upper_x)
    middle = np.zeros_like(lower_x)
    middle[bounded] = (lower_x[bounded] + upper_x[bounded]) / 2
    start = np.concatenate([np.ones(n), va, middle[2 * n :]])
    return np.clip(start, lower_x, upper_x)
