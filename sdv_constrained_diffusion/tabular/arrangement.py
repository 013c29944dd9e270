"""Which codec each column of a table gets, and where its features stand in a row of model space."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.tabular.columns import AffineCodec, ColumnCodec, ConstantCodec, DiscreteCodec
from sdv_constrained_diffusion.tabular.followers import STATE, follower, kind_of_numbers, leaders
from sdv_constrained_diffusion.tabular.inflated import InflatedCodec
from sdv_constrained_diffusion.tabular.masses import FEW_LEVELS, ROUNDING, SOLVER_DIGITS, exact_values, is_constant
from sdv_constrained_diffusion.tabular.quantiles import QuantileCodec

Scaling = Callable[[np.ndarray, Sequence[bool]], ColumnCodec]
"""Columns, shape (row, column), and which of them take few values, each often -> their codec."""

SCALINGS: dict[str, Scaling] = {
    'minmax': lambda values, stepped: AffineCodec.fit(values),
    'quantile': lambda values, stepped: QuantileCodec.fit(values, stepped=stepped),
}
"""Codecs of numbers that vary, by the name that presets use."""


@dataclass(frozen=True)
class Column:
    """What is known of a column but its values.

    Attributes:
        discrete: whether its values are categories.
        continuous: whether it may take numbers between those that were observed, however few, and limits may have cut
            it.
        stepped: whether it takes few values, each often.
    """

    discrete: bool
    continuous: bool
    stepped: bool

    @property
    def spread(self) -> float:
        """Relative spread at which it counts as constant."""
        return SOLVER_DIGITS if self.continuous else ROUNDING


@dataclass(frozen=True)
class Part:
    """Some columns: their codec, their places in the table, those of their numbers and of their blocks in a row."""

    codec: ColumnCodec
    columns: list[int]
    numbers: list[int]
    blocks: list[int]


def arranged(values: np.ndarray, columns: Sequence[Column], scaling: str) -> tuple[list[Part], Layout]:
    """The codecs of a table's columns, fitted; those that follow others come last.

    Args:
        values: shape (row, column), NaN where missing, discrete columns by their codes.
        columns: what else is known of them.
        scaling: a name in `SCALINGS`.
    """
    same = [place for place, column in enumerate(columns) if is_constant(values[:, place], column.spread)]
    kinds = [
        None if place in same else STATE if column.discrete else kind_of_numbers(values[:, place])
        for place, column in enumerate(columns)
    ]
    followers = leaders(values, kinds) if scaling == 'quantile' else {}
    # A leader is cut by limits where one of its followers is.
    censored = {leader for place, leader in followers.items() if columns[place].continuous}
    plain, levels = list[int](), list[int]()
    found: list[tuple[ColumnCodec, list[int]]] = []
    for place, column in enumerate(columns):
        if place in followers or place in same:
            continue
        if column.discrete:
            levels.append(place)
        elif codec := _inflated(values[:, place], column, scaling, column.continuous or place in censored):
            found.append((codec, [place]))
        else:
            plain.append(place)
    if same:
        found.append((ConstantCodec.fit(values[:, same]), same))
    if plain:
        found.insert(0, (SCALINGS[scaling](values[:, plain], [columns[place].stepped for place in plain]), plain))
    if levels:
        found.append((DiscreteCodec.fit(values[:, levels]), levels))
    parts, layout = _placed(found)
    return [*parts, *(_following(parts, values, *pair) for pair in followers.items())], layout


def _inflated(values: np.ndarray, column: Column, scaling: str, censored: bool) -> InflatedCodec | None:
    """The codec of a column that needs a state beside its number; None for one that does not.

    A spike at the end of a censored column's range needs none: it is what a limit made of numbers beyond it, and normal
    scores spread it over their tail, where it goes on depending on the other columns as the numbers beside it do.
    """
    present = values[~np.isnan(values)]
    exact, resolution = exact_values(present) if scaling == 'quantile' else ([], 0.0)
    rest = _others(present, exact, resolution)
    if censored and len(np.unique(present)) > FEW_LEVELS and not (len(rest) and is_constant(rest, column.spread)):
        low, high = present.min() + resolution, present.max() - resolution
        exact = [value for value in exact if low < value < high]
        rest = _others(present, exact, resolution)
    if len(rest) and is_constant(rest, column.spread):
        exact, rest = [*exact, float(np.median(rest))], rest[:0]
    if not exact and len(present) == len(values):
        return None

    def codec(others: np.ndarray) -> ColumnCodec:
        return SCALINGS[scaling](others, [column.stepped])

    return InflatedCodec.fit(values, exact, resolution, codec if len(rest) else None)


def _others(values: np.ndarray, exact: list[float], resolution: float) -> np.ndarray:
    """The values that are none of the exact ones, shape (other,)."""
    return values[(np.abs(values[:, None] - np.array(exact)) > resolution).all(1)]


def _placed(found: Iterable[tuple[ColumnCodec, list[int]]]) -> tuple[list[Part], Layout]:
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
        parts.append(Part(codec, columns, list(range(first_number, next_number)), place[first_block:next_block]))
        first_number, first_block = next_number, next_block
    plain = sum(codec.num_numbers for codec, _ in found if not codec.frequencies)
    return parts, Layout(first_number, [frequencies[index] for index in order], plain)


def _following(parts: Sequence[Part], values: np.ndarray, place: int, leader: int) -> Part:
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
    return Part(codec, [place], part.numbers[at : at + 1], part.blocks[at : at + 1])
