r"""Masked (absorbing) diffusion of the discrete columns (Austin et al. 2021, section 3.1; Sahoo et al. 2024, MDLM).

At time t each discrete column is hidden with probability `m_t`, whatever its level; a hidden one says nothing. The
network gives the levels' probabilities for the hidden ones, and from t to s each is revealed with probability
`(m_t - m_s) / m_t`. A revealed one never changes, so a level that is fixed from the start is a condition, exactly.

Levels that are revealed in one step are drawn independently of each other, which loses how they go together. So the
columns of a row take turns: they are revealed at hidden shares that are evenly spaced, in an order of the row's own
(after Zheng et al. 2024, who reveal one at a time). Any order is right, because the network learns to fill any gaps.

Every rule about discrete columns stands in this file: another treatment replaces it.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion._types import Blocks, Levels, PerRow, Rows

SMALLEST_SHARE = 1e-6
"""A level rarer than this starts as if it were this frequent: the logarithm must be finite."""


class Masking:
    """The discrete columns' process for one layout.

    Attributes:
        layout: where the blocks are.
        entropies: entropy of each block's level in the training rows, in nats, shape (block,).
    """

    def __init__(self, layout: Layout) -> None:
        """Measures the entropies by which the loss is scaled."""
        self.layout = layout
        entropies = [float(torch.special.entr(each).sum()) for each in layout.frequencies]
        self.entropies = torch.tensor(entropies, dtype=torch.float64).clamp(min=1e-2)

    def log_frequencies(self) -> Tensor:
        """Logits before anything is learned, shape (level,)."""
        return (
            torch.cat([torch.zeros(0, dtype=torch.float64), *self.layout.frequencies]).clamp(min=SMALLEST_SHARE).log()
        )

    def hide(self, x_0: Rows, share: PerRow, generator: torch.Generator) -> tuple[Levels, Blocks]:
        """Clean rows -> the levels with a share of the blocks hidden, shape (row, level), and which, (row, block)."""
        draw = torch.rand(len(x_0), self.layout.num_blocks, generator=generator, dtype=torch.float64)
        hidden = draw < share[:, None]
        return self.layout.levels(x_0).masked_fill(self.layout.spread(hidden), 0), hidden

    def cross_entropy(self, logits: Levels, x_0: Rows, hidden: Blocks) -> Tensor:
        """Cross-entropy of the hidden blocks in units of their entropy, 0 for the others, shape (row, block).

        Args:
            logits: shape (row, level).
            x_0: clean rows.
            hidden: the blocks that count, shape (row, block).
        """
        logits = self.layout.less_largest(logits)
        true = self.layout.sums(logits * self.layout.levels(x_0))
        return (self.layout.sums(logits.exp()).log() - true) * hidden / self.entropies

    def probabilities(self, logits: Levels, x_t: Rows) -> Levels:
        """Posterior mean of the blocks, shape (row, level): probabilities where hidden, the level itself elsewhere."""
        layout, weights = self.layout, self.layout.less_largest(logits).exp()
        return torch.where(
            layout.spread(layout.hidden(x_t)), weights / layout.spread(layout.sums(weights)), layout.levels(x_t)
        )

    def turns(self, x_t: Rows, generator: torch.Generator) -> Tensor:
        """The hidden share at which each hidden block of a row is revealed, shape (row, block).

        Each is uniform between 0 and 1; those of one row have equal distances.

        Args:
            x_t: rows at the start, in which what is fixed is not hidden.
            generator: the only source of randomness.
        """
        hidden = self.layout.hidden(x_t)
        draw = torch.rand(len(x_t), hidden.shape[1] + 1, generator=generator, dtype=torch.float64)
        rank = draw[:, 1:].masked_fill(~hidden, 2).argsort(1).argsort(1)
        return (rank + draw[:, :1]) / hidden.sum(1, keepdim=True).clamp(min=1)

    def reveal(self, x_t: Rows, x0_hat: Rows, revealed: Blocks, places: Float[Tensor, 'row block']) -> Levels:
        """Reveals some of the hidden blocks, drawing their levels; gives the levels, shape (row, level).

        Args:
            x_t: noisy rows.
            x0_hat: estimate of the clean rows, whose blocks hold probabilities.
            revealed: which blocks; those that are not hidden stay as they are.
            places: uniform draws from [0, 1): a level is that of the place in the distribution function.
        """
        layout, revealed = self.layout, revealed & self.layout.hidden(x_t)
        rows = revealed.any(1).nonzero()[:, 0]
        drawn = layout.drawn(layout.levels(x0_hat)[rows], places[rows])
        return layout.levels(x_t).index_add(0, rows, layout.one_hot(torch.where(revealed[rows], drawn, -1)))
