r"""Guidance by the Jacobian's inverse: `\hat x_0 \leftarrow \hat x_0 - K h(v(\hat x_0))`, K as in projection."""

import torch

from sdv_constrained_diffusion._types import ColumnMask, Residuals, Table, Times
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.guided import GuidedDenoiser


class GaussNewtonGuidance(GuidedDenoiser):
    """One chord step per estimate, `guidance_scale` of it: stiff and soft directions are corrected alike."""

    def correct(self, chord: Chord, values: Table, deviation: Residuals, fixed: ColumnMask, t: Times) -> Table:
        """The step on the constrained columns; see `GuidedDenoiser.correct`."""
        return torch.lerp(values, chord.step(values, deviation, fixed), self.guidance_scale)
