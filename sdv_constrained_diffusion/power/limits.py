"""Operating limits as a constraint: voltage bands, generators' ranges, branch ratings, differences of angles."""

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import Any, get_args

import numpy as np
import torch

from sdv_constrained_diffusion._types import Jacobians, Residuals
from sdv_constrained_diffusion.constraints.base import Constraint, TableView
from sdv_constrained_diffusion.errors import ConstraintError
from sdv_constrained_diffusion.power.columns import DEGREES_PER_RADIAN, PowerColumns, Units
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.implied import ANGLE, APPARENT, ImpliedQuantities
from sdv_constrained_diffusion.power.stated_limits import IN_PANDAPOWER, stated_limits
from sdv_constrained_diffusion.power.tables import FlowLimit, column

BOUNDED = {'vm_pu': 'p.u.', 'pg_mw': 'MW', 'qg_mvar': 'Mvar', 'loading_percent': '%'}
"""Quantities whose columns have limits, and their units."""

UNHEARD_OF = 2.0
"""Voltage in p.u. that no bus without a limit has."""


class OperatingLimits(Constraint):
    """What an operating point must not exceed.

    Voltages, generation and loadings have limits where the table has their columns, and values at a limit are delivered
    as exactly the limit. Other branches have limits where the table has the voltages at their ends; those that no
    voltage within its band can exceed are left out. Of a table with net injections only, generators cannot be judged:
    demand and generation must stand apart.

    Attributes:
        grid: the network's data.
        columns: the table's columns that are limited, or that limited quantities depend on.
        not_judged: standard names of limits that the table cannot tell.
    """

    def __init__(
        self,
        grid: Grid,
        limits: Mapping[str, tuple[float, float]],
        columns: Mapping[str, str] | None = None,
        table: Iterable[str] | None = None,
        units: Units | Mapping[str, Any] | None = None,
        tolerance_pu: float = 1e-6,
    ) -> None:
        """Binds limits to columns.

        Args:
            grid: the network's data.
            limits: lower and upper limit by standard name (`power.tables`) for `vm_pu_*` in p.u., `pg_mw_*` in MW and
                `qg_mvar_*` in Mvar, and by branch for `loading_percent_<branch>`, `s_mva_<branch>` in MVA and
                `angle_difference_degree_<branch>`; infinite for none. Those that the table cannot tell are left out,
                and listed in `not_judged`.
            columns: from the standard name of a column to the table's own.
            table: the table's columns; None for the wide table, p, q, vm and va of every bus.
            units: how the table writes powers and angles.
            tolerance_pu: largest violation that counts as feasible: in p.u. of voltage or of `sn_mva`, and as a share
                of a branch's rating or, of angles, in radians.

        Raises:
            ConstraintError: a name is unknown, a lower limit exceeds its upper one or bounds a flow, or no limit can be
                judged on the table.
        """
        self.grid, self.tolerance_pu, self._limits = grid, tolerance_pu, dict(limits)
        self._found = found = PowerColumns(grid, columns, table, units, self.name)
        self._check(self._limits)
        self._highest = self._highest_voltages()
        band = {quantity: self._own_columns(quantity) for quantity in BOUNDED}
        states = found.states()
        seen = (states[: len(grid.y_bus)] >= 0) & (states[len(grid.y_bus) :] >= 0)
        places = [place for own in band.values() for place in own]
        told = {found.standard(place) for place in places}
        wanted = {each: self._ends(each, seen, told) for each in (APPARENT, 'loading_percent', ANGLE)}
        self.not_judged = self._without_columns(seen, told)
        reads = {*places}
        if any(len(ends) for ends, _ in wanted.values()):
            reads |= set(states[states >= 0].tolist())
        order = sorted(reads)
        self.columns = tuple(found.names[place] for place in order)
        self._places = torch.tensor([order.index(place) for place in places], dtype=torch.int64)
        self._factors = torch.tensor([found.factors[place] for place in places], dtype=torch.float64)
        self._implied = ImpliedQuantities(grid, [(each, ends) for each, (ends, _) in wanted.items()])
        self._state_places = torch.tensor([order.index(place) if place in reads else -1 for place in states])
        self._write(band, wanted)
        if not self.unit:
            raise ConstraintError(
                f'{self.name} needs a table with columns that have limits, but none of the {len(self._limits)} limits '
                'belongs to a column that is there. Pass table=data with vm_pu_*, pg_mw_*, qg_mvar_* columns, or name '
                'them in columns={...}.'
            )

    @classmethod
    def from_pandapower(
        cls,
        net: Any,
        columns: Mapping[str, str] | None = None,
        table: Iterable[str] | None = None,
        units: Units | Mapping[str, Any] | None = None,
        flow_limit: FlowLimit = 'apparent',
        max_angle_difference_degree: float | None = None,
        tolerance_pu: float = 1e-6,
    ) -> 'OperatingLimits':
        """The limits that a pandapower network states, those that `pandapower.runopp` keeps.

        Args:
            net: a `pandapowerNet`, left as it is: `min_vm_pu` and `max_vm_pu` of buses, and of generators within them;
                `min_p_mw` and the like of external grids and of what is controllable, which generators are unless they
                say otherwise, static generators only if they say so; `max_loading_percent` of lines and transformers.
            columns: from the standard name of a column to the table's own.
            table: the table's columns; None for the wide table.
            units: how the table writes powers and angles.
            flow_limit: what a branch's rating limits, 'apparent' power or 'current'.
            max_angle_difference_degree: largest difference of angles along each branch; None for none.
            tolerance_pu: as in `OperatingLimits`.

        Raises:
            GridError: as in `Grid.from_pandapower`.
            ConstraintError: as in `OperatingLimits`.
            MissingExtraError: pandapower is not installed.
        """
        if flow_limit not in get_args(FlowLimit):
            raise ConstraintError(
                f"OperatingLimits needs flow_limit='apparent' or flow_limit='current', but got {flow_limit!r}. Pass "
                "'apparent' for MATPOWER's limits, 'current' for those of pandapower.runopp."
            )
        grid = Grid.from_pandapower(net)
        limits = stated_limits(net, grid, flow_limit)
        if max_angle_difference_degree is not None:
            pair = (-max_angle_difference_degree, max_angle_difference_degree)
            limits |= {column(ANGLE, branch): pair for branch in grid.branches}
        made = cls(grid, limits, columns, table, units, tolerance_pu)
        if max_angle_difference_degree is not None and not any(name.startswith(ANGLE) for name in made._names):
            raise ConstraintError(
                'OperatingLimits needs the voltages at both ends of a branch to limit their angles, but the table has '
                'them for no branch. Pass a table with vm_pu_* and va_degree_*, or leave max_angle_difference_degree.'
            )
        return made

    def on(self, grid: Grid) -> 'OperatingLimits':
        """The same limits on another state of the grid, as `PowerFlow.on`."""
        other = copy.copy(self)
        other.grid, other._implied = grid, self._implied.on(grid)
        return other

    def parameters(self) -> dict[str, Any]:
        """The grid's data, the limits, the columns and their units, and the tolerance."""
        return {
            'grid': self.grid.to_dict(),
            'limits': {name: list(pair) for name, pair in self._limits.items()},
            **self._found.parameters(),
            'tolerance_pu': self.tolerance_pu,
        }

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> 'OperatingLimits':
        """Makes the same limits again, without pandapower."""
        limits = {name: (low, high) for name, (low, high) in parameters['limits'].items()}
        return cls(**{**parameters, 'grid': Grid.from_dict(parameters['grid']), 'limits': limits})

    @property
    def column_limits(self) -> dict[str, tuple[float, float]]:
        """Limits of single columns, in the table's units."""
        found = {}
        for place, factor, (lower, upper) in zip(self._places, self._factors, self._pairs, strict=False):
            found[self.columns[int(place)]] = (lower / float(factor), upper / float(factor))
        return found

    def residual(self, table: TableView) -> Residuals:
        """The limited quantities, shape (row, limit), in `unit`.

        Raises:
            ColumnMissingError: the table lacks one of `columns`.
        """
        values = table[self.columns]
        own = values[:, self._places] * self._factors.to(values)
        return torch.cat([own, self._implied.values(*self._voltages(values))], dim=1)

    def jacobian(self, table: TableView) -> Jacobians:
        """Derivative of the residual in closed form, shape (row, limit, column)."""
        values = table[self.columns]
        own = values.new_zeros(len(values), len(self._places), len(self.columns))
        own[:, torch.arange(len(self._places)), self._places] = self._factors.to(values)
        by_states = self._implied.jacobian(*self._voltages(values))
        rest, seen = values.new_zeros(*by_states.shape[:2], len(self.columns)), self._state_places >= 0
        rest[:, :, self._state_places[seen]] = by_states[:, :, seen] * self._per_column.to(values)[seen]
        result = torch.cat([own, rest], dim=1)
        if tuple(table.names) == self.columns:
            return result
        whole = values.new_zeros(*result.shape[:2], len(table.names))
        whole[:, :, [table.names.index(name) for name in self.columns]] = result
        return whole

    def equation_names(self, number: int) -> list[str]:
        """The standard names of what is limited; of a flow with its end."""
        return self._names[:number]

    def require(self, available: Iterable[str]) -> None:
        """Checks that a table has the constraint's columns.

        Raises:
            ColumnMissingError: one is missing; the message names it, what looks close, and how to pass that.
        """
        self._found.require([*available, *(name for name in self._found.names if name not in self.columns)])

    def _voltages(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Magnitudes in p.u. and angles in radians of all nodes; 1 and 0 of those that no limit depends on."""
        nodes = len(self.grid.y_bus)
        nothing = (torch.arange(2 * nodes) < nodes).to(values)
        seen = (
            values[:, self._state_places.clamp(min=0)] * self._per_column.to(values) if len(self.columns) else nothing
        )
        vm, va = torch.where(self._state_places >= 0, seen, nothing).chunk(2, dim=1)
        return vm, va

    @property
    def _per_column(self) -> torch.Tensor:
        states = self._found.states()
        factors = torch.from_numpy(self._found.factors)[torch.from_numpy(states).clamp(min=0)]
        return torch.where(torch.arange(len(states)) < len(self.grid.y_bus), factors, factors / DEGREES_PER_RADIAN)

    def _own_columns(self, quantity: str) -> list[int]:
        """Places of the quantity's columns that have a limit."""
        labels, (places, elements) = self.grid.labels(quantity), self._found.of(quantity)
        return [
            int(place)
            for place, element in zip(places, elements, strict=True)
            if np.isfinite(self._limits.get(column(quantity, labels[element]), (-np.inf, np.inf))).any()
        ]

    def _ends(self, quantity: str, seen: np.ndarray, told: Collection[str]) -> tuple[np.ndarray, list[str]]:
        """Ends of branches at which a quantity has a limit that can bind and can be judged, and their branches.

        Args:
            quantity: of branches.
            seen: which nodes have their voltage in the table.
            told: standard names of quantities that have columns of their own.
        """
        grid, ends = self.grid, []
        per_branch = dict.fromkeys(grid.end_branch.tolist(), 0)
        for end, branch in enumerate(grid.end_branch.tolist()):
            name = column(quantity, grid.branches[branch])
            both = np.flatnonzero(grid.end_branch == branch)
            if name not in self._limits or name in told or not seen[self._nodes_of(both)].all():
                continue
            # Both ends of a branch may carry the larger power; of the others one end stands for the branch.
            if (quantity != APPARENT and per_branch[branch]) or (quantity == ANGLE and len(both) < 2):
                continue
            if self._may_bind(quantity, end, both, *self._limits[name]):
                per_branch[branch] += 1
                ends.append(end)
        return np.array(ends, dtype=np.int64), [grid.branches[grid.end_branch[end]] for end in ends]

    def _nodes_of(self, both: np.ndarray) -> list[int]:
        """Nodes on whose voltages the flows at a branch's ends depend: of a winding, those of all three."""
        return [*self.grid.end_node[both], *self.grid.y_ends[both].indices]

    def _without_columns(self, seen: np.ndarray, told: Collection[str]) -> tuple[str, ...]:
        """Standard names of finite limits for which columns are missing, see `_ends`."""
        grid = self.grid
        unseen = {
            name
            for number, name in enumerate(grid.branches)
            if not seen[self._nodes_of(np.flatnonzero(grid.end_branch == number))].all()
        }
        of_branches = {column(each, branch) for each in (APPARENT, 'loading_percent', ANGLE) for branch in unseen}
        of_columns = {column(each, label) for each in IN_PANDAPOWER for label in grid.labels(each)}
        finite = [name for name, pair in self._limits.items() if np.isfinite(pair).any()]
        return tuple(name for name in finite if name not in told and name in of_branches | of_columns)

    def _may_bind(self, quantity: str, end: int, both: np.ndarray, low: float, high: float) -> bool:
        """Whether voltages within their bands can exceed the limit."""
        if quantity == ANGLE:
            return bool(np.isfinite([low, high]).any())
        current = np.abs(self.grid.y_ends[both].toarray()) @ self._highest
        if quantity == APPARENT:
            return bool(high < self.grid.sn_mva * current[both == end][0] * self._highest[self.grid.end_node[end]])
        return bool(high < np.nan_to_num(current * self.grid.loading_per_pu[both]).max())

    def _highest_voltages(self) -> np.ndarray:
        """Upper limit of each node's magnitude, shape (node,); where there is none, more than there ever is."""
        highest = np.full(len(self.grid.y_bus), np.inf)
        of_bus = [self._limits.get(column('vm_pu', bus), (0.0, np.inf))[1] for bus in self.grid.buses]
        np.minimum.at(highest, self.grid.node, of_bus)
        return np.where(np.isfinite(highest), highest, UNHEARD_OF)

    def _write(self, band: Mapping[str, list[int]], wanted: Mapping[str, tuple[np.ndarray, list[str]]]) -> None:
        """Limits, tolerances, units and names of all equations."""
        self.unit, self.tolerance = list[str](), list[float]()
        self._names: list[str] = []
        self._pairs: list[tuple[float, float]] = []
        for quantity, places in band.items():
            names = [self._found.standard(place) for place in places]
            self._names += names
            self._pairs += [self._limits[name] for name in names]
            self.unit += [BOUNDED[quantity]] * len(names)
            size = {'vm_pu': 1.0, 'loading_percent': 100.0}.get(quantity, self.grid.sn_mva)
            self.tolerance += [self.tolerance_pu * size] * len(names)
        for quantity, (ends, branches) in wanted.items():
            for end, branch in zip(ends, branches, strict=True):
                low, high = self._limits[column(quantity, branch)]
                side = f' at its {("from", "to")[self.grid.end_side[end]]} end' if quantity == APPARENT else ''
                self._names.append(f'{column(quantity, branch)}{side}')
                self._pairs.append((low, high))
                self.unit.append({APPARENT: 'MVA', ANGLE: 'degree'}.get(quantity, '%'))
                self.tolerance.append(self.tolerance_pu * (DEGREES_PER_RADIAN if quantity == ANGLE else high))
        self.lower, self.upper = [low for low, _ in self._pairs], [high for _, high in self._pairs]

    def _check(self, limits: Mapping[str, tuple[float, float]]) -> None:
        known = {
            *(column(quantity, label) for quantity in IN_PANDAPOWER for label in self.grid.labels(quantity)),
            *(column(each, label) for each in (APPARENT, 'loading_percent', ANGLE) for label in self.grid.branches),
        }
        for name, (low, high) in limits.items():
            if name not in known:
                raise ConstraintError(
                    f'{self.name} knows no quantity {name!r} of this grid. Limits are those of vm_pu_<bus>, '
                    'pg_mw_<generator>, qg_mvar_<generator>, loading_percent_<branch>, s_mva_<branch> and '
                    'angle_difference_degree_<branch>.'
                )
            if not low <= high:
                raise ConstraintError(
                    f'{self.name} needs a lower limit of {name!r} that is at most the upper one, but got {low} and '
                    f'{high}. Mend the network or the limits.'
                )
            if low > 0 and name.startswith((APPARENT, 'loading_percent')):
                raise ConstraintError(
                    f'{self.name} limits flows from above only, but got at least {low} for {name!r}. Pass -inf or 0, '
                    'or write the constraint yourself.'
                )
