"""Samplers with the exact denoiser of a Gaussian mixture: orders of convergence, moments, and the step of DDPM."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdv_constrained_diffusion.diffusion.denoiser import Denoiser
from sdv_constrained_diffusion.diffusion.sampler import AncestralSampler, HeunSampler, ddim_step, heun_step
from sdv_constrained_diffusion.diffusion.schedule import DiscreteSchedule, EDMSchedule, Noise, linear_schedule


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


class MixtureDenoiser(Denoiser):
    r"""`E[x_0 | x_t]` of `x_0 ~ \sum_k w_k N(\mu_k, S_k)`, in closed form.

    Given the component, `x_t ~ N(\alpha \mu_k, C_k)`, `C_k = \alpha^2 S_k + \sigma^2 I`, and
    `E[x_0 | x_t, k] = \mu_k + \alpha S_k C_k^{-1} (x_t - \alpha \mu_k)`; Bayes weighs the components.
    """

    def __init__(self, schedule, weights, means, covariances):
        super().__init__()
        self.schedule = schedule
        self.weights, self.means, self.covariances = map(torch.as_tensor, (weights, means, covariances))

    def forward(self, x_t, t, known=None):
        alpha, sigma = self.schedule.noise(t[:, None, None, None])
        noisy = alpha**2 * self.covariances + sigma**2 * torch.eye(x_t.shape[1], dtype=x_t.dtype)
        off = x_t[:, None, :, None] - alpha * self.means[..., None]
        pull = torch.linalg.solve(noisy, off)
        log_weights = self.weights.log() - (torch.logdet(noisy) + (off * pull).sum((2, 3))) / 2
        posterior = self.means + (alpha * self.covariances @ pull)[..., 0]
        return (log_weights.softmax(1)[..., None] * posterior).sum(1)

    def loss(self, x_0, generator):
        raise NotImplementedError

    @property
    def moments(self):
        """Mean and covariance of the mixture."""
        mean = self.weights @ self.means
        off = self.means - mean
        within = (self.weights[:, None, None] * self.covariances).sum(0)
        return mean, within + (self.weights[:, None, None] * off[:, :, None] * off[:, None, :]).sum(0)


GAUSSIAN = (numbers(1.0), numbers([0.4, -0.3]), numbers([[0.5, 0.3], [0.3, 0.6]]))
MIXTURE = (
    numbers(0.3, 0.7),
    numbers([-1.5, 0.5], [1.0, -0.2]),
    numbers([[0.2, 0.1], [0.1, 0.3]], [[0.4, -0.2], [-0.2, 0.3]]),
)

EDM = EDMSchedule(smallest=1e-3, largest=20.0)
DDPM = linear_schedule(1024)
HEUN_ORDER = 2
DDIM_ORDER = 1
LADDERS = [
    pytest.param(HeunSampler, EDM, HEUN_ORDER, id='Heun'),
    pytest.param(lambda n: AncestralSampler(n, eta=0.0), DDPM, DDIM_ORDER, id='DDIM'),
    pytest.param(lambda n: AncestralSampler(n, eta=0.0), EDM, DDIM_ORDER, id='Euler'),
]


def draw(sampler, denoiser, num_rows, seed=1):
    return sampler.sample(denoiser, num_rows, 2, torch.Generator().manual_seed(seed))


def affine_moments(sampler, denoiser):
    """Exact mean and covariance of a sampler that maps x_T to rows by an affine map, as it does for a Gaussian.

    The map is solved for from a few rows, whose x_T is the generator's first draw; no Monte-Carlo error enters.
    """
    alpha, sigma = denoiser.schedule.noise(denoiser.schedule.grid(1)[0])
    scale = (alpha**2 + sigma**2).sqrt()
    start = scale * torch.randn(8, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = draw(sampler, denoiser, 8)
    design = torch.cat([start, torch.ones(8, 1, dtype=torch.float64)], dim=1)
    solution = torch.linalg.lstsq(design, rows).solution
    torch.testing.assert_close(design @ solution, rows, rtol=0, atol=1e-10)  # affine indeed; rounding of the solve
    matrix = solution[:2].T
    return solution[2], scale**2 * matrix @ matrix.T


def flow_moments(denoiser, last):
    r"""Mean and covariance after the exact probability-flow ODE from the sampler's x_T to time `last`, then `x0_hat`.

    In `y = x / \alpha`, `s = \sigma / \alpha` the flow is `dy/ds = s (S + s^2 I)^{-1} (y - \mu)`, solved by
    `y(s) = \mu + ((S + s^2 I) (S + s_T^2 I)^{-1})^{1/2} (y_T - \mu)`.
    """
    mean, covariance = denoiser.means[0], denoiser.covariances[0]
    schedule = denoiser.schedule
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    at, to = schedule.noise(schedule.grid(1)[0]), schedule.noise(last)
    s_start, s_last = at.sigma / at.alpha, to.sigma / to.alpha
    gain = ((eigenvalues + s_last**2) / (eigenvalues + s_start**2)).sqrt() * eigenvalues / (eigenvalues + s_last**2)
    matrix = vectors @ torch.diag(gain) @ vectors.T
    scale = (at.alpha**2 + at.sigma**2).sqrt() / at.alpha
    return mean - matrix @ mean, scale**2 * matrix @ matrix.T


def distance(moments, others):
    return sum((a - b).norm().item() for a, b in zip(moments, others, strict=True))


def sample_moments(rows):
    return rows.mean(0), torch.cov(rows.T)


@pytest.mark.parametrize(('sampler', 'schedule', 'order'), LADDERS)
def test_gaussian_moments_converge_to_the_exact_flow_at_the_claimed_order(sampler, schedule, order):
    """Halving the steps' length divides the error of mean and covariance by 2^order."""
    denoiser = MixtureDenoiser(schedule, *GAUSSIAN)
    errors = []
    for num_steps in (32, 64, 128):
        # The grids end in a small noise scale and then 0: the flow is exact to there, the last step lands on x0_hat.
        last = schedule.grid(num_steps)[-2] if schedule is EDM else schedule.grid(num_steps)[-1]
        errors.append(distance(affine_moments(sampler(num_steps), denoiser), flow_moments(denoiser, last)))
    measured = math.log2(errors[1] / errors[2])
    # The next term of the expansion shifts the order by its constant times 1/64: seen 2.04, 0.97 and 0.99.
    assert measured == pytest.approx(order, abs=0.08)
    # The error itself is small, not only its slope: seen constants are 14, 3.6 and 3.7.
    assert errors[2] * 128**order < 20


@pytest.mark.parametrize(('sampler', 'schedule', 'order'), LADDERS)
def test_mixture_moments_converge_at_the_claimed_order(sampler, schedule, order):
    """Against the same sampler on 1,024 steps from the same x_T; the reference's own error shifts the order by 1/10."""
    denoiser = MixtureDenoiser(schedule, *MIXTURE)
    reference = sample_moments(draw(sampler(1024), denoiser, 256))
    errors = [distance(sample_moments(draw(sampler(n), denoiser, 256)), reference) for n in (32, 64, 128)]
    # An error c (1/n^p - 1/1024^p) has measured order log2((1/64^p - 1/1024^p) / (1/128^p - 1/1024^p)).
    expected = math.log2((64.0**-order - 1024.0**-order) / (128.0**-order - 1024.0**-order))
    assert math.log2(errors[1] / errors[2]) == pytest.approx(expected, abs=0.12)  # seen within 0.06


@pytest.mark.parametrize(
    ('sampler', 'schedule', 'bias'),
    [
        # Bias by discretisation (seen by comparing with many more steps): Heun 2e-4; 1,000 ancestral steps a few 1e-3.
        pytest.param(HeunSampler(256), EDMSchedule(), 2e-3, id='Heun'),
        pytest.param(AncestralSampler(1000, eta=1.0), linear_schedule(), 1e-2, id='ancestral'),
        pytest.param(AncestralSampler(400, eta=1.0), EDMSchedule(), 2e-2, id='ancestral, signal unscaled'),
    ],
)
def test_moments_are_the_mixtures_within_monte_carlo_error(sampler, schedule, bias):
    denoiser = MixtureDenoiser(schedule, *MIXTURE)
    num_rows = 2000
    rows = draw(sampler, denoiser, num_rows)
    mean, covariance = denoiser.moments
    # Four standard errors: sqrt(variance / n) of a mean, and sqrt((C_ii C_jj + C_ij^2) / n) of a covariance, which
    # bounds that of this mixture since its tails are lighter than a normal's.
    spread = covariance.diagonal()
    assert ((rows.mean(0) - mean).abs() < 4 * (spread / num_rows).sqrt() + bias).all()
    standard_error = ((spread[:, None] * spread + covariance**2) / num_rows).sqrt()
    assert ((torch.cov(rows.T) - covariance).abs() < 4 * standard_error + bias).all()
    share = (rows[:, 0] < -0.25).double().mean().item()  # midway between the modes: 2.8 and 2.0 deviations away
    normal = torch.special.ndtr
    expected = 0.3 * normal(numbers(1.25) / math.sqrt(0.2)) + 0.7 * normal(numbers(-1.25) / math.sqrt(0.4))
    assert share == pytest.approx(expected.item(), abs=4 * math.sqrt(0.21 / num_rows) + bias)


def test_full_ancestral_variance_of_a_gaussian_is_its_recursion():
    """Mean and variance of the ancestral chain in one dimension, iterated in closed form, against the sampled rows."""
    schedule = linear_schedule(50, 1e-3, 0.2)
    mean, variance = 0.7, 0.3
    denoiser = MixtureDenoiser(schedule, numbers(1.0), numbers([mean, 0.0]), numbers([[variance, 0], [0, 1.0]]))
    m, v = 0.0, 1.0
    for t in range(50, 0, -1):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[t - 1].item()
        gain = math.sqrt(a) * variance / (a * variance + 1 - a)
        on_x0, on_xt = math.sqrt(b) * (1 - a / b) / (1 - a), math.sqrt(a / b) * (1 - b) / (1 - a)
        slope = on_x0 * gain + on_xt
        m = slope * m + on_x0 * (mean - gain * math.sqrt(a) * mean)
        v = slope**2 * v + (1 - b) / (1 - a) * (1 - a / b)
    rows = draw(AncestralSampler(50, eta=1.0), denoiser, 20_000)[:, 0]
    assert rows.mean().item() == pytest.approx(m, abs=4 * math.sqrt(v / 20_000))  # four standard errors
    assert rows.var().item() == pytest.approx(v, rel=4 * math.sqrt(2 / 20_000))


@settings(deadline=None)
@given(
    betas=st.lists(st.floats(1e-4, 0.5), min_size=2, max_size=20),
    x_t=st.floats(-5, 5),
    x_0=st.floats(-5, 5),
    z=st.floats(-4, 4),
    data=st.data(),
)
def test_eta_one_is_the_ancestral_step_of_ho_et_al(betas, x_t, x_0, z, data):
    r"""Eqs. (6) and (7) there: `N(\tilde\mu_t(x_t, x_0), \tilde\beta_t I)`."""
    t = data.draw(st.integers(1, len(betas)))
    schedule = DiscreteSchedule(torch.tensor(betas, dtype=torch.float64))
    alpha_bar = math.prod(1 - beta for beta in betas[:t])
    before = math.prod(1 - beta for beta in betas[: t - 1])
    beta = betas[t - 1]
    mu = (math.sqrt(before) * beta * x_0 + math.sqrt(1 - beta) * (1 - before) * x_t) / (1 - alpha_bar)
    beta_tilde = (1 - before) / (1 - alpha_bar) * beta
    at, to = schedule.noise(numbers(t)), schedule.noise(numbers(t - 1))
    x_s = ddim_step(numbers([x_t]), numbers([x_0]), at, to, 1.0, numbers([z]))
    # 1 - alpha_bar loses up to four digits for beta = 1e-4, and its root is the unit of the noise: 1e-12 remains.
    assert x_s.item() == pytest.approx(mu + math.sqrt(beta_tilde) * z, abs=1e-12 * (1 + abs(x_t) + abs(x_0) + abs(z)))


@settings(deadline=None)
@given(eta=st.floats(0, 1), shrink=st.floats(0.1, 0.99), alpha=st.floats(0.2, 0.9), seed=st.integers(0, 1000))
def test_step_does_not_depend_on_how_the_signal_is_scaled(eta, shrink, alpha, seed):
    r"""`x / \alpha` under `(1, \sigma / \alpha)` is the process `x` under `(\alpha, \sigma)`: so is its step."""
    x_t, x_0, z = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    at = Noise(numbers(alpha)[0], numbers(math.sqrt(1 - alpha**2))[0])
    alpha_s = numbers(1 - shrink * (1 - alpha))[0]
    to = Noise(alpha_s, (1 - alpha_s**2).sqrt())
    unscaled_at, unscaled_to = (Noise(torch.ones_like(n.alpha), n.sigma / n.alpha) for n in (at, to))
    step = ddim_step(x_t, x_0, at, to, eta, z)
    unscaled = ddim_step(x_t / at.alpha, x_0, unscaled_at, unscaled_to, eta, z)
    # The share of noise is a root of a difference of squares, which for close times keeps half of the digits less.
    torch.testing.assert_close(unscaled, step / to.alpha, rtol=0, atol=1e-10)


@settings(deadline=None)
@given(eta=st.one_of(st.just(0.0), st.floats(0.01, 1)), seed=st.integers(0, 1000))
def test_step_keeps_the_marginal(eta, seed):
    r"""From `x_t = \alpha_t x_0 + \sigma_t \epsilon` the step has noise of variance `\sigma_s^2` for every eta."""
    x_0, eps, z = torch.randn(3, 5, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    at, to = DDPM.noise(numbers(600)[0]), DDPM.noise(numbers(400)[0])
    x_t = at.alpha * x_0 + at.sigma * eps
    plain = ddim_step(x_t, x_0, at, to, eta, torch.zeros_like(z))
    on_z = ((ddim_step(x_t, x_0, at, to, eta, z) - plain) / z)[0, 0]
    on_eps = ((plain - to.alpha * x_0) / eps)[0, 0]
    # A few roundings of numbers of order one, divided by a normal draw.
    assert (on_z**2 + on_eps**2).item() == pytest.approx(to.sigma.item() ** 2, abs=1e-10)
    assert (on_z > 0) == (eta > 0)


def heun(denoiser, x_t, at, to, t, s):
    """Both halves of the step: Euler's, and the correction by the slope where it ends."""
    x0_hat = denoiser(x_t, t)
    x_s = ddim_step(x_t, x0_hat, at, to, 0.0, torch.zeros_like(x_t))
    return heun_step(x_t, x0_hat, x_s, denoiser(x_s, s), at, to)


def test_heun_step_does_not_depend_on_how_the_signal_is_scaled():
    """At the same ratios of noise to signal, a schedule that scales the signal takes the same step of x / alpha."""
    t, s = 700.0, 500.0
    at, to = DDPM.noise(numbers(t)), DDPM.noise(numbers(s))
    unscaled_t, unscaled_s = at.sigma / at.alpha, to.sigma / to.alpha
    x_t = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def step(schedule, x, before, after):
        denoiser, t, s = MixtureDenoiser(schedule, *MIXTURE), before.expand(5), after.expand(5)
        return heun(denoiser, x, *(Noise(*schedule.noise(each[0])) for each in (t[:1], s[:1])), t, s)

    scaled = step(DDPM, x_t, numbers(t), numbers(s)) / to.alpha
    plain = step(EDM, x_t / at.alpha, unscaled_t, unscaled_s)
    # Rounding: both sides are the same sums of numbers of order 1 to 10.
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-12)


def test_heun_step_is_the_mean_of_both_slopes():
    """The step by hand for a standard normal row, whose slope is `x sigma / (1 + sigma^2)`."""
    denoiser = MixtureDenoiser(EDM, numbers(1.0), numbers([0.0, 0.0]), torch.eye(2, dtype=torch.float64)[None])
    t, s = numbers(3.0), numbers(1.0)
    at, to = EDM.noise(t[0]), EDM.noise(s[0])
    x_s = heun(denoiser, numbers([5.0, -2.0]), at, to, t, s)
    first = 3 / 10
    euler = 1 - 2 * first
    expected = 1 - 2 * (first + euler / 2) / 2
    torch.testing.assert_close(x_s, expected * numbers([5.0, -2.0]), rtol=1e-14, atol=0)  # a few roundings


@pytest.mark.parametrize(
    ('sampler', 'schedule'),
    [
        (HeunSampler(6), EDM),
        (AncestralSampler(6, 0.0), EDM),
        (AncestralSampler(6, 0.0), DDPM),
        (AncestralSampler(6), DDPM),
    ],
)
def test_last_step_lands_on_the_estimate(sampler, schedule):
    estimates = []

    class Listening(MixtureDenoiser):
        def forward(self, x_t, t, known=None):
            estimates.append(super().forward(x_t, t))
            return estimates[-1]

    rows = draw(sampler, Listening(schedule, *MIXTURE), 20)
    torch.testing.assert_close(rows, estimates[-1], rtol=0, atol=1e-14)  # x - (x - x0_hat) rounds twice


def test_first_noise_has_the_marginals_scale():
    """With one step and an estimate that repeats its input, the rows are x_T itself: `randn * sqrt(1 + sigma_T^2)`."""

    class Repeat(Denoiser):
        schedule = EDM

        def forward(self, x_t, t, known=None):
            return x_t

        def loss(self, x_0, generator):
            raise NotImplementedError

    normal = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = normal * math.sqrt(1 + 20**2)
    torch.testing.assert_close(draw(HeunSampler(1), Repeat(), 5), expected, rtol=1e-14, atol=0)  # one product
    Repeat.schedule = DDPM
    torch.testing.assert_close(draw(AncestralSampler(1), Repeat(), 5), normal, rtol=1e-14, atol=0)


def test_all_steps_ask_at_the_grids_times():
    asked = []

    class Listening(MixtureDenoiser):
        def forward(self, x_t, t, known=None):
            asked.append(t.clone())
            return super().forward(x_t, t)

    draw(AncestralSampler(8), Listening(DDPM, *GAUSSIAN), 3)
    assert torch.equal(torch.stack(asked), DDPM.grid(8)[:-1, None].expand(-1, 3))
    asked.clear()
    draw(HeunSampler(4), Listening(EDM, *GAUSSIAN), 3)
    visits = [0, 1, 1, 2, 2, 3, 3]  # each but the last step asks at both of its ends
    assert torch.equal(torch.stack(asked)[:, 0], EDM.grid(4)[visits])


@pytest.mark.parametrize('sampler', [AncestralSampler(10), AncestralSampler(10, 0.0)])
@settings(deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_generator_is_the_only_randomness(sampler, seed):
    denoiser = MixtureDenoiser(DDPM, *MIXTURE)
    torch.manual_seed(seed)
    rows = draw(sampler, denoiser, 4, seed)
    torch.manual_seed(seed + 1)
    assert torch.equal(draw(sampler, denoiser, 4, seed), rows)
    assert not torch.equal(draw(sampler, denoiser, 4, seed + 1), rows)


@pytest.mark.parametrize(('step_count', 'schedule'), [(1, EDM), (1, DDPM)])
def test_rows_never_meet(step_count, schedule):
    """A row's steps do not depend on the rows beside it."""
    denoiser = MixtureDenoiser(schedule, *MIXTURE)
    x_t, z = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, s = schedule.grid(4)[1:3]
    at, to = schedule.noise(t), schedule.noise(s)

    def step(x, noise):
        times = t.expand(len(x)), s.expand(len(x))
        return torch.cat(
            [ddim_step(x, denoiser(x, times[0]), at, to, 1.0, noise), heun(denoiser, x, at, to, *times)], dim=1
        )

    alone = torch.cat([step(x[None], noise[None]) for x, noise in zip(x_t, z, strict=True)])
    torch.testing.assert_close(step(x_t, z), alone, rtol=0, atol=1e-13)  # the order of sums in batched solves
