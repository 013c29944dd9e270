r"""Which numbers do not depend on each other, by smooth tests on their ranks.

Of n rows with ranks `u \in (0, 1)` and `f_a(u) = \sqrt 2 \cos(a \pi u)`, which are orthonormal under the uniform law,
the mean of a product over two or three independent columns has mean 0 and variance `1/n`: n times its square is about
`\chi^2_1` (Kallenberg and Ledwina 1999, for two columns). A pair can show a dependence by itself; what each pair or
triple hides in its noise, the sum over all of them tells.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdv_constrained_diffusion._types import Numbers

NUM_WAVES = 3
"""Cosines of each column in the tests of pairs: the first sees what is monotone, the second what bends."""

LEVEL = 0.01
"""Chance that a test finds a dependence where there is none."""

TRIPLES_WORK = 3e10
"""Multiplications that products of three columns may cost: of many columns fewer rows are looked at."""

FEWEST_ROWS, MOST_ROWS = 500, 50_000
"""Tables of less rows show too little; of more every second, third ... row is looked at, or they would not fit into
memory."""

Pairs = Float[Tensor, 'number number']
"""Something of each two columns, symmetric."""


def independent_numbers(numbers: Numbers) -> Bool[Tensor, ' number']:
    """Marks a set of columns that show no dependence on each other, neither two by two nor three by three.

    Columns are left out, one at a time, until the others show none: those that depend on the most others by themselves,
    then those with the largest part in what only sums tell. What four columns share, of which no three depend on each
    other, is not seen.

    Args:
        numbers: rows without ties, shape (row, number).

    Returns:
        the marks; none where a set of one is all that is left, or where rows are few.
    """
    num_rows, num_columns = numbers.shape
    nothing = torch.zeros(num_columns, dtype=torch.bool)
    if num_rows < FEWEST_ROWS or num_columns < 2:
        return nothing
    waves = _waves(numbers[:: math.ceil(num_rows / MOST_ROWS)])
    pairs = _pairs(waves)
    chances, kept = _chance(pairs, NUM_WAVES**2), torch.arange(num_columns)
    while len(kept) > 1:
        among = pairs[kept][:, kept], chances[kept][:, kept]
        parts = _dependence(*among, waves[0][:, kept])
        if parts is None:
            return nothing.index_fill(0, kept, True)
        worst = int((parts == parts.max()).nonzero()[-1])
        kept = torch.cat([kept[:worst], kept[worst + 1 :]])
    return nothing


def _dependence(pairs: Pairs, chances: Pairs, waves: Numbers) -> Float[Tensor, ' number'] | None:
    """Each column's part in the dependence that some columns show; None if they show none.

    Args:
        pairs: their statistics.
        chances: the probabilities of larger ones.
        waves: the first cosine of each, shape (row, number).
    """
    num_pairs, num_triples = math.comb(len(pairs), 2), math.comb(len(pairs), 3)
    apart = chances * num_pairs < LEVEL
    if apart.any():
        return apart.sum(1).to(pairs)
    if _chance(pairs.sum() / 2, NUM_WAVES**2 * num_pairs) < LEVEL:
        return pairs.sum(1)
    if num_triples:
        triples = _triples(waves)
        if _chance(triples.sum() / 3, num_triples) < LEVEL:
            return triples
    return None


def _waves(numbers: Numbers) -> Float[Tensor, 'wave row number']:
    """The cosines of the columns' ranks, shape (wave, row, number)."""
    ranks = (numbers.argsort(0).argsort(0).to(numbers) + 0.5) / len(numbers)
    orders = torch.arange(1, NUM_WAVES + 1, dtype=numbers.dtype)
    return math.sqrt(2) * torch.cos(math.pi * orders[:, None, None] * ranks)


def _pairs(waves: Float[Tensor, 'wave row number']) -> Pairs:
    """N times the squared mean products of two columns, summed over their cosines; 0 for a column and itself."""
    num_waves, num_rows, num_columns = waves.shape
    side_by_side = waves.permute(1, 0, 2).reshape(num_rows, -1)
    squares = (side_by_side.T @ side_by_side).square() / num_rows
    return squares.reshape(num_waves, num_columns, num_waves, num_columns).sum((0, 2)).fill_diagonal_(0)


def _triples(waves: Numbers) -> Float[Tensor, ' number']:
    """N times the squared mean products of three columns, summed over those that a column is one of."""
    num_columns = waves.shape[1]
    some = waves[: max(int(TRIPLES_WORK / num_columns**3), FEWEST_ROWS)]
    parts = []
    for column in range(num_columns):
        squares = ((some * some[:, [column]]).T @ some).square() / len(some)
        squares.fill_diagonal_(0)
        squares[column] = squares[:, column] = 0
        parts.append(squares.sum() / 2)
    return torch.stack(parts)


def _chance(statistic: Tensor, freedom: int) -> Tensor:
    r"""Probability that a `\chi^2` variable is larger."""
    return torch.special.gammaincc(torch.tensor(freedom / 2, dtype=statistic.dtype), statistic / 2)
