"""Denoisers and networks against their formulas, and against the exact posterior mean of a Gaussian."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.diffusion.backbone import PlainMLP, ResidualMLP, SinusoidalEmbedding
from sdv_constrained_diffusion.diffusion.denoiser import NoisePredictor, PreconditionedDenoiser
from sdv_constrained_diffusion.diffusion.schedule import EDMSchedule, linear_schedule

DDPM = linear_schedule()
EDM = EDMSchedule()
NUMBERS = Layout(10)
"""Rows of up to ten features, all of them numbers."""


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
    skipped = PreconditionedDenoiser(zero, EDM, NUMBERS)(x_t, t)
    shifted = PreconditionedDenoiser(one, EDM, NUMBERS)(x_t, t)
    root = math.sqrt(1 + sigma**2)
    # A few roundings; c_out is seen as a difference with numbers of order one.
    torch.testing.assert_close(skipped, x_t / (1 + sigma**2), rtol=1e-14, atol=0)
    torch.testing.assert_close(shifted - skipped, torch.full_like(x_t, sigma / root), rtol=0, atol=1e-14)
    rows, condition = zero.asked[0]
    torch.testing.assert_close(rows, x_t / root, rtol=1e-14, atol=0)
    torch.testing.assert_close(condition, 1000 * t.log() / 4, rtol=1e-12, atol=1e-12)  # c_noise in thousandths


@settings(deadline=None)
@given(sigma=st.floats(1e-2, 50))
def test_inputs_and_targets_have_unit_variance(sigma):
    r"""`Var(c_{in} x_t) = 1`, and `Var((x_0 - c_{skip} x_t) / c_{out}) = 1`, for rows of unit variance.

    Both are linear in (x_0, eps), so that their variance is the sum of the squared coefficients: no sampling.
    """
    t = torch.full((2,), sigma, dtype=torch.float64)
    backbone = Formula(lambda x, _: torch.zeros_like(x))
    unit_x0, unit_eps = torch.tensor([[1.0], [0.0]]).double(), torch.tensor([[0.0], [1.0]]).double()
    skipped = PreconditionedDenoiser(backbone, EDM, NUMBERS)(unit_x0 + sigma * unit_eps, t)
    assert backbone.asked[0][0].square().sum().item() == pytest.approx(1, rel=1e-14)  # a few roundings
    one = Formula(lambda x, _: torch.ones_like(x))
    c_out = PreconditionedDenoiser(one, EDM, NUMBERS)(torch.zeros(2, 1).double(), t)
    # For small sigma the target is a difference of nearly equal numbers, divided by sigma: eps / 1e-2.
    assert ((unit_x0 - skipped) / c_out).square().sum().item() == pytest.approx(1, rel=1e-12)


def test_untrained_networks_loss_is_one_in_expectation():
    r"""An output layer of zeros leaves the target itself: its variance, 1, for unit normal rows at every sigma."""
    torch.manual_seed(0)
    denoiser = PreconditionedDenoiser(ResidualMLP(2, width=8, depth=1, time_width=4), EDM, NUMBERS)
    num_rows = 40_000
    loss = denoiser.loss(normal(num_rows, 2), generator(1)).detach()
    assert loss.mean().item() == pytest.approx(1, abs=4 * loss.std().item() / math.sqrt(num_rows))  # 4 standard errors
    # Mean of two squared normals: variance 1. Tells the weighting by 1 / c_out^2 from others that average to 1.
    assert loss.var().item() == pytest.approx(1, abs=0.1)  # fourth moments: standard error 0.014


def test_preconditioned_loss_is_the_plain_formula():
    backbone = Formula(lambda x, c: 0.5 * x.flip(1) + c[:, None] / 1000)
    x_0 = normal(32, 3)
    loss = PreconditionedDenoiser(backbone, EDM, NUMBERS).loss(x_0, generator(2))
    draws = generator(2)
    sigma = EDM.draw(32, draws)[:, None]
    x_t = x_0 + sigma * torch.randn(32, 3, generator=draws, dtype=torch.float64)
    root = (1 + sigma**2).sqrt()
    target = (x_0 - x_t / root**2) * root / sigma
    expected = (0.5 * (x_t / root).flip(1) + sigma.log() / 4 - target).square().mean(1)
    # The target divides a difference of numbers of order one by sigma >= 0.002, and is squared.
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('kind', [NoisePredictor, PreconditionedDenoiser])
def test_float64_outside_float32_inside(kind):
    schedule = DDPM if kind is NoisePredictor else EDM
    backbone = Formula(lambda x, _: x, dtype=torch.float32)
    denoiser = kind(backbone, schedule, NUMBERS)
    t = torch.tensor([1.0, 2.0]).double()
    assert denoiser(normal(2, 3), t).dtype == torch.float64
    assert [x.dtype for x in backbone.asked[0]] == [torch.float32, torch.float32]
    assert denoiser.loss(normal(2, 3), generator()).dtype == torch.float64


@pytest.mark.parametrize(
    'denoiser',
    [
        NoisePredictor(PlainMLP(3, width=16, depth=2), DDPM, NUMBERS),
        PreconditionedDenoiser(ResidualMLP(3, width=16, depth=2, time_width=8), EDM, NUMBERS),
    ],
    ids=['noise', 'preconditioned'],
)
def test_rows_never_meet(denoiser):
    with torch.no_grad():
        for parameter in denoiser.parameters():  # zero layers would hide what they read
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator(len(parameter))))
    denoiser = denoiser.double()
    x_t, t = normal(6, 3), torch.tensor([1.0, 2, 10, 20, 50, 70]).double()
    alone = torch.cat([denoiser(x[None], time[None]) for x, time in zip(x_t, t, strict=True)])
    torch.testing.assert_close(denoiser(x_t, t), alone, rtol=1e-12, atol=1e-12)  # order of sums in products


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
