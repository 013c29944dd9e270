"""Recipes: 'paper' is built as the paper says, and both learn."""

import pytest
import torch
from torch import nn

from sdv_constrained_diffusion.diffusion.backbone import PlainMLP, ResidualMLP
from sdv_constrained_diffusion.diffusion.denoiser import NoisePredictor, PreconditionedDenoiser
from sdv_constrained_diffusion.diffusion.presets import PRESETS, default_preset, paper_preset
from sdv_constrained_diffusion.diffusion.sampler import AncestralSampler, HeunSampler
from sdv_constrained_diffusion.diffusion.training import TrainingPlan, train
from sdv_constrained_diffusion.tabular.encoder import SCALINGS


def sizes(layer):
    return layer.in_features, layer.out_features


def test_papers_network():
    """20 features -> 500, time embedding 500, six hidden layers of 500 with ReLU, -> 20."""
    denoiser = paper_preset().denoiser(20)
    net = denoiser.backbone
    assert isinstance(denoiser, NoisePredictor)
    assert isinstance(net, PlainMLP)
    assert sizes(net.input) == (20, 500)
    assert net.time(torch.ones(3)).shape == (3, 500)
    assert [sizes(layer) for layer in net.hidden] == [(500, 500)] * 6
    assert sizes(net.output) == (500, 20)
    assert [sizes(layer) for layer in net.modules() if isinstance(layer, nn.Linear)] == [
        (20, 500), *[(500, 500)] * 6, (500, 20),
    ]  # fmt: skip
    assert sum(parameter.numel() for parameter in net.parameters()) == 20 * 500 + 500 + 6 * 500 * 501 + 500 * 20 + 20


def test_papers_network_rectifies_each_hidden_layer():
    """With hidden weights of -1 times the identity, a ReLU after each layer leaves nothing but the output's bias."""
    net = paper_preset().denoiser(20).backbone
    with torch.no_grad():
        for layer in net.hidden:
            layer.weight.copy_(-torch.eye(500))
            layer.bias.zero_()
    rows = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(net(rows, torch.ones(4)), net.output.bias.expand(4, 20))


def test_papers_noise_levels():
    schedule = paper_preset().denoiser(3).schedule
    betas = 1 - schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    assert schedule.num_levels == 1000
    # beta = 1e-4 is a difference of numbers near 1: an absolute error of some eps.
    torch.testing.assert_close(betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), rtol=0, atol=1e-14)


def test_papers_training_and_sampling():
    preset = paper_preset()
    assert preset.scaling == 'minmax'
    assert isinstance(preset.sampler, AncestralSampler)
    assert (preset.sampler.num_steps, preset.sampler.eta) == (1000, 1.0)
    assert preset.plan == TrainingPlan(
        epochs=15_000, batch_size=500, learning_rate=1e-4, weight_decay=0.0,
        decay='exponential', decay_steps=1500, decay_factor=0.9, ema=0.0, clip=float('inf'),
    )  # fmt: skip


def test_papers_decay_can_be_changed():
    plan = paper_preset(decay_steps=10, decay_factor=0.5).plan
    assert (plan.decay_steps, plan.decay_factor) == (10, 0.5)
    assert (paper_preset().plan.decay_steps, paper_preset().plan.decay_factor) == (1500, 0.9)


def test_default_recipe():
    preset = default_preset()
    denoiser = preset.denoiser(5)
    assert preset.scaling == 'quantile'
    assert isinstance(denoiser, PreconditionedDenoiser)
    assert isinstance(denoiser.backbone, ResidualMLP)
    assert isinstance(preset.sampler, HeunSampler)
    assert preset.plan == TrainingPlan()


@pytest.mark.parametrize('name', PRESETS)
def test_recipes_by_name_train_and_sample(name):
    """A few epochs on rows on a line in three dimensions: the loss falls; a few steps give finite rows."""
    preset = PRESETS[name]()
    assert preset.scaling in SCALINGS
    torch.manual_seed(0)
    denoiser = preset.denoiser(3)
    rows = torch.linspace(-1, 1, 500, dtype=torch.float64)[:, None].expand(500, 3).contiguous()
    plan = TrainingPlan(**{**vars(preset.plan), 'epochs': 20})
    losses = train(denoiser, lambda _: rows, plan, torch.Generator().manual_seed(0)).losses
    assert len(losses) == 20
    # Two ends of five epochs, 2,500 draws each: their means differ by chance by some per cent.
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    few = type(preset.sampler)(4)
    with torch.no_grad():
        drawn = few.sample(denoiser, 6, 3, torch.Generator().manual_seed(0))
    assert drawn.shape == (6, 3)
    assert drawn.isfinite().all()


def test_each_recipe_builds_a_network_of_its_own():
    preset = paper_preset()
    first, second = preset.denoiser(2), preset.denoiser(2)
    assert first.backbone.input.weight.data_ptr() != second.backbone.input.weight.data_ptr()
