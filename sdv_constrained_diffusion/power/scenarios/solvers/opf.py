"""AC optimal power flow of one network for many draws: one nonlinear program, compiled once.

pandapower itself turns the network into matrices, so transformers, taps, shunts, fused buses and elements out of
service are what they are in `pandapower.runopp`. Ipopt (Waechter and Biegler 2006) solves the problem through CasADi,
with exact derivatives. The voltage of an external grid is fixed to its `vm_pu`, unless `net.ext_grid['controllable']`
is True.
"""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.nets import check_quantities
from sdv_constrained_diffusion.power.scenarios.draws import Draw, OperatingPoint, Solver
from sdv_constrained_diffusion.power.scenarios.solvers.opf_case import read_case
from sdv_constrained_diffusion.power.scenarios.solvers.opf_problem import state_problem
from sdv_constrained_diffusion.power.scenarios.solvers.opf_table import RowReader, Solution
from sdv_constrained_diffusion.power.tables import BASE, KINDS, WIDE, FlowLimit

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


class OptimalPowerFlow(Solver):
    """The AC optimal power flow of one network, ready to be solved for any draw.

    Every solve starts at the solution of the network's nominal situation, never at an earlier draw's, so the answer
    does not depend on what was solved before.

    Attributes:
        buses: shape (bus,); the table's buses: those in service and supplied, in the order of `net.bus`.
        columns: names of the columns of `OperatingPoint.values`.
        drawable: what of the network can be drawn, and its nominal values.
        nominal: solution in the nominal situation; `nominal.solved` may be False, and solves then start flat.
    """

    def __init__(
        self,
        net: Any,
        flow_limit: FlowLimit = 'apparent',
        quantities: Sequence[str] = WIDE,
        costs_vary: bool = False,
        topology_varies: bool = False,
    ) -> None:
        """Reads the network and compiles its problem; later changes of `net` have no effect.

        Args:
            net: pandapower network with costs, voltage, generator and branch limits; it is not changed.
            flow_limit: what a branch's rating limits: 'apparent' power or 'current'.
            quantities: names in `tables.KINDS`; those of branches need a network whose power flow `runpp` solves.
            costs_vary: whether draws may have cost factors besides 1.
            topology_varies: whether draws may have a branch out of service.

        Raises:
            GridError: the flow limit or a quantity is unknown, there is no load to draw, or the network has something
                that this problem does not carry.
        """
        if flow_limit not in get_args(FlowLimit):
            raise GridError(
                f"OptimalPowerFlow needs flow_limit='apparent' or flow_limit='current', but got {flow_limit!r}. "
                "Pass 'apparent' for MATPOWER's limits, 'current' for those of pandapower.runopp."
            )
        of_branches = any(KINDS[each] == 'branch' for each in check_quantities(quantities, 'OptimalPowerFlow'))
        self._case = case = read_case(net)
        self.buses, self.drawable = case.buses, case.drawable
        self._reader = RowReader(case, quantities, Grid.from_pandapower(net) if of_branches else None)
        self.columns = self._reader.columns
        self._topology_varies = topology_varies
        self._problem = state_problem(case, flow_limit, costs_vary, topology_varies)
        self._networks = {BASE: (case.admittances.bus, self._problem.entries(case.admittances))}
        self._cold = self._problem.compiled({**_IPOPT, 'max_iter': 300})
        self._warm = self._problem.compiled({**_IPOPT, **_WARM})
        self._start: dict[str, Any] | None = None
        self.nominal, answer = self._solve(self.drawable.nominal)
        if self.nominal.solved:
            self._start = {key: answer[of] for key, of in (('x0', 'x'), ('lam_x0', 'lam_x'), ('lam_g0', 'lam_g'))}

    def solve(self, draw: Draw) -> OperatingPoint:
        """Finds the cheapest operating point for one draw.

        Args:
            draw: shapes as those of `drawable.nominal`.

        Returns:
            The operating point, or the solver's reason for there being none.

        Raises:
            GridError: the draw has cost factors or an outage, but the problem was compiled without.
        """
        return self._solve(draw)[0]

    def _solve(self, draw: Draw) -> tuple[OperatingPoint, dict[str, Any]]:
        case = self._case
        y_bus, entries = self._network(draw.topology)
        if not self._problem.costs_vary and np.any(draw.cost_factors != 1):
            raise GridError(
                'OptimalPowerFlow.solve needs a problem with cost factors for this draw, but it was compiled without. '
                'Pass costs_vary=True to OptimalPowerFlow.'
            )
        demand_mw, demand_mvar = case.demand(draw)
        demand_pu = np.concatenate([case.at_bus @ demand_mw, case.at_bus @ demand_mvar]) / case.sn_mva
        given = {
            'p': self._problem.parameters(demand_pu, draw.cost_factors, entries),
            **{'lbx': case.lower_x, 'ubx': case.upper_x, 'lbg': self._problem.lower_g, 'ubg': self._problem.upper_g},
        }
        iterations, reason, answer = 0, '', {}
        attempts = [(self._warm, self._start)] if self._start else []
        for solver, start in [*attempts, (self._cold, {'x0': case.flat_x})]:
            answer = solver(**given, **start)
            iterations += solver.stats()['iter_count']
            reason = solver.stats()['return_status']
            if reason in _SOLVED:
                break
        x = _onto_limits(np.asarray(answer['x']).ravel(), case.lower_x, case.upper_x)
        vm, va, p, q = case.split(x)
        solution = Solution(
            p_mw=case.at_generator @ (p * case.sn_mva) - demand_mw,
            q_mvar=case.at_generator @ (q * case.sn_mva) - demand_mvar,
            vm_pu=vm[case.node_of_bus],
            va_degree=np.rad2deg(va[case.node_of_bus]),
            dispatched_mw=p * case.sn_mva,
            dispatched_mvar=q * case.sn_mva,
        )
        mismatch_pu = case.mismatch_pu(x, solution.p_mw, solution.q_mvar, y_bus)
        if reason in _SOLVED and not mismatch_pu <= MISMATCH_TOLERANCE_PU:
            reason = 'Mismatch_Above_Tolerance'
        values, cost = self._reader.row(solution, draw), float(answer['f'])
        return OperatingPoint(reason in _SOLVED, reason, values, cost, mismatch_pu, iterations), answer

    def _network(self, topology: str) -> tuple[Any, np.ndarray]:
        """The bus admittances of a topology, and the parameters that say it to the solver."""
        if topology not in self._networks:
            if not self._topology_varies or topology not in self._case.branch_rows:
                raise GridError(
                    f'OptimalPowerFlow.solve needs a topology that it was compiled for, but got {topology!r}. Pass '
                    'topology_varies=True to OptimalPowerFlow, and a line or transformer in service, such as '
                    f'{next(iter(self._case.branch_rows), BASE)!r}.'
                )
            admittances = self._case.without(topology)
            self._networks[topology] = admittances.bus, self._problem.entries(admittances)
        return self._networks[topology]


def _onto_limits(x: np.ndarray, lower_x: np.ndarray, upper_x: np.ndarray) -> np.ndarray:
    """Unknowns that Ipopt left within rounding of a limit, exactly on it: a binding limit is one value, not noise."""
    x = np.where(x - lower_x <= LIMIT_RESOLUTION_PU, lower_x, x)
    return np.where(upper_x - x <= LIMIT_RESOLUTION_PU, upper_x, x)
