"""A guided denoiser is a denoiser: it returns a corrected `x0_hat`, so every sampler takes it (Algorithm 3)."""

import abc
import math

import torch
from jaxtyping import Bool
from torch import Tensor

from sdv_constrained_diffusion._types import ColumnMask, FeatureMask, Numbers, PerRow, Residuals, Rows, Table, Times
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.columns import GuidedColumns
from sdv_constrained_diffusion.tabular.encoder import TableEncoder

CLEAR = 10.0
"""Ratio of signal to noise from which on a row is guided by default."""


class GuidedDenoiser(Denoiser):
    """Wraps a denoiser and corrects the constrained columns of each estimate.

    Attributes:
        chord: the constraints and their linearisation.
        guidance_scale: strength of the correction.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        encoder: TableEncoder,
        chord: Chord,
        guidance_scale: float = 1.0,
        left_alone: Bool[Tensor, ' equation'] | None = None,
        trust: float = math.inf,
        clear: float = CLEAR,
    ) -> None:
        """Keeps the parts.

        Args:
            denoiser: the trained denoiser.
            encoder: the whole table's encoder; its constrained columns are selected here.
            chord: the constraints and their linearisation at the mean row.
            guidance_scale: strength of the correction; 1 is the method's natural step.
            left_alone: inequalities that rows are not moved to; none by default.
            trust: how far a correction may move a number, in model space, as a share of the noise that is left; without
                limit by default.
            clear: ratio of signal to noise from which on rows are guided.
        """
        super().__init__()
        self._denoiser, self.schedule, self.masking = denoiser, denoiser.schedule, denoiser.masking
        self.conditional, self.steers, self.drawn_first = denoiser.conditional, denoiser.steers, denoiser.drawn_first
        self._columns = GuidedColumns(encoder, chord.system)
        self.chord, self.guidance_scale, self._trust = chord, guidance_scale, trust
        self._clear = clear
        self._left_alone = torch.zeros_like(chord.equation_scale, dtype=torch.bool)
        if left_alone is not None:
            self._left_alone = left_alone

    @abc.abstractmethod
    def correct(self, chord: Chord, values: Table, deviation: Residuals, fixed: ColumnMask, t: Times) -> Table:
        """Corrects estimates of the clean rows.

        Args:
            chord: the linearisation without the columns that are known in all rows.
            values: constrained columns of `x0_hat`, shape (row, column), physical units.
            deviation: their signed residuals outside the limits, shape (row, equation), each in its own unit.
            fixed: columns that must stay, shape (row, column).
            t: each row's time.
        """

    def forward(self, x_t: Rows, t: Times, known: FeatureMask | None = None) -> Rows:
        """Noisy rows and times -> `x0_hat`, corrected in rows that are clear enough and that the correction helps.

        Earlier estimates are blurred means that no row of the table looks like; correcting them costs time and gains
        nothing. Known values and those in a point mass stay exactly where they are. A row whose residual would not
        shrink stays as it is.
        """
        x0_hat = self._denoiser(x_t, t, known)
        alpha, sigma = self.schedule.noise(t)
        clear = alpha >= self._clear * sigma
        if clear.all():  # all rows of a sampler's step have one time
            return self._corrected(x0_hat, t, known)
        if clear.any():
            replaced = self._corrected(x0_hat[clear], t[clear], None if known is None else known[clear])
            # Not in place: the estimate belongs to the denoiser, which may hand out its input or a constant.
            x0_hat = x0_hat.index_put((clear,), replaced)
        return x0_hat

    def _corrected(self, x0_hat: Rows, t: Times, known: FeatureMask | None) -> Rows:
        values = self._columns.read(x0_hat)
        fixed = self._columns.fixed(values, known)
        deviation = self._deviation(values)
        chord = self.chord if known is None else self.chord.without(self._columns.known(known).all(0))
        corrected = self.correct(chord, values, deviation, fixed, t)
        # The one Jacobian does not serve every row of a curved law. NaN counts as no help.
        helps = self._size(self._deviation(corrected)) < self._size(deviation)
        moved = self._columns.write(x0_hat, corrected, ~fixed & helps[:, None])
        alpha, sigma = self.schedule.noise(t[:, None])
        farthest = self._trust * sigma / alpha
        return x0_hat + (moved - x0_hat).clamp(-farthest, farthest)

    def _deviation(self, values: Table) -> Residuals:
        system = self.chord.system
        return system.deviation(system.residual(values)).masked_fill(self._left_alone, 0)

    def _size(self, deviation: Residuals) -> PerRow:
        return (deviation / self.chord.equation_scale).norm(dim=1)

    def prior(self, z: Numbers, t: Tensor, known: FeatureMask | None = None) -> Numbers:
        """The wrapped denoiser's."""
        return self._denoiser.prior(z, t, known)

    def loss(self, x_0: Rows, generator: torch.Generator) -> PerRow:
        """Guidance has nothing to train; the wrapped denoiser's loss."""
        return self._denoiser.loss(x_0, generator)
