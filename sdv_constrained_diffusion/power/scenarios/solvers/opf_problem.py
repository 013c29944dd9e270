r"""AC optimal power flow as a nonlinear program in CasADi's symbols; what varies from solve to solve is a parameter.

In per unit on the network's `sn_mva`, with `V = vm exp(j va)` and `I = Y V`:

    minimise    sum over generators of  w (c0 + c1 p + c2 p^2)  (and the same in q)
    subject to  V_i conj(I_i) = sum of generation at i - demand at i          at every bus
                |I_branch| <= rate   or   |V conj(I_branch)| <= rate          at both ends of every branch
                vm, p, q within their limits;  va of the reference bus fixed

which is the problem of `pandapower.runopp` (current limits) and of MATPOWER (apparent power limits; Zimmerman et al.
2011, "MATPOWER: Steady-State Operations, Planning, and Analysis Tools").

Demand is always a parameter. Cost factors w and admittances Y are parameters if they are asked to vary, and constants
otherwise: CasADi folds constants, which rounds differently. One compiled problem so serves every topology.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from sdv_constrained_diffusion.errors import MissingExtraError
from sdv_constrained_diffusion.power.scenarios.solvers.opf_case import Admittances, OpfCase
from sdv_constrained_diffusion.power.tables import FlowLimit

try:
    import casadi
except ImportError as error:
    raise MissingExtraError.of('AC optimal power flow', 'casadi', 'power') from error


@dataclass(frozen=True, eq=False)
class OpfProblem:
    """The program, the limits of its constraints, and how its parameters are made.

    Attributes:
        nlp: CasADi's symbols: unknowns x, parameters p, objective f, constraints g.
        lower_g: shape (constraint,).
        upper_g: shape (constraint,).
        costs_vary: whether the cost factors are parameters.
        patterns: of the admittances that are parameters: rows, columns; those of the buses, then of the rated ends.
        rated: rows of the branches' admittances that are limited, at the from and at the to end.
    """

    nlp: dict[str, Any]
    lower_g: np.ndarray
    upper_g: np.ndarray
    costs_vary: bool
    patterns: list[tuple[np.ndarray, np.ndarray]]
    rated: list[np.ndarray]

    def compiled(self, ipopt: dict[str, Any]) -> Any:
        """CasADi's function that solves the program.

        Args:
            ipopt: options of Ipopt.
        """
        options = {f'ipopt.{name}': value for name, value in ipopt.items()}
        quiet = {'print_time': False, 'error_on_fail': False, 'show_eval_warnings': False}
        return casadi.nlpsol('opf', 'ipopt', self.nlp, {**quiet, **options, 'calc_lam_p': False})

    def entries(self, admittances: Admittances) -> Float[np.ndarray, ' some']:
        """Those of the parameters that are admittances.

        Args:
            admittances: with entries where those of the case have some.
        """
        if not self.patterns:
            return np.zeros(0)
        matrices = [admittances.bus, *(y[rows] for y, rows in zip(admittances.ends, self.rated, strict=True))]
        values = [
            np.asarray(matrix[row, column]).ravel() if len(row) else np.zeros(0, dtype=complex)
            for matrix, (row, column) in zip(matrices, self.patterns, strict=True)
        ]
        return np.concatenate([part for each in values for part in (each.real, each.imag)])

    def parameters(
        self,
        demand_pu: Float[np.ndarray, ' demand'],
        cost_factors: Float[np.ndarray, ' priced'],
        entries: Float[np.ndarray, ' some'],
    ) -> Float[np.ndarray, ' parameter']:
        """All parameters.

        Args:
            demand_pu: active, then reactive demand of the nodes.
            cost_factors: of the elements with a cost.
            entries: as the method of this name gives them.
        """
        return np.concatenate([demand_pu, *([cost_factors] if self.costs_vary else []), entries])


def state_problem(case: OpfCase, flow_limit: FlowLimit, costs_vary: bool, topology_varies: bool) -> OpfProblem:
    """States the program.

    Args:
        case: the network's numbers.
        flow_limit: what a branch's rating limits.
        costs_vary: whether cost factors are parameters; all are 1 otherwise.
        topology_varies: whether admittances are parameters; they are those of the case otherwise.
    """
    n = case.num_nodes
    x = casadi.SX.sym('x', len(case.lower_x))
    demand = casadi.SX.sym('demand', 2 * n)
    entries = _Entries(topology_varies)
    vm, va, p, q = case.split(x)
    e, f = vm * casadi.cos(va), vm * casadi.sin(va)

    def current(admittance: sp.csr_matrix) -> tuple[Any, Any]:
        G, B = entries.of(admittance)
        return G @ e - B @ f, B @ e + G @ f

    at_generator = _matrix(sp.csc_matrix(case.at_bus @ case.at_generator))
    re, im = current(case.admittances.bus)
    constraints = [
        e * re + f * im - at_generator @ p + demand[:n],
        f * re - e * im - at_generator @ q + demand[n:],
    ]
    upper, rated = [np.zeros(2 * n)], []
    for y_end, nodes in zip(case.admittances.ends, case.end_nodes, strict=True):
        may_bind = np.flatnonzero(case.rate < _largest_flow(case, y_end, nodes, flow_limit))
        re, im = current(y_end[may_bind])
        vm_end = vm[nodes[may_bind].tolist()] if flow_limit == 'apparent' else 1.0
        constraints.append(vm_end**2 * (re**2 + im**2))
        upper.append(case.rate[may_bind] ** 2)
        rated.append(may_bind)
    factors = casadi.SX.sym('cost_factors', len(case.drawable.priced)) if costs_vary else None
    objective = _cost(case, 0, p * case.sn_mva, factors) + _cost(case, 1, q * case.sn_mva, factors)
    parameters = casadi.vertcat(demand, *([] if factors is None else [factors]), *entries.symbols)
    upper_g = np.concatenate(upper)
    return OpfProblem(
        nlp={'x': x, 'p': parameters, 'f': objective, 'g': casadi.vertcat(*constraints)},
        lower_g=np.where(np.arange(len(upper_g)) < 2 * n, 0.0, -np.inf),
        upper_g=upper_g,
        costs_vary=costs_vary,
        patterns=entries.patterns,
        rated=rated,
    )


@dataclass
class _Entries:
    """Admittances as CasADi's matrices: constants, or symbols at the places of their entries."""

    vary: bool
    symbols: list[Any] = field(default_factory=list)
    patterns: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def of(self, admittance: sp.csr_matrix) -> tuple[Any, Any]:
        """Real and imaginary part."""
        columns = sp.csc_matrix(admittance)
        columns.sort_indices()
        parts = _matrix(columns.real), _matrix(columns.imag)
        if not self.vary:
            return parts
        pattern = columns.tocoo()
        self.patterns.append((pattern.row, pattern.col))
        symbols = [casadi.SX.sym('y', columns.nnz) for _ in parts]
        self.symbols += symbols
        return casadi.SX(parts[0].sparsity(), symbols[0]), casadi.SX(parts[1].sparsity(), symbols[1])


def _largest_flow(case: OpfCase, y_end: sp.csr_matrix, nodes: np.ndarray, flow_limit: FlowLimit) -> np.ndarray:
    """What no voltage within its limits can exceed; a higher rating never binds and need not be a constraint."""
    vm_max = case.split(case.upper_x)[0]
    current = abs(y_end) @ vm_max
    return current * vm_max[nodes] if flow_limit == 'apparent' else current


def _cost(case: OpfCase, part: Literal[0, 1], power: Any, factors: Any) -> Any:
    """Cost of active (part 0) or reactive power (part 1) in MW or Mvar, each generator's by its factor."""
    c0, c1, c2 = (casadi.DM(column) for column in case.cost[part].T)
    cost = c0 + c1 * power + c2 * power**2
    if factors is not None:
        places = [case.generators.index(label) for label in case.drawable.priced]
        cost = factors * cost[places]
    return casadi.sum1(cost)


def _matrix(columns: sp.csc_matrix) -> Any:
    columns = sp.csc_matrix(columns)
    columns.sort_indices()
    sparsity = casadi.Sparsity(columns.shape[0], columns.shape[1], columns.indptr.tolist(), columns.indices.tolist())
    return casadi.DM(sparsity, columns.data.tolist())
