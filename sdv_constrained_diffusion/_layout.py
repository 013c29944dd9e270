"""How a row of model space is laid out: numbers first, then one block of features for each discrete column.

A block has one feature per level of its column. In a clean row it is one-hot; in a noisy row it is all zeros while the
level is hidden; in an estimate it holds the levels' probabilities, which are the posterior mean of the one-hot.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdv_constrained_diffusion._types import Blocks, Codes, Levels, Rows


class Layout:
    """Sizes of a row's parts.

    Attributes:
        num_numbers: features that are numbers.
        num_plain: how many of these, the first ones, always mean something; where a column takes a value exactly, or
            is missing, its number is a mere draw.
        frequencies: of each block, the share of its levels in the training rows; each shape (level,).
        num_features: width of a row.
    """

    def __init__(self, num_numbers: int, frequencies: Sequence[Tensor] = (), num_plain: int | None = None) -> None:
        """Keeps the sizes, all numbers plain by default; neighbouring blocks of one size are handled together."""
        self.num_numbers, self.frequencies = num_numbers, tuple(frequencies)
        self.num_plain = num_numbers if num_plain is None else num_plain
        sizes = [len(each) for each in self.frequencies]
        self._sizes = torch.tensor(sizes, dtype=torch.int64)
        self._owner = torch.arange(len(sizes)).repeat_interleave(self._sizes)
        self._ends = self._sizes.cumsum(0)
        self._runs = [(size, len(list(run))) for size, run in itertools.groupby(sizes)]
        self.num_features = num_numbers + sum(sizes)

    @property
    def num_blocks(self) -> int:
        """Number of discrete columns."""
        return len(self.frequencies)

    @property
    def num_columns(self) -> int:
        """Numbers and discrete columns of a row."""
        return self.num_numbers + self.num_blocks

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers, shape (row, number), and the features of all blocks, shape (row, level)."""
        return rows[:, : self.num_numbers], rows[:, self.num_numbers :]

    def numbers(self, rows: Tensor) -> Tensor:
        """The number features, shape (row, number)."""
        return rows[:, : self.num_numbers]

    def levels(self, rows: Tensor) -> Tensor:
        """The features of all blocks, shape (row, level)."""
        return rows[:, self.num_numbers :]

    def views(self, levels: Tensor) -> list[Tensor]:
        """Neighbouring blocks of equal size together, each shape (row, block, level)."""
        if not self._runs:
            return [levels.new_zeros(len(levels), 0, 1)]
        widths = [size * number for size, number in self._runs]
        parts = zip(levels.split(widths, dim=1), self._runs, strict=True)
        return [part.unflatten(1, (number, size)) for part, (size, number) in parts]

    def per_block(self, levels: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """Reduces each block's levels to one value, shape (row, block); `reduce` works on a view's last axis."""
        return torch.cat([reduce(view) for view in self.views(levels)], dim=1)

    def sums(self, levels: Tensor) -> Tensor:
        """Sum over each block's levels, shape (row, block)."""
        return levels.new_zeros(len(levels), self.num_blocks).scatter_add(1, self._owners(levels), levels)

    def less_largest(self, levels: Tensor) -> Tensor:
        """The levels less the largest of their block, shape (row, level); the largest counts as a constant."""
        lowest = levels.new_full((len(levels), self.num_blocks), -torch.inf)
        largest = lowest.scatter_reduce(1, self._owners(levels), levels.detach(), 'amax')
        return levels - self.spread(largest)

    def spread(self, blocks: Tensor) -> Tensor:
        """One value per block, shape (row, block) -> the same for each of its levels, shape (row, level)."""
        return blocks.gather(1, self._owners(blocks))

    def drawn(self, levels: Tensor, places: Tensor) -> Codes:
        """The level of each block at a place in its distribution function, from 0 to 1; both results (row, block).

        Args:
            levels: probabilities up to a factor of each block, shape (row, level).
            places: shape (row, block).
        """
        below = torch.nn.functional.pad(levels.cumsum(1), (1, 0))
        first, last = below[:, self._ends - self._sizes], below[:, self._ends]
        # The block's own sum, not 1, and below it, so that rounding invents no level.
        target = torch.minimum(first + places * (last - first), torch.nextafter(last, first))
        passed = below[:, 1:] <= self.spread(target)
        return torch.minimum(self.sums(passed.double()).long(), self._sizes - 1)

    def one_hot(self, codes: Codes) -> Levels:
        """Codes, shape (row, block), -1 where hidden -> features of all blocks, float64, shape (row, level)."""
        levels = torch.zeros(len(codes), self.num_features - self.num_numbers, dtype=torch.float64)
        return levels.scatter_(1, codes.clamp(min=0) + self._ends - self._sizes, (codes >= 0).double())

    def codes(self, rows: Rows) -> Codes:
        """The most probable level of each block, shape (row, block)."""
        return self.per_block(self.levels(rows), lambda view: view.argmax(2))

    def hidden(self, rows: Rows) -> Blocks:
        """True for blocks of all zeros, no feature being negative, shape (row, block)."""
        return self.sums(self.levels(rows)) == 0

    def _owners(self, rows: Tensor) -> Tensor:
        """The block of each level, shape (row, level)."""
        return self._owner.expand(len(rows), -1)
