r"""Guidance by the Jacobian's inverse: `\hat x_0 \leftarrow \hat x_0 - K h(v(\hat x_0))`, K as in projection."""

import torch

from sdv_constrained_diffusion._types import ColumnMask, Table, Times
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.guided import GuidedDenoiser
from sdv_constrained_diffusion.tabular.encoder import TableEncoder


class GaussNewtonGuidance(GuidedDenoiser):
    """One chord step per estimate: stiff and soft directions are corrected alike."""

    def __init__(self, denoiser: Denoiser, encoder: TableEncoder, chord: Chord, guidance_scale: float = 1.0) -> None:
        """Keeps denoiser, encoder and linearisation; `guidance_scale` is the share of the full step."""
        super().__init__(denoiser, encoder, chord)
        self.guidance_scale = guidance_scale

    def correct(self, values: Table, fixed: ColumnMask, t: Times) -> Table:
        """The step on the constrained columns; see `GuidedDenoiser.correct`."""
        system = self.chord.system
        stepped = self.chord.step(values, system.deviation(system.residual(values)), fixed)
        return torch.lerp(values, stepped, self.guidance_scale)
