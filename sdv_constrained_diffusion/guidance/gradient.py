r"""The paper's guidance: a gradient step on the squared residual of `x0_hat` (Hoseinpour and Dvorkin 2025, eq. 15)."""

import torch

from sdv_constrained_diffusion._types import ColumnMask, Residuals, Table, Times
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.guided import GuidedDenoiser


class GradientGuidance(GuidedDenoiser):
    r"""`\hat x_0 \leftarrow \hat x_0 - \lambda_t \nabla_{\hat x_0} \|h(v(\hat x_0))\|^2` in standardised columns.

    No gradient runs through the network (Chung et al. 2023). The residual is divided by its gradient's norm at the
    mean row, and `\lambda_t = \frac{\lambda}{2 \|J_0\|^2} \frac{\alpha_t^2}{\alpha_t^2 + \sigma_t^2}`: the largest step
    that does not overshoot the stiffest direction at the mean row, growing as t -> 0; lambda is `guidance_scale`. Rows
    never meet.
    """

    def correct(self, chord: Chord, values: Table, deviation: Residuals, fixed: ColumnMask, t: Times) -> Table:
        """The step on the constrained columns; see `GuidedDenoiser.correct`."""
        if chord.norm == 0:
            # Every law is flat at the mean row, which tells no length for the step.
            return values
        with torch.enable_grad():
            v = values.detach().requires_grad_(True)
            half = torch.autograd.grad(chord.system.residual(v), v, deviation / chord.equation_scale**2)[0]
        alpha, sigma = self.schedule.noise(t[:, None])
        lambda_t = self.guidance_scale * alpha**2 / (alpha**2 + sigma**2) / (2 * chord.norm**2)
        return values - (lambda_t * chord.scale**2 * 2 * half).masked_fill(fixed, 0)
