"""A processed table <-> rows in model space."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sdv_constrained_diffusion._categories import Categories
from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion._numbers import finite_numbers
from sdv_constrained_diffusion._types import Codes, ColumnMask, FeatureMask, Numbers, Rows, Table
from sdv_constrained_diffusion.errors import DataError
from sdv_constrained_diffusion.tabular.arrangement import Column, Part, arranged
from sdv_constrained_diffusion.tabular.masses import observed_levels


class TableEncoder:
    """The codecs of a table.

    A table is held as float64: numbers in their columns' units, NaN where missing, discrete columns by their codes.

    Attributes:
        columns: the columns' names.
        layout: where numbers and discrete states stand in a row of model space.
    """

    def __init__(
        self,
        columns: Sequence[str],
        parts: Sequence[Part],
        layout: Layout,
        categories: dict[str, Categories],
        lattices: dict[str, Tensor],
    ) -> None:
        """Keeps the parts; use `fit`."""
        self.columns, self._parts, self.layout = tuple(columns), tuple(parts), layout
        self._categories, self._lattices = categories, lattices
        self._order = torch.from_numpy(np.argsort([column for part in parts for column in part.columns]))
        self._written_by = _each_once(parts)

    @classmethod
    def fit(
        cls,
        data: pd.DataFrame,
        scaling: str = 'quantile',
        discrete: Collection[str] = (),
        continuous: Collection[str] = (),
    ) -> 'TableEncoder':
        """Fits the codecs.

        A column of one value gets no feature; a column of numbers gets one, with 'quantile' also a state when it takes
        some values exactly and often, and in any case when values are missing; a discrete column gets a state. With
        'quantile' a column that is one-to-one with another shares its features, see `followers`.

        Args:
            data: a processed table.
            scaling: 'quantile' (normal scores) or 'minmax' ([-1, 1]).
            discrete: columns whose values are categories; all others must be numbers.
            continuous: columns of numbers that need not be delivered as one of the few values they were observed with,
                that a solver may have left constant but for its last digits, and that limits may have cut.

        Raises:
            DataError: a column that is not discrete is not numeric, or holds inf.
        """
        categories = {name: Categories.fit(data[name]) for name in data.columns if name in discrete}
        values = _values(data, categories)
        lattices = {
            name: torch.from_numpy(lattice)
            for name, column in zip(data.columns, values.T, strict=True)
            if name not in categories and name not in continuous and len(lattice := observed_levels(column))
        }
        columns = [Column(name in categories, name in continuous, name in lattices) for name in data.columns]
        parts, layout = arranged(values, columns, scaling)
        return cls(list(data.columns), parts, layout, categories, lattices)

    @property
    def num_features(self) -> int:
        """Width of a row in model space."""
        return self.layout.num_features

    def levels(self, name: str) -> np.ndarray | None:
        """What the codes of a discrete column stand for, shape (level,); None for a column of numbers."""
        return self._categories[name].levels if name in self._categories else None

    @property
    def constant(self) -> Bool[Tensor, ' column']:
        """True for columns of one value."""
        mask = torch.zeros(len(self.columns), dtype=torch.bool)
        for part in self._parts:
            if not part.numbers and not part.blocks:
                mask[part.columns] = True
        return mask

    def numbers_of_columns(self) -> Int[Tensor, ' column']:
        """Which number of model space each column owns, -1 for none."""
        places = torch.full((len(self.columns),), -1)
        for part in self._parts:
            if part.numbers:
                places[part.columns] = torch.tensor(part.numbers)
        return places

    def select(self, columns: Sequence[str]) -> 'TableEncoder':
        """The part of this encoder that reads and writes the named columns of the same model space."""
        wanted = [self.columns.index(name) for name in columns]
        parts = []
        for part in self._parts:
            chosen = [part.columns.index(column) for column in wanted if column in part.columns]
            if chosen:
                places = [wanted.index(part.columns[i]) for i in chosen]
                numbers = [part.numbers[i] for i in chosen] if part.numbers else []
                blocks = [part.blocks[i] for i in chosen] if part.blocks else []
                parts.append(Part(part.codec.select(chosen), places, numbers, blocks))
        return TableEncoder(columns, parts, self.layout, self._categories, self._lattices)

    def adjusted_to(self, numbers: Numbers) -> 'TableEncoder':
        """The encoder for rows whose numbers are distributed as these: it gives them the training rows' marginals.

        Numbers beside a state stay as they are.

        Args:
            numbers: as a model draws them, shape (row, number).
        """
        parts = [
            Part(part.codec.adjusted_to(numbers[:, part.numbers]), part.columns, part.numbers, part.blocks)
            for part in self._parts
        ]
        return TableEncoder(self.columns, parts, self.layout, self._categories, self._lattices)

    def values(self, data: pd.DataFrame) -> Table:
        """The columns of a processed table, shape (row, column), in the order of `columns`.

        Raises:
            DataError: a discrete column holds an unknown value, another one no number, inf, or a missing value although
                no training row lacks one.
        """
        values = torch.from_numpy(_values(data[list(self.columns)], self._categories))
        unknown = values.isnan() & ~self.point_masses(values)
        if unknown.any():
            name = self.columns[int(unknown.any(0).long().argmax())]
            raise DataError(f'Column {name!r} cannot be missing: no training row lacks its value. Give it a value.')
        return values

    def frame(self, values: Table) -> pd.DataFrame:
        """A table as a processed DataFrame with index 0, 1, ...; columns of few values get the nearest of these."""
        columns: dict[str, Any] = {}
        for name, column in zip(self.columns, values.T.contiguous(), strict=True):
            if name in self._categories:
                columns[name] = self._categories[name].values(column.long().numpy())
            else:
                columns[name] = _nearest(column, self._lattices.get(name)).numpy()
        return pd.DataFrame(columns, index=range(len(values)))

    def encode(self, values: Table, generator: torch.Generator | None = None) -> Rows:
        """Values -> features.

        Args:
            values: shape (row, column) in the order of `columns`, float64.
            generator: draws what values leave open, such as the place inside point masses; medians without one.
        """
        return self.training_rows(values, generator)[torch.arange(len(values))]

    def training_rows(self, values: Table, generator: torch.Generator | None = None) -> 'EncodedRows':
        """As `encode`, but features come into being when rows are asked for: wide tables would not fit into memory."""
        numbers = values.new_zeros(len(values), self.layout.num_numbers)
        codes = torch.full((len(values), self.layout.num_blocks), -1, dtype=torch.int64)
        for part in self._written_by:
            numbers[:, part.numbers] = part.codec.encode(values[:, part.columns], generator)
            codes[:, part.blocks] = part.codec.states(values[:, part.columns])
        return EncodedRows(numbers, codes, self.layout)

    def decode(self, rows: Rows) -> Table:
        """Features -> values, shape (row, column); differentiable by the numbers."""
        numbers, codes = self.layout.numbers(rows), self.layout.codes(rows)
        decoded = [part.codec.decode(numbers[:, part.numbers], codes[:, part.blocks]) for part in self._parts]
        return torch.cat([rows.new_zeros(len(rows), 0), *decoded], dim=1)[:, self._order]

    def point_masses(self, values: Table) -> ColumnMask:
        """True where a value is exact by nature: constants, categories, limits that many rows sit on."""
        mask = torch.zeros_like(values, dtype=torch.bool)
        for part in self._parts:
            mask[:, part.columns] = part.codec.point_masses(values[:, part.columns])
        return mask

    def replace(self, rows: Rows, values: Table, where: ColumnMask) -> Rows:
        """Rows whose numbers have been set to new values where asked, all other features kept.

        A number that several columns share becomes the mean of what they ask.

        Args:
            rows: shape (row, feature) of the whole model space.
            values: shape (row, column), new values in the columns' units.
            where: shape (row, column), True where the new value counts; only numbers are replaced.
        """
        total, count = torch.zeros(2, len(rows), self.layout.num_numbers, dtype=rows.dtype)
        for part in self._parts:
            if part.numbers:
                asked = where[:, part.columns]
                total[:, part.numbers] += torch.where(asked, part.codec.encode(values[:, part.columns]), 0.0)
                count[:, part.numbers] += asked
        replaced = rows.clone()
        replaced[:, : self.layout.num_numbers] = torch.where(count > 0, total / count, self.layout.numbers(rows))
        return replaced

    def features(self, columns: ColumnMask) -> FeatureMask:
        """The features that the marked columns own, shape (row, column) -> (row, feature)."""
        numbers = columns.new_zeros(len(columns), self.layout.num_numbers)
        blocks = columns.new_zeros(len(columns), self.layout.num_blocks)
        for part in self._parts:
            if part.numbers:
                numbers[:, part.numbers] |= columns[:, part.columns]
            if part.blocks:
                blocks[:, part.blocks] |= columns[:, part.columns]
        return torch.cat([numbers, self.layout.spread(blocks)], dim=1)

    def known_columns(self, features: FeatureMask) -> ColumnMask:
        """The columns whose features are marked, shape (row, feature) -> (row, column); the inverse of `features`."""
        numbers, levels = self.layout.split(features)
        blocks = self.layout.sums(levels.double()) > 0
        known = features.new_zeros(len(features), len(self.columns))
        for part in self._parts:
            if part.blocks:
                known[:, part.columns] = blocks[:, part.blocks]
            elif part.numbers:
                known[:, part.columns] = numbers[:, part.numbers]
        return known


class EncodedRows:
    """Rows of model space in small: `rows[index]` writes the discrete states out."""

    def __init__(self, numbers: Tensor, codes: Codes, layout: Layout) -> None:
        """Keeps numbers, shape (row, number), and codes, shape (row, block), -1 where hidden."""
        self._numbers, self._codes, self._layout = numbers, codes, layout

    @property
    def numbers(self) -> Numbers:
        """The numbers of all rows, shape (row, number)."""
        return self._numbers

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._numbers)

    def __getitem__(self, index: Tensor) -> Rows:
        """The rows of these numbers, shape (row, feature)."""
        return torch.cat([self._numbers[index], self._layout.one_hot(self._codes[index])], dim=1)


def _values(data: pd.DataFrame, categories: dict[str, Categories]) -> np.ndarray:
    """A table as float64, shape (row, column)."""
    columns = [
        categories[name].codes(data[name]).astype('float64')
        if name in categories
        else finite_numbers(data[name], 'The encoder', allow_missing=True)
        for name in data.columns
    ]
    return np.stack(columns, axis=1) if columns else np.zeros((len(data), 0))


def _each_once(parts: Iterable[Part]) -> list[Part]:
    """The parts that write features which none before them writes: a column's features come from one column."""
    written, found = set[int](), []
    for part in parts:
        places = {*part.numbers, *(~block for block in part.blocks)}
        if not places <= written:
            found.append(part)
        written |= places
    return found


def _nearest(column: Tensor, lattice: Tensor | None) -> Tensor:
    """The nearest of the lattice's values, which increase; the column itself without a lattice."""
    if lattice is None:
        return column
    above = torch.searchsorted(lattice, column).clamp(1, len(lattice) - 1)
    low, high = lattice[above - 1], lattice[above]
    return torch.where(column.isnan(), column, torch.where(column - low <= high - column, low, high))
