r"""Small networks of one column and the few columns that go with it, beside the network that sees them all.

Among hundreds of columns a relation between two of them, such as a generator's reactive power and its neighbour's once
a limit is met, is lost in a layer that mixes all: with a few thousand rows the wide network learns rows by heart before
it finds the relation. A network that sees little but the two finds it soon.
"""

import itertools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sdv_constrained_diffusion._types import Numbers, SharedTimes
from sdv_constrained_diffusion.diffusion.backbone import SinusoidalEmbedding

NUM_SEEN = 8
"""Numbers that a small network sees, its own among them."""

MOST_ROWS = 4096
"""Rows, evenly spaced in the table, by which neighbours are chosen."""

TOGETHER = 28_000
"""Networks times rows that run at once: what they hold fits a processor's cache."""

_LARGEST_SCORE = 4.0
_TIME_WIDTH = 64
_TIME_FEATURES = 4


class NeighbourhoodMLPs(nn.Module):
    """For each number a network of one hidden layer, which sees that number, its nearest ones and the time.

    Attributes:
        near: which numbers each network sees, its own first once they are measured, shape (number, neighbour).
    """

    near: Int[Tensor, 'number neighbour']

    def __init__(self, num_numbers: int, width: int = 16, pace: float = 8.0) -> None:
        """Builds the layers; the last one starts at zero.

        Args:
            num_numbers: how many numbers a row has.
            width: hidden units of each network.
            pace: weights are stored divided by it, so that an optimizer whose steps do not depend on the gradient's
                size, such as Adam, moves them this much faster than others.
        """
        super().__init__()
        num_seen = min(NUM_SEEN, num_numbers)
        fan_in = 2 * num_seen + _TIME_FEATURES
        self.pace = pace
        self.register_buffer('near', torch.arange(num_seen).expand(num_numbers, -1).clone())
        self.time = nn.Sequential(SinusoidalEmbedding(_TIME_WIDTH), nn.Linear(_TIME_WIDTH, _TIME_FEATURES), nn.SiLU())
        bound = 1 / (math.sqrt(fan_in) * pace)
        self.first = nn.Parameter(torch.empty(num_numbers, width, fan_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_numbers, width, 1).uniform_(-bound, bound))
        self.second = nn.Parameter(torch.zeros(num_numbers, width, 1))

    def measure(self, numbers: Numbers) -> None:
        """Chooses the neighbours by some clean rows."""
        self.near.copy_(nearest(numbers, self.near.shape[1]))

    def forward(self, noisy: Numbers, estimate: Numbers, t: SharedTimes) -> Numbers:
        """What each network says of its number, shape (row, number).

        Args:
            noisy: noisy numbers, of about unit variance.
            estimate: a first estimate of the clean ones.
            t: times as the backbone takes them.
        """
        # Numbers first, rows last: one batched product of matrices.
        both, time = torch.stack([noisy.T, estimate.T], dim=1), self.time(t).T
        said = []
        together = max(TOGETHER // max(len(noisy), 1), 1)
        for start in range(0, max(len(both), 1), together):
            some = slice(start, start + together)
            seen = both[self.near[some]].flatten(1, 2)
            inputs = torch.cat([seen, time.expand(len(seen), -1, len(noisy))], dim=1)
            hidden = nn.functional.silu(self.pace * torch.baddbmm(self.bias[some], self.first[some], inputs))
            said.append(self.pace * (hidden * self.second[some]).sum(1))
        return torch.cat(said).T


def nearest(numbers: Numbers, count: int) -> Int[Tensor, 'number neighbour']:
    r"""The numbers that each number depends on most, itself first.

    Dependence is `\sum_{a,b=1}^{4} corr(He_a(x_i), He_b(x_j))^2` with Hermite polynomials: of normal scores this is
    the mean square contingency `\phi^2`, cut after four terms (Lancaster 1958). A correlation alone overlooks relations
    that bend.

    Args:
        numbers: clean rows, shape (row, number), about normal.
        count: how many, at most as many as there are numbers.
    """
    numbers = numbers[:: math.ceil(len(numbers) / MOST_ROWS)]
    score = _standard(numbers).clamp(-_LARGEST_SCORE, _LARGEST_SCORE)
    terms = [score, score**2 - 1, score**3 - 3 * score, score**4 - 6 * score**2 + 3]
    dependence = numbers.new_zeros(numbers.shape[1], numbers.shape[1])
    for one, other in itertools.product(map(_standard, terms), repeat=2):
        dependence += (one.T @ other / len(numbers)).square()
    return dependence.fill_diagonal_(math.inf).topk(count, dim=1).indices


def _standard(columns: Float[Tensor, 'row number']) -> Float[Tensor, 'row number']:
    """Mean 0 and variance 1; a constant column becomes 0."""
    centred = columns - columns.mean(0)
    return centred / centred.square().mean(0).sqrt().clamp(min=1e-9)
