"""A column of numbers that takes some values exactly and often, or is missing: a state beside the number."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sdv_constrained_diffusion._types import Codes, ColumnMask, Rows, Table
from sdv_constrained_diffusion.tabular.columns import ColumnCodec


class InflatedCodec(ColumnCodec):
    """One column: a state that says which exact value it holds, if any, and a number for the others.

    State k is the k-th exact value, the last state is the number. Where an exact value stands the number means nothing:
    it is drawn from a standard normal, which a denoiser estimates without effort. NaN among the exact values is
    missingness, so that it is learned together with the other columns.
    """

    def __init__(self, exact: Tensor, resolution: float, rest: ColumnCodec | None, frequencies: Tensor) -> None:
        """Keeps the parts.

        Args:
            exact: the exact values in the column's unit, NaN for missing, each once, shape (exact,); in any order.
            resolution: values no farther than this from an exact one are it, in the column's unit.
            rest: codec of the other numbers; None when there are none.
            frequencies: share of each state in the training rows, shape (exact,) or, with a rest, (exact + 1,).
        """
        self.exact, self.resolution, self.rest, self.frequencies = exact, resolution, rest, (frequencies,)
        self.num_numbers = 0 if rest is None else 1

    @classmethod
    def fit(
        cls,
        values: np.ndarray,
        exact: Sequence[float],
        resolution: float,
        codec: Callable[[np.ndarray], ColumnCodec] | None,
    ) -> 'InflatedCodec':
        """Fits the codec of the other numbers and counts the states.

        Args:
            values: one column, NaN where missing, shape (row,).
            exact: the exact values, without NaN.
            resolution: values no farther than this from an exact one are it.
            codec: fits the codec of the others, shape (row, 1), of which at least two differ; None when there are none.
        """
        missing = [np.nan] if np.isnan(values).any() else []
        points = torch.tensor([*sorted(exact), *missing], dtype=torch.float64)
        states = _states(torch.from_numpy(values), points, torch.inf if codec is None else resolution)
        rest = None if codec is None else codec(values[(states == len(points)).numpy(), None])
        counts = torch.bincount(states, minlength=len(points) + (codec is not None)).double()
        return cls(points, resolution, rest, counts / len(values))

    def encode(self, values: Table, generator: torch.Generator | None = None) -> Rows:
        """The number where there is one, elsewhere a draw of the standard normal or, without a generator, 0."""
        if self.rest is None:
            return values.new_zeros(len(values), 0)
        idle = torch.zeros_like(values)
        if generator is not None:
            idle = torch.randn(values.shape, generator=generator, dtype=values.dtype)
        return torch.where(self.point_masses(values), idle, self.rest.encode(values.nan_to_num(), generator))

    def states(self, values: Table) -> Codes:
        """The state of each row, shape (row, 1); where there is no other number, that of the nearest exact value."""
        return _states(values[:, 0], self.exact, torch.inf if self.rest is None else self.resolution)[:, None]

    def decode(self, numbers: Rows, states: Codes | None = None) -> Table:
        """The exact value where the state names one, elsewhere the number's."""
        if states is None:
            raise ValueError('InflatedCodec.decode needs the states beside the numbers; pass what `states` returns.')
        known = torch.cat([self.exact, self.exact.new_zeros(1)])[states]
        return known if self.rest is None else torch.where(states < len(self.exact), known, self.rest.decode(numbers))

    def point_masses(self, values: Table) -> ColumnMask:
        """True for exact values and, where missing is one of them, for missing ones."""
        return _states(values[:, 0], self.exact, self.resolution)[:, None] < len(self.exact)

    def select(self, positions: Sequence[int]) -> 'InflatedCodec':
        """Itself: there is one column."""
        return self


def _states(values: Tensor, exact: Tensor, resolution: float) -> Tensor:
    """Number of the exact value that each value is, `len(exact)` for none, shape (row,)."""
    gaps = (values[:, None] - exact).abs()
    both_missing = values.isnan()[:, None] & exact.isnan()
    nearest = gaps.masked_fill(both_missing, 0).nan_to_num(torch.inf).min(1)
    return torch.where(nearest.values <= resolution, nearest.indices, len(exact))
