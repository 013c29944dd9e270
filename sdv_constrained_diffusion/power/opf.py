r"""AC optimal power flow of one network for many loads: one nonlinear program, compiled once, loads as its parameters.

In per unit on the network's `sn_mva`, with `V = vm exp(j va)` and `I = Y V`:

    minimise    sum over generators of  c0 + c1 p + c2 p^2  (and the same in q)
    subject to  V_i conj(I_i) = sum of generation at i - demand at i          at every bus
                |I_branch| <= rate   or   |V conj(I_branch)| <= rate          at both ends of every branch
                vm, p, q within their limits;  va of the reference bus fixed

which is the problem of `pandapower.runopp` (current limits) and of MATPOWER (apparent power limits; Zimmerman et al.
2011, "MATPOWER: Steady-State Operations, Planning, and Analysis Tools"). pandapower itself turns the network into
matrices, so transformers, taps, shunts, fused buses and elements out of service are what they are in `runopp`. Ipopt
(Waechter and Biegler 2006) solves the problem through CasADi, with exact derivatives.

The voltage of an external grid is fixed to its `vm_pu`, unless `net.ext_grid['controllable']` is True.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power import tables
from sdv_constrained_diffusion.power.opf_case import OpfCase, read_case

try:
    import casadi
    import scipy.sparse as sp
except ImportError as error:
    raise MissingExtraError.of('AC optimal power flow', error.name or 'pandapower', 'power') from error

FlowLimit = Literal['apparent', 'current']
"""What a branch's rating limits at both of its ends: apparent power (MATPOWER) or current (`pandapower.runopp`)."""

MISMATCH_TOLERANCE_PU = 1e-9
"""Largest power mismatch of a row that counts as solved, in per unit; Ipopt stays two orders below it."""

_IPOPT = {
    'print_level': 0,
    'sb': 'yes',
    'tol': 1e-10,
    'constr_viol_tol': 1e-10,
    'compl_inf_tol': 1e-11,  # values at a limit then lie within about 1e-11 of it, so that they are one point mass
    'acceptable_iter': 0,  # no early stop; the acceptable levels count only where rounding ends all progress
    'acceptable_tol': 1e-8,
    'acceptable_constr_viol_tol': 1e-10,
    'bound_relax_factor': 0.0,  # Ipopt would else widen every limit by 1e-8
}
LIMIT_RESOLUTION_PU = 1e-10
"""Values closer to a limit than this, in per unit or radians, are put on it: a tenth of the accepted mismatch."""

_SOLVED = ('Solve_Succeeded', 'Solved_To_Acceptable_Level')
_WARM = {
    'warm_start_init_point': 'yes',
    'mu_init': 1e-3,
    'max_iter': 60,
    **dict.fromkeys(('warm_start_bound_push', 'warm_start_slack_bound_push', 'warm_start_mult_bound_push'), 1e-6),
    **dict.fromkeys(('warm_start_bound_frac', 'warm_start_slack_bound_frac'), 1e-6),
}


@dataclass(frozen=True)
class OperatingPoint:
    """What the solver says of one demand.

    Attributes:
        solved: whether `values` is an optimal operating point that keeps every limit.
        reason: Ipopt's return status, e.g. 'Infeasible_Problem_Detected', or 'Mismatch_Above_Tolerance'.
        cost: the objective, in the unit of the network's cost tables (EUR or $ per hour).
        values: shape (column,); in the order of `OptimalPowerFlow.columns`, units in the columns' names.
        mismatch_pu: largest power mismatch of `values`, in per unit of the network's `sn_mva`.
        iterations: Ipopt's iterations, those of a failed warm start included.
    """

    solved: bool
    reason: str
    cost: float
    values: np.ndarray
    mismatch_pu: float
    iterations: int


class OptimalPowerFlow:
    """The AC optimal power flow of one network, ready to be solved for any demand.

    Every solve starts at the solution of the network's nominal demand, never at an earlier draw's, so the answer does
    not depend on what was solved before.

    Attributes:
        buses: shape (bus,); the table's buses: those in service and supplied, in the order of `net.bus`.
        load_buses: shape (load_bus,); those of `buses` with a load that can be drawn.
        nominal_p_mw: shape (load_bus,); demand as the network states it, in MW.
        nominal_q_mvar: shape (load_bus,); the same in Mvar.
        columns: names of the columns of `OperatingPoint.values`.
        nominal: solution at the nominal demand; `nominal.solved` may be False, and solves then start flat.
    """

    def __init__(self, net: Any, flow_limit: FlowLimit = 'apparent') -> None:
        """Reads the network and compiles its problem; later changes of `net` have no effect.

        Args:
            net: pandapower network with costs, voltage, generator and branch limits; it is not changed.
            flow_limit: what a branch's rating limits: 'apparent' power or 'current'.

        Raises:
            GridError: the flow limit is unknown, there is no load to draw, or the network has something that this
                problem does not carry.
        """
        if flow_limit not in get_args(FlowLimit):
            raise GridError(
                f"OptimalPowerFlow needs flow_limit='apparent' or flow_limit='current', but got {flow_limit!r}. "
                "Pass 'apparent' for MATPOWER's limits, 'current' for those of pandapower.runopp."
            )
        self._case = case = read_case(net)
        self.buses, self.load_buses = case.buses, case.load_buses
        self.nominal_p_mw, self.nominal_q_mvar = case.nominal_p_mw, case.nominal_q_mvar
        self.columns = tables.columns(self.buses.tolist())
        problem, self._upper_g = _problem(case, flow_limit)
        self._lower_g = np.where(np.arange(len(self._upper_g)) < 2 * case.num_nodes, 0.0, -np.inf)
        self._cold = _compile(problem, {'max_iter': 300})
        self._warm = _compile(problem, _WARM)
        self._start: dict[str, Any] | None = None
        self.nominal = self.solve(self.nominal_p_mw, self.nominal_q_mvar)
        if self.nominal.solved:
            self._start = {key: self._answer[of] for key, of in (('x0', 'x'), ('lam_x0', 'lam_x'), ('lam_g0', 'lam_g'))}

    def solve(self, p_mw: np.ndarray, q_mvar: np.ndarray) -> OperatingPoint:
        """Finds the cheapest operating point for one demand.

        Args:
            p_mw: shape (load_bus,); active demand in MW, consumption positive.
            q_mvar: shape (load_bus,); reactive demand in Mvar, consumption positive.

        Returns:
            The operating point, or the solver's reason for there being none.
        """
        case = self._case
        demand_mw = case.fixed_p_mw + case.at_load @ p_mw
        demand_mvar = case.fixed_q_mvar + case.at_load @ q_mvar
        parameters = np.concatenate([case.at_bus @ demand_mw, case.at_bus @ demand_mvar]) / case.sn_mva
        limits = {'lbx': case.lower_x, 'ubx': case.upper_x, 'lbg': self._lower_g, 'ubg': self._upper_g}
        iterations, reason = 0, ''
        attempts = [(self._warm, self._start)] if self._start else []
        for solver, start in [*attempts, (self._cold, {'x0': case.flat_x})]:
            self._answer = solver(p=parameters, **start, **limits)
            iterations += solver.stats()['iter_count']
            reason = solver.stats()['return_status']
            if reason in _SOLVED:
                break
        x = _onto_limits(np.asarray(self._answer['x']).ravel(), case.lower_x, case.upper_x)
        values, mismatch_pu = case.table_row(x, demand_mw, demand_mvar)
        if reason in _SOLVED and not mismatch_pu <= MISMATCH_TOLERANCE_PU:
            reason = 'Mismatch_Above_Tolerance'
        return OperatingPoint(reason in _SOLVED, reason, float(self._answer['f']), values, mismatch_pu, iterations)


def _problem(case: OpfCase, flow_limit: FlowLimit) -> tuple[dict[str, Any], np.ndarray]:
    """The nonlinear program in CasADi's symbols, and the upper limits of its constraints."""
    n = case.num_nodes
    x = casadi.SX.sym('x', len(case.lower_x))
    demand = casadi.SX.sym('demand', 2 * n)
    vm, va, p, q = case.split(x)
    e, f = vm * casadi.cos(va), vm * casadi.sin(va)

    def current(admittance: sp.csr_matrix) -> tuple[Any, Any]:
        G, B = _matrix(admittance.real), _matrix(admittance.imag)
        return G @ e - B @ f, B @ e + G @ f

    at_generator = _matrix(case.at_bus @ case.at_generator)
    re, im = current(case.y_bus)
    constraints = [
        e * re + f * im - at_generator @ p + demand[:n],
        f * re - e * im - at_generator @ q + demand[n:],
    ]
    upper = [np.zeros(2 * n)]
    for y_end, nodes in zip(case.y_ends, case.end_nodes, strict=True):
        may_bind = np.flatnonzero(case.rate < _largest_flow(case, y_end, nodes, flow_limit))
        re, im = current(y_end[may_bind])
        vm_end = vm[nodes[may_bind].tolist()] if flow_limit == 'apparent' else 1.0
        constraints.append(vm_end**2 * (re**2 + im**2))
        upper.append(case.rate[may_bind] ** 2)
    cost_p, cost_q = case.cost
    objective = _polynomial(cost_p, p * case.sn_mva) + _polynomial(cost_q, q * case.sn_mva)
    return {'x': x, 'p': demand, 'f': objective, 'g': casadi.vertcat(*constraints)}, np.concatenate(upper)


def _largest_flow(case: OpfCase, y_end: sp.csr_matrix, nodes: np.ndarray, flow_limit: FlowLimit) -> np.ndarray:
    """What no voltage within its limits can exceed; a higher rating never binds and need not be a constraint."""
    vm_max = case.split(case.upper_x)[0]
    current = abs(y_end) @ vm_max
    return current * vm_max[nodes] if flow_limit == 'apparent' else current


def _polynomial(coefficients: np.ndarray, power: Any) -> Any:
    c0, c1, c2 = (casadi.DM(column) for column in coefficients.T)
    return casadi.sum1(c0 + c1 * power + c2 * power**2)


def _matrix(matrix: sp.csr_matrix) -> Any:
    columns = sp.csc_matrix(matrix)
    columns.sort_indices()
    sparsity = casadi.Sparsity(columns.shape[0], columns.shape[1], columns.indptr.tolist(), columns.indices.tolist())
    return casadi.DM(sparsity, columns.data.tolist())


def _compile(problem: dict[str, Any], options: dict[str, Any]) -> Any:
    ipopt = {f'ipopt.{name}': value for name, value in {**_IPOPT, **options}.items()}
    quiet = {'print_time': False, 'error_on_fail': False, 'show_eval_warnings': False}
    return casadi.nlpsol('opf', 'ipopt', problem, {**quiet, **ipopt, 'calc_lam_p': False})


def _onto_limits(x: np.ndarray, lower_x: np.ndarray, upper_x: np.ndarray) -> np.ndarray:
    """Unknowns that Ipopt left within rounding of a limit, exactly on it: a binding limit is one value, not noise."""
    x = np.where(x - lower_x <= LIMIT_RESOLUTION_PU, lower_x, x)
    return np.where(upper_x - x <= LIMIT_RESOLUTION_PU, upper_x, x)
