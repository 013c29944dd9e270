r"""Which numbers do not depend on each other, by smooth tests on their ranks.

Of n rows with ranks `u \in (0, 1)` and `f_a(u) = \sqrt 2 \cos(a \pi u)`, which are orthonormal under the uniform law,
the mean of a product over two independent columns has mean 0 and variance `1 / (n - 1)`, over three `1 / n`: its square
in this unit is about `\chi^2_1` (Kallenberg and Ledwina 1999, for two columns). Few cosines tell best of what is
monotone, many of what waves. A pair can show a dependence by itself; what each pair or triple hides in its noise, the
sum over all of them tells.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sdv_constrained_diffusion._types import NumberMask, Numbers

NUMS_WAVES = (1, 3, 8)
"""How many cosines of each column each test of pairs takes."""

LEVEL = 0.02
"""Chance that a test finds a dependence where there is none. That costs little: a column is learned with the others."""

SMALLEST_PART = 0.1
"""A set of a smaller part of the numbers is not worth the rows that are trained for it (docs/decisions/0030)."""

FEWEST_ROWS, MOST_ROWS = 1000, 50_000
"""Tables of less rows show too little; of more, some rows at random are looked at."""

WORK = 1e11
"""Multiplications that all pairs, and all triples, may cost: of many columns fewer rows are looked at."""

Pairs = Float[Tensor, 'test number number']
"""Something of each two columns in each test, symmetric."""


def independent_numbers(numbers: Numbers) -> NumberMask:
    """Marks a set of standard normal columns that show no dependence on each other, by two and by three.

    Columns are left out, one at a time, until the others show none: those that depend on the most others by themselves,
    then those with the largest part in what only sums tell. What waves faster than the last cosine is not seen, nor
    what four columns share, of which no three depend on each other; and a correlation must be about four times
    `1 / sqrt(n)` to be seen for sure in a pair.

    Args:
        numbers: rows without ties, shape (row, number).

    Returns:
        the marks; none where less than two columns are left, or less than `SMALLEST_PART`, or where rows are few.
    """
    num_rows, num_columns = numbers.shape
    marks = torch.zeros(num_columns, dtype=torch.bool)
    if num_rows < FEWEST_ROWS or num_columns < 2:
        return marks
    work = (max(NUMS_WAVES) * num_columns) ** 2
    ranks = _ranks(_some(numbers, max(int(min(MOST_ROWS, WORK / work)), FEWEST_ROWS)))
    pairs = _pairs(ranks)
    chances = torch.stack([_chance(each, num**2) for each, num in zip(pairs, NUMS_WAVES, strict=True)])
    kept = _are_normal(numbers).nonzero()[:, 0]
    while len(kept) > max(1, SMALLEST_PART * num_columns):
        parts = _dependence(pairs[:, kept][:, :, kept], chances[:, kept][:, :, kept], ranks, kept)
        if parts is None:
            return marks.index_fill(0, kept, True)
        worst = int((parts == parts.max()).nonzero()[-1])
        kept = torch.cat([kept[:worst], kept[worst + 1 :]])
    return marks


def _dependence(
    pairs: Pairs, chances: Pairs, ranks: Float[Tensor, 'row column'], kept: Tensor
) -> Float[Tensor, ' number'] | None:
    """Each column's part in the dependence that some columns show; None if they show none.

    Args:
        pairs: their statistics.
        chances: the probabilities of larger ones.
        ranks: of all columns.
        kept: places of the columns among all.
    """
    num_pairs = math.comb(len(kept), 2)
    apart = (chances * num_pairs < LEVEL).any(0)
    if apart.any():
        return apart.sum(1).to(pairs)
    for statistic, num_waves in zip(pairs, NUMS_WAVES, strict=True):
        if _chance(statistic.sum() / 2, num_waves**2 * num_pairs) < LEVEL:
            return statistic.sum(1)
    num_rows = int(WORK / len(kept) ** 3)
    if len(kept) > 2 and num_rows >= FEWEST_ROWS:
        triples = _triples(_wave(_some(ranks, num_rows)[:, kept], 1))
        if _chance(triples.sum() / 3, math.comb(len(kept), 3)) < LEVEL:
            return triples
    return None


def _some(rows: Numbers, num_rows: int) -> Float[Tensor, 'chosen number']:
    """At most so many of the rows, at random, always the same: tables have an order."""
    if len(rows) <= num_rows:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:num_rows]]


def _ranks(numbers: Numbers) -> Numbers:
    """Ranks of the columns, between 0 and 1."""
    return (numbers.argsort(0).argsort(0).to(numbers) + 0.5) / len(numbers)


def _are_normal(numbers: Numbers) -> NumberMask:
    """Whether columns are standard normal, by the test of Kolmogorov and Smirnov at level 0.001."""
    places = (torch.arange(len(numbers)).to(numbers)[:, None] + 0.5) / len(numbers)
    return (torch.special.ndtr(numbers.sort(0).values) - places).abs().amax(0) < 1.95 / math.sqrt(len(numbers))


def _wave(ranks: Numbers, order: int) -> Numbers:
    """A cosine of ranks."""
    return math.sqrt(2) * torch.cos(math.pi * order * ranks)


def _pairs(ranks: Numbers) -> Pairs:
    """Squared mean products of two columns in units of their variance, summed over the cosines of each test.

    0 for a column and itself.
    """
    num_rows, num_columns = ranks.shape
    most = max(NUMS_WAVES)
    waves = torch.cat([_wave(ranks, order) for order in range(1, most + 1)], dim=1)
    squares = (waves.T @ waves / num_rows).square() * (num_rows - 1)
    by_orders = squares.reshape(most, num_columns, most, num_columns)
    return torch.stack([by_orders[:num, :, :num].sum((0, 2)).fill_diagonal_(0) for num in NUMS_WAVES])


def _triples(waves: Numbers) -> Float[Tensor, ' number']:
    """Squared mean products of three columns, times n, summed over those that a column is one of."""
    parts = []
    for column in range(waves.shape[1]):
        squares = ((waves * waves[:, [column]]).T @ waves).square() / len(waves)
        squares.fill_diagonal_(0)
        squares[column] = squares[:, column] = 0
        parts.append(squares.sum() / 2)
    return torch.stack(parts)


def _chance(statistic: Tensor, freedom: int) -> Tensor:
    r"""Probability that a `\chi^2` variable is larger."""
    return torch.special.gammaincc(torch.tensor(freedom / 2, dtype=statistic.dtype), statistic / 2)
