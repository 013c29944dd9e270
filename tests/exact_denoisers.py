"""Denoisers in closed form: of Gaussian mixtures, with or without their component as a column, and of small tables."""

import torch

from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser
from sdv_constrained_diffusion.diffusion.masking import Masking


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


GAUSSIAN = (numbers(1.0), numbers([0.4, -0.3]), numbers([[0.5, 0.3], [0.3, 0.6]]))
MIXTURE = (
    numbers(0.3, 0.7),
    numbers([-1.5, 0.5], [1.0, -0.2]),
    numbers([[0.2, 0.1], [0.1, 0.3]], [[0.4, -0.2], [-0.2, 0.3]]),
)
"""Weights, means and covariances in two dimensions."""


class MixtureDenoiser(Denoiser):
    r"""`E[x_0 | x_t]` of `x_0 ~ \sum_k w_k N(\mu_k, S_k)`, in closed form.

    A number j is seen as `a_j x_0 + s_j \epsilon`: `(\alpha, \sigma)` of the schedule, or `(1, 0)` where it is known.
    Given the component, `x_t ~ N(a \mu_k, C_k)`, `C_k = a S_k a + s^2`, and
    `E[x_0 | x_t, k] = \mu_k + S_k a C_k^{-1} (x_t - a \mu_k)`; Bayes weighs the components. With `labelled`, the
    component is a discrete column after the numbers: what is revealed of it is believed, what is hidden is weighed.
    """

    def __init__(self, schedule, weights, means, covariances, labelled=False, conditional=False):
        super().__init__()
        self.schedule, self.conditional = schedule, conditional
        self.weights, self.means, self.covariances = weights, means, covariances
        self.masking = Masking(Layout(means.shape[1], [weights])) if labelled else None

    def forward(self, x_t, t, known=None):
        seen, levels = x_t[:, : self.means.shape[1]], x_t[:, self.means.shape[1] :]
        alpha, sigma = (scale[:, None].expand_as(seen) for scale in self.schedule.noise(t))
        if known is not None and self.conditional:
            known = known[:, : seen.shape[1]]
            alpha, sigma = alpha.masked_fill(known, 1), sigma.masked_fill(known, 0)
        S = self.covariances * alpha[:, None, None, :]
        noisy = alpha[:, None, :, None] * S + torch.diag_embed(sigma**2)[:, None]
        off = (seen[:, None] - alpha[:, None] * self.means)[..., None]
        pull = torch.linalg.solve(noisy, off)
        weights = (self.weights.log() - (torch.logdet(noisy) + (off * pull).sum((2, 3))) / 2).softmax(1)
        if self.masking is not None:
            weights = torch.where(levels.any(1, keepdim=True), levels, weights)
        estimate = (weights[..., None] * (self.means + (S @ pull)[..., 0])).sum(1)
        return estimate if self.masking is None else torch.cat([estimate, weights], dim=1)

    def loss(self, x_0, generator):
        raise NotImplementedError

    @property
    def moments(self):
        """Mean and covariance of the mixture."""
        mean = self.weights @ self.means
        off = self.means - mean
        within = (self.weights[:, None, None] * self.covariances).sum(0)
        return mean, within + (self.weights[:, None, None] * off[:, :, None] * off[:, None, :]).sum(0)


class JointDenoiser(Denoiser):
    """Probabilities of the levels of some discrete columns given the revealed ones, from their joint table."""

    def __init__(self, schedule, joint):
        super().__init__()
        self.schedule, self.joint = schedule, joint
        marginals = [joint.sum([d for d in range(joint.dim()) if d != column]) for column in range(joint.dim())]
        self.masking = Masking(Layout(0, marginals))
        self.cells = torch.cartesian_prod(*(torch.arange(size) for size in joint.shape))
        self.one_hot = self.masking.layout.one_hot(self.cells)

    def forward(self, x_t, t, known=None):
        agreements = x_t @ self.one_hot.T
        num_revealed = (~self.masking.layout.hidden(x_t)).sum(1, keepdim=True)
        weights = self.joint.flatten() * (agreements == num_revealed)
        return (weights / weights.sum(1, keepdim=True)) @ self.one_hot

    def loss(self, x_0, generator):
        raise NotImplementedError
