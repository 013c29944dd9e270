"""The ready-made laws: sums, ratios, bounds, orders. Each is a few lines, and an example of how to write your own."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sdv_constrained_diffusion._types import Jacobians
from sdv_constrained_diffusion.constraints.base import Constraint, Misreading, TableView, evaluate
from sdv_constrained_diffusion.constraints.moments import seconds
from sdv_constrained_diffusion.constraints.written import from_dict, to_dict
from sdv_constrained_diffusion.errors import ConstraintError

MOST_TERMS = 4
"""Terms of a sum that its name shows."""


@dataclass(eq=False)
class Linear(Constraint):
    """`lower <= sum of weight * column <= upper`; an equality where both limits are one number.

    Attributes:
        weights: what each column is multiplied by.
        lower: smallest sum, in `unit`.
        upper: largest sum, in `unit`.
        tolerance: largest violation that counts as feasible, in `unit`.
        unit: the sum's unit.

    Raises:
        ConstraintError: there are no weights, or one is not finite.
    """

    weights: Mapping[str, float]
    lower: float = 0.0
    upper: float = 0.0
    tolerance: float = 1e-6
    unit: str = ''

    def __post_init__(self) -> None:
        self.columns = tuple(self.weights)
        if not self.columns or not all(math.isfinite(weight) for weight in self.weights.values()):
            raise ConstraintError(f'Linear needs a finite weight for each of its columns; it got {self.weights!r}.')

    @property
    def name(self) -> str:
        """The law in short, such as '0 <= a - 2 b <= 5'."""
        return _between(_sum(self.weights), self.lower, self.upper)

    @property
    def linear_weights(self) -> Mapping[str, float] | None:
        """The weights, unless a subclass has a residual of its own."""
        return self.weights if type(self).residual is Linear.residual else None

    def residual(self, table: TableView) -> Tensor:
        """The weighted sum, shape (row,)."""
        values = table[list(self.columns)]
        return values @ values.new_tensor(list(self.weights.values()))

    def jacobian(self, table: TableView) -> Jacobians:
        """The weights, in every row."""
        by_column = [self.weights.get(name, 0.0) for name in table.names]
        return table.values.new_tensor(by_column).expand(len(table.values), 1, -1)


@dataclass(eq=False)
class SumTo(Constraint):
    """Columns that add up to a total: a number, or another column.

    Attributes:
        addends: the columns that are added.
        total: what they come to, in `unit`, or the name of the column that holds it.
        tolerance: largest violation that counts as feasible, in `unit`.
        unit: the sum's unit.

    Raises:
        ConstraintError: `addends` is no sequence of names.
    """

    addends: Sequence[str]
    total: float | str = 0.0
    tolerance: float = 1e-6
    unit: str = ''

    def __post_init__(self) -> None:
        if isinstance(self.addends, str):
            raise ConstraintError(f'SumTo needs a sequence of column names to add; it got the string {self.addends!r}.')
        self.addends = tuple(self.addends)
        self.columns = (*self.addends, self.total) if isinstance(self.total, str) else tuple(self.addends)

    @property
    def name(self) -> str:
        """The law in short, such as 'net + tax == total'."""
        total = self.total if isinstance(self.total, str) else f'{self.total:g}'
        return f'{_sum(dict.fromkeys(self.addends, 1.0))} == {total}'

    def residual(self, table: TableView) -> Tensor:
        """Sum less total, shape (row,)."""
        total = table[self.total] if isinstance(self.total, str) else self.total
        return table[list(self.addends)].sum(1) - total


@dataclass(eq=False)
class Bounds(Constraint):
    """`lower <= column <= upper`, limits included.

    Attributes:
        column: the column's name.
        lower: smallest value, in the column's unit; of a column of moments a text such as '2024-01-31', or a Timestamp.
        upper: largest value, likewise.
        tolerance: largest violation that counts as feasible, in the column's unit.
        unit: the column's unit.
    """

    column: str
    lower: Any = -math.inf
    upper: Any = math.inf
    tolerance: float = 1e-9
    unit: str = ''

    def __post_init__(self) -> None:
        self.columns = (self.column,)
        self._as_given = {'lower': self.lower, 'upper': self.upper}
        self.lower, self.upper = seconds(self.lower), seconds(self.upper)

    @property
    def name(self) -> str:
        """The law in short, such as '0 <= age <= 120'."""
        return _between(self.column, self._as_given['lower'], self._as_given['upper'])

    def parameters(self) -> dict[str, Any]:
        """The fields; moments as text."""
        limits = {name: _plain(limit) for name, limit in self._as_given.items()}
        return {'column': self.column, **limits, 'tolerance': self.tolerance, 'unit': self.unit}

    @property
    def column_limits(self) -> dict[str, tuple[float, float]]:
        """The limits; moments in seconds."""
        return {self.column: (self.lower, self.upper)}

    def residual(self, table: TableView) -> Tensor:
        """The column itself, shape (row,)."""
        return table[[self.column]][:, 0]  # asked for in a list, labels are refused


@dataclass(eq=False)
class Ordered(Constraint):
    """`smaller + gap <= larger`.

    Attributes:
        smaller: name of the column that is never above the other.
        larger: name of the other.
        gap: the least distance between them, in their unit; of moments in seconds, or a Timedelta.
        tolerance: largest violation that counts as feasible, in their unit.
        unit: the columns' unit.
    """

    smaller: str
    larger: str
    gap: Any = 0.0
    tolerance: float = 1e-9
    unit: str = ''
    upper = math.inf

    def __post_init__(self) -> None:
        self.columns, self.gap = (self.smaller, self.larger), seconds(self.gap)
        self.lower = self.gap

    @property
    def name(self) -> str:
        """The law in short, such as 'start <= end'."""
        return f'{self.smaller} + {self.gap:g} <= {self.larger}' if self.gap else f'{self.smaller} <= {self.larger}'

    def residual(self, table: TableView) -> Tensor:
        """The distance, shape (row,)."""
        return table[self.larger] - table[self.smaller]


@dataclass(eq=False)
class Ratio(Constraint):
    """`lower <= numerator / denominator <= upper` for a denominator that is not negative.

    It is judged without division, `numerator - lower * denominator >= 0` and so on: in the numerator's unit, and
    defined where both are zero.

    Attributes:
        numerator: the numerator's column.
        denominator: the denominator's column.
        least: smallest ratio.
        most: largest ratio; equal to `least` for a fixed one.
        tolerance: largest violation that counts as feasible, in `unit`.
        unit: the numerator's unit.

    Raises:
        ConstraintError: neither limit is finite.
    """

    numerator: str
    denominator: str
    least: float = -math.inf
    most: float = math.inf
    tolerance: float = 1e-6
    unit: str = ''

    def __post_init__(self) -> None:
        self.columns = (self.numerator, self.denominator)
        if not (math.isfinite(self.least) or math.isfinite(self.most)):
            raise ConstraintError(f'Ratio needs a finite limit; it got {self.least!r} and {self.most!r}.')
        self.upper = 0.0 if self.least == self.most else math.inf

    @property
    def name(self) -> str:
        """The law in short, such as '0.07 <= tax / net <= 0.19'."""
        return _between(f'{self.numerator} / {self.denominator}', self.least, self.most)

    def residual(self, table: TableView) -> Tensor:
        """What is left to each finite limit, shape (row, limit); of a fixed ratio one difference, shape (row, 1)."""
        above, below = table[self.numerator], table[self.denominator]
        signed = {self.least: 1.0} if self.least == self.most else {self.least: 1.0, self.most: -1.0}
        return torch.stack(
            [sign * (above - limit * below) for limit, sign in signed.items() if math.isfinite(limit)], dim=1
        )


@dataclass(eq=False)
class ConditionalOn(Constraint):
    """A constraint that binds only the rows in which a column holds a certain label.

    Attributes:
        column: the column that decides. It is read as labels, also where it holds numbers.
        value: the label that makes the constraint bind, or a list of labels.
        constraint: the constraint; its columns may not include `column` as a number.
    """

    column: str
    value: Any
    constraint: Any

    def __post_init__(self) -> None:
        inner = self.constraint
        if not isinstance(inner, Constraint):
            raise ConstraintError(f'ConditionalOn needs a constraint that it makes conditional; it got {inner!r}.')
        self.columns = (*inner.columns, *([] if self.column in inner.columns else [self.column]))
        self.discrete = tuple(dict.fromkeys([*inner.discrete, self.column]))
        self.lower, self.upper, self.tolerance, self.unit = inner.lower, inner.upper, inner.tolerance, inner.unit

    @property
    def name(self) -> str:
        """The condition and the constraint in short."""
        return f'{self.constraint.name} if {self.column} is {self.value!r}'

    def residual(self, table: TableView) -> Tensor:
        """The constraint's residual in rows where it binds, a feasible number in the others."""
        residual = evaluate(self.constraint, table)
        idle = torch.zeros(residual.shape[1], dtype=residual.dtype)
        lower, upper = (torch.as_tensor(limit, dtype=residual.dtype) for limit in (self.lower, self.upper))
        return torch.where(self._holds(table)[:, None], residual, torch.clamp(idle, lower, upper))

    def jacobian(self, table: TableView) -> Jacobians:
        """The constraint's derivative, zero where it does not bind: there it may not even be finite."""
        return torch.where(self._holds(table)[:, None, None], self.constraint.jacobian(table), 0.0)

    def equation_names(self, number: int) -> list[str]:
        """The constraint's, with the condition."""
        return [f'{name} if {self.column} is {self.value!r}' for name in self.constraint.equation_names(number)]

    def misreadings(self) -> Iterable[Misreading]:
        """The constraint's."""
        return self.constraint.misreadings()

    def parameters(self) -> dict[str, Any]:
        """The constraint as `to_dict` writes it, and the condition."""
        return {'column': self.column, 'value': self.value, 'constraint': to_dict(self.constraint)}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> 'ConditionalOn':
        """Reads the constraint back."""
        return cls(**{**parameters, 'constraint': from_dict(parameters['constraint'])})

    def binds(self, table: TableView) -> Bool[Tensor, ' row']:
        """Rows that hold the label, of those that the constraint itself binds."""
        return self._holds(table) & self.constraint.binds(table)

    def _holds(self, table: TableView) -> Tensor:
        values = self.value if isinstance(self.value, list | tuple | set) else [self.value]
        return table[self.column].isin(values)


def _sum(weights: Mapping[str, float]) -> str:
    """A weighted sum in short: four terms and the number of the others."""
    terms: list[str] = []
    for name, weight in list(weights.items())[:MOST_TERMS]:
        size = '' if abs(weight) == 1 else f'{abs(weight):g} '
        sign = '- ' if weight < 0 else '+ '
        terms.append(f'{sign if terms or weight < 0 else ""}{size}{name}')
    if len(weights) > MOST_TERMS:
        terms.append(f'+ {len(weights) - MOST_TERMS} more')
    return ' '.join(terms)


def _between(middle: str, lower: Any, upper: Any) -> str:
    if lower == upper:
        return f'{middle} == {_shown(lower)}'
    below = f'{_shown(lower)} <= ' if lower != -math.inf else ''
    above = f' <= {_shown(upper)}' if upper != math.inf else ''
    return f'{below}{middle}{above}'


def _shown(limit: Any) -> str:
    return f'{limit:g}' if isinstance(limit, int | float) else str(limit)


def _plain(limit: Any) -> Any:
    return limit if isinstance(limit, int | float) else str(limit)
