r"""Numbers of which only an interval is known, such as those of values at a limit, drawn so that they heed the others.

A value at a limit says that its normal score lies somewhere in a tail. Drawn by itself, the score would hide from the
network what the table knows: that two units of one plant meet their limits together, or that the one at its limit would
give most where the load is largest. So the scores are completed as those of a normal distribution with censored
margins: each is drawn from its conditional distribution given the others, truncated to its interval, in turn (Gibbs
sampling; Robert 1995), with the mean and covariance that rows so completed have (stochastic EM; Celeux and Diebolt
1985).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sdv_constrained_diffusion._types import Numbers

ROUNDS = 30
"""Rounds of completing and measuring. Of two equal columns a share c of whose values is at a limit, the part that is
not yet known to be equal shrinks about c-fold in each."""

SWEEPS = 3
"""Passes over the censored numbers when rows are completed from independent draws."""

MOST_ROWS = 20_000
"""Rows on which the distribution is measured."""

RIDGE = 1e-4
"""Variance that every number has beside what the others say: equations between columns make the covariance singular."""

FARTHEST = 37.0
"""Standard deviations beyond which the normal distribution function is zero in double precision."""


class CensoredNormal:
    """Mean and covariance of numbers of which some values are known by their intervals only.

    Attributes:
        mean: shape (number,).
        covariance: shape (number, number).
        censored: which numbers have intervals at all, shape (number,).
    """

    def __init__(self, mean: Tensor, covariance: Tensor, censored: Tensor) -> None:
        """Keeps them."""
        self.mean, self.covariance, self.censored = mean, covariance, censored

    @classmethod
    def fit(cls, low: Numbers, high: Numbers, generator: torch.Generator) -> 'CensoredNormal':
        """Measures the distribution of rows that it completes.

        Args:
            low: smallest value that each number may have; where it is the largest, too, the number is known.
            high: the largest.
            generator: the only source of randomness.
        """
        low, high = low[:MOST_ROWS], high[:MOST_ROWS]
        identity = torch.eye(low.shape[1], dtype=low.dtype)
        found = cls(torch.zeros_like(identity[0]), identity, (low < high).any(0))
        numbers = found.complete(low, high, generator, sweeps=0)
        for _ in range(ROUNDS if len(numbers) > 1 else 0):
            found = cls(numbers.mean(0), torch.cov(numbers.T).reshape(identity.shape), found.censored)
            numbers = found._swept(numbers, low, high, generator)
        return found

    def complete(self, low: Numbers, high: Numbers, generator: torch.Generator, sweeps: int = SWEEPS) -> Numbers:
        """Draws the numbers within their intervals, shape (row, number); arguments as in `fit`.

        A row's numbers hang on its place and on itself, not on the rows beside it.
        """
        share = torch.rand(low.shape, generator=generator, dtype=low.dtype)
        numbers = truncated_normal(share, torch.zeros_like(low), 1.0, low, high)
        for _ in range(sweeps):
            numbers = self._swept(numbers, low, high, generator)
        return numbers

    def select(self, numbers: Sequence[int]) -> 'CensoredNormal':
        """That of some of the numbers."""
        places = torch.tensor(list(numbers), dtype=torch.int64)
        return CensoredNormal(self.mean[places], self.covariance[places[:, None], places], self.censored[places])

    def _swept(self, numbers: Numbers, low: Numbers, high: Numbers, generator: torch.Generator) -> Numbers:
        """Draws each censored number anew, given all others."""
        identity = torch.eye(len(self.covariance), dtype=numbers.dtype)
        precision = torch.linalg.inv(self.covariance + RIDGE * identity)
        columns, mean, low, high = (each.T.contiguous() for each in (numbers, self.mean[None], low, high))
        for place in self.censored.nonzero()[:, 0].tolist():
            own, share = precision[place, place], torch.rand(len(numbers), generator=generator, dtype=numbers.dtype)
            expected = columns[place] - (precision[place] @ (columns - mean)) / own
            columns[place] = truncated_normal(share, expected, float(own.rsqrt()), low[place], high[place])
        return columns.T


def truncated_normal(share: Tensor, mean: Tensor, deviation: float, low: Tensor, high: Tensor) -> Tensor:
    """Normal numbers restricted to intervals, by the inverse of the distribution function.

    Args:
        share: uniform draws from [0, 1), any shape.
        mean: of each normal distribution.
        deviation: of all.
        low: lower ends.
        high: upper ends; where they equal the lower ones there is nothing to draw.
    """
    below, above = (low - mean) / deviation, (high - mean) / deviation
    # On the side where the distribution function is small, and so exact.
    mirrored = below + above > 0
    first, last = torch.where(mirrored, -above, below), torch.where(mirrored, -below, above)
    first, last = first.clamp(-FARTHEST, FARTHEST), last.clamp(-FARTHEST, FARTHEST)
    place = torch.special.ndtri(torch.lerp(torch.special.ndtr(first), torch.special.ndtr(last), share))
    place = torch.where(mirrored, -place, place)
    return torch.minimum(torch.maximum(mean + deviation * place, low), high)
