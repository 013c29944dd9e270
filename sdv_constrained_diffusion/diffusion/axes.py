r"""Principal axes of the clean numbers: the frame in which a denoiser is preconditioned.

Karras et al. (2022, table 1) scale inputs and outputs of the network so that both have unit variance at every noise
level, for data of one variance `\sigma_{data}^2` in all directions. Columns of a table that depend on each other vary
along some directions a thousand times less than along others; what the network gets wrong there is what a classifier
sees. So each principal axis has its own `\sigma_{data}^2 = \lambda_i`: without the network, the denoiser is then the
best linear one, `\Sigma (\Sigma + \sigma^2 I)^{-1}`, and the network learns what is not linear. The noise stays the
same in all columns.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdv_constrained_diffusion._types import NumberMask, Numbers, PerRow
from sdv_constrained_diffusion.diffusion.devices import matching

SMALLEST = 1e-8
"""Variances below this are taken for it, so that what the network sees stays finite; columns have about 1."""

KNOWN_NOISE = 0.01
"""Deviation of the noise that known numbers count as having: at most this, and at most a tenth of the others' noise.

Known numbers may determine each other, and a regression on all of them would have no single solution.
"""


Square = Float[Tensor, 'number number']


class Scales(NamedTuple):
    """Factors of each axis at a noise level, shape (row, number), or (1, number) where rows share the noise."""

    skip: Numbers
    inside: Numbers
    outside: Numbers


class PrincipalAxes:
    """Mean, directions and variances of the clean numbers; each column by itself until they are measured.

    They stay on the processor, in double precision.
    """

    mean: Float[Tensor, ' number']
    directions: Float[Tensor, 'number axis']
    variances: Float[Tensor, ' axis']

    def __init__(self, num_numbers: int) -> None:
        """Begins with columns of mean 0 and variance 1 that do not depend on each other."""
        self.mean = torch.zeros(num_numbers, dtype=torch.float64)
        self.directions = torch.eye(num_numbers, dtype=torch.float64)
        self.variances = torch.ones(num_numbers, dtype=torch.float64)

    def measure(self, numbers: Numbers) -> None:
        """Takes the axes of some clean rows."""
        if len(numbers) < 2 or not numbers.shape[1]:
            return
        numbers = numbers.double()
        variances, self.directions = torch.linalg.eigh(torch.cov(numbers.T).reshape(numbers.shape[1], -1))
        self.mean, self.variances = numbers.mean(0), variances.clamp(min=SMALLEST)

    def along(self, numbers: Numbers) -> Numbers:
        """Coordinates along the axes, shape (row, axis), in the precision of the numbers, on their device."""
        return self.rotated(numbers - matching(self.mean, numbers))

    def rotated(self, differences: Numbers) -> Numbers:
        """Differences of numbers in the axes' coordinates, shape (row, axis)."""
        return differences @ matching(self.directions, differences)

    def back(self, coordinates: Numbers) -> Numbers:
        """The inverse of `along`."""
        return coordinates @ matching(self.directions, coordinates).T + matching(self.mean, coordinates)

    def noised(self, z: Numbers, sigma: Tensor, known: Bool[Tensor, 'row number'] | None = None) -> Numbers:
        r"""Standard normal coordinates -> normal numbers about the rows' mean, of their covariance, with noise added.

        Where numbers are known it is the conditional covariance of all, `\Sigma - \Sigma_{\cdot K} (\Sigma_{KK} + r^2
        I)^{-1} \Sigma_{K \cdot}` with r as in `regressed`; the mean stays.

        Args:
            z: shape (row, axis), float64 on the processor.
            sigma: deviation of the noise, shape ().
            known: which numbers are known; None for none.
        """
        out = self.back(z * (self.variances + sigma**2).sqrt())
        if known is None:
            return out
        covariance = (self.directions * self.variances) @ self.directions.T
        for K, noise, rows in _patterns(known, sigma.expand(len(z))):
            if K.any():
                left = covariance - covariance[:, K] @ _regression(covariance, K, noise)
                variances, directions = torch.linalg.eigh((left + left.T) / 2)
                out[rows] = self.mean + (z[rows] * (variances.clamp(min=0) + noise**2).sqrt()) @ directions.T
        return out

    def regressed(self, x0_hat: Numbers, clean: Numbers, known: Bool[Tensor, 'row number'], sigma: PerRow) -> Numbers:
        r"""Estimates that heed what is known: their error in known numbers K corrects the others by linear regression.

        `\hat x_0 + C_{\cdot K} (C_{KK} + r^2 I)^{-1} (x_K - \hat x_{0,K})`, where `C = \Sigma - \Sigma (\Sigma +
        \sigma^2 I)^{-1} \Sigma` is the covariance of the best linear estimate's error and r is `KNOWN_NOISE`. Of that
        estimate it makes the conditional mean of normal numbers, exactly so as r goes to 0, whatever stood in place of
        the known ones; an estimate that is right in K stays as it is.

        Args:
            x0_hat: estimates of the clean numbers, float64 on the processor.
            clean: the known numbers; others are not read.
            known: which numbers are known.
            sigma: deviation of each row's noise, above 0.
        """
        out = x0_hat
        for K, noise, rows in _patterns(known, sigma):
            left = self.variances * noise**2 / (self.variances + noise**2)
            covariance = (self.directions * left) @ self.directions.T
            out = out.index_add(0, rows, (clean - x0_hat)[rows][:, K] @ _regression(covariance, K, noise))
        return out

    def scales(self, sigma: Float[Tensor, 'time 1']) -> Scales:
        r"""Coefficients of Karras et al. (2022, table 1), axis by axis.

        `c_{skip} = \lambda / (\lambda + \sigma^2)`, `c_{in} = (\lambda + \sigma^2)^{-1/2}`,
        `c_{out} = \sigma \sqrt\lambda c_{in}`.
        """
        variances = matching(self.variances, sigma)
        inside = (variances + sigma**2).rsqrt()
        return Scales(variances * inside**2, inside, sigma * variances.sqrt() * inside)


def _patterns(known: Bool[Tensor, 'row number'], sigma: PerRow) -> Iterator[tuple[NumberMask, Tensor, Tensor]]:
    """What is known in some rows, their noise, and which rows: one pattern only in a sampler's step."""
    if len(known) and (known == known[0]).all() and (sigma == sigma[0]).all():
        yield known[0], sigma[0], torch.arange(len(known))
        return
    patterns, owner = torch.cat([known, sigma[:, None]], dim=1).unique(dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        yield pattern[:-1].bool(), pattern[-1], (owner == number).nonzero()[:, 0]


def _regression(covariance: Square, K: NumberMask, noise: Tensor) -> Float[Tensor, 'known number']:
    r"""`(C_{KK} + r^2 I)^{-1} C_{K \cdot}`, shape (known, number): what known numbers say of all."""
    slack = (0.1 * noise).clamp(max=KNOWN_NOISE) ** 2
    inner = covariance[K][:, K] + slack * torch.eye(int(K.sum()), dtype=covariance.dtype)
    return torch.linalg.solve(inner, covariance[K])
