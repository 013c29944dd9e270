"""The network: features and a time in, features out. It knows nothing of diffusion."""

import math

import torch
from torch import Tensor, nn

from sdv_constrained_diffusion._types import Inputs, Rows, SharedTimes, Times


class SinusoidalEmbedding(nn.Module):
    r"""`(\sin(\omega_i t), \cos(\omega_i t))`, `\omega_i = 10000^{-i / (d/2)}` (Vaswani et al. 2017, section 3.5)."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        """Builds the frequencies; `width` must be even."""
        super().__init__()
        self.register_buffer('frequencies', torch.exp(-math.log(10_000) * torch.arange(width // 2) / (width // 2)))

    def forward(self, t: SharedTimes) -> Tensor:
        """Times, shape (time,) -> embedding, shape (time, width)."""
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class PlainMLP(nn.Module):
    """The paper's network (Hoseinpour and Dvorkin 2025).

    Input layer, time embedding added, hidden layers of one width with ReLU, output layer.
    """

    def __init__(self, num_features: int, width: int = 500, depth: int = 6) -> None:
        """Builds the layers.

        Args:
            num_features: width of a row in model space.
            width: width of the time embedding and of every hidden layer.
            depth: number of hidden layers.
        """
        super().__init__()
        self.input = nn.Linear(num_features, width)
        self.time = SinusoidalEmbedding(width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.output = nn.Linear(width, num_features)

    def forward(self, rows: Rows, t: Times) -> Rows:
        """Rows and times -> an estimate of the rows' width."""
        h = self.input(rows) + self.time(t)
        for layer in self.hidden:
            h = torch.relu(layer(h))
        return self.output(h)


HALF_PRODUCTS = hasattr(torch.cpu, 'get_capabilities') and torch.cpu.get_capabilities().get('avx512_bf16', False)
"""Whether this processor multiplies matrices of bfloat16 faster than of float32 (docs/decisions/0028)."""

NARROW = 128
"""Products of less than this many columns gain nothing by bfloat16."""


class ResidualBlock(nn.Module):
    """Pre-LayerNorm residual block of two linear layers; the time embedding shifts the hidden one.

    On a processor that has instructions for it, a wide block in float32 multiplies in bfloat16, accumulates in float32,
    and adds up in float32 along the blocks.
    """

    def __init__(self, width: int, time_width: int) -> None:
        """Builds the layers; the last one starts at zero, so that the block starts as the identity."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.time = nn.Linear(time_width, width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        """Hidden rows, shape (row, width), and time embedding, shape (time, time_width) -> hidden rows."""
        half = HALF_PRODUCTS and h.dtype == torch.float32 and h.device.type == 'cpu' and h.shape[1] >= NARROW
        dtype = torch.bfloat16 if half else h.dtype
        inner = _product(self.first, self.norm(h), dtype).add_(_product(self.time, time, dtype))
        return h + _product(self.second, nn.functional.silu(inner), dtype)


def _product(layer: nn.Linear, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """What a layer makes of rows, in a precision that need not be its own."""
    return nn.functional.linear(rows.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype))


class ResidualMLP(nn.Module):
    """Residual blocks between an input and an output layer."""

    def __init__(
        self, num_features: int, width: int = 256, depth: int = 4, time_width: int = 64, num_extra: int = 0
    ) -> None:
        """Builds the layers.

        Args:
            num_features: width of a row in model space.
            width: width of the hidden layers.
            depth: number of residual blocks.
            time_width: width of the time embedding, even; small, since it enters every block.
            num_extra: further inputs after the row, such as flags and hinges.
        """
        super().__init__()
        self.input = nn.Linear(num_features + num_extra, width)
        self.time = nn.Sequential(SinusoidalEmbedding(time_width), nn.Linear(time_width, time_width), nn.SiLU())
        self.blocks = nn.ModuleList(ResidualBlock(width, time_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, num_features)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, rows: Inputs, t: SharedTimes) -> Rows:
        """Rows, with what comes after them, and times -> an estimate of the rows' width."""
        h, time = self.input(rows), self.time(t)
        for block in self.blocks:
            h = block(h, time)
        return self.output(self.norm(h))
