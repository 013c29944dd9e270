"""What a solver of operating points is given, and what it answers."""

import abc
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sdv_constrained_diffusion.power.tables import BASE


@dataclass(frozen=True, eq=False)
class Draw:
    """One situation of a network.

    Attributes:
        pd_mw: shape (load,), active demand in MW, consumption positive.
        qd_mvar: shape (load,), reactive demand in Mvar, consumption positive.
        infeed_mw: shape (infeed,), active power of the static generators that are not dispatched, MW.
        infeed_mvar: shape (infeed,), their reactive power, Mvar, generation positive.
        cost_factors: shape (priced,), what each element's cost is multiplied by.
        topology: `BASE`, or the label of the branch that is out of service, such as 'line_3'.
    """

    pd_mw: Float[np.ndarray, ' load']
    qd_mvar: Float[np.ndarray, ' load']
    infeed_mw: Float[np.ndarray, ' infeed']
    infeed_mvar: Float[np.ndarray, ' infeed']
    cost_factors: Float[np.ndarray, ' priced']
    topology: str = BASE


@dataclass(frozen=True, eq=False)
class Drawable:
    """What of a network can be drawn.

    Attributes:
        loads: labels of the loads, pandapower's indices.
        infeeds: labels of the static generators that are not dispatched, such as 'sgen_2'.
        priced: labels of the dispatched elements that have a cost, such as 'gen_0' or 'ext_grid_0'.
        nominal: the situation that the network itself states.
    """

    loads: tuple[str, ...]
    infeeds: tuple[str, ...]
    priced: tuple[str, ...]
    nominal: Draw


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """What a solver says of one draw.

    Attributes:
        solved: whether `values` is an operating point as the solver promises it.
        reason: the solver's own word, e.g. Ipopt's 'Infeasible_Problem_Detected' or pandapower's
            'LoadflowNotConverged'.
        values: shape (column,); in the order of the solver's `columns`, units in the columns' names.
        cost: the objective, in the unit of the network's cost tables (EUR or $ per hour); NaN without an objective.
        mismatch_pu: largest power mismatch of `values`, in per unit of the network's `sn_mva`; NaN when not known.
        iterations: the solver's iterations, those of a failed warm start included.
    """

    solved: bool
    reason: str
    values: Float[np.ndarray, ' column']
    cost: float = np.nan
    mismatch_pu: float = np.nan
    iterations: int = 0


class Solver(abc.ABC):
    """Finds a network's operating point for a draw; the answer does not depend on what was solved before.

    Attributes:
        columns: names of the columns of `OperatingPoint.values`.
        drawable: what of the network can be drawn.
    """

    columns: list[str]
    drawable: Drawable

    @abc.abstractmethod
    def solve(self, draw: Draw) -> OperatingPoint:
        """Finds the operating point, or says why there is none."""
