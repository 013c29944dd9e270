"""AC power flow as a constraint on the wide table: at every node, the injection equals what the voltages imply."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdv_constrained_diffusion._types import Jacobians, Residuals
from sdv_constrained_diffusion.constraints.base import Constraint, Misreading, TableView
from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError
from sdv_constrained_diffusion.power.equations import Admittances, power_jacobians, powers
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.tables import WIDE, column

RADIANS_PER_DEGREE = math.pi / 180


class PowerFlow(Constraint):
    r"""The AC power-flow equations of a grid (Grainger and Stevenson 1994, ch. 9; shunts belong to Y).

    Per node, `sum p_mw - sn_mva Re S` in MW and `sum q_mvar - sn_mva Im S` in Mvar with $S_i = V_i \overline{(Y V)_i}$,
    sums over the node's buses. Where closed switches join several buses, each further bus has the voltage of the
    first: two more equations, in p.u. and degrees.

    Attributes:
        grid: the network's data.
        columns: the table's names of `p_mw`, `q_mvar`, `vm_pu`, `va_degree` of every bus, in that order.
    """

    def __init__(
        self,
        grid: Grid,
        columns: Mapping[str, str] | None = None,
        tolerance_mw: float = 1e-6,
        tolerance_vm_pu: float = 1e-9,
        tolerance_va_degree: float = 1e-7,
    ) -> None:
        """Binds the equations of a grid to columns.

        Args:
            grid: the network's data.
            columns: from the standard name of a column to the table's own, e.g. `{'va_degree_3': 'va_deg_3'}`;
                columns that are not mentioned have their standard name.
            tolerance_mw: largest mismatch that counts as feasible, in MW and in Mvar.
            tolerance_vm_pu: largest difference of magnitudes between buses joined by a switch, in p.u.
            tolerance_va_degree: largest difference of angles between buses joined by a switch, in degrees.

        Raises:
            ConstraintError: `columns` names a standard column that the grid does not have, or one column twice.
        """
        self.grid = grid
        self.tolerance_mw = tolerance_mw
        self.tolerance_vm_pu, self.tolerance_va_degree = tolerance_vm_pu, tolerance_va_degree
        self._own_names = dict(columns or {})
        self._standard = [column(quantity, bus) for quantity in WIDE for bus in grid.buses]
        self.columns = tuple(self._own_names.get(name, name) for name in self._standard)
        self._check_names()
        nodes, fused = len(grid.y_bus), len(grid.fused)
        self._one_bus_per_node = bool(np.array_equal(grid.node, np.arange(nodes)))
        self.tolerance = [tolerance_mw] * 2 * nodes + [tolerance_vm_pu] * fused + [tolerance_va_degree] * fused
        self.unit = ['MW'] * nodes + ['Mvar'] * nodes + ['p.u.'] * fused + ['degree'] * fused

    @classmethod
    def from_pandapower(
        cls, net: Any, columns: Mapping[str, str] | None = None, tolerance_mw: float = 1e-6
    ) -> 'PowerFlow':
        """The equations of a pandapower network as it is: its switches, taps and services.

        Args:
            net: a `pandapowerNet`, left as it is.
            columns: from the standard name of a column to the table's own, e.g. `{'va_degree_3': 'va_deg_3'}`.
            tolerance_mw: largest mismatch that counts as feasible, in MW and in Mvar.

        Raises:
            GridError: as in `Grid.from_pandapower`.
            ConstraintError: as in `PowerFlow`.
            MissingExtraError: pandapower is not installed.
        """
        return cls(Grid.from_pandapower(net), columns, tolerance_mw)

    def parameters(self) -> dict[str, Any]:
        """The grid's data, the columns' own names and the tolerances."""
        return {
            'grid': self.grid.to_dict(),
            'columns': self._own_names,
            'tolerance_mw': self.tolerance_mw,
            'tolerance_vm_pu': self.tolerance_vm_pu,
            'tolerance_va_degree': self.tolerance_va_degree,
        }

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> 'PowerFlow':
        """Makes the same equations again, without pandapower."""
        return cls(**{**parameters, 'grid': Grid.from_dict(parameters['grid'])})

    def residual(self, table: TableView) -> Residuals:
        """Mismatch of power per node, then difference of voltage per bus that a switch joins to another.

        Args:
            table: at least `columns`, in MW, Mvar, p.u. and degrees.

        Returns:
            shape (row, equation), in `unit`.

        Raises:
            ColumnMissingError: the table lacks one of `columns`.
        """
        p_mw, q_mvar, vm_pu, va_degree = self._read(table)
        y_bus = self._y_bus(table.values)
        if self._one_bus_per_node:
            p, q = powers(vm_pu, va_degree * RADIANS_PER_DEGREE, y_bus)
            return torch.cat([p_mw - self.grid.sn_mva * p, q_mvar - self.grid.sn_mva * q], dim=1)
        first, fused, first_of_fused = self._positions(table.values.device)
        p, q = powers(vm_pu[:, first], va_degree[:, first] * RADIANS_PER_DEGREE, y_bus)
        return torch.cat(
            [
                self._sum_per_node(p_mw) - self.grid.sn_mva * p,
                self._sum_per_node(q_mvar) - self.grid.sn_mva * q,
                vm_pu[:, fused] - vm_pu[:, first_of_fused],
                va_degree[:, fused] - va_degree[:, first_of_fused],
            ],
            dim=1,
        )

    def jacobian(self, table: TableView) -> Jacobians:
        """Derivative of the residual in closed form.

        Args:
            table: at least `columns`; further columns have derivative zero.

        Returns:
            shape (row, equation, column), columns in the order of `table.names`.

        Raises:
            ColumnMissingError: the table lacks one of `columns`.
        """
        _, _, vm_pu, va_degree = self._read(table)
        first, fused, first_of_fused = self._positions(table.values.device)
        vm, va = vm_pu[:, first], va_degree[:, first] * RADIANS_PER_DEGREE
        dp_dvm, dp_dva, dq_dvm, dq_dva = power_jacobians(vm, va, self._y_bus(table.values))

        position = {name: index for index, name in enumerate(table.names)}
        at = torch.tensor([position[name] for name in self.columns], device=first.device)
        p_mw, q_mvar, vm_pu_at, va_degree_at = at.reshape(len(WIDE), -1)
        nodes, node = len(first), torch.as_tensor(self.grid.node, device=first.device)
        per_pu, per_degree = self.grid.sn_mva, self.grid.sn_mva * RADIANS_PER_DEGREE

        result = table.values.new_zeros(len(vm), 2 * nodes + 2 * len(fused), len(table.names))
        result[:, node, p_mw] = 1.0
        result[:, nodes + node, q_mvar] = 1.0
        result[:, :nodes, vm_pu_at[first]] = -per_pu * dp_dvm
        result[:, :nodes, va_degree_at[first]] = -per_degree * dp_dva
        result[:, nodes : 2 * nodes, vm_pu_at[first]] = -per_pu * dq_dvm
        result[:, nodes : 2 * nodes, va_degree_at[first]] = -per_degree * dq_dva
        for offset, voltage in ((2 * nodes, vm_pu_at), (2 * nodes + len(fused), va_degree_at)):
            equation = offset + torch.arange(len(fused), device=first.device)
            result[:, equation, voltage[fused]] = 1.0
            result[:, equation, voltage[first_of_fused]] = -1.0
        return result

    def equation_names(self, number: int) -> list[str]:
        """Names such as 'P mismatch bus 3', 'Q mismatch buses 4, 7' and 'vm of bus 7 against bus 4'.

        Args:
            number: how many equations `residual` returned.
        """
        grid, buses = self.grid, np.array(self.grid.buses)
        of_node = [buses[grid.node == node].tolist() for node in range(len(grid.y_bus))]
        where = [('buses ' if len(ids) > 1 else 'bus ') + ', '.join(map(str, ids)) for ids in of_node]
        pairs = [(buses[index], of_node[grid.node[index]][0]) for index in grid.fused]
        names = [f'{power} mismatch {place}' for power in 'PQ' for place in where]
        names += [f'{quantity} of bus {bus} against bus {other}' for quantity in ('vm', 'va') for bus, other in pairs]
        return names[:number]

    def misreadings(self) -> Iterable[Misreading]:
        """The usual mistakes: powers per unit, angles in radians, load counted as positive."""
        sn_mva, powers, angles = self.grid.sn_mva, self._names('p_mw', 'q_mvar'), self._names('va_degree')
        if sn_mva != 1:
            yield Misreading(
                cause=f'the powers are in per unit on {sn_mva:g} MVA instead of MW and Mvar',
                remedy=f'multiply the columns p_mw_* and q_mvar_* by {sn_mva:g}',
                reread=lambda table: self._scaled(table, powers, sn_mva),
            )
        yield Misreading(
            cause='the angles are in radians instead of degrees',
            remedy='convert the columns va_degree_* with numpy.degrees',
            reread=lambda table: self._scaled(table, angles, 1 / RADIANS_PER_DEGREE),
        )
        yield Misreading(
            cause='the powers count load as positive instead of generation',
            remedy='change the sign of the columns p_mw_* and q_mvar_*; for a pandapower network that has shunts, use '
            'sdv_constrained_diffusion.power.nets.result_row, which also takes the shunts out of net.res_bus',
            reread=lambda table: self._scaled(table, powers, -1.0),
        )

    def require(self, available: Iterable[str]) -> None:
        """Checks that a table has the constraint's columns.

        Args:
            available: the table's column names.

        Raises:
            ColumnMissingError: one is missing; the message names it, what looks close, and how to pass that.
        """
        available = [str(name) for name in available]
        present = set(available)
        for standard, own in zip(self._standard, self.columns, strict=True):
            if own not in present:
                close = difflib.get_close_matches(own, [name for name in available if name not in self.columns], n=1)
                hint = f'Pass columns={{{standard!r}: {(close or ["..."])[0]!r}}} or rename the column.'
                raise ColumnMissingError.of(self.name, own, available, hint)

    def _check_names(self) -> None:
        unknown = [name for name in self._own_names if name not in self._standard]
        if unknown:
            close = difflib.get_close_matches(unknown[0], self._standard, n=3)
            looks = f' Standard names that look close: {", ".join(map(repr, close))}.' if close else ''
            raise ConstraintError(
                f'{self.name} needs columns={{standard name: own name}}, but {unknown[0]!r} is no standard name of '
                f'this grid.{looks} Standard names are p_mw_<bus>, q_mvar_<bus>, vm_pu_<bus>, va_degree_<bus>.'
            )
        twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if twice:
            raise ConstraintError(
                f'{self.name} needs a column of its own for every quantity, but {twice[0]!r} is used for several. '
                'Give each standard name another column in columns={...}.'
            )

    def _read(self, table: TableView) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self.require(table.names)
        p_mw, q_mvar, vm_pu, va_degree = table[self.columns].chunk(len(WIDE), dim=1)
        return p_mw, q_mvar, vm_pu, va_degree

    def _names(self, *quantities: str) -> list[str]:
        standard = [column(quantity, bus) for quantity in quantities for bus in self.grid.buses]
        return [self._own_names.get(name, name) for name in standard]

    def _scaled(self, table: TableView, names: Iterable[str], factor: float) -> TableView:
        position = {name: index for index, name in enumerate(table.names)}
        factors = torch.ones_like(table.values[0])
        factors[[position[name] for name in names]] = factor
        return table.with_values(table.values * factors)

    def _positions(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        first, fused = self.grid.representative, self.grid.fused
        first_of_fused = torch.as_tensor(first[self.grid.node[fused]], device=device)
        return torch.as_tensor(first, device=device), torch.as_tensor(fused, device=device), first_of_fused

    def _y_bus(self, like: Tensor) -> Admittances:
        return Admittances.of(self.grid.y_bus).to(like)

    def _sum_per_node(self, per_bus: Tensor) -> Tensor:
        node = torch.as_tensor(self.grid.node, device=per_bus.device)
        return per_bus.new_zeros(len(per_bus), len(self.grid.y_bus)).index_add(1, node, per_bus)
