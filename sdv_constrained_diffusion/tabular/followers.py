"""Columns that say what an earlier column says already: in every training row the two are one-to-one.

Such a follower has no features of its own. It is read off its leader's, so that the two never come apart, and the
network has less to learn.
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

STATE = 'state'
"""The kind of columns that have a state and no number: their values need have no order."""

FEWEST_OFF = 30
"""Rows in which both columns must leave their most frequent value: fewer are one-to-one by chance, or nearly so only.
The ranks of so many rows are equal when what one column does not say of the other is a thousandth of its range."""

MOST_KNOTS = 2000
"""Between which the curve of two columns of numbers is linear, beside those of point masses."""

WELL_INSIDE = 0.01
"""How far from the end of a curve, as a share of its length, the slope is taken with which it goes on beyond it."""


def leaders(values: np.ndarray, kinds: Sequence[str | None]) -> dict[int, int]:
    """Finds the columns that follow an earlier one of their kind.

    Two columns of numbers must have the same ranks, or reversed ones, ties and missing values included; two columns of
    states need only be one-to-one.

    Args:
        values: the table, NaN where missing, shape (row, column).
        kinds: of each column, `STATE` or any other word for numbers; None for columns that take no part.

    Returns:
        the leader of each follower, by their places.
    """
    first: dict[tuple[str, bytes], int] = {}
    found = {}
    for place, (column, kind) in enumerate(zip(values.T, kinds, strict=True)):
        if kind is None:
            continue
        order = pd.factorize(column, use_na_sentinel=False)[0] if kind == STATE else _ranks(column)
        if len(order) - np.unique(order, return_counts=True)[1].max(initial=0) < FEWEST_OFF:
            continue
        leader = first.setdefault((kind, hashlib.sha256(order.astype('int64').tobytes()).digest()), place)
        if leader != place:
            found[place] = leader
    return found


def state_follower(leader: ColumnCodec, leading: PerRow, values: PerRow, resolution: float) -> InflatedCodec:
    """The codec of a column whose every value is one state of its leader.

    Args:
        leader: codec of one column that has a state and no number.
        leading: that column, shape (row,).
        values: the follower, shape (row,), in its unit, or by its codes.
        resolution: values of the follower no farther than this from each other are one.
    """
    states = leader.states(leading[:, None])[:, 0]
    (frequencies,) = leader.frequencies
    value_of_state = torch.full((len(frequencies),), torch.nan, dtype=torch.float64)
    value_of_state[states] = values
    return InflatedCodec(value_of_state, resolution, None, frequencies)


class CurveCodec(ColumnCodec):
    """One column of numbers that follows another's number, and state if it has one, along a monotone curve."""

    num_numbers = 1

    def __init__(self, leader: ColumnCodec, leading: Tensor, following: Tensor) -> None:
        """Keeps the curve; use `fit`.

        Args:
            leader: codec of the one column that leads.
            leading: knots, in the leader's unit, increasing, shape (knot,).
            following: the follower's values there, in its unit, strictly monotone, shape (knot,).
        """
        self.leader, self.leading, self.following = leader, leading, following

    @classmethod
    def fit(cls, leader: ColumnCodec, leading: PerRow, values: PerRow) -> 'CurveCodec':
        """Takes knots from rows in which both columns have the same or reversed ranks, evenly by rank.

        Args:
            leader: codec of the one column that leads.
            leading: that column, shape (row,), NaN where missing.
            values: the follower, shape (row,), missing in the same rows.
        """
        x, order = leading[~leading.isnan()].sort()
        y = values[~leading.isnan()][order]
        exact = leader.point_masses(x[:, None])[:, 0]
        decoded = leader.decode(leader.encode(x[:, None]), leader.states(x[:, None]))[:, 0]
        chosen = exact.clone()
        chosen[np.linspace(0, len(x) - 1, min(MOST_KNOTS, len(x))).round()] = True
        knots, first = np.unique(torch.where(exact, decoded, x)[chosen].numpy(), return_index=True)
        leading, following = torch.from_numpy(knots), y[chosen][torch.from_numpy(first)]
        return cls(leader, *_extended(leading, following))

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
    falls = from_middle[(from_middle != 0).argmax()] > 0 if len(column) else False
    return np.where(missing, -1, ranks.max(initial=0) - ranks) if falls else ranks


def _extended(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A curve that goes on linearly by its own length at both ends."""
    length = x[-1] - x[0]
    ends = []
    for outermost, inside in ((0, x > x[0] + WELL_INSIDE * length), (-1, x < x[-1] - WELL_INSIDE * length)):
        near = inside.nonzero()[0 if outermost == 0 else -1, 0]
        slope = (y[near] - y[outermost]) / (x[near] - x[outermost])
        beyond = -length if outermost == 0 else length
        ends.append((x[outermost] + beyond, y[outermost] + beyond * slope))
    (first_x, first_y), (last_x, last_y) = ends
    return torch.cat([first_x[None], x, last_x[None]]), torch.cat([first_y[None], y, last_y[None]])


def _along(points: Tensor, onto: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation between increasing points, and beyond them; exact at all points but the last."""
    segment = (torch.searchsorted(points, values.detach().contiguous(), right=True) - 1).clamp(0, len(points) - 2)
    slopes = onto.diff() / points.diff()
    return onto[segment] + (values - points[segment]) * slopes[segment]
