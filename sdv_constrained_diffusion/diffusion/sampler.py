r"""Reverse processes: from pure noise `x_T` to a clean row, one step `t -> s` at a time.

A sampler asks a denoiser for `x0_hat` and knows nothing of constraints: a guided denoiser is a denoiser.
"""

import abc
import itertools
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.quasirandom import SobolEngine

from sdv_constrained_diffusion._types import FeatureMask, Numbers, Rows
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser
from sdv_constrained_diffusion.diffusion.schedule import Noise


def ddim_step(x_t: Numbers, x0_hat: Numbers, at: Noise, to: Noise, eta: float, z: Numbers) -> Numbers:
    r"""Moves from t to an earlier s (Song et al. 2020, eqs. 12 and 16).

    `x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - \varsigma_t^2} \hat\epsilon + \varsigma_t z`,
    `\varsigma_t = \eta \frac{\sigma_s}{\sigma_t} \sqrt{\sigma_t^2 - \alpha_t^2 \sigma_s^2 / \alpha_s^2}`, whose root is
    `\sqrt{1 - \alpha_t^2 / \alpha_s^2}` there, where `\alpha^2 + \sigma^2 = 1`.

    Args:
        x_t: rows at time t.
        x0_hat: estimate of the clean rows.
        at: noise scales at t.
        to: noise scales at s.
        eta: 0 is deterministic (DDIM), 1 the ancestral step of Ho et al. (2020).
        z: standard normal, of the rows' shape.
    """
    eps_hat = (x_t - at.alpha * x0_hat) / at.sigma
    varsigma = eta * to.sigma / at.sigma * (at.sigma**2 - (at.alpha * to.sigma / to.alpha) ** 2).clamp(min=0).sqrt()
    return to.alpha * x0_hat + (to.sigma**2 - varsigma**2).clamp(min=0).sqrt() * eps_hat + varsigma * z


def multistep(x_t: Numbers, x0_hat: Numbers, previous: tuple[Numbers, Tensor] | None, at: Noise, to: Noise) -> Numbers:
    r"""Second-order step with the estimate before (Lu et al. 2022, DPM-Solver++, algorithm 2).

    With `\lambda = \ln(\alpha / \sigma)`, `h = \lambda_s - \lambda_t` and `r` the step before in units of `h`,
    `x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1) D`, `D = (1 + \frac{1}{2r}) \hat x_0 -
    \frac{1}{2r} \hat x_0'`: DDIM's step with an extrapolated estimate.

    Args:
        x_t: rows at time t.
        x0_hat: estimate of the clean rows from `x_t`.
        previous: the estimate of the step before, `\hat x_0'`, and the noise-to-signal ratio it was made at, shape ();
            None for a first-order step, which is DDIM's.
        at: noise scales at t.
        to: noise scales at s; with no noise left the step is of first order, too.
    """
    zero = torch.zeros_like(x_t)
    if previous is None or to.sigma == 0:
        return ddim_step(x_t, x0_hat, at, to, 0.0, zero)
    nu_t, nu_s = at.sigma / at.alpha, to.sigma / to.alpha
    r = (previous[1] / nu_t).log() / (nu_t / nu_s).log()
    return ddim_step(x_t, torch.lerp(previous[0], x0_hat, 1 + 1 / (2 * r)), at, to, 0.0, zero)


class Given(NamedTuple):
    """Features that sampling must not change: clean `rows`, of which only what is `known` is read, both (row, feature).

    Of a discrete column all levels are known, or none.
    """

    rows: Rows
    known: FeatureMask


class Sampler(abc.ABC):
    """A reverse process with a number of steps."""

    num_steps: int

    def sample(
        self,
        denoiser: Denoiser,
        num_rows: int,
        num_features: int,
        generator: torch.Generator,
        given: Given | None = None,
    ) -> Rows:
        """Draws rows of model space.

        Args:
            denoiser: estimates the clean rows; brings the noise schedule and the discrete columns' process.
            num_rows: how many rows.
            num_features: width of a row in model space.
            generator: the only source of randomness.
            given: features that are fixed; None to draw all.
        """
        run = _Run(denoiser, num_rows, num_features, generator, given)
        grid = denoiser.schedule.grid(self.num_steps)
        x_t = run.start(grid[0])
        for t, s in itertools.pairwise(grid):
            x_t = self._step(run, x_t, t, s)
        return x_t

    @abc.abstractmethod
    def _step(self, run: '_Run', x_t: Rows, t: Tensor, s: Tensor) -> Rows:
        """Moves rows from t to an earlier s."""


class AncestralSampler(Sampler):
    """DDPM and DDIM: `ddim_step` along the schedule's grid (Algorithm 2 at `eta` = 1 with all T steps)."""

    def __init__(self, num_steps: int = 1000, eta: float = 1.0, num_resamplings: int = 4) -> None:
        """Keeps the settings.

        Args:
            num_steps: most steps; a schedule that starts at less noise than it might takes fewer.
            eta: share of fresh noise in each: 0 is DDIM, which on an unscaled signal is Euler's method.
            num_resamplings: how often a step is taken, with noise in between that leads back to its start, when
                features are fixed of which the denoiser only sees noised values (Lugmayr et al. 2022, RePaint).
        """
        self.num_steps, self.eta, self.num_resamplings = num_steps, eta, num_resamplings

    def _step(self, run: '_Run', x_t: Rows, t: Tensor, s: Tensor) -> Rows:
        at, to = run.noise(t), run.noise(s)
        for _ in range(self.num_resamplings - 1 if run.renoises and to.sigma > 0 else 0):
            x_t = run.back(self._move(run, x_t, t, s), x_t, at, to)
        return self._move(run, x_t, t, s)

    def _move(self, run: '_Run', x_t: Rows, t: Tensor, s: Tensor) -> Rows:
        x0_hat, numbers = run.estimate(x_t, t), run.numbers(x_t)
        z = run.normal() if self.eta else torch.zeros_like(numbers)
        x_s = ddim_step(numbers, run.numbers(x0_hat), run.noise(t), run.noise(s), self.eta, z)
        return run.arrive(x_s, x_t, x0_hat, s)


class MultistepSampler(Sampler):
    """Second-order deterministic sampling that asks the denoiser once a step (Lu et al. 2022, DPM-Solver++ 2M)."""

    def __init__(self, num_steps: int) -> None:
        """Keeps the number of steps, of which a schedule that starts at less noise than it might takes fewer."""
        self.num_steps = num_steps

    def _step(self, run: '_Run', x_t: Rows, t: Tensor, s: Tensor) -> Rows:
        at, to = run.noise(t), run.noise(s)
        x0_hat = run.estimate(x_t, t)
        x_s = multistep(run.numbers(x_t), run.numbers(x0_hat), run.previous, at, to)
        run.previous = run.numbers(x0_hat), at.sigma / at.alpha
        return run.arrive(x_s, x_t, x0_hat, s)


class _Run:
    """One run of the reverse process: what every sampler does with discrete columns, fixed features and randomness."""

    def __init__(
        self, denoiser: Denoiser, num_rows: int, num_features: int, generator: torch.Generator, given: Given | None
    ) -> None:
        self._denoiser, self._generator, self._given = denoiser, generator, given
        self._num_rows, self._num_features, self._masking = num_rows, num_features, denoiser.masking
        self._num_numbers = num_features if self._masking is None else self._masking.layout.num_numbers
        self.noise = denoiser.schedule.noise
        self.previous: tuple[Numbers, Tensor] | None = None
        self.renoises = given is not None and not denoiser.conditional

    def numbers(self, rows: Tensor) -> Tensor:
        """The number features."""
        return rows[:, : self._num_numbers]

    def normal(self) -> Numbers:
        """Standard normal numbers for every row, independent of all others."""
        return torch.randn(self._num_rows, self._num_numbers, generator=self._generator, dtype=torch.float64)

    def start(self, t: Tensor) -> Rows:
        """`x_T` as the denoiser expects it; discrete columns hidden.

        The noise, and the places in the distribution functions by which levels are drawn, are spread evenly over the
        rows: what a table of such rows shows scatters less than of independent ones, and each row is what it was.
        """
        num_blocks = 0 if self._masking is None else self._masking.layout.num_blocks
        x_t = torch.zeros(self._num_rows, self._num_features, dtype=torch.float64)
        places = evenly_spread(self._num_rows, self._num_numbers + num_blocks, self._generator)
        z, self._places = torch.special.ndtri(places[:, : self._num_numbers]), places[:, self._num_numbers :]
        self._given = self._with_first()
        known = None if self._given is None else self._given.known
        x_t[:, : self._num_numbers] = self._denoiser.prior(z, t, known)
        x_t = self._impose(x_t)
        if self._denoiser.steers or (known is not None and known.any() and not self.renoises):
            x_t = self._centred(x_t, z, t, known)
        if self._masking is not None:
            self._turns = self._masking.turns(x_t, self._generator)
        return x_t

    def _with_first(self) -> Given | None:
        """What is given, and what the denoiser wants drawn first, but for rows of which something else is given.

        That would tell of it.
        """
        first, given = self._denoiser.drawn_first, self._given
        if first is None:
            return given
        rows = torch.zeros(self._num_rows, self._num_features, dtype=torch.float64)
        places = latin_hypercube(self._num_rows, int(first.sum()), self._generator)
        rows[:, first.nonzero()[:, 0]] = torch.special.ndtri(places)
        own = torch.nn.functional.pad(first, (0, self._num_features - self._num_numbers)).expand_as(rows)
        if given is None:
            return Given(rows, own)
        others = (given.known & ~own).any(1, keepdim=True)
        return Given(torch.where(given.known, given.rows, rows), given.known | (own & ~others))

    def _centred(self, x_t: Rows, z: Numbers, t: Tensor, known: FeatureMask | None) -> Rows:
        """The start about what is expected of rows of which something is known or wanted.

        The first noise is only a few times as large as what is known moves the mean of the rest.
        """
        middle = self._denoiser.prior(torch.zeros_like(z), t, known)
        expected = self.numbers(self.estimate(self.move_numbers(x_t, middle), t))
        shift = self.noise(t).alpha * expected - middle
        if known is not None and not self._denoiser.steers:
            shift = shift * known.any(1, keepdim=True)  # others stay as they are
        return self.move_numbers(x_t, self.numbers(x_t) + shift)

    def estimate(self, x_t: Rows, t: Tensor) -> Rows:
        """`x0_hat` from rows in which fixed features have their clean values."""
        times = t.expand(self._num_rows)
        if self._given is None:
            return self._denoiser(x_t, times)
        if self.renoises:
            alpha, sigma = self.noise(t)
            noised = alpha * self.numbers(self._given.rows) + sigma * self.normal()
            seen = torch.where(self.numbers(self._given.known), noised, self.numbers(x_t))
            x_t = torch.cat([seen, x_t[:, self._num_numbers :]], dim=1)
        return self._impose(self._denoiser(x_t, times, self._given.known))

    def arrive(self, x_s: Numbers, x_t: Rows, x0_hat: Rows, s: Tensor) -> Rows:
        """Rows at s whose numbers are `x_s`: reveals discrete columns and puts fixed features back."""
        if self._masking is None:
            return self._impose(x_s)
        revealed = self._turns >= self._denoiser.schedule.hidden_share(s)
        return self._impose(torch.cat([x_s, self._masking.reveal(x_t, x0_hat, revealed, self._places)], dim=1))

    def back(self, x_s: Rows, x_t: Rows, at: Noise, to: Noise) -> Rows:
        r"""Noise from s to t: `x_t = r x_s + \sqrt{\sigma_t^2 - r^2 \sigma_s^2} z`, `r = \alpha_t / \alpha_s`.

        Discrete columns are again what they were at t.
        """
        ratio = at.alpha / to.alpha
        z = self.normal()
        return self.move_numbers(x_t, ratio * self.numbers(x_s) + (at.sigma**2 - (ratio * to.sigma) ** 2).sqrt() * z)

    def move_numbers(self, rows: Rows, numbers: Numbers) -> Rows:
        """The rows with other numbers, fixed ones apart."""
        return self._impose(torch.cat([numbers, rows[:, self._num_numbers :]], dim=1))

    def _impose(self, rows: Rows) -> Rows:
        return rows if self._given is None else torch.where(self._given.known, self._given.rows, rows)


def evenly_spread(num_rows: int, num_places: int, generator: torch.Generator) -> Float[Tensor, 'row place']:
    """Points of the unit cube: a Sobol' sequence, scrambled anew each time (Owen 1998), so that each point is uniform.

    Any place alone is as even over 2^k rows as rows can be. The points come in random order: two scrambles agree in
    their leading digits, and what is drawn twice for the same rows must not. Cubes of more than `SobolEngine.MAXDIM`
    dimensions get independent points.
    """
    if not 0 < num_places <= SobolEngine.MAXDIM:
        return torch.rand(num_rows, num_places, generator=generator, dtype=torch.float64)
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    engine = SobolEngine(num_places, scramble=True, seed=seed)
    first = engine.quasi.double() / 2**SobolEngine.MAXBIT  # `draw` rounds it to single precision
    points = engine.draw(num_rows, dtype=torch.float64)
    points[0] = first
    middle = 0.5 ** (SobolEngine.MAXBIT + 1)  # of a cell
    return (points + middle)[torch.randperm(num_rows, generator=generator)]


def latin_hypercube(num_rows: int, num_places: int, generator: torch.Generator) -> Float[Tensor, 'row place']:
    """Points of the unit cube: of each place alone as even as `evenly_spread`, but otherwise independent.

    After McKay et al. (1979). Pairs of places of a Sobol' sequence are far from independent in high dimensions, which
    shows where a place is a number of the delivered row.
    """
    order = torch.rand(num_rows, num_places, generator=generator, dtype=torch.float64).argsort(0)
    places = torch.rand(num_rows, num_places, generator=generator, dtype=torch.float64)
    return ((order + places) / num_rows).clamp(2**-54, 1 - 2**-53)
