"""Denoisers and networks against their formulas, and against the exact posterior mean of a Gaussian."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.diffusion.axes import KNOWN_NOISE, PrincipalAxes
from sdv_constrained_diffusion.diffusion.backbone import PlainMLP, ResidualMLP, SinusoidalEmbedding
from sdv_constrained_diffusion.diffusion.denoiser import NoisePredictor, PreconditionedDenoiser
from sdv_constrained_diffusion.diffusion.neighbourhoods import NeighbourhoodMLPs
from sdv_constrained_diffusion.diffusion.sampler import MultistepSampler
from sdv_constrained_diffusion.diffusion.schedule import EDMSchedule, linear_schedule

DDPM = linear_schedule()
EDM = EDMSchedule()
NUMBERS = Layout(10)
"""Rows of up to ten features, all of them numbers."""


MIXED = Layout(3, [torch.tensor(shares, dtype=torch.float64) for shares in ([0.2, 0.8], [0.5, 0.3, 0.2])])
"""Three numbers and two categories."""


class Formula(nn.Module):
    """A backbone that is a formula in float64, and remembers what it was asked."""

    def __init__(self, formula, dtype=torch.float64):
        super().__init__()
        self.formula = formula
        self.unused = nn.Parameter(torch.zeros(1, dtype=dtype))
        self.asked = []

    def forward(self, rows, t):
        self.asked.append((rows, t))
        return self.formula(rows, t)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(t=st.integers(1, 1000), mean=st.floats(-2, 2), variance=st.floats(0.01, 4), seed=st.integers(0, 1000))
def test_tweedie_gives_the_posterior_mean(t, mean, variance, seed):
    r"""The exact noise of `x_0 ~ N(m, v)`, `-\sigma \nabla \log p(x_t)`, must give the conditional mean of x_0."""
    alpha, sigma = DDPM.noise(torch.tensor(t, dtype=torch.float64))
    marginal = alpha**2 * variance + sigma**2
    denoiser = NoisePredictor(Formula(lambda x, _: sigma * (x - alpha * mean) / marginal), DDPM, NUMBERS)
    x_t = normal(5, 3, seed=seed)
    expected = mean + alpha * variance / marginal * (x_t - alpha * mean)
    # Dividing by alpha, 0.0063 at t = 1000, multiplies rounding errors of numbers of order one by 160.
    torch.testing.assert_close(denoiser(x_t, torch.full((5,), float(t)).double()), expected, rtol=0, atol=1e-12)


def test_tweedie_undoes_the_noising():
    """With the true noise as its estimate, every row gets its own x_0 back, each at its own time."""
    x_0, eps = normal(6, 4), normal(6, 4, seed=1)
    t = torch.tensor([1.0, 10, 100, 500, 900, 1000]).double()
    alpha, sigma = DDPM.noise(t[:, None])
    x0_hat = NoisePredictor(Formula(lambda *_: eps), DDPM, NUMBERS)(alpha * x_0 + sigma * eps, t)
    torch.testing.assert_close(x0_hat, x_0, rtol=0, atol=1e-12)  # as above


def test_noise_predictors_loss_is_the_plain_formula():
    """Algorithm 1 written out with the same draws: times first, then noise."""
    backbone = Formula(lambda x, t: 0.3 * x + t[:, None] / 1000)
    x_0 = normal(64, 3)
    loss = NoisePredictor(backbone, DDPM, NUMBERS).loss(x_0, generator(5))
    draws = generator(5)
    t = DDPM.draw(64, draws)
    eps = torch.randn(64, 3, generator=draws, dtype=torch.float64)
    for i in range(64):
        alpha_bar = math.prod(1 - (1e-4 + (0.02 - 1e-4) * k / 999) for k in range(int(t[i])))
        x_t = math.sqrt(alpha_bar) * x_0[i] + math.sqrt(1 - alpha_bar) * eps[i]
        expected = sum((eps[i, j] - 0.3 * x_t[j] - t[i] / 1000) ** 2 for j in range(3)) / 3
        assert loss[i].item() == pytest.approx(expected.item(), rel=1e-11)  # product of 1000 factors


def test_noise_predictors_best_loss_is_the_conditional_variance():
    r"""The exact noise of unit normal rows is `\sigma x_t`; its loss is `\alpha_t^2` in expectation."""

    def exact(x, t):
        return DDPM.noise(t[:, None]).sigma * x

    num_rows = 40_000
    loss = NoisePredictor(Formula(exact), DDPM, NUMBERS).loss(normal(num_rows, 2), generator(1))
    expected = DDPM.alpha_bar[1:].mean().item()
    assert loss.mean().item() == pytest.approx(
        expected, abs=4 * loss.std().item() / math.sqrt(num_rows)
    )  # 4 std errors


@settings(deadline=None)
@given(sigma=st.floats(1e-3, 100), seed=st.integers(0, 1000))
def test_preconditioning_coefficients(sigma, seed):
    """Table 1 of Karras et al. with sigma_data = 1, read off the denoiser through what it asks and returns."""
    x_t = normal(4, 3, seed=seed)
    t = torch.full((4,), sigma, dtype=torch.float64)
    zero, one = Formula(lambda x, _: torch.zeros_like(x)), Formula(lambda x, _: torch.ones_like(x))
    skipped = PreconditionedDenoiser(zero, EDM, Layout(3))(x_t, t)
    shifted = PreconditionedDenoiser(one, EDM, Layout(3))(x_t, t)
    root = math.sqrt(1 + sigma**2)
    # A few roundings; c_out is seen as a difference with numbers of order one.
    torch.testing.assert_close(skipped, x_t / (1 + sigma**2), rtol=1e-14, atol=0)
    torch.testing.assert_close(shifted - skipped, torch.full_like(x_t, sigma / root), rtol=0, atol=1e-14)
    rows, condition = zero.asked[0]
    torch.testing.assert_close(rows, x_t / root, rtol=1e-14, atol=0)
    c_noise = 1000 * t.log() / 4  # in thousandths
    torch.testing.assert_close(condition.expand(4), c_noise, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(sigma=st.floats(1e-2, 50))
def test_inputs_and_targets_have_unit_variance(sigma):
    r"""`Var(c_{in} x_t) = 1`, and `Var((x_0 - c_{skip} x_t) / c_{out}) = 1`, for rows of unit variance.

    Both are linear in (x_0, eps), so that their variance is the sum of the squared coefficients: no sampling.
    """
    t = torch.full((2,), sigma, dtype=torch.float64)
    backbone = Formula(lambda x, _: torch.zeros_like(x))
    unit_x0, unit_eps = torch.tensor([[1.0], [0.0]]).double(), torch.tensor([[0.0], [1.0]]).double()
    skipped = PreconditionedDenoiser(backbone, EDM, Layout(1))(unit_x0 + sigma * unit_eps, t)
    assert backbone.asked[0][0].square().sum().item() == pytest.approx(1, rel=1e-14)  # a few roundings
    one = Formula(lambda x, _: torch.ones_like(x))
    c_out = PreconditionedDenoiser(one, EDM, Layout(1))(torch.zeros(2, 1).double(), t)
    # For small sigma the target is a difference of nearly equal numbers, divided by sigma: eps / 1e-2.
    assert ((unit_x0 - skipped) / c_out).square().sum().item() == pytest.approx(1, rel=1e-12)


@settings(deadline=None, max_examples=30)
@given(sigma=st.floats(1e-2, 50), seed=st.integers(0, 1000), columns=st.integers(1, 5))
def test_without_a_network_it_is_the_best_linear_denoiser_of_the_clean_rows(sigma, seed, columns):
    r"""`\mu + \Sigma (\Sigma + \sigma^2 I)^{-1} (x - \mu)`, the posterior mean of a normal law, by numpy."""
    random = np.random.default_rng(seed)
    x_0 = random.normal(size=(200, columns)) @ random.normal(size=(columns, columns)) + random.normal(size=columns)
    denoiser = PreconditionedDenoiser(Formula(lambda x, _: torch.zeros_like(x)), EDM, Layout(columns))
    denoiser.measure(torch.from_numpy(x_0))
    covariance, x_t = np.atleast_2d(np.cov(x_0.T)), random.normal(size=(7, columns))
    gain = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(columns))
    expected = x_0.mean(0) + (x_t - x_0.mean(0)) @ gain.T
    found = denoiser(torch.from_numpy(x_t), torch.full((7,), sigma).double())
    # Sums of a few numbers of order one, and a smallest variance of 1e-8 against sigma of 1e-2 at least.
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_noise_is_as_large_as_the_widest_axis_needs():
    denoiser = PreconditionedDenoiser(Formula(lambda x, _: torch.zeros_like(x)), EDM, Layout(2))
    denoiser.measure(torch.tensor([[4.0, 3.0], [-4.0, -3.0]]).double() / 5)  # deviation sqrt(2) along (4, 3)
    assert denoiser.schedule.largest == pytest.approx(5 * math.sqrt(2), rel=1e-14)
    ends = torch.tensor([denoiser.schedule.largest, EDM.smallest], dtype=torch.float64).log()
    # The grid raises a root to the seventh power.
    torch.testing.assert_close(denoiser.levels[[0, -1]], ends, rtol=1e-13, atol=0)


def test_rows_that_share_their_time_are_estimated_as_rows_that_do_not():
    """Of numbers and categories, with gains that depend on the noise; the last row alone has another time."""
    denoiser = PreconditionedDenoiser(
        Formula(lambda x, t: torch.sin(x[:, :8] + t[:, None] / 300)), EDM, MIXED, known_share=0.0
    )
    x_0, _ = mixed_rows(40)
    denoiser.measure(MIXED.numbers(x_0))
    denoiser.calibrate(x_0, generator())
    same = torch.full((40,), 0.4).double()
    other = torch.cat([same[:-1], same[:1] * 3])
    shared, apart = denoiser(x_0, same), denoiser(x_0, other)
    torch.testing.assert_close(shared[:-1], apart[:-1], rtol=0, atol=1e-12)  # other order of sums
    assert (shared[-1] != apart[-1]).any()


def test_rows_that_are_all_the_same_can_be_measured():
    denoiser = PreconditionedDenoiser(Formula(lambda x, _: torch.zeros_like(x)), EDM, Layout(2))
    denoiser.measure(torch.ones(5, 2).double())
    assert denoiser.schedule.largest > denoiser.schedule.smallest
    x_0 = denoiser(torch.ones(3, 2).double(), torch.full((3,), denoiser.schedule.largest).double())
    torch.testing.assert_close(x_0, torch.ones(3, 2).double(), rtol=0, atol=1e-12)  # noise of none is a rounding


def test_inputs_and_targets_have_unit_variance_along_every_axis():
    """Of rows whose columns are a thousand times as wide in one direction as in another."""
    along = normal(20_000, 2) * torch.tensor([1.0, 1e-3]).double()
    x_0 = along @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double() + 3
    zero = Formula(lambda x, _: torch.zeros_like(x))
    denoiser = PreconditionedDenoiser(zero, EDM, Layout(2))
    denoiser.measure(x_0)
    for sigma in (1e-3, 1e-2, 1.0):
        t = torch.full((len(x_0),), sigma).double()
        denoiser(x_0 + sigma * normal(*x_0.shape, seed=1), t)
        # Variances of 20,000 normal numbers: standard error 0.01.
        torch.testing.assert_close(zero.asked[-1][0].var(0), torch.ones(2).double(), rtol=0, atol=0.05)
    loss = denoiser.loss(x_0, generator(1))
    assert loss.mean().item() == pytest.approx(1, abs=4 * loss.std().item() / math.sqrt(len(loss)))


def test_untrained_networks_loss_is_one_in_expectation():
    r"""An output layer of zeros leaves the target itself: its variance, 1, for unit normal rows at every sigma."""
    torch.manual_seed(0)
    denoiser = PreconditionedDenoiser(ResidualMLP(2, width=8, depth=1, time_width=4), EDM, Layout(2))
    num_rows = 40_000
    loss = denoiser.loss(normal(num_rows, 2), generator(1)).detach()
    assert loss.mean().item() == pytest.approx(1, abs=4 * loss.std().item() / math.sqrt(num_rows))  # 4 standard errors
    # Mean of two squared normals: variance 1. Tells the weighting by 1 / c_out^2 from others that average to 1.
    assert loss.var().item() == pytest.approx(1, abs=0.1)  # fourth moments: standard error 0.014


def test_preconditioned_loss_is_the_plain_formula():
    backbone = Formula(lambda x, c: 0.5 * x.flip(1) + c[:, None] / 1000)
    x_0 = normal(32, 3)
    denoiser, draws = PreconditionedDenoiser(backbone, EDM, Layout(3)), generator(2)
    loss = denoiser.loss(x_0, generator(2))
    sigma = denoiser._draw_times(32, draws)[0][:, None]
    x_t = x_0 + sigma * torch.randn(32, 3, generator=draws, dtype=torch.float64)
    root = (1 + sigma**2).sqrt()
    target = (x_0 - x_t / root**2) * root / sigma
    expected = (0.5 * (x_t / root).flip(1) + sigma.log() / 4 - target).square().mean(1)
    # The target divides a difference of numbers of order one by sigma >= 0.002, and is squared.
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)


def mixed_rows(num_rows, seed=0):
    """Clean rows of `MIXED`, and the levels they hold."""
    place = torch.rand(num_rows, 2, generator=generator(seed), dtype=torch.float64)
    codes = (place * torch.tensor([2, 3])).long()
    return torch.cat([normal(num_rows, 3, seed=seed), MIXED.one_hot(codes)], dim=1), codes


def cross_entropies(logits, codes, hidden):
    """Of each category in units of its entropy, by PyTorch's own function; 0 where it is not hidden."""
    own = [
        torch.nn.functional.cross_entropy(part, codes[:, block], reduction='none') / stats.entropy(frequencies)
        for block, (part, frequencies) in enumerate(zip(logits.split([2, 3], dim=1), MIXED.frequencies, strict=True))
    ]
    return torch.stack(own, dim=1) * hidden


def hidden_draws(draws, share):
    return torch.rand(len(share), 2, generator=draws, dtype=torch.float64) < share[:, None]


def with_levels(numbers, rows, hidden):
    levels = MIXED.levels(rows) * ~hidden.repeat_interleave(torch.tensor([2, 3]), dim=1)
    return torch.cat([numbers, levels], dim=1)


def test_noise_predictors_loss_with_categories_is_the_plain_formula():
    """The same draws: times, noise, what is hidden. Every column counts alike, and so does one that is revealed."""

    def formula(x, t):
        return (0.3 * x + t[:, None] / 1000).flip(1)

    (x_0, codes), draws = mixed_rows(40), generator(5)
    loss = NoisePredictor(Formula(formula), DDPM, MIXED).loss(x_0, generator(5))
    t = DDPM.draw(40, draws)
    eps = torch.randn(40, 3, generator=draws, dtype=torch.float64)
    alpha, sigma = DDPM.noise(t[:, None])
    hidden = hidden_draws(draws, t / 1000)
    eps_hat, logits = formula(with_levels(alpha * x_0[:, :3] + sigma * eps, x_0, hidden), t).split([3, 5], dim=1)
    expected = ((eps - eps_hat).square().sum(1) + cross_entropies(logits, codes, hidden).sum(1)) / 5
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)  # a few roundings


@pytest.mark.parametrize('known_share', [0.0, 0.6])
def test_preconditioned_loss_with_categories_and_known_numbers_is_the_plain_formula(known_share):
    """The same draws: times, known shares, noise, what is known, what is hidden. A known category has no loss."""

    def formula(inputs, c):
        flags = inputs[:, 8:11].sum(1, keepdim=True)
        return 0.5 * inputs[:, :8].flip(1) + c[:, None] / 1000 + 0.1 * flags

    (x_0, codes), draws, num_rows = mixed_rows(200), generator(2), 200
    denoiser = PreconditionedDenoiser(Formula(formula), EDM, MIXED, known_share)
    loss, backbone = denoiser.loss(x_0, generator(2)), denoiser.backbone
    t, share, _ = denoiser._draw_times(num_rows, draws)
    numbers, known, sigma = x_0[:, :3], torch.zeros(num_rows, 3, dtype=torch.bool), t[:, None]
    x_t = numbers + sigma * torch.randn(num_rows, 3, generator=draws, dtype=torch.float64)
    if known_share:
        known = torch.rand(num_rows, 3, generator=draws, dtype=torch.float64) < share[:, None]
    hidden = hidden_draws(draws, EDM.hidden_share(t) * (1 - share))
    root = (1 + sigma**2).sqrt()
    x_t = torch.where(known, numbers, x_t)
    inputs = with_levels(x_t / root, x_0, hidden)
    if known_share:
        inputs = torch.cat([inputs, known.double(), known * numbers], dim=1)
        assert 40 < known.any(1).sum() < 160  # else the test would say little
    torch.testing.assert_close(backbone.asked[0][0], inputs, rtol=1e-14, atol=0)
    F, logits = formula(inputs, 250 * t.log()).split([3, 5], dim=1)
    squares = (F - (numbers - x_t / root**2) * root / sigma).square()
    expected = (squares.sum(1) + cross_entropies(logits, codes, hidden).sum(1)) / 5
    # The target divides a difference of numbers of order one by sigma >= 0.002, and is squared.
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)


def test_what_is_known_in_training():
    r"""Of a `known_share` of the rows a share u ~ U(0, 1) of the columns is known, of the others none.

    So the number of known ones of three numbers is uniform on 0 ... 3 in the chosen rows: the integral of the binomial
    distribution over u. A category counts as known when it is revealed: hidden with `m_t (1 - u)`. Partly known rows
    are noised evenly along the sampler's grid.
    """
    num_rows, known_share = 20_000, 0.4
    backbone = Formula(lambda inputs, _: torch.zeros(len(inputs), 8).double())
    x_0, _ = mixed_rows(num_rows)
    PreconditionedDenoiser(backbone, EDM, MIXED, known_share).loss(x_0, generator())
    inputs, condition = backbone.asked[0]
    counts = inputs[:, 8:11].sum(1).long().bincount(minlength=4).numpy()
    expected = num_rows * (known_share * np.full(4, 1 / 4) + np.array([1 - known_share, 0, 0, 0]))
    assert stats.chisquare(counts, expected).pvalue > 1e-3  # seeded
    t = (condition / 250).exp()
    partly = inputs[:, 8:11].any(1)
    first, last = EDM.largest ** (1 / EDM.rho), EDM.smallest ** (1 / EDM.rho)
    place = (t[partly] ** (1 / EDM.rho) - last) / (first - last)
    assert stats.kstest(place.numpy(), 'uniform').pvalue > 1e-3  # seeded
    # E[u | j of three are known] = (j + 1) / 5, as of a beta distribution.
    m_t = EDM.hidden_share(t)
    hidden = MIXED.hidden(inputs[:, :8]).double().mean(1)
    for known in (1, 2, 3):
        chosen = inputs[:, 8:11].sum(1) == known
        wanted = m_t[chosen].mean() * (1 - (known + 1) / 5)
        # Mean of two correlated draws a row: five standard errors of one.
        assert (hidden[chosen].mean() - wanted).abs() < 5 * 0.5 / math.sqrt(int(chosen.sum()))


@pytest.mark.parametrize(('known_share', 'num_rows'), [(0.0, 10), (0.4, 1000), (0.5, 7), (1.0, 10)])
def test_times_of_a_batch_are_evenly_spread_among_the_partly_known_rows_and_among_the_others(known_share, num_rows):
    """Each of as many intervals of equal probability as there are such rows has one time."""
    t, share, _ = PreconditionedDenoiser(Formula(None), EDM, MIXED, known_share)._draw_times(num_rows, generator())
    partly = share > 0
    assert int(partly.sum()) in (math.floor(known_share * num_rows), math.ceil(known_share * num_rows))
    first, last = EDM.largest ** (1 / EDM.rho), EDM.smallest ** (1 / EDM.rho)
    ends = [(math.log(end) - EDM.log_mean) / EDM.log_std for end in (EDM.smallest, EDM.largest)]
    law = stats.truncnorm(*ends, loc=EDM.log_mean, scale=EDM.log_std)
    places = (t[partly] ** (1 / EDM.rho) - last) / (first - last), torch.tensor(law.cdf(t[~partly].log().numpy()))
    for each in places:
        assert (each * len(each)).long().sort().values.tolist() == list(range(len(each)))


def test_batches_of_one_row_are_partly_known_as_often():
    denoiser, draws = PreconditionedDenoiser(Formula(None), EDM, MIXED, 0.3), generator()
    partly = sum(bool(denoiser._draw_times(1, draws)[1] > 0) for _ in range(2000))
    assert stats.binomtest(partly, 2000, 0.3).pvalue > 1e-3  # seeded


def test_known_numbers_are_seen_as_they_are_flagged_and_returned():
    backbone = Formula(lambda inputs, _: inputs[:, :8] + 1)
    denoiser = PreconditionedDenoiser(backbone, EDM, MIXED, known_share=0.5)
    assert denoiser.conditional
    x_t, _ = mixed_rows(6)
    x_t[:3, 3:] = 0
    t = torch.tensor([0.01, 0.1, 1, 3, 10, 20]).double()
    known = torch.rand(6, 8, generator=generator()) < 0.5
    estimate = denoiser(x_t, t, known)
    root, flags = (1 + t[:, None] ** 2).sqrt(), known[:, :3]
    seen = x_t[:, :3] / root
    inputs = torch.cat([seen, x_t[:, 3:], flags.double(), flags * x_t[:, :3]], dim=1)
    torch.testing.assert_close(backbone.asked[0][0], inputs, rtol=1e-14, atol=0)
    assert torch.equal(estimate[:, :3][flags], x_t[:, :3][flags])
    expected = x_t[:, :3] / root**2 + t[:, None] / root * (seen + 1)
    torch.testing.assert_close(estimate[:, :3][~flags], expected[~flags], rtol=1e-12, atol=0)
    # Nothing known is no flag.
    torch.testing.assert_close(denoiser(x_t, t), denoiser(x_t, t, torch.zeros_like(known)), rtol=0, atol=0)
    assert (backbone.asked[1][0][:, 8:] == 0).all()


def test_hinges_and_neighbourhoods_see_the_best_linear_estimate_of_each_column():
    r"""Columns that go together: `\Sigma (\Sigma + \sigma^2 I)^{-1}` of the noisy row, a known number as it is."""
    clean = correlated(300, 3)
    knots, asked, measured = (-1.0, 0.5), [], []

    class Answer(NeighbourhoodMLPs):
        def measure(self, numbers):
            measured.append(numbers)

        def forward(self, *inputs):
            asked.append(inputs)
            return torch.tensor([[1.0, -2, 3]]).double().expand(len(inputs[0]), -1)

    silent = Formula(lambda inputs, _: torch.zeros(len(inputs), 3).double())
    denoiser = PreconditionedDenoiser(silent, EDM, Layout(3), 0.5, knots, Answer(3))
    denoiser.measure(clean)
    assert torch.equal(*measured, clean)
    x_t, t = 2 * normal(3, 3, seed=7), torch.tensor([0.3, 1.0, 4.0]).double()
    known = torch.zeros(3, 3).bool()
    known[0, 1] = True
    estimate = denoiser(x_t, t, known)
    for row, sigma in enumerate(t):
        covariance, mean = torch.cov(clean.T), clean.mean(0)
        gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(3).double())
        linear = mean + gain @ (x_t[row] - mean)
        expected = torch.where(known[row], x_t[row], linear)
        noisy, seen, time = (each[row] for each in asked[0])
        torch.testing.assert_close(seen, expected, rtol=1e-10, atol=1e-10)  # a few roundings
        scaled = torch.where(known[row], x_t[row], x_t[row] / (1 + sigma**2).sqrt())
        torch.testing.assert_close(noisy, scaled, rtol=1e-10, atol=1e-10)
        assert time == pytest.approx(250 * math.log(sigma))
        hinges = (expected[:, None] - torch.tensor(knots).double()).clamp(min=0).flatten()
        torch.testing.assert_close(silent.asked[0][0][row, -6:], hinges, rtol=1e-10, atol=1e-10)
        # What the neighbourhoods say is rotated into the axes, where c_out makes it a part of the estimate.
        variances, axes = denoiser.axes.variances, denoiser.axes.directions
        outside = sigma * (variances / (variances + sigma**2)).sqrt()
        said = axes @ (outside * (axes.T @ torch.tensor([1.0, -2, 3]).double()))
        said = denoiser.axes.regressed((linear + said)[None], x_t[row, None], known[row, None], t[row, None])[0]
        torch.testing.assert_close(estimate[row], torch.where(known[row], x_t[row], said), rtol=1e-9, atol=1e-9)


@given(st.floats(0.002, 20), st.integers(0, 100), st.integers(2, 6), st.data())
def test_without_a_network_known_numbers_give_the_conditional_mean_of_normal_ones(sigma, seed, columns, data):
    r"""`m + S (S + \sigma^2 I)^{-1} (y_U - m)` with `m`, `S` the mean and covariance of the others given `x_K`."""
    known = torch.tensor(data.draw(st.lists(st.booleans(), min_size=columns, max_size=columns)))
    clean = correlated(300, columns, seed)
    silent = Formula(lambda inputs, _: torch.zeros(len(inputs), columns).double())
    denoiser = PreconditionedDenoiser(silent, EDM, Layout(columns), known_share=0.5)
    denoiser.measure(clean)
    x_t = normal(4, columns, seed=seed)
    estimate = denoiser(x_t, torch.full((4,), sigma).double(), known.expand(4, -1))
    covariance, mean, U = torch.cov(clean.T), clean.mean(0), ~known
    weights = torch.linalg.solve(covariance[known][:, known], covariance[known][:, U]).T
    m = mean[U] + (x_t[:, known] - mean[known]) @ weights.T
    S = covariance[U][:, U] - weights @ covariance[known][:, U]
    gain = S @ torch.linalg.inv(S + sigma**2 * torch.eye(int(U.sum())).double())
    assert torch.equal(estimate[:, known], x_t[:, known])
    # Known numbers count as noisy by 0.01 at most: a share 0.01^2 over their smallest variance of what they say, which
    # is some units for numbers a few deviations off.
    smallest = torch.linalg.eigvalsh(covariance)[0]
    torch.testing.assert_close(
        estimate[:, U], m + (x_t[:, U] - m) @ gain.T, rtol=0, atol=float(30 * KNOWN_NOISE**2 / smallest)
    )


def test_rows_of_which_different_numbers_are_known_are_corrected_each_by_its_own():
    axes = PrincipalAxes(4)
    axes.measure(correlated(300, 4))
    x0_hat, clean, sigma = normal(6, 4), normal(6, 4, seed=1), torch.tensor([1.0, 1, 0.1, 2, 1, 2]).double()
    known = torch.rand(6, 4, generator=generator()) < 0.5
    known[0], known[1] = True, False
    together = axes.regressed(x0_hat, clean, known, sigma)
    for row in range(6):
        each = slice(row, row + 1)
        alone = axes.regressed(x0_hat[each], clean[each], known[each], sigma[each])
        torch.testing.assert_close(together[each], alone, rtol=1e-12, atol=1e-12)
    assert torch.equal(together[1], x0_hat[1])
    # An estimate that is right where it can be checked stays.
    right = torch.where(known, clean, x0_hat)
    assert torch.equal(axes.regressed(right, clean, known, sigma), right)
    nothing = slice(0, 0)
    assert axes.regressed(x0_hat[nothing], clean[nothing], known[nothing], sigma[nothing]).shape == (0, 4)


def test_known_numbers_that_say_the_same_twice_are_no_trouble():
    """The second number is the first: what either says of the third is said by both, but for `KNOWN_NOISE`."""
    clean = correlated(300, 2)[:, [0, 0, 1]]
    axes = PrincipalAxes(3)
    axes.measure(clean)
    x0_hat, seen, sigma = normal(5, 3, seed=1), normal(5, 2, seed=2)[:, [0, 0, 1]], torch.full((5,), 20.0).double()
    one, both = (
        axes.regressed(x0_hat[:, [0, 0, 2]], seen, torch.tensor(known).expand(5, -1), sigma)
        for known in ([True, False, False], [True, True, False])
    )
    torch.testing.assert_close(one, both, rtol=0, atol=1e-3)


def test_a_number_that_means_nothing_corrects_no_other():
    """Where a column takes an exact value, or is missing, its number is a draw; a known one, too, is no evidence."""
    layout = Layout(2, [torch.tensor([0.5, 0.5]).double()], num_plain=1)
    silent = Formula(lambda inputs, _: torch.zeros(len(inputs), 4).double())
    denoiser = PreconditionedDenoiser(silent, EDM, layout, known_share=0.5)
    denoiser.measure(correlated(300, 2))
    x_t = torch.cat([normal(2, 2), torch.tensor([[1.0, 0], [1, 0]]).double()], dim=1)
    t, known = torch.full((2,), 5.0).double(), torch.tensor([False, True, True, True]).expand(2, -1)
    drawn_anew = x_t.clone()
    drawn_anew[:, 1] += 3
    first, second = (denoiser(rows, t, known)[:, 0] for rows in (x_t, drawn_anew))
    # The linear estimate of all numbers sees it as it sees noise of deviation 5, and that is all.
    gain = denoiser.axes.directions @ torch.diag(denoiser.axes.variances / (denoiser.axes.variances + 25))
    torch.testing.assert_close(second - first, 3 * (gain @ denoiser.axes.directions.T)[0, 1].expand(2))


@pytest.mark.parametrize(
    'kind',
    [
        NoisePredictor,
        PreconditionedDenoiser,
    ],
)
def test_a_denoiser_that_is_not_conditional_estimates_known_numbers_as_others(kind):
    """They come noised, as all others do: that they are known must not change what the network is asked."""
    schedule = DDPM if kind is NoisePredictor else EDM
    denoiser = kind(Formula(lambda x, _: 0.5 * x), schedule, MIXED)
    assert not denoiser.conditional
    x_t, t = mixed_rows(4)[0], torch.tensor([1.0, 2, 10, 20]).double()
    known = torch.rand(4, 8, generator=generator()) < 0.5
    torch.testing.assert_close(denoiser(x_t, t, known), denoiser(x_t, t), rtol=0, atol=0)


@pytest.mark.parametrize('kind', [NoisePredictor, PreconditionedDenoiser])
def test_categories_are_probabilities_where_hidden_and_themselves_elsewhere(kind):
    schedule = DDPM if kind is NoisePredictor else EDM
    logits = normal(6, 5)
    denoiser = kind(Formula(lambda x, _: torch.cat([x[:, :3], logits], dim=1)), schedule, MIXED)
    x_t, _ = mixed_rows(6)
    x_t[:2, 3:5], x_t[1:4, 5:] = 0, 0
    estimate = denoiser(x_t, torch.ones(6).double())
    torch.testing.assert_close(estimate[:2, 3:5], logits[:2, :2].softmax(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(estimate[1:4, 5:], logits[1:4, 2:].softmax(1), rtol=1e-14, atol=0)
    assert torch.equal(estimate[2:, 3:5], x_t[2:, 3:5])
    assert torch.equal(estimate[[0, 4, 5], 5:], x_t[[0, 4, 5], 5:])


@pytest.mark.parametrize('kind', [NoisePredictor, PreconditionedDenoiser])
def test_float64_outside_float32_inside(kind):
    schedule = DDPM if kind is NoisePredictor else EDM
    backbone = Formula(lambda x, _: x, dtype=torch.float32)
    denoiser = kind(backbone, schedule, Layout(3))
    t = torch.tensor([1.0, 2.0]).double()
    assert denoiser(normal(2, 3), t).dtype == torch.float64
    assert [x.dtype for x in backbone.asked[0]] == [torch.float32, torch.float32]
    assert denoiser.loss(normal(2, 3), generator()).dtype == torch.float64


@pytest.mark.parametrize('kind', ['noise', 'preconditioned', 'conditional'])
def test_rows_never_meet(kind):
    flags = 6 if kind == 'conditional' else 0
    if kind == 'noise':
        denoiser = NoisePredictor(PlainMLP(8, width=16, depth=2), DDPM, MIXED)
    else:
        net = ResidualMLP(8, width=16, depth=2, time_width=8, num_extra=flags + 6)
        denoiser = PreconditionedDenoiser(net, EDM, MIXED, flags / 10, (-1.0, 0.5), NeighbourhoodMLPs(3))
    with torch.no_grad():
        for parameter in denoiser.parameters():  # zero layers would hide what they read
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator(len(parameter))))
    denoiser = denoiser.double()
    x_t, t = mixed_rows(6)[0], torch.tensor([1.0, 2, 10, 20, 50, 70]).double()
    x_t[:3, 3:5], x_t[2:5, 5:] = 0, 0
    known = torch.rand(6, 8, generator=generator()) < 0.5 if flags else torch.zeros(6, 8).bool()
    alone = torch.cat([denoiser(*(each[None] for each in row)) for row in zip(x_t, t, known, strict=True)])
    torch.testing.assert_close(denoiser(x_t, t, known), alone, rtol=1e-12, atol=1e-12)  # order of sums in products


@settings(deadline=None)
@given(half=st.integers(1, 40), t=st.floats(-2000, 1000))
def test_sinusoidal_embedding(half, t):
    embedding = SinusoidalEmbedding(2 * half)(torch.tensor([t], dtype=torch.float32))[0]
    for i in range(half):
        angle = torch.tensor([t], dtype=torch.float32).item() * 10_000 ** (-i / half)
        # The frequency is rounded to float32, which turns the angle by |t| times 1e-7.
        tolerance = 1e-6 + 3e-7 * abs(t)
        assert embedding[i].item() == pytest.approx(math.sin(angle), abs=tolerance)
        assert embedding[half + i].item() == pytest.approx(math.cos(angle), abs=tolerance)


def test_plain_network_by_hand():
    """Input layer plus time embedding, then ReLU after each hidden layer, then the output layer, in NumPy's words."""
    torch.manual_seed(0)
    net = PlainMLP(3, width=8, depth=2).double()
    rows, t = normal(5, 3), torch.tensor([1.0, 5, 10, 100, 1000]).double()
    weights = [(layer.weight, layer.bias) for layer in (net.input, *net.hidden, net.output)]
    frequencies = 10_000 ** (-torch.arange(4, dtype=torch.float64) / 4)
    angles = t[:, None] * frequencies
    h = rows @ weights[0][0].T + weights[0][1] + torch.cat([angles.sin(), angles.cos()], 1)
    for weight, bias in weights[1:3]:
        h = (h @ weight.T + bias).clamp(min=0)
    expected = h @ weights[3][0].T + weights[3][1]
    torch.testing.assert_close(net(rows, t), expected, rtol=0, atol=1e-4)  # frequencies are float32: 1000 times 1e-7


def test_residual_network_starts_as_zero_and_each_block_as_the_identity():
    torch.manual_seed(0)
    net = ResidualMLP(3, width=8, depth=2, time_width=4)
    rows, t = normal(5, 3).float(), torch.linspace(-500, 500, 5)
    assert torch.equal(net(rows, t), torch.zeros(5, 3))
    h = normal(5, 8).float()
    assert torch.equal(net.blocks[0](h, net.time(t)), h)


def test_residual_network_takes_its_flags_after_the_row():
    """With identity blocks the input layer is all there is: a flag adds its own column of weights."""
    torch.manual_seed(0)
    net = ResidualMLP(3, width=8, depth=2, time_width=4, num_extra=2).double()
    nn.init.normal_(net.output.weight)
    rows, flags = normal(5, 3), torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1], [0, 0]]).double()
    h = torch.cat([rows, flags], dim=1) @ net.input.weight.T + net.input.bias
    expected = torch.nn.functional.layer_norm(h, (8,)) @ net.output.weight.T
    found = net(torch.cat([rows, flags], dim=1), torch.ones(5).double())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)  # a few roundings
    assert found.shape == (5, 3)


def test_residual_network_hears_of_the_time_in_every_block():
    torch.manual_seed(0)
    net = ResidualMLP(2, width=8, depth=3, time_width=4)
    nn.init.normal_(net.output.weight)
    rows = normal(1, 2).float()
    for block in net.blocks:
        nn.init.normal_(block.second.weight)
        early, late = (net(rows, torch.tensor([t])) for t in (1.0, 100.0))
        assert not torch.equal(early, late)
        nn.init.zeros_(block.second.weight)
        assert torch.equal(*(net(rows, torch.tensor([t])) for t in (1.0, 100.0)))


def correlated(num_rows, columns, seed=0):
    """Columns that go together: one direction has nearly all the variance."""
    common = normal(num_rows, 1, seed=seed)
    return 0.95 * common + math.sqrt(1 - 0.95**2) * normal(num_rows, columns, seed=seed + 1)


@pytest.mark.parametrize('columns', [3, 200])
def test_rows_of_columns_that_go_together_spread_as_the_clean_ones(columns):
    """180 times the variance of one column in one direction: as much as noise of deviation 13."""
    x_0 = correlated(5000, columns) + 2
    denoiser = PreconditionedDenoiser(Formula(lambda x, _: torch.zeros_like(x)), EDM, Layout(columns))
    denoiser.measure(x_0)
    drawn = MultistepSampler(40).sample(denoiser, 4000, columns, generator())
    clean, spread = x_0.mean(1), drawn.mean(1)
    # Four standard errors of a standard deviation and of a mean of 4,000 rows. From noise alone: 0.86 with 200 columns.
    assert float(spread.std() / clean.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * 4000))
    assert float(spread.mean()) == pytest.approx(float(clean.mean()), abs=4 / math.sqrt(4000))


def errors(denoiser, x_0, seed):
    """Mean squared error of the estimates at some noise levels."""
    found = []
    for sigma in (0.01, 0.1, 1.0, 5.0):
        noisy = x_0 + sigma * normal(*x_0.shape, seed=seed)
        found.append(float((denoiser(noisy, torch.full((len(x_0),), sigma).double()) - x_0).square().mean()))
    return np.array(found)


@pytest.mark.parametrize('wrong', [0.3, 3.0, -2.0])
def test_a_network_that_is_wrong_counts_so_little_that_it_does_no_harm(wrong):
    x_0, weights = correlated(6000, 5), normal(5, 5, seed=9)
    linear = PreconditionedDenoiser(Formula(lambda x, _: torch.zeros_like(x)), EDM, Layout(5))
    linear.measure(x_0)
    noisy = PreconditionedDenoiser(Formula(lambda x, _: wrong * torch.sin(3 * x @ weights)), EDM, Layout(5))
    noisy.measure(x_0)
    before = errors(noisy, x_0, seed=20)
    noisy.calibrate(x_0, generator())
    after, best = errors(noisy, x_0, seed=20), errors(linear, x_0, seed=20)
    assert (before > 1.02 * best).any()
    # The gain is that of one noise draw and the error that of another; 30,000 numbers.
    assert (after <= 1.02 * best).all()


def test_a_network_that_is_right_counts_in_full_and_unasked_for_where_values_are_known():
    """Two points: the posterior mean is a hyperbolic tangent, which the network knows."""
    x_0 = torch.sign(normal(4000, 1))

    def right(x, t):
        sigma = (t / 250).exp()[:, None]
        noisy = x * (1 + sigma**2).sqrt()
        return (torch.tanh(noisy / sigma**2) - noisy / (1 + sigma**2)) / (sigma / (1 + sigma**2).sqrt())

    denoiser = PreconditionedDenoiser(Formula(right), EDM, Layout(1))
    denoiser.calibrate(x_0, generator())
    # Where the noise leaves nothing to know, there is nothing to tell the gain by.
    known = (denoiser.levels > math.log(0.2)) & (denoiser.levels < math.log(2))
    assert denoiser.gains[0][known].min() > 0.95
    doubled = PreconditionedDenoiser(Formula(lambda x, t: 2 * right(x[:, :1], t)), EDM, Layout(1), known_share=0.5)
    doubled.calibrate(x_0, generator())
    assert doubled.gains[0][known].numpy() == pytest.approx(0.5, abs=0.03)
    t = torch.full((2,), 0.7).double()
    free = doubled(torch.tensor([[0.3], [0.4]]).double(), t)
    given = doubled(torch.tensor([[0.3], [0.4]], dtype=torch.float64), t, torch.tensor([[True], [False]]))
    assert given[0] == 0.3
    assert abs(given[1] - free[1]) > 0.1


def test_where_numbers_are_known_the_others_start_with_their_conditional_covariance():
    r"""`S + \sigma^2 I`, S that of normal numbers given the known ones; rows of which nothing is known as ever."""
    layout = Layout(3, [torch.tensor([0.5, 0.5]).double()])
    denoiser = PreconditionedDenoiser(Formula(lambda x, _: torch.zeros_like(x)), EDM, layout, known_share=0.5)
    rows = correlated(500, 3) + 2
    denoiser.measure(rows)
    t, sigma = torch.tensor(3.0).double(), 3.0
    unit, zero = torch.eye(3).double(), torch.zeros(3, 3).double()
    known = torch.tensor([False, True, False, False, False]).expand(3, -1)
    matrix = denoiser.prior(unit, t, known) - rows.mean(0)
    C = torch.cov(rows.T)
    S = C[:, [0, 2]][[0, 2]] - C[[0, 2], 1, None] * C[1, [0, 2]] / C[1, 1]
    noise = sigma**2 * torch.eye(2).double()
    # What is known counts as noisy by 0.01.
    torch.testing.assert_close((matrix.T @ matrix)[:, [0, 2]][[0, 2]], S + noise, rtol=1e-3, atol=0)
    torch.testing.assert_close(denoiser.prior(zero, t, known), rows.mean(0).expand(3, -1))
    for nothing in (torch.zeros(3, 5).bool(), torch.tensor([False, False, False, True, True]).expand(3, -1)):
        assert torch.equal(denoiser.prior(unit, t, nothing), denoiser.prior(unit, t))
    torch.testing.assert_close(denoiser.prior(zero, t), rows.mean(0).expand(3, -1))


def partly_independent(num_rows, seed=0):
    """Numbers 0 and 2 are independent; number 1 follows them."""
    z = normal(num_rows, 3, seed=seed)
    return torch.stack([z[:, 0], (z[:, 0] - z[:, 2] + 0.5 * z[:, 1]) / 1.5, z[:, 2]], dim=1)  # variances 1


def with_first(formula, layout=None):
    layout = Layout(3) if layout is None else layout
    denoiser = PreconditionedDenoiser(Formula(formula), EDM, layout, 0.5, independent_first=True)
    denoiser.measure(partly_independent(2000))
    return denoiser


def test_independent_numbers_are_drawn_first_only_if_they_are_plain_and_it_is_asked():
    def zeros(x, _):
        return torch.zeros(len(x), 3).double()

    assert with_first(zeros).drawn_first.tolist() == [True, False, True]
    inflated = Layout(3, [torch.tensor([0.5, 0.5]).double()], num_plain=2)
    assert with_first(zeros, inflated).drawn_first is None
    with pytest.raises(ValueError, match='raise known_share'):
        PreconditionedDenoiser(Formula(zeros), EDM, Layout(3), independent_first=True)
    unasked = PreconditionedDenoiser(Formula(zeros), EDM, Layout(3), 0.5)
    unasked.measure(partly_independent(2000))
    assert unasked.drawn_first is None


def test_half_of_a_batch_has_just_those_numbers_known_that_are_drawn_first():
    """The others as ever: half of them nothing, half a random part. Times are even where something is known."""
    denoiser = with_first(lambda x, _: torch.zeros(len(x), 3).double())
    t, share, usual = denoiser._draw_times(400, generator())
    assert [int(usual.sum()), int((share > 0).sum()), int((usual & (share > 0)).sum())] == [200, 100, 0]
    first, last = denoiser.schedule.largest ** (1 / EDM.rho), EDM.smallest ** (1 / EDM.rho)
    places = (t[usual] ** (1 / EDM.rho) - last) / (first - last)
    assert (places * 200).long().sort().values.tolist() == list(range(200))
    denoiser.loss(partly_independent(400, 1), generator())
    flags = denoiser.backbone.asked[-1][0][:, 3:6]
    assert torch.equal(flags[usual], denoiser.drawn_first.to(flags).expand(200, -1))


def test_gains_are_of_rows_of_which_nothing_or_just_what_is_drawn_first_is_known():
    """Each case has its own; elsewhere the network counts in full, and beside a row that counts so nothing changes."""
    denoiser = with_first(lambda inputs, _: torch.sin(3 * inputs[:, :3]) + inputs[:, 3:6])
    denoiser.calibrate(partly_independent(2000), generator())
    gains, none = denoiser.gains, torch.ones_like(denoiser.gains)
    assert (gains[0] - gains[1]).abs().max() > 0.1
    x_t, t = normal(4, 3), torch.full((4,), 0.7).double()
    patterns = torch.tensor([[True, False, True], [True, True, False], [True, False, False], [False, False, False]])
    seen = torch.where(patterns, normal(4, 3, seed=1), x_t)

    def with_gains(gains, known, rows=seen):
        denoiser.gains = gains
        return denoiser(rows, t, known)

    together = with_gains(gains, patterns)
    expected = with_gains(none, patterns)
    expected[0] = with_gains(gains[[1, 1]], patterns)[0]
    assert torch.equal(together, expected)
    assert not torch.equal(together[0], with_gains(none, patterns)[0])
    assert torch.equal(with_gains(gains, None), with_gains(gains[[0, 0]], None))
    assert not torch.equal(with_gains(gains, None), with_gains(none, None))
