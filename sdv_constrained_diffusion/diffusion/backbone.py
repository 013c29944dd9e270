"""The network: features and a time in, features out. It knows nothing of diffusion."""

import math

import torch
from torch import Tensor, nn

from sdv_constrained_diffusion._types import Inputs, Rows, Times


class SinusoidalEmbedding(nn.Module):
    r"""`(\sin(\omega_i t), \cos(\omega_i t))`, `\omega_i = 10000^{-i / (d/2)}` (Vaswani et al. 2017, section 3.5)."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        """Builds the frequencies; `width` must be even."""
        super().__init__()
        self.register_buffer('frequencies', torch.exp(-math.log(10_000) * torch.arange(width // 2) / (width // 2)))

    def forward(self, t: Times) -> Tensor:
        """Times, shape (row,) -> embedding, shape (row, width)."""
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


class ResidualBlock(nn.Module):
    """Pre-LayerNorm residual block of two linear layers; the time embedding shifts the hidden one."""

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
        """Hidden rows, shape (row, width), and time embedding, shape (row, time_width) -> hidden rows."""
        inner = nn.functional.silu(self.first(self.norm(h)) + self.time(time))
        return h + self.second(inner)


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

    def forward(self, rows: Inputs, t: Times) -> Rows:
        """Rows, with what comes after them, and times -> an estimate of the rows' width."""
        h, time = self.input(rows), self.time(t)
        for block in self.blocks:
            h = block(h, time)
        return self.output(self.norm(h))
