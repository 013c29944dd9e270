"""How far the numbers that a model draws are from standard normal, each by itself.

In normal scores a column is right when its number is standard normal. A network of many numbers draws them a little too
wide, and too often far out: of 442 columns one or more then lie outside the training rows' range in two fifths of the
rows, where real rows have a sixth.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdv_constrained_diffusion._types import Numbers

SHARES = np.array(
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999]
)
"""Of the rows, at whose quantiles numbers are compared."""

SLOWEST = 1e-3
"""Least slope of the shifted scores by the scores, so that they increase even where all numbers are one."""


def shifted(scores: Float[Tensor, 'number knot'], drawn: Numbers) -> Float[Tensor, 'number knot']:
    r"""Where normal scores lie among numbers that were drawn: `Q(\Phi(score))`, Q the quantiles of the drawn ones.

    Between the quantiles that are compared the shift is linear, beyond the outermost it stays.

    Args:
        scores: increasing along a number.
        drawn: shape (row, number), one row or more.

    Returns:
        the same scores, shifted, increasing along a number.
    """
    normal = torch.special.ndtri(torch.from_numpy(SHARES)).numpy()
    shifts = (1 - SLOWEST) * (np.quantile(drawn.numpy(), SHARES, axis=0).T - normal)
    moved = [own + np.interp(own, normal, shift) for own, shift in zip(scores.numpy(), shifts, strict=True)]
    return torch.from_numpy(np.stack(moved))
