"""Normal scores: the codec that keeps marginals, point masses included."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sdv_constrained_diffusion._types import Codes, ColumnMask, PerColumn, Rows, Table
from sdv_constrained_diffusion.tabular.columns import ColumnCodec
from sdv_constrained_diffusion.tabular.marginals import shifted
from sdv_constrained_diffusion.tabular.masses import RESOLUTION, SMALLEST_SHARE, mass_windows, resolution_of
from sdv_constrained_diffusion.tabular.tails import CensoredNormal

FARTHEST = 8.0
"""Where the interval of a point mass at an end of its column stops: the normal leaves 1e-15 beyond."""


WELL_INSIDE = 1.0
"""How far from the end of a column, in model space, the slope is taken with which its map goes on beyond it."""


class QuantileCodec(ColumnCodec):
    r"""Monotone map to a standard normal, linear between quantiles: `feature = \Phi^{-1}(F(value))`.

    A value that many rows share is a step of F and owns an interval of features: `encode` draws a place in it, so that
    the features stay normal, and `decode` returns the exact value from anywhere inside. Beyond the outermost quantiles
    the map continues linearly, so it is finite and invertible there too; a point mass at an end is a limit of
    the column and nothing lies beyond it.
    """

    def __init__(
        self, features: Tensor, values: Tensor, resolution: PerColumn, masses: CensoredNormal | None = None
    ) -> None:
        """Keeps the knots.

        Args:
            features: knots in model space, increasing along a column, shape (column, knot).
            values: the columns' values there, not decreasing; equal neighbours bound a point mass.
            resolution: values no farther than this from a point mass belong to it, in the column's unit.
            masses: draws the places inside point masses so that they heed the other columns; by themselves when None.
        """
        self.masses = masses
        self.features, self.values, self.resolution = features, values, resolution
        self.num_numbers = len(values)
        self._slopes = values.diff() / features.diff()
        flat = self._slopes == 0
        self._in_mass = torch.nn.functional.pad(flat, (1, 0)) | torch.nn.functional.pad(flat, (0, 1))
        self._low, self._high = self._ends_of_masses()

    @classmethod
    def fit(
        cls,
        values: np.ndarray,
        num_knots: int = 200,
        smallest_mass: float = SMALLEST_SHARE,
        resolution: float = RESOLUTION,
        stepped: Sequence[bool] | None = None,
    ) -> 'QuantileCodec':
        """Fits the knots on some columns.

        Args:
            values: finite, at least two of a column distinct, shape (row, column).
            num_knots: number of quantiles between which the map is linear.
            smallest_mass: share of the rows above which a value counts as a point mass.
            resolution: values closer than this count as one, see `resolution_of`.
            stepped: columns of which every value is a step of F, however rare it is; none by default.
        """
        gaps = resolution_of(values, resolution)
        smallest = np.where(np.zeros(values.shape[1], bool) if stepped is None else stepped, 0.0, smallest_mass)
        knots = [_knots(*each, num_knots) for each in zip(values.T, gaps, smallest, strict=True)]
        longest = max(map(len, knots)) + 1
        features, knot_values = torch.from_numpy(np.stack([_extend(each, longest) for each in knots])).unbind(2)
        codec = cls(features.contiguous(), knot_values.contiguous(), torch.from_numpy(gaps))
        low, high = codec._intervals(torch.from_numpy(values))
        if (low < high).any():
            codec.masses = CensoredNormal.fit(low, high, torch.Generator().manual_seed(0))
        return codec

    def encode(self, values: Table, generator: torch.Generator | None = None) -> Rows:
        """Normal scores; of a point mass a place inside it."""
        low, high = self._intervals(values)
        if generator is None or self.masses is None:
            return _median(low, high)
        return self.masses.complete(low, high, generator)

    def decode(self, numbers: Rows, states: Codes | None = None) -> Table:
        """Values in the columns' units; each derivative is its segment's slope."""
        x = numbers.T.contiguous()
        segment = (torch.searchsorted(self.features, x.detach(), right=True) - 1).clamp(0, self._slopes.shape[1] - 1)
        return (
            self._at(self.values, segment) + (x - self._at(self.features, segment)) * self._at(self._slopes, segment)
        ).T

    def point_masses(self, values: Table) -> ColumnMask:
        """True for exactly the values of point masses."""
        if not self._in_mass.any():
            return torch.zeros_like(values, dtype=torch.bool)
        v = values.T.contiguous()
        below = torch.searchsorted(self.values, v, right=True) - 1
        return (self._at(self._in_mass, below) & (self._at(self.values, below) == v)).T

    def adjusted_to(self, numbers: Rows) -> 'QuantileCodec':
        """The codec that gives numbers distributed as these the training rows' marginals."""
        return QuantileCodec(shifted(self.features, numbers), self.values, self.resolution, self.masses)

    def select(self, positions: Sequence[int]) -> 'QuantileCodec':
        """The codec of some of its columns."""
        chosen = list(positions)
        masses = None if self.masses is None else self.masses.select(chosen)
        return QuantileCodec(self.features[chosen], self.values[chosen], self.resolution[chosen], masses)

    def _intervals(self, values: Table) -> tuple[Rows, Rows]:
        """Between which normal scores a value lies; they differ in point masses only."""
        v = values.T.contiguous()
        first_above = torch.searchsorted(self.values, v, right=True)
        segment = (first_above - 1).clamp(0, self._slopes.shape[1] - 1)
        linear = self._at(self.features, segment) + (v - self._at(self.values, segment)) / self._at(
            self._slopes, segment
        )
        if not self._in_mass.any():
            return linear.T, linear.T
        mass, belongs = self._mass_at(v, first_above)
        low, high = (torch.where(belongs, self._at(ends, mass), linear).T for ends in (self._low, self._high))
        return low, high

    def _mass_at(self, v: Tensor, first_above: Tensor) -> tuple[Tensor, Tensor]:
        """A knot of the point mass next to each value, and whether the value belongs to it.

        It does within the resolution, and beyond a limit of the column.
        """
        found, belongs = torch.zeros_like(first_above), torch.zeros_like(v, dtype=torch.bool)
        for knot in (first_above, first_above - 1):
            beyond = (knot < 0) | (knot >= self.values.shape[1])
            close = ((v - self._at(self.values, knot)).abs() <= self.resolution[:, None]) | beyond
            mine = close & self._at(self._in_mass, knot)
            found, belongs = torch.where(mine, knot, found), belongs | mine
        return found, belongs

    def _ends_of_masses(self) -> tuple[Tensor, Tensor]:
        """Where in model space the group of knots of equal value begins and ends, both shape (column, knot)."""
        number = self.values.shape[1]
        first = torch.searchsorted(self.values, self.values)
        last = torch.searchsorted(self.values, self.values, right=True) - 1
        low = torch.where(first == 0, -FARTHEST, self._at(self.features, first))
        return low, torch.where(last == number - 1, FARTHEST, self._at(self.features, last))

    @staticmethod
    def _at(table: Tensor, index: Tensor) -> Tensor:
        """Entries of each column, shape (column, row); indices beyond the ends mean the ends."""
        return table.gather(1, index.clamp(0, table.shape[1] - 1))


def _knots(values: np.ndarray, resolution: float, smallest_mass: float, num_knots: int) -> np.ndarray:
    """Knots (feature, value) of one column, shape (knot, 2): two per point mass, quantiles between the masses.

    Towards the ends of the column quantiles stand ever closer, so that a heavy tail bends as the values do.
    """
    ordered = np.sort(values)
    num_rows = len(ordered)
    masses = mass_windows(ordered, resolution, max(smallest_mass * num_rows, 1.0) if smallest_mass else 0.0)
    tail = 2 ** np.arange(num_rows.bit_length()) - 1
    tails = np.r_[tail, num_rows - 1 - tail]
    knots, free_from = [], 0
    for start, end in [*masses, (num_rows, num_rows)]:
        number = max(round(num_knots * (start - free_from) / num_rows), 2)
        if start > free_from:
            even = np.linspace(free_from, start - 1, number).round().astype(int)
            between = np.union1d(even, tails[(free_from <= tails) & (tails < start)])
            # Not between equal values: they would bound a point mass.
            equal = np.diff(ordered[between]) <= resolution
            between = between[np.isin(between, even) | ~(np.r_[False, equal] | np.r_[equal, False])]
            knots += [(index + 0.5, ordered[index]) for index in between]
        if end > start:
            mass = ordered[(start + end) // 2]
            knots += [(start + 0.25, mass), (end - 0.25, mass)]
        free_from = end
    rank, value = np.array(knots).T
    feature = torch.special.ndtri(torch.from_numpy(rank / num_rows)).numpy()
    return np.stack([feature, value], axis=1)


def _extend(knots: np.ndarray, number: int) -> np.ndarray:
    """Continues a column's map linearly: one knot below, and above as many as make `number + 1` in all."""
    steps = np.arange(1, number + 1 - len(knots))[:, None]
    first, last = knots[0] - _unit_step(knots), knots[-1] + steps * _unit_step(knots[::-1])
    return np.concatenate([first[None], knots, last])


def _unit_step(knots: np.ndarray) -> np.ndarray:
    """The step of feature and value, for one unit of the feature, between the first knot and one well inside.

    Two values at the end may be as near to each other as chance will have it. At a point mass the value stays.
    """
    if knots[1, 1] == knots[0, 1]:
        return np.array([1.0, 0.0])
    inside = np.abs(knots[:, 0] - knots[0, 0]) >= WELL_INSIDE
    step = knots[inside.argmax() if inside.any() else -1] - knots[0]
    return step / step[0]


def _median(low: Tensor, high: Tensor) -> Tensor:
    """Of the standard normal restricted to [low, high]."""
    middle = torch.special.ndtri((torch.special.ndtr(low) + torch.special.ndtr(high)) / 2)
    return torch.where(low < high, middle, low)
