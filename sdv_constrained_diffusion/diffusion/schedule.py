r"""Noise scales: `x_t = \alpha_t x_0 + \sigma_t \epsilon` (Ho et al. 2020, eq. 4; Karras et al. 2022).

A schedule knows three things: the scales at a time, which times training draws, and which times a sampler visits.
"""

import abc
import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor

from sdv_constrained_diffusion._types import PerRow, TimeGrid, Times


class Noise(NamedTuple):
    """Signal scale `alpha` and noise scale `sigma` at a time, shape () or (row, 1)."""

    alpha: Tensor
    sigma: Tensor


class Schedule(abc.ABC):
    """Noise scales as functions of a diffusion time; each schedule has its own unit of time."""

    @abc.abstractmethod
    def noise(self, t: Tensor) -> Noise:
        """Scales at the times `t`, each of the shape of `t`."""

    @abc.abstractmethod
    def draw(self, num_rows: int, generator: torch.Generator) -> Times:
        """Times at which training rows are noised, shape (row,)."""

    def draw_evenly(self, num_rows: int, generator: torch.Generator) -> Times:
        """Times spread as a sampler visits them, shape (row,): each step of a grid is as likely as any other."""
        return self.draw(num_rows, generator)

    @abc.abstractmethod
    def grid(self, num_steps: int) -> TimeGrid:
        """The `num_steps + 1` times a sampler visits, at most, from pure noise to the noise-free time."""

    @abc.abstractmethod
    def hidden_share(self, t: Tensor) -> Tensor:
        """Probability `m_t` that a discrete column is hidden at the times `t`: 0 when clean, 1 in pure noise."""

    def time_feature(self, t: Tensor) -> Tensor:
        """What the backbone is told about the time, of order 1 to 1000."""
        return t

    def reaching(self, deviation: float) -> 'Schedule':
        """The schedule for clean numbers that deviate no more than this along any axis; the same by default."""
        return self


class DiscreteSchedule(Schedule):
    r"""T noise levels with `\alpha_t^2 + \sigma_t^2 = 1`; times are 0 (clean) to T.

    Attributes:
        alpha_bar: `\bar\alpha_t = \prod_{i \le t} (1 - \beta_i)` for t = 0 ... T, shape (T + 1,).
    """

    def __init__(self, betas: Tensor) -> None:
        r"""Builds the products.

        Args:
            betas: variances `\beta_1 ... \beta_T` of the forward steps, each in (0, 1), shape (T,).
        """
        self.alpha_bar = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])

    @property
    def num_levels(self) -> int:
        """T."""
        return len(self.alpha_bar) - 1

    def noise(self, t: Tensor) -> Noise:
        r"""`\alpha_t = \sqrt{\bar\alpha_t}`, `\sigma_t = \sqrt{1 - \bar\alpha_t}` (Ho et al. 2020, eq. 4)."""
        alpha_bar = self.alpha_bar[t.long()]
        return Noise(alpha_bar.sqrt(), (1 - alpha_bar).sqrt())

    def draw(self, num_rows: int, generator: torch.Generator) -> Times:
        """`t ~ Uniform({1, ..., T})` (Algorithm 1, line 3)."""
        return torch.randint(1, self.num_levels + 1, (num_rows,), generator=generator).double()

    def grid(self, num_steps: int) -> TimeGrid:
        """An even subsequence of T, ..., 1, followed by 0 (Song et al. 2020, section 4.2).

        Raises:
            ValueError: more steps than levels.
        """
        if num_steps > self.num_levels:
            raise ValueError(
                f'A schedule of {self.num_levels} noise levels cannot be visited in {num_steps} steps. '
                f'Take at most {self.num_levels} steps, or build the schedule with more levels.'
            )
        return torch.linspace(self.num_levels, 0, num_steps + 1, dtype=torch.float64).round()

    def hidden_share(self, t: Tensor) -> Tensor:
        """`m_t = t / T` (Sahoo et al. 2024, the linear schedule)."""
        return t / self.num_levels


def linear_schedule(num_levels: int = 1000, first: float = 1e-4, last: float = 0.02) -> DiscreteSchedule:
    r"""`\beta_t` linear from `first` to `last` (Ho et al. 2020, section 4)."""
    return DiscreteSchedule(torch.linspace(first, last, num_levels, dtype=torch.float64))


def cosine_schedule(num_levels: int = 1000, offset: float = 0.008) -> DiscreteSchedule:
    r"""`\bar\alpha_t = f(t) / f(0)`, `f(t) = \cos^2(\frac{t/T + s}{1 + s} \frac\pi2)` (Nichol 2021, eq. 17)."""
    t = torch.arange(num_levels + 1, dtype=torch.float64) / num_levels
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return DiscreteSchedule((1 - f[1:] / f[:-1]).clamp(max=0.999))


DROWNED = 5.0
"""Noise this many times as large as the clean numbers' deviation leaves nothing of them but mean and covariance."""


class EDMSchedule(Schedule):
    r"""Signal unscaled, time is the noise scale itself: `\alpha_t = 1`, `\sigma_t = t` (Karras et al. 2022, table 1).

    Attributes:
        smallest: smallest noise scale a sampler visits before 0.
        largest: noise scale at which sampling starts.
    """

    def __init__(
        self,
        smallest: float = 0.002,
        largest: float = 20.0,
        rho: float = 7.0,
        log_mean: float = -1.2,
        log_std: float = 1.8,
    ) -> None:
        """Keeps the scales.

        Args:
            smallest: smallest noise scale a sampler visits before 0.
            largest: noise scale at which sampling starts.
            rho: how much the grid crowds towards small noise (eq. 5 there).
            log_mean: mean of the logarithm of the noise scale in training.
            log_std: its standard deviation.
        """
        self.smallest, self.largest, self.rho = smallest, largest, rho
        self._whole = largest
        self.log_mean, self.log_std = log_mean, log_std

    def noise(self, t: Tensor) -> Noise:
        """`alpha = 1`, `sigma = t`."""
        return Noise(torch.ones_like(t), t)

    def draw(self, num_rows: int, generator: torch.Generator) -> Times:
        r"""`\ln\sigma \sim N(P_{mean}, P_{std}^2)` within the range that sampling visits, evenly over the rows.

        A batch's loss depends less on its noise levels then (after Kingma et al. 2021, appendix I.1).
        """
        ends = torch.tensor([self.smallest, self.largest], dtype=torch.float64).log()
        first, last = torch.special.ndtr((ends - self.log_mean) / self.log_std)
        score = torch.special.ndtri(torch.lerp(first, last, _places(num_rows, generator)))
        return (self.log_mean + self.log_std * score).exp().clamp(self.smallest, self.largest)

    def draw_evenly(self, num_rows: int, generator: torch.Generator) -> Times:
        r"""`\sigma^{1/\rho}` uniform, as in the grid, and as evenly spread."""
        first, last = self.largest ** (1 / self.rho), self.smallest ** (1 / self.rho)
        return (last + (first - last) * _places(num_rows, generator)) ** self.rho

    def grid(self, num_steps: int) -> TimeGrid:
        r"""Even steps of `\sigma^{1/\rho}` from the largest to the smallest noise, then 0 (eq. 5).

        A schedule that starts at less noise than it might has as many fewer steps, of the same size; see `reaching`.
        """
        first, last, whole = (sigma ** (1 / self.rho) for sigma in (self.largest, self.smallest, self._whole))
        num_steps = max(math.ceil(num_steps * ((first - last) / (whole - last))), min(num_steps, 2))
        root = torch.linspace(first, last, num_steps, dtype=torch.float64)
        return torch.cat([root**self.rho, root.new_zeros(1)])

    def hidden_share(self, t: Tensor) -> Tensor:
        """The share of the grid that is left, to the power 3/4: numbers take shape a little before discrete columns."""
        first, last = self.largest ** (1 / self.rho), self.smallest ** (1 / self.rho)
        return ((t ** (1 / self.rho) - last) / (first - last)).clamp(0, 1) ** 0.75

    def time_feature(self, t: Tensor) -> Tensor:
        r"""`c_{noise} = \frac14 \ln\sigma` (table 1), times 1000 to span the embedding's frequencies."""
        return 250 * t.log()

    def reaching(self, deviation: float) -> 'EDMSchedule':
        """Starts at `DROWNED` times the deviation, if that is less: no step is spent where all is noise."""
        reaching = copy.copy(self)
        reaching.largest = min(self._whole, DROWNED * max(deviation, self.smallest))
        return reaching


def _places(num_rows: int, generator: torch.Generator) -> PerRow:
    """Uniform draws from [0, 1): each of as many intervals of one size has one of them, in random order."""
    order = torch.randperm(num_rows, generator=generator)
    return (order + torch.rand(num_rows, generator=generator, dtype=torch.float64)) / num_rows
