r"""Estimators of the clean row: backbone -> `x0_hat`, and the loss that trains them.

A denoiser works in float64 outside and in the backbone's own precision inside: residuals of finished rows need more
digits than the network does.
"""

import abc

import torch
from torch import nn

from sdv_constrained_diffusion._types import PerRow, Rows, Times
from sdv_constrained_diffusion.diffusion.schedule import Schedule


class Denoiser(nn.Module, abc.ABC):
    r"""Estimates `E[x_0 | x_t]`.

    Attributes:
        schedule: the noise scales it was trained under.
    """

    schedule: Schedule

    @abc.abstractmethod
    def forward(self, x_t: Rows, t: Times) -> Rows:
        """Noisy rows, float64, and their times -> `x0_hat`, float64."""

    @abc.abstractmethod
    def loss(self, x_0: Rows, generator: torch.Generator) -> PerRow:
        """Training loss of clean rows at random times, one number per row."""


class NoisePredictor(Denoiser):
    r"""The backbone estimates the noise: `\epsilon_\theta(x_t, t)` (Ho et al. 2020)."""

    def __init__(self, backbone: nn.Module, schedule: Schedule) -> None:
        """Keeps backbone and schedule."""
        super().__init__()
        self.backbone, self.schedule = backbone, schedule

    def forward(self, x_t: Rows, t: Times) -> Rows:
        r"""Tweedie: `\hat x_0 = (x_t - \sigma_t \hat\epsilon) / \alpha_t` (Hoseinpour and Dvorkin 2025, eq. 6)."""
        alpha, sigma = self.schedule.noise(t[:, None])
        return (x_t - sigma * self._eps_hat(x_t, t)) / alpha

    def loss(self, x_0: Rows, generator: torch.Generator) -> PerRow:
        r"""Mean of `(\epsilon - \epsilon_\theta(\alpha_t x_0 + \sigma_t \epsilon, t))^2` over features (eq. 5)."""
        t = self.schedule.draw(len(x_0), generator)
        eps = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
        alpha, sigma = self.schedule.noise(t[:, None])
        x_t = alpha * x_0 + sigma * eps
        return (eps - self._eps_hat(x_t, t)).square().mean(1)

    def _eps_hat(self, x_t: Rows, t: Times) -> Rows:
        return _apply(self.backbone, x_t, self.schedule.time_feature(t))


class PreconditionedDenoiser(Denoiser):
    r"""`D(x; \sigma) = c_{skip} x + c_{out} F(c_{in} x, c_{noise})` (Karras et al. 2022, eq. 7), unit data variance.

    The backbone sees inputs and targets of unit variance at every noise level.
    """

    def __init__(self, backbone: nn.Module, schedule: Schedule) -> None:
        """Keeps backbone and schedule; the schedule must leave the signal unscaled."""
        super().__init__()
        self.backbone, self.schedule = backbone, schedule

    def forward(self, x_t: Rows, t: Times) -> Rows:
        r"""`c_{skip} = c_{in}^2`, `c_{out} = \sigma c_{in}`, `c_{in} = 1 / \sqrt{1 + \sigma^2}` (table 1 there)."""
        sigma = self.schedule.noise(t[:, None]).sigma
        c_skip, c_in = 1 / (1 + sigma**2), 1 / (1 + sigma**2).sqrt()
        c_out = sigma * c_in
        return c_skip * x_t + c_out * _apply(self.backbone, c_in * x_t, self.schedule.time_feature(t))

    def loss(self, x_0: Rows, generator: torch.Generator) -> PerRow:
        r"""`\|D(x_0 + \sigma \epsilon; \sigma) - x_0\|^2 / c_{out}^2` (eq. 8 there), mean over features."""
        t = self.schedule.draw(len(x_0), generator)
        eps = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
        sigma = self.schedule.noise(t[:, None]).sigma
        x0_hat = self(x_0 + sigma * eps, t)
        return ((x0_hat - x_0).square() * (1 + sigma**2) / sigma**2).mean(1)


def _apply(backbone: nn.Module, rows: Rows, time_feature: Times) -> Rows:
    """Calls the backbone in its own precision, on its own device."""
    parameter = next(backbone.parameters())
    return backbone(rows.to(parameter), time_feature.to(parameter)).to(rows)
