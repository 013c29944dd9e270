"""The residual network in mixed precision beside itself in one precision."""

import pytest
import torch

from sdv_constrained_diffusion.diffusion import backbone
from sdv_constrained_diffusion.diffusion.backbone import ResidualMLP

PRECISION = 2.0**-8
"""Distance of a bfloat16 number from the next, relative to it."""


def network(width):
    """A network whose blocks and output count, unlike at the start of training."""
    torch.manual_seed(0)
    made = ResidualMLP(6, width=width, depth=3)
    for layer in [*(block.second for block in made.blocks), made.output]:
        torch.nn.init.normal_(layer.weight, std=width**-0.5)
    return made


@pytest.fixture
def outputs(monkeypatch):
    """Output and gradients of a network with half precision allowed or not."""

    def run(allowed, width, dtype=torch.float32):
        monkeypatch.setattr(backbone, 'HALF_PRODUCTS', allowed)
        made = network(width).to(dtype)
        generator = torch.Generator().manual_seed(1)
        rows, t = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((64, 6), (64,)))
        out = made(rows, t)
        out.square().mean().backward()
        return out.detach(), [each.grad for each in made.parameters()]

    return run


def relative_error(one, other):
    return float((one - other).norm() / other.norm())


def test_half_products_are_as_exact_as_their_digits(outputs):
    """Each number is rounded to 8 bits, at random; sums of hundreds of them are no worse than a single one."""
    out, gradients = outputs(True, 256)
    exact, exact_gradients = outputs(False, 256, torch.float64)
    assert out.dtype == torch.float32
    assert 1e-5 < relative_error(out, exact) < PRECISION  # below 1e-5 nothing was rounded
    for one, other in zip(gradients, exact_gradients, strict=True):
        assert one.dtype == torch.float32
        assert relative_error(one, other) < 4 * PRECISION  # a gradient passes all blocks twice


@pytest.mark.parametrize(('width', 'dtype'), [(64, torch.float32), (256, torch.float64)])
def test_narrow_blocks_and_other_precisions_stay_as_they_are(outputs, width, dtype):
    out, gradients = outputs(True, width, dtype)
    exact, exact_gradients = outputs(False, width, dtype)
    assert torch.equal(out, exact)
    assert all(map(torch.equal, gradients, exact_gradients))
