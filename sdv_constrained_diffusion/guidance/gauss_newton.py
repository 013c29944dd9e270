r"""Guidance by the Jacobian's inverse: `\hat x_0 \leftarrow \hat x_0 - K h(v(\hat x_0))`, K as in projection."""

import torch

from sdv_constrained_diffusion._types import ColumnMask, Table, Times
from sdv_constrained_diffusion.guidance.guided import GuidedDenoiser


class GaussNewtonGuidance(GuidedDenoiser):
    """One chord step per estimate, `guidance_scale` of it: stiff and soft directions are corrected alike."""

    def correct(self, values: Table, fixed: ColumnMask, t: Times) -> Table:
        """The step on the constrained columns; see `GuidedDenoiser.correct`."""
        system = self.chord.system
        stepped = self.chord.step(values, system.deviation(system.residual(values)), fixed)
        return torch.lerp(values, stepped, self.guidance_scale)
