"""The ready-made laws: sums, ratios, bounds, orders. Each is a few lines, and an example of how to write your own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdv_constrained_diffusion.constraints.base import Constraint, TableView
from sdv_constrained_diffusion.errors import ConstraintError


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

    def residual(self, table: TableView) -> Tensor:
        """The weighted sum, shape (row,)."""
        values = table[list(self.columns)]
        return values @ values.new_tensor(list(self.weights.values()))


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

    def residual(self, table: TableView) -> Tensor:
        """Sum less total, shape (row,)."""
        total = table[self.total] if isinstance(self.total, str) else self.total
        return table[list(self.addends)].sum(1) - total


@dataclass(eq=False)
class Bounds(Constraint):
    """`lower <= column <= upper`, limits included.

    Attributes:
        column: the column's name.
        lower: smallest value, in the column's unit.
        upper: largest value, in the column's unit.
        tolerance: largest violation that counts as feasible, in the column's unit.
        unit: the column's unit.
    """

    column: str
    lower: float = -math.inf
    upper: float = math.inf
    tolerance: float = 1e-9
    unit: str = ''

    def __post_init__(self) -> None:
        self.columns = (self.column,)

    def residual(self, table: TableView) -> Tensor:
        """The column itself, shape (row,)."""
        return table[self.column]


@dataclass(eq=False)
class Ordered(Constraint):
    """`smaller + gap <= larger`.

    Attributes:
        smaller: name of the column that is never above the other.
        larger: name of the other.
        gap: the least distance between them, in their unit.
        tolerance: largest violation that counts as feasible, in their unit.
        unit: the columns' unit.
    """

    smaller: str
    larger: str
    gap: float = 0.0
    tolerance: float = 1e-9
    unit: str = ''
    upper = math.inf

    def __post_init__(self) -> None:
        self.columns, self.lower = (self.smaller, self.larger), self.gap

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

    def residual(self, table: TableView) -> Tensor:
        """What is left to each finite limit, shape (row, limit); of a fixed ratio one difference, shape (row, 1)."""
        above, below = table[self.numerator], table[self.denominator]
        signed = {self.least: 1.0} if self.least == self.most else {self.least: 1.0, self.most: -1.0}
        return torch.stack(
            [sign * (above - limit * below) for limit, sign in signed.items() if math.isfinite(limit)], dim=1
        )
