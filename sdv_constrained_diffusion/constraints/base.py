"""What a constraint is: columns of a table, a residual over them, limits for the residual, a tolerance."""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from sdv_constrained_diffusion._types import Jacobians, Residuals, Table
from sdv_constrained_diffusion.constraints.paths import find, path_of
from sdv_constrained_diffusion.constraints.reading import Labels, Reading
from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError


class TableView:
    """Named columns of a table as tensors: what a residual reads.

    `table.load_mw` and `table['load_mw']` are one column, shape (row,); `table[['p_mw_1', 'p_mw_2']]` is several, shape
    (row, column). Moments are in seconds since 1970-01-01. A column that holds no numbers, or is listed in the
    constraint's `discrete`, is read as `Labels`: `table.topology == 'ring'`.
    """

    def __init__(
        self,
        names: Sequence[str],
        values: Table,
        who: str = 'The residual',
        readings: Mapping[str, Reading] = MappingProxyType({}),
    ) -> None:
        """Names the columns of a tensor.

        Args:
            names: the columns' names, in the order of `values`.
            values: shape (row, column), physical units; labels by their codes.
            who: the constraint that reads the table, for error messages.
            readings: how columns are read that are no plain numbers.
        """
        self._position = {name: position for position, name in enumerate(names)}
        self._values = values
        self._who = who
        self._readings = readings
        self._has_labels = any(reading.discrete for reading in readings.values())

    @classmethod
    def from_dataframe(
        cls,
        data: pd.DataFrame,
        names: Sequence[str],
        who: str = 'The residual',
        readings: Mapping[str, Reading] | None = None,
    ) -> 'TableView':
        """Reads the named columns of a DataFrame in float64; by their dtypes where no reading is given."""
        if readings is None:
            readings = {name: Reading.of(data[name]) for name in names}
        columns = [readings[name].values(data[name]) for name in names]
        values = np.stack(columns, axis=1) if columns else np.zeros((len(data), 0))
        return cls(names, torch.from_numpy(values), who, readings)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in the order of `values`."""
        return tuple(self._position)

    @property
    def values(self) -> Table:
        """All columns, shape (row, column)."""
        return self._values

    @property
    def only_labels(self) -> bool:
        """Whether every column is read as labels, so that nothing can move."""
        return all(name in self._readings and self._readings[name].discrete for name in self._position)

    def with_values(self, values: Table) -> 'TableView':
        """The same columns with other values, shape (row, column)."""
        return TableView(self.names, values, self._who, self._readings)

    def __getitem__(self, key: str | Sequence[str]) -> Any:
        """One column, shape (row,), or its `Labels`, for a name; several, shape (row, column), for names of numbers."""
        if isinstance(key, str):
            place, reading = self._find(key), self._readings.get(key)
            if reading is not None and reading.discrete:
                return Labels(key, self._values[:, place], reading)
            return self._values[:, place]
        if tuple(key) == self.names and not self._has_labels:
            return self._values
        labels = [name for name in key if name in self._readings and self._readings[name].discrete]
        if labels:
            raise ConstraintError(
                f'{self._who} needs numbers in column {labels[0]!r}, which holds labels. Read it alone, and compare it '
                'or map it to numbers.'
            )
        return self._values[:, [self._find(name) for name in key]]

    def __getattr__(self, name: str) -> Any:
        """One column, shape (row,), or its `Labels`."""
        if name.startswith('_'):
            raise AttributeError(name)
        return self[name]

    def _find(self, name: str) -> int:
        if name not in self._position:
            raise ColumnMissingError.of(self._who, name, self._position)
        return self._position[name]


@dataclass(frozen=True)
class Misreading:
    """A way in which a table may have been written otherwise than a constraint reads it.

    Attributes:
        cause: what the table seems to hold, e.g. "the angles are in radians".
        remedy: what the user should do, e.g. "convert va_degree_* with numpy.degrees".
        reread: maps a view of the table as it came to the view it should have been.
    """

    cause: str
    remedy: str
    reread: Callable[[TableView], TableView]


class Constraint(abc.ABC):
    """A law that rows obey: `lower <= residual <= upper`, up to a tolerance.

    A subclass sets `columns` and `tolerance` and writes `residual`; everything else has a default. Rows never meet:
    row i of the residual may depend on row i of the table only. Where torch has more than one thread, `residual` is
    called for several blocks of rows at once: it must not write to what they share.

    Attributes:
        columns: names of the columns the residual reads.
        discrete: those of them that are read as labels although they hold numbers; columns of other things always are.
        lower: smallest residual that is feasible, in the residual's unit.
        upper: largest residual that is feasible; equal to `lower` for an equality.
        tolerance: largest violation that counts as feasible, in the residual's unit. A sequence gives one per equation.
        unit: the residual's unit, for reports. A sequence gives one per equation.
        name: how reports and errors call the constraint.
    """

    columns: tuple[str, ...]
    discrete: tuple[str, ...] = ()
    lower: float | Sequence[float] = 0.0
    upper: float | Sequence[float] = 0.0
    tolerance: float | Sequence[float] = 1e-6
    unit: str | Sequence[str] = ''

    @property
    def name(self) -> str:
        """How reports and errors call the constraint."""
        return type(self).__name__

    @abc.abstractmethod
    def residual(self, table: TableView) -> Tensor:
        """The law's left-hand side, zero when an equality holds.

        Args:
            table: the columns, in physical units; float64 when finished rows are judged.

        Returns:
            shape (row, equation), or (row,) for a single equation; in `unit`, differentiable by torch.
        """

    def equation_names(self, number: int) -> list[str]:
        """Names the constraint's equations for reports.

        Args:
            number: how many equations `residual` returned.
        """
        return [self.name] if number == 1 else [f'{self.name}[{index}]' for index in range(number)]

    def jacobian(self, table: TableView) -> Jacobians:
        """Derivative of the residual by the columns of `table`, by automatic differentiation.

        Override it where a closed form is cheaper.

        Returns:
            shape (row, equation, column), columns in the order of `table.names`.
        """
        values = table.values.detach().requires_grad_(True)
        with torch.enable_grad():
            residual = evaluate(self, table.with_values(values))
            if not residual.requires_grad and table.only_labels:
                return values.new_zeros(*residual.shape, values.shape[1])
            if not residual.requires_grad:
                raise ConstraintError(
                    f'{self.name} must return a residual that torch can differentiate by its columns, but the result '
                    'does not depend on them. Compute it with torch operations on the columns, without .numpy(), '
                    '.item() or .detach().'
                )
            # Rows never meet, so the gradient of a sum over rows holds every row's own derivative.
            by_equation = [
                torch.autograd.grad(residual[:, equation].sum(), values, retain_graph=True, allow_unused=True)[0]
                for equation in range(residual.shape[1])
            ]
        return torch.stack([torch.zeros_like(values) if g is None else g for g in by_equation], dim=1)

    def require(self, available: Iterable[str]) -> None:
        """Checks that a table has the constraint's columns; override it to tell how else to name them.

        Args:
            available: the table's column names.

        Raises:
            ColumnMissingError: one is missing; the message names it and what looks close.
        """
        available = list(available)
        for name in self.columns:
            if name not in available:
                raise ColumnMissingError.of(self.name, name, available)

    def parameters(self) -> dict[str, Any]:
        """What `from_parameters` makes the same constraint of, values that JSON can hold: the fields of a dataclass.

        Raises:
            ConstraintError: the class is no dataclass and does not override this.
        """
        if not dataclasses.is_dataclass(self):
            raise ConstraintError(
                f'{self.name} cannot be written down: make its class a dataclass, or give it the methods parameters '
                'and from_parameters.'
            )
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> 'Constraint':
        """Makes a constraint of what `parameters` returned."""
        return cls(**parameters)

    @property
    def column_limits(self) -> Mapping[str, tuple[float, float]]:
        """Lower and upper limits of single columns that the constraint sets, in the columns' units; none by default.

        They are among the constraint's equations, too. Finished rows never leave them, and a value that they stop is
        exactly the limit.
        """
        return {}

    @property
    def linear_weights(self) -> Mapping[str, float] | None:
        """Weights of columns of numbers, where the residual is their sum and nothing else; None for other laws.

        Systems evaluate all such laws at once.
        """
        return None

    def binds(self, table: TableView) -> Bool[Tensor, ' row']:
        """Which rows the constraint asks anything of; all, unless it is conditional."""
        return torch.ones(len(table.values), dtype=torch.bool)

    def misreadings(self) -> Iterable[Misreading]:
        """Mistakes in units or signs that users make with this constraint's columns; none by default."""
        return ()


def evaluate(constraint: Constraint, table: TableView) -> Residuals:
    """Calls a constraint's residual and gives it its shape.

    Args:
        constraint: the constraint.
        table: at least the constraint's columns, in physical units.

    Returns:
        shape (row, equation).

    Raises:
        ConstraintError: the residual is no tensor of real numbers, or its first axis is not the table's rows.
    """
    residual = constraint.residual(table)
    rows = table.values.shape[0]
    if not isinstance(residual, Tensor):
        raise ConstraintError(
            f'{constraint.name}.residual must return a torch.Tensor of shape (row,) or (row, equation); '
            f'it returned {type(residual).__name__}. Compute it with torch operations on the columns.'
        )
    if not residual.is_floating_point():
        raise ConstraintError(
            f'{constraint.name}.residual must return real numbers; it returned a tensor of {residual.dtype}. Return '
            'the quantity itself, such as a difference, and give its limits as lower and upper.'
        )
    if residual.ndim not in (1, 2) or residual.shape[0] != rows:
        raise ConstraintError(
            f'{constraint.name}.residual must return shape ({rows},) or ({rows}, equation) for {rows} rows; '
            f'it returned {tuple(residual.shape)}. Reduce over columns only, never over rows.'
        )
    return residual[:, None] if residual.ndim == 1 else residual


class FunctionConstraint(Constraint):
    """A constraint made of a function; what the `@constraint` decorator returns."""

    def __init__(
        self,
        function: Callable[[TableView], Tensor],
        columns: Iterable[str],
        lower: float | Sequence[float] = 0.0,
        upper: float | Sequence[float] = 0.0,
        tolerance: float | Sequence[float] = 1e-6,
        unit: str | Sequence[str] = '',
        discrete: Iterable[str] = (),
    ) -> None:
        """Keeps the function and the constraint's data; arguments as in `Constraint`."""
        self.function = function
        self.columns, self.discrete = tuple(columns), tuple(discrete)
        self.lower, self.upper = lower, upper
        self.tolerance, self.unit = tolerance, unit

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    def residual(self, table: TableView) -> Tensor:
        """The function's value."""
        return self.function(table)

    def parameters(self) -> dict[str, Any]:
        """The function by its import path, and the constraint's data.

        Raises:
            ConstraintError: the function cannot be imported from elsewhere.
        """
        limits = {'lower': self.lower, 'upper': self.upper, 'tolerance': self.tolerance, 'unit': self.unit}
        columns = {'columns': list(self.columns), 'discrete': list(self.discrete)}
        return {'function': path_of(self.function, self.name), **columns, **limits}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> 'FunctionConstraint':
        """Imports the function; a decorated one is taken out of its constraint."""
        found = find(parameters['function'])
        function = found.function if isinstance(found, FunctionConstraint) else found
        return cls(**{**parameters, 'function': function})


def constraint(
    columns: Iterable[str],
    lower: float | Sequence[float] = 0.0,
    upper: float | Sequence[float] = 0.0,
    tolerance: float | Sequence[float] = 1e-6,
    unit: str | Sequence[str] = '',
    discrete: Iterable[str] = (),
) -> Callable[[Callable[[TableView], Tensor]], FunctionConstraint]:
    """Turns a function of a table into a constraint.

    ```python
    @constraint(columns=['gen_mw', 'load_mw', 'loss_mw'], tolerance=1e-6, unit='MW')
    def balance(table):
        return table.gen_mw - table.load_mw - table.loss_mw
    ```

    Args:
        columns: names of the columns the function reads.
        lower: smallest feasible residual, in `unit`.
        upper: largest feasible residual, in `unit`; an equality when both are 0.
        tolerance: largest violation that counts as feasible, in `unit`.
        unit: the residual's unit.
        discrete: those of the columns that are read as labels although they hold numbers.

    Raises:
        ConstraintError: `columns` is a string instead of a sequence of names.
    """
    if isinstance(columns, str):
        raise ConstraintError(f'@constraint needs columns as a sequence of names; it got the string {columns!r}.')
    names, labels = tuple(columns), tuple(discrete)

    def decorate(function: Callable[[TableView], Tensor]) -> FunctionConstraint:
        return FunctionConstraint(function, names, lower, upper, tolerance, unit, labels)

    return decorate
