r"""Estimators of the clean row: backbone -> `x0_hat`, and the loss that trains them.

A denoiser works in float64 outside and in the backbone's own precision inside: residuals of finished rows need more
digits than the network does. One network serves numbers and discrete columns: its first outputs are the numbers' (in
the parametrisation of the class), the others are logits.
"""

import abc
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion._types import (
    FeatureMask,
    Inputs,
    Levels,
    NumberMask,
    Numbers,
    PerRow,
    RowMask,
    Rows,
    SharedTimes,
    Times,
)
from sdv_constrained_diffusion.diffusion.axes import PrincipalAxes, Scales
from sdv_constrained_diffusion.diffusion.devices import matching
from sdv_constrained_diffusion.diffusion.independence import independent_numbers
from sdv_constrained_diffusion.diffusion.masking import Masking
from sdv_constrained_diffusion.diffusion.neighbourhoods import NeighbourhoodMLPs
from sdv_constrained_diffusion.diffusion.schedule import Schedule

NUM_LEVELS = 16
"""Noise levels at which a trained network is calibrated."""

FIRST_SHARE = 0.5
"""Share of the training rows of which just those numbers are known that a sampler draws first, if there are any."""


class Denoiser(nn.Module, abc.ABC):
    r"""Estimates `E[x_0 | x_t]`; of a discrete column that is the levels' probabilities.

    Attributes:
        schedule: the noise scales it was trained under.
        masking: the discrete columns' process; None where there are no such columns.
        conditional: whether known numbers are to be handed over as they are. If not, they must be noised like others.
        steers: whether its estimates heed something that the training rows do not.
        drawn_first: marks standard normal numbers that do not depend on each other, which a sampler draws before all
            others; a mask on the CPU, or None.
    """

    schedule: Schedule
    masking: Masking | None = None
    conditional: bool = False
    steers: bool = False
    drawn_first: NumberMask | None = None

    def measure(self, numbers: Numbers) -> None:
        """Learns what it needs to know of the clean rows' numbers before training; nothing by default."""

    def calibrate(self, x_0: Rows, generator: torch.Generator) -> None:
        """Learns from clean rows, after training, how far it is to be trusted; nothing by default."""

    def prior(self, z: Numbers, t: Tensor, known: FeatureMask | None = None) -> Numbers:
        r"""Numbers at the time t, shape (), from standard normal ones: how sampling starts.

        For clean numbers of unit variance that do not depend on each other, `\sqrt{\alpha_t^2 + \sigma_t^2} z`.

        Args:
            z: standard normal numbers, shape (row, number).
            t: the first time, shape ().
            known: features that are fixed; None for none.
        """
        alpha, sigma = self.schedule.noise(t)
        return z * (alpha**2 + sigma**2).sqrt()

    @abc.abstractmethod
    def forward(self, x_t: Rows, t: Times, known: FeatureMask | None = None) -> Rows:
        """Estimates the clean rows.

        Args:
            x_t: noisy rows, float64.
            t: their times.
            known: features whose clean value stands in `x_t` already; None for none.

        Returns:
            `x0_hat`, float64.
        """

    @abc.abstractmethod
    def loss(self, x_0: Rows, generator: torch.Generator) -> PerRow:
        """Training loss of clean rows at random times, one number per row."""


class NoisePredictor(Denoiser):
    r"""The backbone estimates the noise: `\epsilon_\theta(x_t, t)` (Ho et al. 2020)."""

    masking: Masking

    def __init__(self, backbone: nn.Module, schedule: Schedule, layout: Layout) -> None:
        """Keeps the parts; `layout` tells numbers from discrete columns."""
        super().__init__()
        self.backbone, self.schedule = backbone, schedule
        self.layout, self.masking = layout, Masking(layout)

    def forward(self, x_t: Rows, t: Times, known: FeatureMask | None = None) -> Rows:
        r"""Tweedie: `\hat x_0 = (x_t - \sigma_t \hat\epsilon) / \alpha_t` (Hoseinpour and Dvorkin 2025, eq. 6)."""
        alpha, sigma = self.schedule.noise(t[:, None])
        eps_hat, logits = self.layout.split(self._outputs(x_t, t))
        x0_hat = (self.layout.numbers(x_t) - sigma * eps_hat) / alpha
        return torch.cat([x0_hat, self.masking.probabilities(logits, x_t)], dim=1)

    def loss(self, x_0: Rows, generator: torch.Generator) -> PerRow:
        r"""`(\epsilon - \epsilon_\theta(\alpha_t x_0 + \sigma_t \epsilon, t))^2` (eq. 5), mean over all columns.

        Of discrete columns it is their cross-entropy, see `Masking`.
        """
        t = self.schedule.draw(len(x_0), generator)
        numbers = self.layout.numbers(x_0)
        eps = torch.randn(numbers.shape, generator=generator, dtype=x_0.dtype)
        alpha, sigma = self.schedule.noise(t[:, None])
        levels, hidden = self.masking.hide(x_0, self.schedule.hidden_share(t), generator)
        x_t = torch.cat([alpha * numbers + sigma * eps, levels], dim=1)
        eps_hat, logits = self.layout.split(self._outputs(x_t, t))
        return _mean_over_columns((eps - eps_hat).square(), self.masking.cross_entropy(logits, x_0, hidden))

    def _outputs(self, x_t: Rows, t: Times) -> Rows:
        return _apply(self.backbone, x_t, self.schedule.time_feature(t))


class PreconditionedDenoiser(Denoiser):
    r"""`D(x; \sigma) = c_{skip} x + c_{out} F(c_{in} x, c_{noise})` (Karras et al. 2022, eq. 7) along principal axes.

    The backbone sees inputs and targets of unit variance at every noise level, in every direction (`PrincipalAxes`).
    With a `known_share` it also learns from rows of which a random part is known, so that sampling can fix any columns
    in one pass.

    What bends in one column is hard to see in coordinates that mix them all. So the backbone can be given hinges of a
    linear estimate of each number, `\max(\hat x_i - \kappa, 0)`, or beside it `neighbourhoods` see a few columns each;
    what they say is rotated into the axes and added to F. The estimate is the best linear one of the noisy numbers, in
    which what is known stands as it is. Its relation to the rest is the network's to learn; where it has not, the error
    it makes in the known numbers says how to correct the others (`PrincipalAxes.regressed`).

    Numbers that do not depend on each other need no network: with `independent_first` a sampler draws them before all
    others, and the network learns above all what the others are, given them (docs/decisions/0030).

    What `measure` and `calibrate` find stays on the processor in double precision, wherever the weights are. It is
    copied and pickled with the denoiser, and no part of its `state_dict`.

    Attributes:
        axes: the frame; set it by `measure` before training.
        knots: where hinges bend.
        neighbourhoods: networks of a few columns each; None for none.
        gains: how much of the network counts along each axis, shape (case, level, axis), at `levels` of noise, where
            nothing is known and where just what is drawn first is; see `calibrate`.
        levels: natural logarithms of noise scales, evenly spaced, shape (level,).
    """

    masking: Masking
    knots: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        schedule: Schedule,
        layout: Layout,
        known_share: float = 0.0,
        knots: Sequence[float] = (),
        neighbourhoods: NeighbourhoodMLPs | None = None,
        independent_first: bool = False,
    ) -> None:
        """Keeps the parts.

        Args:
            backbone: the network; after the row it takes, with a `known_share`, each number's flag, then each number's
                known value, 0 where it is not known; then all hinges of the first number, of the second and so on.
            schedule: the noise scales; it must leave the signal unscaled.
            layout: tells numbers from discrete columns.
            known_share: share of the training rows of which a random part is known; 0 for a network without flags.
            knots: where the hinges of every number bend, in deviations; none for no hinges.
            neighbourhoods: small networks of a few columns each; None for none.
            independent_first: whether numbers that show no dependence on each other are drawn before the others; needs
                a `known_share`.
        """
        super().__init__()
        if independent_first and not known_share:
            raise ValueError('Numbers are drawn first only if the network learns from known ones: raise known_share.')
        self.backbone, self.schedule = backbone, schedule
        self.layout, self.masking, self.axes = layout, Masking(layout), PrincipalAxes(layout.num_numbers)
        self.known_share, self.conditional = known_share, known_share > 0
        self.independent_first = independent_first
        self.register_buffer('knots', torch.tensor(knots))
        self.neighbourhoods = neighbourhoods
        self.levels = _levels(schedule)
        self.gains = torch.ones(2, NUM_LEVELS, layout.num_numbers, dtype=torch.float64)

    def measure(self, numbers: Numbers) -> None:
        """Takes the principal axes of the clean rows' numbers, the noise that hides them, each number's neighbours."""
        self.axes.measure(numbers)
        if len(self.axes.variances):
            self.schedule = self.schedule.reaching(float(self.axes.variances.max().sqrt()))
            self.levels = _levels(self.schedule)
        if self.neighbourhoods is not None:
            self.neighbourhoods.measure(numbers)
        if self.independent_first:
            plain = independent_numbers(numbers[:, : self.layout.num_plain])
            found = nn.functional.pad(plain, (0, self.layout.num_numbers - len(plain)))
            self.drawn_first = found if found.any() else None

    def calibrate(self, x_0: Rows, generator: torch.Generator) -> None:
        r"""Takes as much of the network along each axis, at each noise level, as lowers the error of clean rows.

        The error of `c_{skip} y + c_{out} g F` is least with `g = E[F T] / E[F^2]`, T what the network should say. With
        few rows, many columns or little time the network says more than it knows: with `g < 1` it is never worse than
        the best linear denoiser on these rows, where nothing is known.
        """
        for case, known in enumerate([None] if self.drawn_first is None else [None, self.drawn_first]):
            for level, log_sigma in enumerate(self.levels):
                self.gains[case, level] = self._gain_at(x_0, log_sigma.exp(), known, generator)

    def _gain_at(self, x_0: Rows, sigma: Tensor, known: NumberMask | None, generator: torch.Generator) -> Tensor:
        """The gain of each axis at one noise, with some numbers known or none, shape (axis,)."""
        numbers, t = self.layout.numbers(x_0), sigma.expand(len(x_0))
        noise = torch.randn(numbers.shape, generator=generator, dtype=x_0.dtype)
        seen, _ = self.masking.hide(x_0, self.schedule.hidden_share(t), generator)
        x_t = numbers + t[:, None] * noise
        if known is not None:
            known = known.expand_as(numbers)
            x_t = torch.where(known, numbers, x_t)
        noisy = matching(torch.cat([x_t, seen], dim=1), next(self.backbone.parameters()))
        scales, along, F, _ = self._outputs(noisy, t, known)
        target = self._target(matching(numbers, noisy), scales, along)
        power, product = (matching(each.sum(0), numbers) for each in (F.square(), F * target))
        gain = product / torch.where(power > 0, power, 1.0)
        return torch.where(power > 0, gain, 1.0).clamp(0, 1)

    def prior(self, z: Numbers, t: Tensor, known: FeatureMask | None = None) -> Numbers:
        r"""Normal numbers with the clean rows' mean and `\Sigma + \sigma_t^2 I`.

        The largest noise is only a few times the widest axis; started from noise alone, rows would end too near to each
        other there. Where numbers are known it is the others' conditional covariance, and a sampler centres them.
        """
        sigma = self.schedule.noise(t).sigma
        if known is None:
            return self.axes.noised(z, sigma)
        if not self.conditional:
            return super().prior(z, t)
        return self.axes.noised(z, sigma, self._evident(self.layout.numbers(known)))

    def forward(self, x_t: Rows, t: Times, known: FeatureMask | None = None) -> Rows:
        """The estimate of Karras et al. (2022); known numbers as they are."""
        known_numbers = self.layout.numbers(known) if known is not None and self.conditional else None
        seen = matching(x_t, next(self.backbone.parameters()))
        shared = t[:1] if len(t) and (t == t[0]).all() else t
        scales, along, F, logits = self._outputs(seen, shared, known_numbers)
        if known is None:
            F = F * matching(self._gains(0, shared), F)
        elif known_numbers is not None and self.drawn_first is not None:
            usual = (known_numbers == self.drawn_first).all(1, keepdim=True).to(F.device)
            F = torch.where(usual, F * matching(self._gains(1, shared), F), F)
        x0_hat = matching(self.axes.back(scales.skip * along + scales.outside * F), x_t)
        if known_numbers is not None:
            clean, evident = self.layout.numbers(x_t), self._evident(known_numbers)
            x0_hat = self.axes.regressed(x0_hat, clean, evident, self.schedule.noise(t).sigma)
            x0_hat = torch.where(known_numbers, clean, x0_hat)
        return torch.cat([x0_hat, self.masking.probabilities(logits.to(x_t.device), x_t)], dim=1)

    def loss(self, x_0: Rows, generator: torch.Generator) -> PerRow:
        r"""`(F - (y_0 - c_{skip} y) / c_{out})^2` along each axis y (eq. 8 there), mean over axes and discrete columns.

        Of discrete columns it is their cross-entropy, see `Masking`; a known one has no loss.
        """
        t, known_share, usual = self._draw_times(len(x_0), generator)
        weights = next(self.backbone.parameters())
        numbers = self.layout.numbers(x_0).to(weights.dtype)
        eps = torch.randn(numbers.shape, generator=generator, dtype=numbers.dtype)
        sigma, hidden_share = self.schedule.noise(t[:, None]).sigma, self.schedule.hidden_share(t) * (1 - known_share)
        x_t, known = numbers + sigma.to(numbers) * eps, None
        if self.conditional:
            known = torch.rand(numbers.shape, generator=generator, dtype=numbers.dtype) < known_share[:, None]
            if self.drawn_first is not None:
                known |= usual[:, None] & self.drawn_first
            x_t = torch.where(known, numbers, x_t)
        levels, hidden = self.masking.hide(x_0, hidden_share, generator)
        noisy = torch.cat([x_t, levels.to(x_t)], dim=1).to(weights)
        scales, along, F, logits = self._outputs(noisy, t, known)
        target = self._target(numbers.to(noisy), scales, along)
        return _mean_over_columns(
            matching((F - target).square(), x_0), self.masking.cross_entropy(matching(logits, x_0), x_0, hidden)
        )

    def _target(self, numbers: Numbers, scales: Scales, along: Numbers) -> Numbers:
        r"""What the network should say of clean numbers: `(y_0 - c_{skip} y) / c_{out}`, shape (row, axis)."""
        return (self.axes.along(numbers) - scales.skip * along) / scales.outside

    def _gains(self, case: int, t: SharedTimes) -> Tensor:
        """Gains at some times, linear in the logarithm of the noise, shape (time, axis)."""
        gains = self.gains[case]
        first, last = self.levels[0], self.levels[-1]
        share = (self.schedule.noise(t).sigma.log() - first) / (last - first)
        place = share.clamp(0, 1) * (len(self.levels) - 1)
        low = place.long().clamp(max=len(self.levels) - 2)
        return torch.lerp(gains[low], gains[low + 1], (place - low)[:, None])

    def _evident(self, known: Bool[Tensor, 'row number']) -> Bool[Tensor, 'row number']:
        """Known numbers that tell of others, shape (row, number): those beside exact values are draws."""
        evident = known.clone()
        evident[:, self.layout.num_plain :] = False
        return evident

    def _draw_times(self, num_rows: int, generator: torch.Generator) -> tuple[Times, PerRow, RowMask]:
        """Each row's time, the share of it that is known, and whether just what is drawn first is known of it.

        If there are numbers that a sampler draws first, half of the rows have just these known. Of the other rows a
        `known_share` has a uniform share known, the rest nothing. Where something is known, times are drawn evenly
        along the grid: it decides much while the others are still noise, where the schedule's own times are rare.
        """
        t, share = torch.zeros(2, num_rows, dtype=torch.float64)
        order, chance = torch.randperm(num_rows, generator=generator), torch.rand((), generator=generator)
        with_first = 0.0 if self.drawn_first is None else FIRST_SHARE
        ends = with_first, with_first + (1 - with_first) * self.known_share
        first, partly, others = order.tensor_split([int(end * num_rows + float(chance)) for end in ends])
        for known in (first, partly):
            t[known] = self.schedule.draw_evenly(len(known), generator)
        t[others] = self.schedule.draw(len(others), generator)
        share[partly] = torch.rand(len(partly), generator=generator, dtype=torch.float64)
        return t, share, torch.zeros(num_rows, dtype=torch.bool).index_fill(0, first, True)

    def _outputs(self, x_t: Rows, t: SharedTimes, known: Tensor | None) -> tuple[Scales, Numbers, Numbers, Levels]:
        """Scales and coordinates along the axes, the network's output there, and the logits of the levels.

        Args:
            x_t: noisy rows in the backbone's own precision, on its device.
            t: their times, or the one that all share.
            known: which numbers are known, shape (row, number); None for none.
        """
        numbers, levels = self.layout.split(x_t)
        sigma = matching(self.schedule.noise(t[:, None]).sigma, x_t)
        time = matching(self.schedule.time_feature(t), x_t)
        scales, along = self.axes.scales(sigma), self.axes.along(numbers)
        linear, noisy = self.axes.back(scales.skip * along), numbers * (1 + sigma**2).rsqrt()
        flags = torch.zeros_like(numbers)
        if known is not None:
            known = known.to(numbers.device)
            flags = known.to(numbers)
            linear, noisy = (torch.where(known, numbers, each) for each in (linear, noisy))
        inputs = [scales.inside * along, levels]
        if self.conditional:
            inputs += [flags, flags * numbers]
        hinges = (linear[:, :, None] - self.knots).relu().flatten(1)
        F, logits = self.layout.split(self.backbone(torch.cat([*inputs, hinges], dim=1), time))
        if self.neighbourhoods is not None:
            F = F + self.axes.rotated(self.neighbourhoods(noisy, linear, time))
        return scales, along, F, logits


def _levels(schedule: Schedule) -> Tensor:
    """Logarithms of noise scales, evenly spaced from the largest to the smallest, shape (level,)."""
    largest, smallest = (math.log(float(schedule.noise(t).sigma)) for t in schedule.grid(2)[:2])
    return torch.linspace(largest, smallest, NUM_LEVELS, dtype=torch.float64)


def _mean_over_columns(squares: Numbers, cross_entropy: Tensor) -> PerRow:
    """Mean over numbers, shape (row, number), and discrete columns, shape (row, block): every column counts alike."""
    return torch.cat([squares, cross_entropy], dim=1).mean(1)


def _apply(backbone: nn.Module, rows: Inputs, time_feature: Times) -> Rows:
    """Calls the backbone in its own precision, on its own device."""
    parameter = next(backbone.parameters())
    return matching(backbone(matching(rows, parameter), matching(time_feature, parameter)), rows)
