"""AC power flow as a constraint on a table: at every node, the injection equals what the voltages imply."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sdv_constrained_diffusion._types import Jacobians, Residuals, Table
from sdv_constrained_diffusion.constraints.base import Constraint, Misreading, TableView
from sdv_constrained_diffusion.errors import ConstraintError
from sdv_constrained_diffusion.power.columns import DEGREES_PER_RADIAN, INJECTED, UNIT, PowerColumns, Units
from sdv_constrained_diffusion.power.equations import packed, product
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.implied import ImpliedQuantities
from sdv_constrained_diffusion.power.states import UnseenVoltages, Voltages
from sdv_constrained_diffusion.power.tables import FLOWS

POWERS = ('p_mw', 'q_mvar', 'pd_mw', 'qd_mvar', 'pg_mw', 'qg_mvar', *FLOWS[:4])
"""Quantities in MW or Mvar."""


class PowerFlow(Constraint):
    r"""The AC power-flow equations of a grid (Grainger and Stevenson 1994, ch. 9; shunts belong to Y).

    Per node, `sum p_mw - sn_mva Re S` in MW and `sum q_mvar - sn_mva Im S` in Mvar with $S_i = V_i \overline{(Y V)_i}$;
    the injection is the buses' own columns, or generation minus demand where those have columns. Where closed switches
    join several buses, each further bus has the voltage of the first: two more equations, in p.u. and degrees. Every
    flow and loading of a branch that has a column is one more equation.

    A table may lack any of these columns. A node whose injection it does not tell asks nothing. Voltages that it does
    not hold are solved for, and what the equations ask beyond them remains (`states`). Of several solutions the one
    nearest to the network's own operating point is sought. Where magnitudes follow from active powers alone, through
    the losses, or from loadings, which tell the size of a current and not its direction, another may be found, and a
    feasible row be judged infeasible: such tables need `vm_pu_*`, too.

    Attributes:
        grid: the network's data.
        columns: the table's names of its columns, quantity by quantity.
    """

    def __init__(
        self,
        grid: Grid,
        columns: Mapping[str, str] | None = None,
        tolerance_mw: float = 1e-6,
        tolerance_vm_pu: float = 1e-9,
        tolerance_va_degree: float = 1e-7,
        tolerance_percent: float = 1e-6,
        table: Iterable[str] | None = None,
        units: Units | Mapping[str, Any] | None = None,
    ) -> None:
        """Binds the equations of a grid to columns.

        Args:
            grid: the network's data.
            columns: from the standard name of a column (`power.tables`) to the table's own, e.g.
                `{'va_degree_3': 'va_deg_3'}`; columns that are not mentioned have their standard name.
            tolerance_mw: largest mismatch that counts as feasible, in MW and in Mvar.
            tolerance_vm_pu: largest difference of magnitudes between buses joined by a switch, in p.u.
            tolerance_va_degree: largest difference of angles between buses joined by a switch, in degrees.
            tolerance_percent: largest error of a branch's loading, in percent of its rating.
            table: the table's columns, such as a DataFrame; those with a standard name are used, whichever they are.
                None for the wide table: p, q, vm and va of every bus.
            units: how the table writes powers and angles; residuals are in MW and degrees in any case.

        Raises:
            ConstraintError: `columns` names a standard column that the grid does not have, or one column twice, or the
                table's columns leave no equation.
        """
        self.grid = grid
        self.tolerance_mw, self.tolerance_percent = tolerance_mw, tolerance_percent
        self.tolerance_vm_pu, self.tolerance_va_degree = tolerance_vm_pu, tolerance_va_degree
        self._found = PowerColumns(grid, columns, table, units, self.name)
        self.columns = self._found.names
        self._laws()
        tolerances = {
            **dict.fromkeys(('MW', 'Mvar'), tolerance_mw),
            'p.u.': tolerance_vm_pu,
            'degree': tolerance_va_degree,
            '%': tolerance_percent,
        }
        self.tolerance = [tolerances[unit] for unit in self.unit]
        self._check_enough()

    @classmethod
    def from_pandapower(
        cls,
        net: Any,
        columns: Mapping[str, str] | None = None,
        tolerance_mw: float = 1e-6,
        table: Iterable[str] | None = None,
        units: Units | Mapping[str, Any] | None = None,
    ) -> 'PowerFlow':
        """The equations of a pandapower network as it is: its switches, taps and services.

        Args:
            net: a `pandapowerNet`, left as it is.
            columns: from the standard name of a column to the table's own, e.g. `{'va_degree_3': 'va_deg_3'}`.
            tolerance_mw: largest mismatch that counts as feasible, in MW and in Mvar.
            table: the table's columns; None for the wide table, as in `PowerFlow`.
            units: how the table writes powers and angles.

        Raises:
            GridError: as in `Grid.from_pandapower`.
            ConstraintError: as in `PowerFlow`.
            MissingExtraError: pandapower is not installed.
        """
        return cls(Grid.from_pandapower(net), columns, tolerance_mw, table=table, units=units)

    def on(self, grid: Grid) -> 'PowerFlow':
        """The same equations on another state of the grid, such as with a branch out of service.

        Args:
            grid: with the same buses, elements and ends of branches.
        """
        other = copy.copy(self)
        other.grid = grid
        other._implied = self._implied.on(grid)
        other._check_enough()
        return other

    def parameters(self) -> dict[str, Any]:
        """The grid's data, the columns and their units, and the tolerances."""
        return {
            'grid': self.grid.to_dict(),
            **self._found.parameters(),
            'tolerance_mw': self.tolerance_mw,
            'tolerance_vm_pu': self.tolerance_vm_pu,
            'tolerance_va_degree': self.tolerance_va_degree,
            'tolerance_percent': self.tolerance_percent,
        }

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> 'PowerFlow':
        """Makes the same equations again, without pandapower."""
        return cls(**{**parameters, 'grid': Grid.from_dict(parameters['grid'])})

    def residual(self, table: TableView) -> Residuals:
        """Mismatch of power per node, then what else the columns are bound by.

        Args:
            table: at least `columns`, in the units of the table.

        Returns:
            shape (row, equation), in `unit`.

        Raises:
            ColumnMissingError: the table lacks one of `columns`.
        """
        values = self._read(table)
        linear = self._linear(values)
        return linear - self._implied_by(self._voltages(values, linear))

    def jacobian(self, table: TableView) -> Jacobians:
        """Derivative of the residual in closed form.

        Args:
            table: at least `columns`; further columns have derivative zero.

        Returns:
            shape (row, equation, column), columns in the order of `table.names`.

        Raises:
            ColumnMissingError: the table lacks one of `columns`.
        """
        values = self._read(table)
        by_states = -self._implied_jacobian(self._voltages(values, self._linear(values)))
        weights = self._weights.to_dense()[:, : len(self.columns)]
        own = weights.to(values).expand(len(values), -1, -1).clone()
        seen = self._states_at >= 0
        own[:, :, self._states_at[seen]] += by_states[:, :, seen] * self._per_column[seen].to(values)
        if self._unseen is not None:
            own = self._unseen.eliminated(by_states, own)
        if tuple(table.names) == self.columns:
            return own
        position = {name: index for index, name in enumerate(table.names)}
        result = values.new_zeros(*own.shape[:2], len(table.names))
        result[:, :, [position[name] for name in self.columns]] = own
        return result

    def equation_names(self, number: int) -> list[str]:
        """Names such as 'P mismatch bus 3', 'Q mismatch buses 4, 7' and 'vm of bus 7 against bus 4'.

        Args:
            number: how many equations `residual` returned.
        """
        return self._names[:number]

    def misreadings(self) -> Iterable[Misreading]:
        """The usual mistakes: powers in the other unit, angles in the other unit, the other sign."""
        sn_mva, units = self.grid.sn_mva, self._found.units
        quantities = [each for each in POWERS if self._found.names_of(each)]
        powers_of = self._found.names_of(*quantities)
        angles, signed = self._found.names_of('va_degree'), self._found.names_of('p_mw', 'q_mvar')
        to_mw, degrees = units.power == 'MW', units.angle == 'degree'
        if sn_mva != 1 and powers_of:
            *most, last = [f'{each}_*' for each in quantities]
            named = f'{", ".join(most)} and {last}' if most else last
            other = replace(units, power='p.u.' if to_mw else 'MW')
            yield Misreading(
                cause=f'the powers are in per unit on {sn_mva:g} MVA instead of MW and Mvar'
                if to_mw
                else f'the powers are in MW and Mvar instead of per unit on {sn_mva:g} MVA',
                remedy=f'{"multiply" if to_mw else "divide"} the columns {named} by {sn_mva:g}, or '
                f'declare power={other.power!r} in units=Units(...)',
                reread=lambda table: self._scaled(table, powers_of, sn_mva if to_mw else 1 / sn_mva),
            )
        if angles:
            other = replace(units, angle='radian' if degrees else 'degree')
            yield Misreading(
                cause=f'the angles are in {other.angle}s instead of {units.angle}s',
                remedy=f'convert the columns va_degree_* with numpy.{units.angle}s, or declare '
                f'angle={other.angle!r} in units=Units(...)',
                reread=lambda table: self._scaled(
                    table, angles, DEGREES_PER_RADIAN if degrees else 1 / DEGREES_PER_RADIAN
                ),
            )
        if signed:
            other = replace(units, sign='load' if units.sign == 'generation' else 'generation')
            yield Misreading(
                cause=f'the powers count {other.sign} as positive instead of {units.sign}',
                remedy=f'change the sign of the columns p_mw_* and q_mvar_*, or declare '
                f'sign={other.sign!r} in units=Units(...); for '
                'a pandapower network that has shunts, use sdv_constrained_diffusion.power.nets.result_row, which also '
                'takes the shunts out of net.res_bus',
                reread=lambda table: self._scaled(table, signed, -1.0),
            )

    def require(self, available: Iterable[str]) -> None:
        """Checks that a table has the constraint's columns.

        Args:
            available: the table's column names.

        Raises:
            ColumnMissingError: one is missing; the message names it, what looks close, and how to pass that.
        """
        self._found.require(available)

    def _laws(self) -> None:
        """Writes the equations as `W v + c - G(states)`: of each a row of W, c, name and unit; those with G first."""
        grid, found = self.grid, self._found
        laws, wanted = _Laws(len(self.columns)), []
        each = np.arange(len(grid.buses))
        at_node = sp.csr_matrix((np.ones(len(each)), (grid.node, each)), (len(grid.y_bus), len(each)))
        for power, quantity in INJECTED.items():
            known, weights, rest = found.injection(power)
            (nodes,) = np.nonzero(at_node @ ~known == 0)
            names = [f'{power.upper()} mismatch {self._place(node)}' for node in nodes.tolist()]
            laws.add(names, UNIT[power], (at_node @ weights)[nodes], (at_node @ rest)[nodes])
            wanted.append((quantity, nodes))
        for quantity, unit in zip(FLOWS, ('MW', 'Mvar', 'MW', 'Mvar', '%'), strict=True):
            (places, elements), labels = found.of(quantity), grid.labels(quantity)
            names = [f'{quantity.rsplit("_", 1)[0]} of {labels[each]}' for each in elements.tolist()]
            laws.add(names, unit, found.selection(places))
            wanted.append((quantity, grid.ends(quantity)[elements]))
        for quantity, unit in (('vm_pu', 'p.u.'), ('va_degree', 'degree')):
            places, buses = found.of(quantity)
            _, first, node = np.unique(grid.node[buses], return_index=True, return_inverse=True)
            further = np.setdiff1d(np.arange(len(places)), first)
            names = [
                f'{quantity.split("_")[0]} of bus {grid.buses[buses[each]]} against bus {grid.buses[buses[other]]}'
                for each, other in zip(further, first[node[further]], strict=True)
            ]
            other = found.selection(places[first[node[further]]])
            laws.add(names, unit, found.selection(places[further]) - other)
        for power in INJECTED:
            both, weights, constants = found.balances(power)
            names = [f'{power.upper()} of bus {grid.buses[bus]} against its elements' for bus in both]
            laws.add(names, UNIT[power], weights, constants)
        self._implied = ImpliedQuantities(grid, wanted)
        self._names, self.unit = laws.names, laws.units
        self._weights, self._constants = packed(sp.vstack(laws.weights)), torch.tensor(laws.constants).double()
        self._states_at = torch.from_numpy(found.states())
        factors = torch.from_numpy(np.append(found.factors, 1.0))[self._states_at]
        in_radians = torch.arange(len(factors)) >= len(grid.y_bus)
        self._per_column = torch.where(in_radians, factors / DEGREES_PER_RADIAN, factors)
        self._at_rest = torch.from_numpy(np.concatenate([grid.vm_pu, np.deg2rad(grid.va_degree)]))

    def _place(self, node: int) -> str:
        buses = np.array(self.grid.buses)[self.grid.node == node].tolist()
        return ('buses ' if len(buses) > 1 else 'bus ') + ', '.join(map(str, buses))

    def _check_enough(self) -> None:
        unseen = (self._states_at < 0).nonzero()[:, 0]
        self._unseen = None
        if len(unseen):
            self._unseen = UnseenVoltages(unseen, -self._implied_jacobian(self._rest(1))[0])
        if len(self.unit) == (0 if self._unseen is None else self._unseen.num_unknowns):
            some = f' ({", ".join(self.columns[:3])}, ...)' if self.columns else ''
            raise ConstraintError(
                f'{self.name} needs columns that are bound by an equation, but with {len(self.columns)} columns of '
                f'known meaning{some} and {len(unseen)} voltages that are not in the table nothing is left to ask. '
                'Pass a table with more of p_mw_*, q_mvar_* (or pd_mw_*, pg_mw_*, ...), vm_pu_*, va_degree_*, or name '
                'the columns in columns={...}.'
            )

    def _rest(self, rows: int) -> Voltages:
        """The network's own operating point in each row."""
        vm, va = self._at_rest.chunk(2)
        return vm.expand(rows, -1), va.expand(rows, -1)

    def _read(self, table: TableView) -> Table:
        self.require(table.names)
        return table[self.columns]

    def _linear(self, values: Table) -> Residuals:
        return product(values, self._weights.to(values)) + self._constants.to(values)

    def _voltages(self, values: Table, linear: Residuals) -> Voltages:
        """Magnitudes and angles, p.u. and radians, of every node; those that have no column are solved for."""
        if self._unseen is None:
            vm, va = (values[:, self._states_at] * self._per_column.to(values)).chunk(2, dim=1)
            return vm, va
        seen = values[:, self._states_at.clamp(min=0)] * self._per_column.to(values)
        vm, va = torch.where(self._states_at >= 0, seen, self._at_rest.to(values)).chunk(2, dim=1)
        with torch.no_grad():
            vm_found, va_found = self._unseen.solve((vm, va), linear, self._implied_by, self._implied_jacobian)
        # The solution's values with the derivative of the seen ones, and Newton's step for that of the unseen.
        found = (vm + (vm_found - vm).detach(), va + (va_found - va).detach())
        if not linear.requires_grad:
            return found
        return self._unseen.newton(found, linear - self._implied_by(found), -self._implied_jacobian(found).detach())

    def _implied_by(self, voltages: Voltages) -> Residuals:
        """G: what the voltages imply for each equation."""
        found = self._implied.values(*voltages)
        return torch.nn.functional.pad(found, (0, len(self.unit) - found.shape[1]))

    def _implied_jacobian(self, voltages: Voltages) -> Tensor:
        """Derivative of G by magnitudes (per p.u.) and angles (per radian), shape (row, equation, 2 node)."""
        found = self._implied.jacobian(*voltages)
        return torch.nn.functional.pad(found, (0, 0, 0, len(self.unit) - found.shape[1]))

    def _scaled(self, table: TableView, names: Iterable[str], factor: float) -> TableView:
        position = {name: index for index, name in enumerate(table.names)}
        factors = torch.ones_like(table.values[0])
        factors[[position[name] for name in names]] = factor
        return table.with_values(table.values * factors)


class _Laws:
    """Equations that are being written down."""

    def __init__(self, num_columns: int) -> None:
        self.names: list[str] = []
        self.units: list[str] = []
        self.weights: list[sp.csr_matrix] = [sp.csr_matrix((0, num_columns))]
        self.constants: list[float] = []

    def add(self, names: list[str], unit: str, weights: sp.csr_matrix, constants: np.ndarray | None = None) -> None:
        """Equations of one kind: their names, and of each a row of weights and a constant, 0 by default."""
        self.names += names
        self.units += [unit] * len(names)
        self.weights.append(weights)
        self.constants += [0.0] * len(names) if constants is None else constants.tolist()
