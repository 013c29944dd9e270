"""One law for several states of a grid: each row is judged on the topology that one of its columns names."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sdv_constrained_diffusion._batches import filled
from sdv_constrained_diffusion._types import Jacobians, Residuals, Table
from sdv_constrained_diffusion.constraints.base import Constraint, Misreading, TableView
from sdv_constrained_diffusion.constraints.system import LARGE
from sdv_constrained_diffusion.errors import ConstraintError
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.limits import OperatingLimits
from sdv_constrained_diffusion.power.tables import BASE, JOIN, TOPOLOGY

LAWS: dict[str, type[PowerFlow] | type[OperatingLimits]] = {
    'power_flow': PowerFlow,
    'operating_limits': OperatingLimits,
}


class ByTopology(Constraint):
    """`PowerFlow` or `OperatingLimits` on the grid that each row's topology names.

    A topology is 'base', or the labels of the branches that are out of service, joined by '+': 'line_3',
    'line_3+trafo_1'.

    Attributes:
        law: the law on the whole grid.
        topologies: the topologies that rows may name.
        columns: the law's columns, and that of the topology.
    """

    def __init__(self, law: PowerFlow | OperatingLimits, topologies: Iterable[str], column: str = TOPOLOGY) -> None:
        """Makes the law for each topology.

        Args:
            law: the law on the whole grid.
            topologies: the topologies that rows may name, such as `data['topology'].unique()`.
            column: the column that names them.

        Raises:
            GridError: a topology names an unknown branch, or leaves buses without connection to a slack.
            ConstraintError: `law` is neither law, or `topologies` is one word.
        """
        if type(law) not in LAWS.values() or isinstance(topologies, str):
            raise ConstraintError(
                'ByTopology needs a PowerFlow or OperatingLimits and the topologies that rows name, but got '
                f"{type(law).__name__} and {topologies!r}. Pass a list of them, such as data['topology'].unique()."
            )
        self.law, self.topologies, self._column = law, tuple(dict.fromkeys(map(str, topologies))), column
        self._laws = {each: law if each == BASE else law.on(_grid(law.grid, each)) for each in self.topologies}
        self.columns, self.discrete = (*law.columns, column), (column,)
        self.lower, self.upper, self.tolerance, self.unit = law.lower, law.upper, law.tolerance, law.unit

    @property
    def name(self) -> str:
        """The law's name."""
        return f'{self.law.name} by {self._column}'

    def parameters(self) -> dict[str, Any]:
        """The law's kind and parameters, the topologies, and their column."""
        kind = next(kind for kind, law in LAWS.items() if type(self.law) is law)
        return {
            'kind': kind,
            'law': self.law.parameters(),
            'topologies': list(self.topologies),
            'column': self._column,
        }

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> 'ByTopology':
        """Makes the same law again, without pandapower."""
        law = LAWS[parameters['kind']].from_parameters(parameters['law'])
        return cls(law, parameters['topologies'], parameters['column'])

    @property
    def column_limits(self) -> Mapping[str, tuple[float, float]]:
        """Those of the law."""
        return self.law.column_limits

    def residual(self, table: TableView) -> Residuals:
        """The law's residual on each row's own topology, shape (row, equation).

        Raises:
            ConstraintError: a row names a topology that is not among `topologies`.
        """
        return self._each(table, lambda law, rows: law.residual(self._view(filled(rows)))[: len(rows)])

    def jacobian(self, table: TableView) -> Jacobians:
        """The law's derivative on each row's own topology, shape (row, equation, column)."""
        large = len(self.unit) * len(self.law.columns) > LARGE
        by_law = self._each(table, self._jacobian_row_by_row if large else self._jacobian_at_once)
        result = table.values.new_zeros(*by_law.shape[:2], len(table.names))
        result[:, :, [table.names.index(name) for name in self.law.columns]] = by_law
        return result

    def equation_names(self, number: int) -> list[str]:
        """Those of the law."""
        return self.law.equation_names(number)

    def misreadings(self) -> Iterable[Misreading]:
        """Those of the law."""
        return self.law.misreadings()

    def require(self, available: Iterable[str]) -> None:
        """Checks that a table has the law's columns and that of the topology.

        Raises:
            ColumnMissingError: one is missing.
        """
        available = list(available)
        self.law.require(available)
        super().require(available)

    def _jacobian_at_once(self, law: Any, rows: Table) -> Jacobians:
        return law.jacobian(self._view(filled(rows)))[: len(rows)]

    def _jacobian_row_by_row(self, law: Any, rows: Table) -> Jacobians:
        return torch.cat([law.jacobian(self._view(row)) for row in rows.split(1)])

    def _view(self, rows: Table) -> TableView:
        return TableView(self.law.columns, rows, self.name)

    def _each(self, table: TableView, evaluate: Callable[[Any, Table], Tensor]) -> Tensor:
        labels, values = table[self._column], table[self.law.columns]
        left, parts, places = torch.ones(len(values), dtype=torch.bool), [], []
        for topology, law in self._laws.items():
            mine = labels == topology
            left &= ~mine
            rows = mine.nonzero()[:, 0]
            if len(rows):
                parts.append(evaluate(law, values[rows]))
                places.append(rows)
        if left.any():
            raise ConstraintError(
                f'{self.name} knows the topologies {list(self.topologies)}, but {int(left.sum())} rows name another, '
                f'the first of them row {int(left.long().argmax())}. Pass all topologies of the table.'
            )
        if not parts:
            return evaluate(self.law, values)
        return torch.cat(parts)[torch.cat(places).argsort()]


def _grid(grid: Grid, topology: str) -> Grid:
    return grid.without(*topology.split(JOIN))
