r"""Reverse processes: from pure noise `x_T` to a clean row, one step `t -> s` at a time.

A sampler asks a denoiser for `x0_hat` and knows nothing of constraints: a guided denoiser is a denoiser.
"""

import abc
import itertools

import torch

from sdv_constrained_diffusion._types import Rows
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser
from sdv_constrained_diffusion.diffusion.schedule import Noise


def ddim_step(x_t: Rows, x0_hat: Rows, at: Noise, to: Noise, eta: float, z: Rows) -> Rows:
    r"""Moves from t to an earlier s (Song et al. 2020, eqs. 12 and 16).

    `x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - \varsigma_t^2} \hat\epsilon + \varsigma_t z`,
    `\varsigma_t = \eta \frac{\sigma_s}{\sigma_t} \sqrt{\sigma_t^2 - \alpha_t^2 \sigma_s^2 / \alpha_s^2}`, whose root is
    `\sqrt{1 - \alpha_t^2 / \alpha_s^2}` there, where `\alpha^2 + \sigma^2 = 1`.

    Args:
        x_t: rows at time t.
        x0_hat: estimate of the clean rows.
        at: noise scales at t.
        to: noise scales at s.
        eta: 0 is deterministic (DDIM), 1 the ancestral step of Ho et al. (2020).
        z: standard normal, of the rows' shape.
    """
    eps_hat = (x_t - at.alpha * x0_hat) / at.sigma
    varsigma = eta * to.sigma / at.sigma * (at.sigma**2 - (at.alpha * to.sigma / to.alpha) ** 2).clamp(min=0).sqrt()
    return to.alpha * x0_hat + (to.sigma**2 - varsigma**2).clamp(min=0).sqrt() * eps_hat + varsigma * z


def heun_step(denoiser: Denoiser, x_t: Rows, at: Noise, to: Noise, t: torch.Tensor, s: torch.Tensor) -> Rows:
    r"""Second-order step of the probability flow (Karras et al. 2022, Algorithm 1, lines 4-8).

    With `y = x / \alpha` and `\nu = \sigma / \alpha`, the signal unscaled, it is `dy/d\nu = (y - \hat x_0) / \nu`. The
    last step, to `\sigma_s = 0`, is Euler's and lands on `x0_hat`.
    """
    y_t, nu_t, nu_s = x_t / at.alpha, at.sigma / at.alpha, to.sigma / to.alpha
    slope_t = (y_t - denoiser(x_t, t)) / nu_t
    y_s = y_t + (nu_s - nu_t) * slope_t
    if to.sigma == 0:
        return to.alpha * y_s
    slope_s = (y_s - denoiser(to.alpha * y_s, s)) / nu_s
    return to.alpha * (y_t + (nu_s - nu_t) * (slope_t + slope_s) / 2)


class Sampler(abc.ABC):
    """A reverse process with a number of steps."""

    @abc.abstractmethod
    def sample(self, denoiser: Denoiser, num_rows: int, num_features: int, generator: torch.Generator) -> Rows:
        """Draws rows of model space.

        Args:
            denoiser: estimates the clean rows; brings the noise schedule.
            num_rows: how many rows.
            num_features: width of a row in model space.
            generator: the only source of randomness.
        """


class AncestralSampler(Sampler):
    """DDPM and DDIM: `ddim_step` along the schedule's grid (Algorithm 2 at `eta` = 1 with all T steps)."""

    def __init__(self, num_steps: int = 1000, eta: float = 1.0) -> None:
        """Keeps the number of steps and the share of fresh noise in each."""
        self.num_steps, self.eta = num_steps, eta

    def sample(self, denoiser: Denoiser, num_rows: int, num_features: int, generator: torch.Generator) -> Rows:
        """Draws rows of model space; arguments as in `Sampler.sample`."""
        grid = denoiser.schedule.grid(self.num_steps)
        x_t = _pure_noise(denoiser.schedule.noise(grid[0]), num_rows, num_features, generator)
        for t, s in itertools.pairwise(grid):
            x0_hat = denoiser(x_t, t.expand(num_rows))
            z = _standard_normal(num_rows, num_features, generator) if self.eta else torch.zeros_like(x_t)
            x_t = ddim_step(x_t, x0_hat, denoiser.schedule.noise(t), denoiser.schedule.noise(s), self.eta, z)
        return x_t


class HeunSampler(Sampler):
    """Second-order deterministic sampling (Karras et al. 2022)."""

    def __init__(self, num_steps: int = 18) -> None:
        """Keeps the number of steps; each but the last asks the denoiser twice."""
        self.num_steps = num_steps

    def sample(self, denoiser: Denoiser, num_rows: int, num_features: int, generator: torch.Generator) -> Rows:
        """Draws rows of model space; arguments as in `Sampler.sample`."""
        grid = denoiser.schedule.grid(self.num_steps)
        x_t = _pure_noise(denoiser.schedule.noise(grid[0]), num_rows, num_features, generator)
        for t, s in itertools.pairwise(grid):
            at, to = denoiser.schedule.noise(t), denoiser.schedule.noise(s)
            x_t = heun_step(denoiser, x_t, at, to, t.expand(num_rows), s.expand(num_rows))
        return x_t


def _standard_normal(num_rows: int, num_features: int, generator: torch.Generator) -> Rows:
    return torch.randn(num_rows, num_features, generator=generator, dtype=torch.float64)


def _pure_noise(first: Noise, num_rows: int, num_features: int, generator: torch.Generator) -> Rows:
    r"""`x_T` for rows of unit variance: standard deviation `\sqrt{\alpha_T^2 + \sigma_T^2}`, 1 for DDPM."""
    return _standard_normal(num_rows, num_features, generator) * (first.alpha**2 + first.sigma**2).sqrt()
