"""Columns that say what another column says already: in every training row the two are one-to-one.

Such a follower has no features of its own. It is read off its leader's, so that a model draws no two that contradict
each other, and the network has less to learn.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sdv_constrained_diffusion._types import Codes, ColumnMask, PerRow, Rows, Table
from sdv_constrained_diffusion.tabular.columns import ColumnCodec
from sdv_constrained_diffusion.tabular.inflated import InflatedCodec
from sdv_constrained_diffusion.tabular.masses import (
    SMALLEST_SHARE,
    is_short_scale,
    mass_windows,
    observed_levels,
    resolution_of,
)

NUMBER, STATE = 'number', 'state'
"""Kinds of columns: values whose order counts, or values that need have none."""

FEWEST_ROWS = 100
"""Rows that must tell that two columns are one-to-one. So many numbers have the same ranks when what one column does
not say of the other is a tenth of a thousandth of its range."""

FARTHEST = 1e100
"""Numbers larger than this, and ranges smaller than its inverse, take no part: curves through them overflow."""

NEAR_END = 0.01
"""Share of a curve's length over which the slope is taken with which it goes on beyond its end."""


def leaders(values: np.ndarray, kinds: Sequence[str | None]) -> dict[int, int]:
    """Finds the columns that follow another one of their kind.

    Numbers must have the same ranks, or reversed ones, ties and missing values included; states need only be
    one-to-one. That column leads, the first one if there are several, whose point masses are such of most others.

    Args:
        values: the table, NaN where missing, shape (row, column).
        kinds: of each column, None for those that take no part.

    Returns:
        the leader of each follower, by their places.
    """
    alike: dict[tuple[str, bytes], list[int]] = {}
    for place, (column, kind) in enumerate(zip(values.T, kinds, strict=True)):
        if kind is None:
            continue
        order = _ranks(column) if kind == NUMBER else pd.factorize(column, use_na_sentinel=False)[0]
        _, counts = np.unique(order, return_counts=True)
        # What repeats tells of states, what differs of numbers; neither does while one value stays.
        telling = len(order) - max(counts.max(initial=0), 0 if kind == NUMBER else len(counts))
        if telling >= FEWEST_ROWS:
            alike.setdefault((kind, hashlib.sha256(order.astype('int64').tobytes()).digest()), []).append(place)
    found: dict[int, int] = {}
    for (kind, _), places in alike.items():
        follow = {place: [other for other in places if other != place] for place in places}
        if kind == NUMBER and len(places) > 1:
            follow = {
                place: [other for other in others if _tells_apart(values[:, place], values[:, other])]
                for place, others in follow.items()
            }
        leader = max(places, key=lambda place: len(follow[place]))
        found |= dict.fromkeys(follow[leader], leader)
    return found


def kind_of_numbers(column: np.ndarray) -> str | None:
    """The kind of a column of numbers that varies; None for numbers too large or too near to each other for a curve."""
    present = column[~np.isnan(column)]
    if is_short_scale(len(np.unique(present)), len(present)):
        return STATE
    return NUMBER if np.abs(present).max() < FARTHEST and np.ptp(present) > 1 / FARTHEST else None


def follower(leader: ColumnCodec, leading: PerRow, values: PerRow) -> ColumnCodec:
    """The codec of a column that follows another one.

    Args:
        leader: codec of the one column that leads.
        leading: that column, shape (row,), NaN where missing.
        values: the follower, shape (row,), in its unit, or by its codes.
    """
    if leader.num_numbers:
        return CurveCodec.fit(leader, leading, values)
    states = leader.states(leading[:, None])[:, 0]
    (frequencies,) = leader.frequencies
    value_of_state = torch.full((len(frequencies),), torch.nan, dtype=torch.float64)
    value_of_state[states] = values
    return InflatedCodec(value_of_state, float(resolution_of(values[~values.isnan()].numpy())), None, frequencies)


class CurveCodec(ColumnCodec):
    """One column of numbers that follows another along a monotone curve, wherever its features take that one."""

    def __init__(self, leader: ColumnCodec, leading: Tensor, following: Tensor) -> None:
        """Keeps the curve; use `fit`.

        Args:
            leader: codec of the one column that leads.
            leading: knots, in the leader's unit, increasing, shape (knot,).
            following: the follower's values there, in its unit, strictly monotone, shape (knot,).
        """
        self.leader, self.leading, self.following = leader, leading, following
        self.num_numbers = leader.num_numbers

    @classmethod
    def fit(cls, leader: ColumnCodec, leading: PerRow, values: PerRow) -> 'CurveCodec':
        """Takes as many training rows as knots as bring the curve near to all of them.

        Point masses and values that repeat, the steps of a scale, are met exactly, others within the resolution.

        Args:
            leader: codec of the one column that leads.
            leading: that column, shape (row,), NaN where missing.
            values: the follower, shape (row,), of the same ranks or of reversed ones, missing in the same rows.
        """
        present = leading[~leading.isnan(), None]
        exact = leader.point_masses(present)
        delivered = torch.where(exact, leader.decode(leader.encode(present), leader.states(present)), present)
        x, first = np.unique(delivered.numpy(), return_index=True)
        y = values[~leading.isnan()].numpy()
        kept = exact[:, 0].numpy()[first] | (len(x) <= len(y) / 2)
        knots = _knots(x, y[first], kept, float(resolution_of(y)))
        return cls(leader, *map(torch.from_numpy, _extended(x[knots], y[first][knots])))

    def encode(self, values: Table, generator: torch.Generator | None = None) -> Rows:
        """The leader's number."""
        return self.leader.encode(self._led(values), generator)

    def states(self, values: Table) -> Codes:
        """The leader's state."""
        return self.leader.states(self._led(values))

    def decode(self, numbers: Rows, states: Codes | None = None) -> Table:
        """The value at the leader's place on the curve."""
        return _along(self.leading, self.following, self.leader.decode(numbers, states))

    def point_masses(self, values: Table) -> ColumnMask:
        """True where the leader is exact by nature."""
        return self.leader.point_masses(self._led(values))

    def adjusted_to(self, numbers: Rows) -> 'CurveCodec':
        """The same curve behind the leader's codec for such numbers."""
        return CurveCodec(self.leader.adjusted_to(numbers), self.leading, self.following)

    def select(self, positions: Sequence[int]) -> 'CurveCodec':
        """Itself: there is one column."""
        return self

    def _led(self, values: Table) -> Table:
        """The leader's values, from the follower's."""
        falls = bool(self.following[0] > self.following[-1])
        x, y = (each.flip(0) if falls else each for each in (self.leading, self.following))
        return _along(y, x, values)


def _ranks(column: np.ndarray) -> np.ndarray:
    """Ranks 0, 1, ... of a column's distinct values, -1 for missing ones; of two opposite columns the same."""
    missing = np.isnan(column)
    ranks = np.full(len(column), -1)
    ranks[~missing] = np.unique(column[~missing], return_inverse=True)[1]
    from_middle = np.where(missing, 0, 2 * ranks - ranks.max(initial=0))
    falls = len(column) > 0 and from_middle[(from_middle != 0).argmax()] > 0
    return np.where(missing, -1, ranks.max(initial=0) - ranks) if falls else ranks


def _tells_apart(leading: np.ndarray, following: np.ndarray) -> bool:
    """Whether values that are one point mass to a leader's codec are one to the follower, too."""
    present = ~np.isnan(leading)
    x, y = leading[present], following[present]
    order = np.argsort(x)
    fewest = 0.0 if len(observed_levels(x)) else max(SMALLEST_SHARE * len(x), 1.0)
    windows = mass_windows(x[order], float(resolution_of(x)), fewest)
    return all(np.ptp(y[order[start:end]]) <= resolution_of(y) for start, end in windows)


def _knots(x: np.ndarray, y: np.ndarray, kept: np.ndarray, accuracy: float) -> np.ndarray:
    """Which points of a curve are knots: those to be kept, the ends, and what the lines between them miss by more.

    Args:
        x: increasing, shape (point,).
        y: strictly monotone, shape (point,).
        kept: points that are knots in any case, shape (point,).
        accuracy: how far a point may lie from the line between two knots.
    """
    chosen = kept.copy()
    chosen[[0, -1]] = True
    while True:
        missed = np.abs(np.interp(x, x[chosen], y[chosen]) - y)
        segment = np.cumsum(chosen)
        by_miss = np.lexsort((missed, segment))
        worst = by_miss[np.r_[segment[by_miss][1:] != segment[by_miss][:-1], True]]
        worst = worst[missed[worst] > accuracy]
        if not len(worst):
            return chosen
        chosen[worst] = True


def _extended(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve that goes on linearly by its own length at both ends."""
    length = x[-1] - x[0]
    rises = []
    for end, inside in ((0, x[0] + NEAR_END * length), (-1, x[-1] - NEAR_END * length)):
        slope = (np.interp(inside, x, y) - y[end]) / (inside - x[end])
        rises.append(length * slope)
    return np.r_[x[0] - length, x, x[-1] + length], np.r_[y[0] - rises[0], y, y[-1] + rises[1]]


def _along(points: Tensor, onto: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation between increasing points, and beyond them; exact at all points but the last."""
    segment = (torch.searchsorted(points, values.detach().contiguous(), right=True) - 1).clamp(0, len(points) - 2)
    low, high = points[segment], points[segment + 1]
    return onto[segment] + (values - low) / (high - low) * (onto[segment + 1] - onto[segment])
