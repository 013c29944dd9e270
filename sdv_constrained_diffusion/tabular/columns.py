"""One codec per kind of column, for all columns of its kind at once: numbers of the table <-> features of the model.

Every codec's `decode` is differentiable and `decode(encode(v)) == v` up to rounding. `point_masses` tells which values
are exact by nature, such as a limit that many rows sit on, so that guidance and projection leave them alone.
"""

import abc
from collections.abc import Sequence

import numpy as np
import torch

from sdv_constrained_diffusion._types import ColumnMask, PerColumn, Rows, Table


class ColumnCodec(abc.ABC):
    """Maps some numeric columns to model features and back: one feature per column, none for constants."""

    @abc.abstractmethod
    def encode(self, values: Table, generator: torch.Generator | None = None) -> Rows:
        """Values in the columns' units -> features, about standard normal or within [-1, 1].

        Args:
            values: finite numbers, shape (row, column).
            generator: draws the place inside a point mass; its median is taken without one.
        """

    @abc.abstractmethod
    def decode(self, features: Rows) -> Table:
        """Features, shape (row, feature) -> values in the columns' units, shape (row, column)."""

    @abc.abstractmethod
    def point_masses(self, values: Table) -> ColumnMask:
        """True for values that a whole interval of features decodes to."""

    @abc.abstractmethod
    def select(self, positions: Sequence[int]) -> 'ColumnCodec':
        """The codec of some of its columns."""


class ConstantCodec(ColumnCodec):
    """Columns of one value each: no feature at all."""

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

    def decode(self, features: Rows) -> Table:
        """The values in every row."""
        return self.values.expand(features.shape[0], -1)

    def point_masses(self, values: Table) -> ColumnMask:
        """True everywhere."""
        return torch.ones_like(values, dtype=torch.bool)

    def select(self, positions: Sequence[int]) -> 'ConstantCodec':
        """The codec of some of its columns."""
        return ConstantCodec(self.values[list(positions)])


class AffineCodec(ColumnCodec):
    """`feature = (value - shift) / scale`; with the middle and half the range this is min-max scaling to [-1, 1]."""

    def __init__(self, shift: PerColumn, scale: PerColumn) -> None:
        """Keeps shift and scale, both in the columns' units."""
        self.shift, self.scale = shift, scale

    @classmethod
    def fit(cls, values: np.ndarray) -> 'AffineCodec':
        """Takes each column's smallest value to -1 and its largest to 1; `values` has shape (row, column)."""
        low, high = torch.from_numpy(values.min(0)), torch.from_numpy(values.max(0))
        return cls(low / 2 + high / 2, high / 2 - low / 2)

    def encode(self, values: Table, generator: torch.Generator | None = None) -> Rows:
        """Scaled values."""
        return (values - self.shift) / self.scale

    def decode(self, features: Rows) -> Table:
        """Values in the columns' units."""
        return features * self.scale + self.shift

    def point_masses(self, values: Table) -> ColumnMask:
        """False everywhere."""
        return torch.zeros_like(values, dtype=torch.bool)

    def select(self, positions: Sequence[int]) -> 'AffineCodec':
        """The codec of some of its columns."""
        return AffineCodec(self.shift[list(positions)], self.scale[list(positions)])
