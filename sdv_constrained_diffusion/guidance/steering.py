r"""Steering: guidance towards constraints that the training rows do not obey, from the first step of sampling on.

With the covariance `C_t = E[(z_0 - \hat z_0)(z_0 - \hat z_0)^T]` of the denoiser's error on the numbers of model space
at time t, the best linear estimate of the clean numbers given that `h(v(z_0)) = y` is

    \hat z_0 - C_t J^T (J C_t J^T)^{-1} (h(\bar v) - y),

Gauss-Newton in the metric of the error, the conditioning formula of the normal distribution. Decoding is not affine, so
it is linearised statistically: `\bar v` and the slopes in `J` are means over `z_0 \sim N(\hat z_0, C_t)` of each column
(Sarkka 2013, Bayesian Filtering and Smoothing, section 5.4). Columns that the constraint does not name move with those
it does.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sdv_constrained_diffusion._types import (
    FeatureMask,
    Numbers,
    PerRow,
    Residuals,
    RowMask,
    Rows,
    Table,
    TimeGrid,
    Times,
)
from sdv_constrained_diffusion.constraints.diagnosis import steering
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.columns import GuidedColumns
from sdv_constrained_diffusion.tabular.encoder import TableEncoder

OFTEN = 0.1
"""Inequalities that this share of the rows obeys together are met by drawing again: that distorts nothing."""

MOST_TARGETS = 1024
"""Rows whose residuals are kept as targets."""

RIDGE = 1e-9
"""Added to the diagonal of `J C_t J^T`, as a share of its mean: two equations may ask for the same."""


@dataclass(frozen=True)
class SteeringPlan:
    """What each equation of a system asks of sampling.

    Attributes:
        steering: equations that the training rows do not obey, shape (equation,), bool.
        steered: equations towards whose targets rows are steered, by their numbers, shape (steered,).
        targets: residuals that rows are steered to, each row to one at random, shape (target, steered).
        redrawn: equations that rows are not moved to: those that break them are drawn again, shape (equation,).
    """

    steering: Tensor
    steered: Tensor
    targets: Tensor
    redrawn: Tensor

    @classmethod
    def of(cls, chord: Chord, values: Table) -> 'SteeringPlan':
        """Decides by the training rows.

        Equalities are steered to. Inequalities that at least `OFTEN` of the rows that they bind obey together are met
        by drawing again, and so is what reads labels alone. Otherwise each row is steered to the residuals of a
        training row that obeys them ("sampled slack"), or to the limits where none does.

        Args:
            chord: the constraints and their linearisation.
            values: constrained columns of the training rows.
        """
        system = chord.system
        steer = steering(system, values, chord.equation_scale)
        equality = system.lower == system.upper
        # What reads labels alone cannot be steered to.
        unequal, rigid = steer & ~equality & ~system.rigid, steer & system.rigid
        residual, binds = system.residual(values), system.binds(values)
        obeys = (system.violation(residual) <= system.tolerance)[:, unequal].all(1)
        bound = binds[:, unequal].any(1)
        if not unequal.any() or obeys[bound].double().mean() >= OFTEN:
            steered = (steer & equality & ~rigid).nonzero()[:, 0]
            return cls(steer, steered, system.lower[steered][None], unequal | rigid)
        steered = (steer & ~rigid).nonzero()[:, 0]
        examples = [obeys & binds[:, equation] for equation in steered.tolist()]
        targets = torch.stack(
            [_targets(residual[:, e], own) for e, own in zip(steered.tolist(), examples, strict=True)], dim=1
        ).clamp(system.lower[steered], system.upper[steered])
        shown = [bool(own.any()) for own in examples]
        redrawn = rigid.clone()
        redrawn[steered] = unequal[steered] & torch.tensor(shown)
        return cls(steer, steered, targets, redrawn)


def _targets(residual: PerRow, examples: RowMask) -> Float[Tensor, ' target']:
    """Residuals of example rows, repeated to `MOST_TARGETS`; equations with the same examples get those of one row."""
    chosen = residual[examples] if examples.any() else residual
    return chosen.repeat(-(-MOST_TARGETS // len(chosen)))[:MOST_TARGETS]


@dataclass(frozen=True)
class ErrorCovariance:
    """Covariance of a denoiser's error on the numbers of model space, at some times.

    Attributes:
        times: shape (time,), decreasing.
        matrices: shape (time, number, number).
    """

    times: TimeGrid
    matrices: Tensor

    @classmethod
    def measure(
        cls, denoiser: Denoiser, encoder: TableEncoder, values: Table, times: TimeGrid, generator: torch.Generator
    ) -> 'ErrorCovariance':
        """Noises rows, lets the denoiser estimate them, and compares.

        Args:
            denoiser: the trained denoiser.
            encoder: the whole table's encoder.
            values: typical rows of the whole table, shape (row, column).
            times: when to measure.
            generator: the only source of randomness.
        """
        rows = encoder.encode(values, generator)
        matrices = []
        for t in times:
            x0_hat = denoiser(_noised(denoiser, rows, t, generator), t.expand(len(rows)))
            error = encoder.layout.numbers(x0_hat - rows)
            matrices.append(error.T @ error / len(error))
        return cls(times, torch.stack(matrices))

    def at(self, t: Tensor) -> Tensor:
        """The matrix of the nearest measured time, shape (number, number)."""
        return self.matrices[int((self.times - t).abs().argmin())]


class SteeredDenoiser(Denoiser):
    """Wraps a denoiser and moves each of its estimates towards a target of its own."""

    steers = True

    def __init__(
        self,
        denoiser: Denoiser,
        encoder: TableEncoder,
        system: ConstraintSystem,
        steered: Tensor,
        targets: Residuals,
        covariance: ErrorCovariance,
    ) -> None:
        """Keeps the parts.

        Args:
            denoiser: the trained denoiser.
            encoder: the whole table's encoder.
            system: the constraints.
            steered: numbers of the equations that are steered, shape (steered,).
            targets: each row's target residuals, shape (row, steered).
            covariance: of the denoiser's error.
        """
        super().__init__()
        self._denoiser, self.schedule, self.masking = denoiser, denoiser.schedule, denoiser.masking
        self.conditional = denoiser.conditional
        self._system, self._steered, self._targets, self._covariance = system, steered, targets, covariance
        self._columns, self._layout = GuidedColumns(encoder, system), encoder.layout

    def forward(self, x_t: Rows, t: Times, known: FeatureMask | None = None) -> Rows:
        """Noisy rows and times -> `x0_hat`, given the targets; labels and known values stay."""
        x0_hat = self._denoiser(x_t, t, known)
        move = torch.zeros_like(self._layout.numbers(x0_hat))
        for time in t.unique():  # one, when a sampler asks
            at = t == time
            move[at] = self._move(x0_hat[at], self._targets[at], time, None if known is None else known[at])
        return torch.cat([self._layout.numbers(x0_hat) - move, self._layout.levels(x0_hat)], dim=1)

    def prior(self, z: Numbers, t: Tensor, known: FeatureMask | None = None) -> Numbers:
        """The wrapped denoiser's."""
        return self._denoiser.prior(z, t, known)

    def loss(self, x_0: Rows, generator: torch.Generator) -> Tensor:
        """Steering has nothing to train; the wrapped denoiser's loss."""
        return self._denoiser.loss(x_0, generator)

    def _move(self, x0_hat: Rows, targets: Residuals, t: Tensor, known: FeatureMask | None) -> Numbers:
        """`C J^T (J C J^T)^{-1} (h - y)`, shape (row, number)."""
        C = self._covariance.at(t)
        mean, slope = self._columns.smoothed(x0_hat, C.diagonal().sqrt())
        off = self._system.residual(mean)[:, self._steered] - targets
        J = self._columns.by_numbers(self._system.jacobian(mean)[:, self._steered] * slope[:, None, :])
        free = torch.ones_like(J[:, 0]) if known is None else (~self._layout.numbers(known)).to(J)
        J = J * free[:, None, :]
        gain = (J @ C) * free[:, None, :]
        # An equation that does not bind a row, or that no free number changes, asks nothing of it.
        off = off.masked_fill((J == 0).all(2), 0)
        normal = gain @ J.mT
        size = normal.diagonal(dim1=1, dim2=2).mean(1)
        ridge = RIDGE * size + torch.finfo(size.dtype).tiny
        identity = torch.eye(len(self._steered), dtype=size.dtype)
        multiplier, _ = torch.linalg.solve_ex(normal + ridge[:, None, None] * identity, off[:, :, None])
        return (gain.mT @ multiplier)[:, :, 0].nan_to_num(0.0, 0.0, 0.0)


def _noised(denoiser: Denoiser, rows: Rows, t: Tensor, generator: torch.Generator) -> Rows:
    """Clean rows -> rows at time t."""
    alpha, sigma = denoiser.schedule.noise(t)
    if denoiser.masking is None:
        return alpha * rows + sigma * torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
    numbers = denoiser.masking.layout.numbers(rows)
    noisy = alpha * numbers + sigma * torch.randn(numbers.shape, generator=generator, dtype=rows.dtype)
    levels, _ = denoiser.masking.hide(rows, denoiser.schedule.hidden_share(t).expand(len(rows)), generator)
    return torch.cat([noisy, levels], dim=1)
