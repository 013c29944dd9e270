"""Several constraints bound to one table: one stacked residual, one Jacobian, one verdict per row."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, MappingProxyType

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sdv_constrained_diffusion._batches import filled
from sdv_constrained_diffusion._categories import Categories
from sdv_constrained_diffusion._sparse import CompressedRows
from sdv_constrained_diffusion._types import EquationMask, Jacobians, PerEquation, PerRow, Residuals, RowMask, Table
from sdv_constrained_diffusion.constraints.base import Constraint, TableView, evaluate
from sdv_constrained_diffusion.constraints.reading import Reading
from sdv_constrained_diffusion.errors import ConstraintError

LARGE = 2**21
"""Jacobians of more entries than this are made row by row: a batch of them would fill the memory."""


@dataclass(frozen=True)
class Equation:
    """One scalar equation `lower <= residual <= upper` of a system, in its own unit.

    Attributes:
        constraint: name of the constraint it belongs to.
        name: the equation's own name.
        unit: unit of the residual, of the limits and of the tolerance.
        lower: smallest feasible residual.
        upper: largest feasible residual.
        tolerance: largest violation that counts as feasible.
    """

    constraint: str
    name: str
    unit: str
    lower: float
    upper: float
    tolerance: float


def quantity(value: float, unit: str, digits: int = 4) -> str:
    """A value with its unit, if it has one, as messages write it."""
    return f'{value:.{digits}g} {unit}'.rstrip()


class ConstraintSystem:
    """Constraints that hold together on one table.

    Attributes:
        constraints: the constraints, in the order they were given.
        columns: every column that some constraint reads, in the table's order.
        equations: all scalar equations, constraint by constraint.
        weighted: which equations are weighted sums of columns and nothing else, shape (equation,).
    """

    def __init__(
        self,
        constraints: Iterable[Constraint],
        example: pd.DataFrame,
        categories: Mapping[str, Categories] = MappingProxyType({}),
    ) -> None:
        """Binds constraints to a table.

        Args:
            constraints: the constraints.
            example: at least one row of the table; tells the columns' order, the number of equations, and the labels of
                discrete columns.
            categories: all labels of discrete columns, where the example may lack some.

        Raises:
            ColumnMissingError: a constraint reads a column that the table lacks.
            ConstraintError: a residual has the wrong shape, or limits and tolerances do not fit it.
        """
        self.constraints = tuple(constraints)
        for constraint in self.constraints:
            check_form(constraint)
            constraint.require(example.columns)
        wanted = {name for constraint in self.constraints for name in constraint.columns}
        self.columns = tuple(name for name in example.columns if name in wanted)
        labels = {name for constraint in self.constraints for name in constraint.discrete}
        self.readings = {name: Reading.of(example[name], name in labels, categories.get(name)) for name in self.columns}
        # None for a constraint that reads all columns in their order: nothing needs to be gathered then.
        self._places = [
            None if tuple(each.columns) == self.columns else [self.columns.index(name) for name in each.columns]
            for each in self.constraints
        ]
        self._readings = [{name: self._reading_for(each, name) for name in each.columns} for each in self.constraints]
        self.discrete = torch.tensor([self.readings[name].discrete for name in self.columns], dtype=torch.bool)
        first = self.values(example.head(1))
        found = [_equations(each, self.view(number, first)) for number, each in enumerate(self.constraints)]
        self.equations = tuple(itertools.chain.from_iterable(found))
        self.owners = torch.tensor([place for place, own in enumerate(found) for _ in own])
        sums = [number for number, each in enumerate(self.constraints) if each.linear_weights is not None]
        self._single = [number for number in range(len(self.constraints)) if number not in sums]
        # Laws that are sums of a few columns can be many: one by one they would cost more than all others.
        self._weights = _weights([self.constraints[number].linear_weights or {} for number in sums], self.columns)
        self.weighted = torch.isin(self.owners, torch.tensor(sums, dtype=torch.int64))
        self._order = torch.cat([(~self.weighted).nonzero()[:, 0], self.weighted.nonzero()[:, 0]]).argsort()
        self._sums_last = bool((self._order.diff() == 1).all())
        self._lower = torch.tensor([equation.lower for equation in self.equations], dtype=torch.float64)
        self._upper = torch.tensor([equation.upper for equation in self.equations], dtype=torch.float64)
        self._tolerance = torch.tensor([equation.tolerance for equation in self.equations], dtype=torch.float64)

    @property
    def lower(self) -> PerEquation:
        """Smallest feasible residual of each equation."""
        return self._lower

    @property
    def upper(self) -> PerEquation:
        """Largest feasible residual of each equation."""
        return self._upper

    @property
    def tolerance(self) -> PerEquation:
        """Largest violation that counts as feasible, per equation."""
        return self._tolerance

    def values(self, data: pd.DataFrame) -> Table:
        """The constrained columns of a table, shape (row, column) in the order of `columns`, float64."""
        return TableView.from_dataframe(data, self.columns, readings=self.readings).values

    def residual(self, values: Table) -> Residuals:
        """All equations' residuals, each in its own unit.

        Args:
            values: shape (row, column) in the order of `columns`, physical units.

        Returns:
            shape (row, equation) in the order of `equations`.
        """
        whole = filled(values)
        found = [evaluate(self.constraints[number], self.view(number, whole)) for number in self._single]
        found.append(self._weights.to(whole).applied_to(whole))
        return self._in_order(found)[: len(values)]

    def finite_residual(self, data: pd.DataFrame) -> Residuals:
        """The residuals of a table's rows, shape (row, equation), which all must be finite.

        Raises:
            ConstraintError: one is NaN or infinite; the message names its equation and row.
        """
        residual = self.residual(self.values(data))
        if not residual.isfinite().all():
            row, number = (~residual.isfinite()).nonzero()[0].tolist()
            equation = self.equations[number]
            raise ConstraintError(
                f'{equation.constraint} must be finite on every row; its equation {equation.name!r} gives '
                f'{residual[row, number].item()} in row {data.index[row]}. '
                'Guard divisions, logarithms and roots in the residual, or drop the row.'
            )
        return residual

    def jacobian(self, values: Table) -> Jacobians:
        """Derivative of every residual by every constrained column, shape (row, equation, column)."""
        if len(self.equations) * len(self.columns) > LARGE and len(values):
            return torch.cat([self._jacobian(row) for row in values.split(1)])
        return self._jacobian(filled(values))[: len(values)]

    def _jacobian(self, values: Table) -> Jacobians:
        blocks = []
        for number in self._single:
            own, places = self.constraints[number].jacobian(self.view(number, values)), self._places[number]
            if places is not None:
                block = values.new_zeros(own.shape[0], own.shape[1], len(self.columns))
                block[:, :, places] = own
                own = block
            blocks.append(own)
        blocks.append(self._weights.to(values).to_dense().expand(len(values), -1, -1))
        return self._in_order(blocks).masked_fill(self.discrete, 0)

    @property
    def rigid(self) -> Bool[Tensor, ' equation']:
        """True for equations over labels alone, which nothing that moves can change."""
        rigid = [bool(self.discrete.all() if p is None else self.discrete[p].all()) for p in self._places]
        return torch.tensor(rigid)[self.owners]

    def binds(self, values: Table) -> EquationMask:
        """Which equations ask anything of which rows, shape (row, equation)."""
        masks = [each.binds(self.view(number, values)) for number, each in enumerate(self.constraints)]
        return torch.stack(masks, dim=1)[:, self.owners]

    def deviation(self, residual: Residuals) -> Residuals:
        """Signed distance of residuals from their feasible interval, zero inside it."""
        return residual - residual.clamp(self._lower, self._upper)

    def idle(self, deviation: Residuals) -> EquationMask:
        """True for inequalities that a row obeys: they ask nothing of it."""
        return self.inequalities & (deviation == 0)

    @property
    def inequalities(self) -> Bool[Tensor, ' equation']:
        """True for equations that leave room between their limits."""
        return self._lower < self._upper

    def violation(self, residual: Residuals) -> Residuals:
        """How far each residual lies outside [lower, upper], at least 0, in its own unit."""
        return self.deviation(residual).abs()

    def excess(self, values: Table) -> PerRow:
        """Each row's largest violation, in units of the equation's tolerance: feasible rows have at most 1."""
        return (self.violation(self.residual(values)) / self._tolerance).amax(dim=1)

    def feasible(self, values: Table) -> RowMask:
        """True for rows that obey every equation within its tolerance; NaN is never feasible."""
        return self.excess(values) <= 1

    def worst(self, violation: Residuals) -> tuple[PerRow, Int[Tensor, ' row']]:
        """Each row's largest violation in units of the equation's tolerance, and the number of that equation."""
        excess, equation = (violation / self._tolerance).max(dim=1)
        return excess, equation

    def view(self, number: int, values: Table) -> TableView:
        """What the constraint of this number reads of rows, shape (row, column) in the order of `columns`."""
        constraint, places = self.constraints[number], self._places[number]
        own = values if places is None else values[:, places]
        return TableView(constraint.columns, own, constraint.name, self._readings[number])

    def _in_order(self, parts: list[Tensor]) -> Tensor:
        """What the single constraints and then the sums gave, shape (row, result, ...), as (row, equation, ...)."""
        joined = torch.cat(parts, dim=1)
        return joined if self._sums_last else joined[:, self._order]

    def _reading_for(self, constraint: Constraint, name: str) -> Reading:
        """A column of numbers that another constraint reads as labels is still numbers for this one."""
        reading = self.readings[name]
        if reading.categories is None and name not in constraint.discrete:
            return dataclasses.replace(reading, discrete=False)
        return reading


def _weights(sums: Sequence[Mapping[str, float]], columns: Sequence[str]) -> CompressedRows:
    """Weights of columns as a matrix, shape (sum, column)."""
    places, rows = {name: place for place, name in enumerate(columns)}, []
    for weights in sums:
        rows.append(sorted((places[name], float(weight)) for name, weight in weights.items()))
    first = torch.tensor([0, *map(len, rows)]).cumsum(0)
    column = torch.tensor([place for row in rows for place, _ in row], dtype=torch.int64)
    entries = torch.tensor([weight for row in rows for _, weight in row], dtype=torch.float64)
    return CompressedRows(first, column, entries, (len(rows), len(columns)))


def check_form(constraint: object) -> None:
    """Refuses what is no constraint, or names no columns.

    Raises:
        ConstraintError: it is a class or something else, or its `columns` are not a sequence of names.
    """
    if not isinstance(constraint, Constraint):
        what, remedy = repr(constraint), 'Make an instance first'
        if isinstance(constraint, type):
            what = f'the class {constraint.__name__}'
        elif isinstance(constraint, FunctionType):
            what, remedy = f'the function {constraint.__name__}', 'Decorate it with @constraint'
        raise ConstraintError(f'A constraint must be an instance of Constraint; it is {what}. {remedy}.')
    columns = getattr(constraint, 'columns', ())
    if isinstance(columns, str) or not columns or not all(isinstance(name, str) for name in columns):
        raise ConstraintError(
            f'{constraint.name} needs columns as a sequence of names (SDV turns integer column names into strings); '
            f'it has {columns!r}. Set its `columns`.'
        )
    _refuse_repeated(constraint)


def _refuse_repeated(constraint: Constraint) -> None:
    repeated = [name for name in dict.fromkeys(constraint.columns) if list(constraint.columns).count(name) > 1]
    if repeated:
        raise ConstraintError(
            f'{constraint.name} names the column {repeated[0]!r} more than once, and its derivative would be wrong. '
            'Name each column once, with a weight in Linear if it counts twice.'
        )


def _equations(constraint: Constraint, example: TableView) -> list[Equation]:
    """The scalar equations of one constraint, counted on an example row."""
    residual = evaluate(constraint, example)
    number = residual.shape[1]
    if not number:
        raise ConstraintError(f'{constraint.name}.residual must return at least one equation; it returned none.')
    lower, upper = _per_equation(constraint, 'lower', number), _per_equation(constraint, 'upper', number)
    tolerance, unit = _per_equation(constraint, 'tolerance', number), _per_equation(constraint, 'unit', number)
    for low, high, largest in zip(lower, upper, tolerance, strict=True):
        if not low <= high:
            raise ConstraintError(f'{constraint.name} needs lower <= upper; it got {low} and {high}. Mend the limits.')
        if not largest > 0:
            raise ConstraintError(f'{constraint.name} needs a tolerance above 0 {unit[0]}; it got {largest}.')
    names = constraint.equation_names(number)
    return [Equation(constraint.name, *facts) for facts in zip(names, unit, lower, upper, tolerance, strict=True)]


def _per_equation(constraint: Constraint, attribute: str, number: int) -> list:
    """Spreads a scalar attribute over all equations, or checks that a sequence has one entry for each."""
    value = getattr(constraint, attribute)
    if isinstance(value, np.ndarray | Tensor):
        value = value.tolist()
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * number
    if len(value) != number:
        raise ConstraintError(
            f'{constraint.name} has {number} equations, but its {attribute!r} has {len(value)} entries. '
            'Give one number for all, or one per equation.'
        )
    return list(value)
