"""The solution of an optimal power flow as a row of a table, for any of the quantities of `tables.KINDS`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.scenarios.draws import Draw
from sdv_constrained_diffusion.power.scenarios.solvers.opf_case import OpfCase
from sdv_constrained_diffusion.power.tables import KINDS, column


@dataclass(frozen=True, eq=False)
class Solution:
    """What the solver found.

    Attributes:
        p_mw: shape (bus,), net injection in MW, generation positive.
        q_mvar: shape (bus,), the same in Mvar.
        vm_pu: shape (bus,), voltage magnitude, p.u.
        va_degree: shape (bus,), voltage angle, degrees.
        dispatched_mw: shape (generator,), active generation of what is dispatched, MW.
        dispatched_mvar: shape (generator,), its reactive generation, Mvar.
    """

    p_mw: Float[np.ndarray, ' bus']
    q_mvar: Float[np.ndarray, ' bus']
    vm_pu: Float[np.ndarray, ' bus']
    va_degree: Float[np.ndarray, ' bus']
    dispatched_mw: Float[np.ndarray, ' generator']
    dispatched_mvar: Float[np.ndarray, ' generator']


class RowReader:
    """Reads a solution as a row with a column for each quantity of each element.

    Attributes:
        columns: their names, quantity by quantity.
    """

    def __init__(self, case: OpfCase, quantities: Sequence[str], grid: Grid | None = None) -> None:
        """Finds where each element's numbers are.

        Args:
            case: the network's numbers.
            quantities: names in `tables.KINDS`.
            grid: the network's data; needed for quantities of branches only.
        """
        self._quantities, self._grid = quantities, grid
        # Loads and generators are either drawn or dispatched; a dispatched load generates what it does not consume.
        drawn_or_not = [*case.drawable.loads, *(label.removeprefix('load_') for label in case.generators)]
        self._loads = [drawn_or_not.index(label) for label in case.loads]
        drawn_or_not = [*case.drawable.infeeds, *case.generators]
        self._generators = [drawn_or_not.index(label) for label in case.sources]
        labels = {'bus': case.buses.tolist(), 'load': case.loads, 'generator': case.sources}
        self.columns = [
            column(quantity, label)
            for quantity in quantities
            for label in (grid.labels(quantity) if grid and KINDS[quantity] == 'branch' else labels[KINDS[quantity]])
        ]

    def row(self, solution: Solution, draw: Draw) -> Float[np.ndarray, ' column']:
        """The row."""
        values = {
            'p_mw': solution.p_mw,
            'q_mvar': solution.q_mvar,
            'vm_pu': solution.vm_pu,
            'va_degree': solution.va_degree,
            'pd_mw': np.concatenate([draw.pd_mw, -solution.dispatched_mw])[self._loads],
            'qd_mvar': np.concatenate([draw.qd_mvar, -solution.dispatched_mvar])[self._loads],
            'pg_mw': np.concatenate([draw.infeed_mw, solution.dispatched_mw])[self._generators],
            'qg_mvar': np.concatenate([draw.infeed_mvar, solution.dispatched_mvar])[self._generators],
        }
        if self._grid is not None:
            values |= flows(self._grid, solution.vm_pu, solution.va_degree, draw.topology)
        return np.concatenate([values[quantity] for quantity in self._quantities])


def flows(
    grid: Grid, vm_pu: Float[np.ndarray, ' bus'], va_degree: Float[np.ndarray, ' bus'], topology: str
) -> dict[str, Float[np.ndarray, ' branch']]:
    """The quantities of `tables.FLOWS` at an operating point, in MW, Mvar and percent; zero where a branch is out.

    Args:
        grid: the network's data, everything in service.
        vm_pu: shape (bus,), voltage magnitudes.
        va_degree: shape (bus,), voltage angles.
        topology: label of the branch that is out of service, or `BASE`.
    """
    voltage = (vm_pu * np.exp(1j * np.deg2rad(va_degree)))[grid.representative]
    closed = np.array([grid.branches[branch] != topology for branch in grid.end_branch])
    current = closed * (grid.y_ends @ voltage)
    power = voltage[grid.end_node] * np.conj(current) * grid.sn_mva
    loading = np.zeros(len(grid.branches))
    np.fmax.at(loading, grid.end_branch, grid.loading_per_pu * np.abs(current))
    ends = {side: grid.ends(f'p_{side}_mw') for side in ('from', 'to')}
    return {
        'p_from_mw': power.real[ends['from']],
        'q_from_mvar': power.imag[ends['from']],
        'p_to_mw': power.real[ends['to']],
        'q_to_mvar': power.imag[ends['to']],
        'loading_percent': loading[grid.end_branch[grid.ends('loading_percent')]],
    }
