"""One codec per kind of column: what a table holds <-> numbers and discrete states of the model.

A codec may give a column a number feature, a discrete state, both, or neither. Every codec's `decode` is differentiable
by the numbers, and `decode(encode(v), states(v)) == v` up to rounding. `point_masses` tells which values are exact by
nature, such as a limit that many rows sit on, so that guidance and projection leave them alone.
"""

import abc
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sdv_constrained_diffusion._types import Codes, ColumnMask, PerColumn, Rows, Table


class ColumnCodec(abc.ABC):
    """Maps some columns to features of the model and back.

    Attributes:
        num_numbers: number features of all columns together.
        frequencies: for each discrete state, the share of its levels in the training rows, each shape (level,).
    """

    num_numbers: int
    frequencies: tuple[Tensor, ...] = ()

    @abc.abstractmethod
    def encode(self, values: Table, generator: torch.Generator | None = None) -> Rows:
        """Values in the columns' units -> numbers, about standard normal or within [-1, 1].

        Args:
            values: shape (row, column).
            generator: draws what the value leaves open; its median is taken without one.
        """

    def states(self, values: Table) -> Codes:
        """Values in the columns' units -> the level of each discrete state, shape (row, block)."""
        return torch.zeros(len(values), 0, dtype=torch.int64)

    @abc.abstractmethod
    def decode(self, numbers: Rows, states: Codes | None = None) -> Table:
        """Numbers, shape (row, number), and states, shape (row, block) -> values in the columns' units."""

    @abc.abstractmethod
    def point_masses(self, values: Table) -> ColumnMask:
        """True for values that are exact by nature."""

    def adjusted_to(self, numbers: Rows) -> 'ColumnCodec':
        """The codec for numbers that are distributed as these, not as in training, shape (row, number).

        By default a codec asks nothing of the distribution.
        """
        return self

    @abc.abstractmethod
    def select(self, positions: Sequence[int]) -> 'ColumnCodec':
        """The codec of some of its columns."""


class ConstantCodec(ColumnCodec):
    """Columns of one value each, which may be NaN, missing: no feature at all."""

    num_numbers = 0

    def __init__(self, values: PerColumn) -> None:
        """Keeps the values."""
        self.values = values

    @classmethod
    def fit(cls, values: np.ndarray) -> 'ConstantCodec':
        """Takes the medians of columns of shape (row, column)."""
        return cls(torch.from_numpy(np.median(values, axis=0)))

    def encode(self, values: Table, generator: torch.Generator | None = None) -> Rows:
        """No features, shape (row, 0)."""
        return values.new_zeros(values.shape[0], 0)

    def decode(self, numbers: Rows, states: Codes | None = None) -> Table:
        """The values in every row."""
        return self.values.expand(numbers.shape[0], -1)

    def point_masses(self, values: Table) -> ColumnMask:
        """True everywhere, but for missing values of columns that have a value."""
        return self.values.isnan() | ~values.isnan()

    def select(self, positions: Sequence[int]) -> 'ConstantCodec':
        """The codec of some of its columns."""
        return ConstantCodec(self.values[list(positions)])


class AffineCodec(ColumnCodec):
    """`feature = (value - shift) / scale`; with the middle and half the range this is min-max scaling to [-1, 1]."""

    def __init__(self, shift: PerColumn, scale: PerColumn) -> None:
        """Keeps shift and scale, both in the columns' units."""
        self.shift, self.scale = shift, scale
        self.num_numbers = len(shift)

    @classmethod
    def fit(cls, values: np.ndarray) -> 'AffineCodec':
        """Takes each column's smallest value to -1 and its largest to 1; `values` has shape (row, column)."""
        low, high = torch.from_numpy(values.min(0)), torch.from_numpy(values.max(0))
        return cls(low / 2 + high / 2, high / 2 - low / 2)

    def encode(self, values: Table, generator: torch.Generator | None = None) -> Rows:
        """Scaled values."""
        return (values - self.shift) / self.scale

    def decode(self, numbers: Rows, states: Codes | None = None) -> Table:
        """Values in the columns' units."""
        return numbers * self.scale + self.shift

    def point_masses(self, values: Table) -> ColumnMask:
        """False everywhere."""
        return torch.zeros_like(values, dtype=torch.bool)

    def select(self, positions: Sequence[int]) -> 'AffineCodec':
        """The codec of some of its columns."""
        return AffineCodec(self.shift[list(positions)], self.scale[list(positions)])


class DiscreteCodec(ColumnCodec):
    """Columns of categories, by their codes: one state each and no number."""

    num_numbers = 0

    def __init__(self, frequencies: Sequence[Tensor]) -> None:
        """Keeps the share of each column's levels."""
        self.frequencies = tuple(frequencies)

    @classmethod
    def fit(cls, codes: np.ndarray) -> 'DiscreteCodec':
        """Counts the levels of columns of codes 0, 1, ..., shape (row, column)."""
        return cls([torch.from_numpy(np.bincount(column.astype(int)) / len(column)) for column in codes.T])

    def encode(self, values: Table, generator: torch.Generator | None = None) -> Rows:
        """No numbers, shape (row, 0)."""
        return values.new_zeros(values.shape[0], 0)

    def states(self, values: Table) -> Codes:
        """The codes."""
        return values.long()

    def decode(self, numbers: Rows, states: Codes | None = None) -> Table:
        """The codes as float64."""
        return torch.zeros(len(numbers), len(self.frequencies)).double() if states is None else states.double()

    def point_masses(self, values: Table) -> ColumnMask:
        """True everywhere: a category is not moved a little."""
        return torch.ones_like(values, dtype=torch.bool)

    def select(self, positions: Sequence[int]) -> 'DiscreteCodec':
        """The codec of some of its columns."""
        return DiscreteCodec([self.frequencies[position] for position in positions])
