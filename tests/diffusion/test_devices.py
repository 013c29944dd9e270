"""Weights may be on another device than rows: what is learned and drawn there is what is learned and drawn here."""

import copy

import pytest
import torch

from elsewhere import NAME, Device, Elsewhere
from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.diffusion import backbone
from sdv_constrained_diffusion.diffusion.presets import PRESETS
from sdv_constrained_diffusion.diffusion.sampler import Given

LABELS = 3


def rows_of(num_numbers: int, num_rows: int) -> torch.Tensor:
    """Numbers of which the last follows the first, and one label."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(num_rows, num_numbers, generator=generator, dtype=torch.float64)
    numbers[:, -1] = (numbers[:, 0].square() - 1) / 2**0.5
    labels = torch.randint(LABELS, (num_rows,), generator=generator)
    return torch.cat([numbers, torch.nn.functional.one_hot(labels, LABELS)], dim=1)


def test_two_devices_do_not_mix():
    there, here = Elsewhere(torch.ones(3)), torch.ones(3)
    for operation in (torch.add, torch.dot, lambda one, other: torch.cat([one, other])):
        with pytest.raises(RuntimeError, match='two devices'):
            operation(there, here)
    for doubles in (there.double, lambda: there.to('cpu', torch.float64), lambda: here.double().copy_(there)):
        with pytest.raises(TypeError, match='no double precision'):
            doubles()
    first = torch.tensor([0])
    with pytest.raises(RuntimeError, match='two devices'):
        here[there > 0]
    with pytest.raises(RuntimeError, match='two devices'):
        there.index_add(0, first, here[:1])
    with pytest.raises(RuntimeError, match='another device'):
        there.normal_(generator=torch.Generator())
    assert there[first].sum().item() == 1
    assert (there + torch.tensor(1.0)).sum().item() == 6


@pytest.mark.parametrize('name', PRESETS)
@pytest.mark.parametrize('num_numbers', [5, 150], ids=['narrow', 'wide'])
def test_weights_elsewhere_learn_and_draw_as_here(name, num_numbers, monkeypatch):
    monkeypatch.setattr(backbone, 'HALF_PRODUCTS', False)  # which only the processor knows
    rows = rows_of(num_numbers, 1200)
    frequencies = rows[:, num_numbers:].mean(0)
    preset = PRESETS[name]()
    torch.manual_seed(0)
    here = preset.denoiser(Layout(num_numbers, [frequencies]), len(rows))
    with torch.no_grad():
        for weights in here.parameters():
            weights.add_(0.05 * torch.randn_like(weights))  # the last layers start at zero, and would hide the others
    with Device():
        there = copy.deepcopy(here).to(NAME)

    def learned_and_drawn(denoiser):
        generator = torch.Generator().manual_seed(0)
        denoiser.measure(rows[:, :num_numbers])
        loss = denoiser.loss(rows[:200], generator).mean()
        loss.backward()
        slopes = [weights.grad for weights in denoiser.parameters()]
        denoiser.requires_grad_(False).calibrate(rows[:200], generator)
        known = torch.zeros(20, rows.shape[1], dtype=torch.bool)
        known[:, 0] = True
        preset.sampler.num_steps = 10
        drawn = [
            preset.sampler.sample(denoiser, 20, rows.shape[1], generator, given)
            for given in (None, Given(rows[:20], known))
        ]
        statistics = [denoiser.gains] if name == 'default' else []
        return [*slopes, *denoiser.state_dict().values()], [loss.detach(), *statistics, *drawn]

    learned, drawn = learned_and_drawn(here)
    with Device():
        learned_there, drawn_there = learned_and_drawn(there)
    if name == 'default':
        assert here.drawn_first is not None if num_numbers == 5 else here.neighbourhoods is not None
    # The same sums in single precision, if not in the same order.
    for one, other in zip(learned, learned_there, strict=True):
        assert isinstance(other, Elsewhere)
        torch.testing.assert_close(other.held, one, rtol=1e-4, atol=1e-4)
    for one, other in zip(drawn, drawn_there, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
