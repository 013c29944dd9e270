"""A processed table <-> rows in model space."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
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
from sdv_constrained_diffusion.tabular.columns import AffineCodec, ColumnCodec, ConstantCodec, DiscreteCodec
from sdv_constrained_diffusion.tabular.followers import STATE, follower, kind_of_numbers, leaders
from sdv_constrained_diffusion.tabular.inflated import InflatedCodec
from sdv_constrained_diffusion.tabular.masses import (
    FEW_LEVELS,
    ROUNDING,
    SOLVER_DIGITS,
    exact_values,
    is_constant,
    observed_levels,
)
from sdv_constrained_diffusion.tabular.quantiles import QuantileCodec

Scaling = Callable[[np.ndarray, Sequence[bool]], ColumnCodec]
"""Columns, shape (row, column), and which of them take few values, each often -> their codec."""

SCALINGS: dict[str, Scaling] = {
    'minmax': lambda values, stepped: AffineCodec.fit(values),
    'quantile': lambda values, stepped: QuantileCodec.fit(values, stepped=stepped),
}
"""Codecs of numbers that vary, by the name that presets use."""


@dataclass(frozen=True)
class _Part:
    """Some columns: their codec, their places in the table, those of their numbers and of their blocks in a row."""

    codec: ColumnCodec
    columns: list[int]
    numbers: list[int]
    blocks: list[int]


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
        parts: Sequence[_Part],
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
        lattices: dict[str, Tensor] = {}
        kinds: list[str | None] = []
        same, plain, levels = [], [], []
        for place, name in enumerate(data.columns):
            column = values[:, place]
            if constant := is_constant(column, _spread(name in continuous)):
                same.append(place)
            if name not in categories and name not in continuous and len(lattice := observed_levels(column)):
                lattices[name] = torch.from_numpy(lattice)
            kinds.append(None if constant else STATE if name in categories else kind_of_numbers(column))
        followers = leaders(values, kinds) if scaling == 'quantile' else {}
        # A leader is cut by limits where one of its followers is.
        censored = {*continuous, *(data.columns[i] for at, i in followers.items() if data.columns[at] in continuous)}
        found: list[tuple[ColumnCodec, list[int]]] = []
        for place, name in enumerate(data.columns):
            spread = _spread(name in continuous)
            if place in followers or place in same:
                continue
            if name in categories:
                levels.append(place)
            elif codec := _inflated(values[:, place], scaling, spread, name in censored, name in lattices):
                found.append((codec, [place]))
            else:
                plain.append(place)
        if same:
            found.append((ConstantCodec.fit(values[:, same]), same))
        if plain:
            stepped = [data.columns[place] in lattices for place in plain]
            found.insert(0, (SCALINGS[scaling](values[:, plain], stepped), plain))
        if levels:
            found.append((DiscreteCodec.fit(values[:, levels]), levels))
        parts, layout = _arrange(found)
        parts += [_following(parts, values, *pair) for pair in followers.items()]
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
                parts.append(_Part(part.codec.select(chosen), places, numbers, blocks))
        return TableEncoder(columns, parts, self.layout, self._categories, self._lattices)

    def adjusted_to(self, numbers: Numbers) -> 'TableEncoder':
        """The encoder for rows whose numbers are distributed as these: it gives them the training rows' marginals.

        Numbers beside a state stay as they are.

        Args:
            numbers: as a model draws them, shape (row, number).
        """
        parts = [
            _Part(part.codec.adjusted_to(numbers[:, part.numbers]), part.columns, part.numbers, part.blocks)
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


def _spread(continuous: bool) -> float:
    """Relative spread of a column that is taken for constant."""
    return SOLVER_DIGITS if continuous else ROUNDING


def _inflated(column: np.ndarray, scaling: str, spread: float, censored: bool, stepped: bool) -> InflatedCodec | None:
    """The codec of a column that needs a state beside its number; None for one that does not.

    A spike at the end of a censored column's range needs none: it is what a limit made of numbers beyond it, and normal
    scores spread it over their tail, where it goes on depending on the other columns as the numbers beside it do.
    """
    present = column[~np.isnan(column)]
    exact, resolution = exact_values(present) if scaling == 'quantile' else ([], 0.0)
    rest = _others(present, exact, resolution)
    if censored and len(np.unique(present)) > FEW_LEVELS and not (len(rest) and is_constant(rest, spread)):
        low, high = present.min() + resolution, present.max() - resolution
        exact = [value for value in exact if low < value < high]
        rest = _others(present, exact, resolution)
    if len(rest) and is_constant(rest, spread):
        exact, rest = [*exact, float(np.median(rest))], rest[:0]
    if not exact and len(present) == len(column):
        return None

    def codec(others: np.ndarray) -> ColumnCodec:
        return SCALINGS[scaling](others, [stepped])

    return InflatedCodec.fit(column, exact, resolution, codec if len(rest) else None)


def _others(values: np.ndarray, exact: list[float], resolution: float) -> np.ndarray:
    """The values that are none of the exact ones, shape (other,)."""
    return values[(np.abs(values[:, None] - np.array(exact)) > resolution).all(1)]


def _arrange(found: Iterable[tuple[ColumnCodec, list[int]]]) -> tuple[list[_Part], Layout]:
    """Gives every codec its numbers and blocks; blocks of equal size become neighbours.

    Numbers without a state come first among those that are found.
    """
    found = list(found)
    sizes = [len(each) for codec, _ in found for each in codec.frequencies]
    order = np.argsort(sizes, kind='stable')
    place = np.argsort(order, kind='stable').tolist()
    frequencies = [each for codec, _ in found for each in codec.frequencies]
    parts, first_number, first_block = [], 0, 0
    for codec, columns in found:
        next_number, next_block = first_number + codec.num_numbers, first_block + len(codec.frequencies)
        parts.append(_Part(codec, columns, list(range(first_number, next_number)), place[first_block:next_block]))
        first_number, first_block = next_number, next_block
    plain = sum(codec.num_numbers for codec, _ in found if not codec.frequencies)
    return parts, Layout(first_number, [frequencies[index] for index in order], plain)


def _each_once(parts: Iterable[_Part]) -> list[_Part]:
    """The parts that write features which none before them writes: a column's features come from one column."""
    written, found = set[int](), []
    for part in parts:
        places = {*part.numbers, *(~block for block in part.blocks)}
        if not places <= written:
            found.append(part)
        written |= places
    return found


def _following(parts: Sequence[_Part], values: np.ndarray, place: int, leader: int) -> _Part:
    """The part of a column that shares the features of another one.

    Args:
        parts: those of the columns that lead.
        values: the table.
        place: that of the column that follows.
        leader: that of the column that leads.
    """
    part = next(part for part in parts if leader in part.columns)
    at = part.columns.index(leader)
    codec = follower(part.codec.select([at]), *torch.from_numpy(values[:, [leader, place]]).unbind(1))
    return _Part(codec, [place], part.numbers[at : at + 1], part.blocks[at : at + 1])


def _nearest(column: Tensor, lattice: Tensor | None) -> Tensor:
    """The nearest of the lattice's values, which increase; the column itself without a lattice."""
    if lattice is None:
        return column
    above = torch.searchsorted(lattice, column).clamp(1, len(lattice) - 1)
    low, high = lattice[above - 1], lattice[above]
    return torch.where(column.isnan(), column, torch.where(column - low <= high - column, low, high))
