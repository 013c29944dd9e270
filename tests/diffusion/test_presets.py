"""Recipes: 'paper' is built as the paper says, and both learn."""

import pytest
import torch
from torch import nn

from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.diffusion.backbone import PlainMLP, ResidualMLP
from sdv_constrained_diffusion.diffusion.denoiser import NoisePredictor, PreconditionedDenoiser
from sdv_constrained_diffusion.diffusion.plan import TrainingPlan
from sdv_constrained_diffusion.diffusion.presets import PRESETS, default_preset, paper_preset
from sdv_constrained_diffusion.diffusion.sampler import AncestralSampler, MultistepSampler
from sdv_constrained_diffusion.diffusion.training import train
from sdv_constrained_diffusion.tabular.arrangement import SCALINGS

MIXED = Layout(1, [torch.tensor([0.2, 0.8]).double(), torch.tensor([0.7, 0.3, 0.0]).double()])
"""A number and two categories, one of which has a level that no row holds."""


def sizes(layer):
    return layer.in_features, layer.out_features


def test_papers_network():
    """20 features -> 500, time embedding 500, six hidden layers of 500 with ReLU, -> 20."""
    denoiser = paper_preset().denoiser(Layout(20), 5000)
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
    net = paper_preset().denoiser(Layout(20), 5000).backbone
    with torch.no_grad():
        for layer in net.hidden:
            layer.weight.copy_(-torch.eye(500))
            layer.bias.zero_()
    rows = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(net(rows, torch.ones(4)), net.output.bias.expand(4, 20))


def test_papers_noise_levels():
    schedule = paper_preset().denoiser(Layout(3), 5000).schedule
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
    denoiser = preset.denoiser(MIXED, 5000)
    assert preset.scaling == 'quantile'
    assert isinstance(denoiser, PreconditionedDenoiser)
    assert isinstance(denoiser.backbone, ResidualMLP)
    assert sizes(denoiser.backbone.input)[0] == 6 + 2 + 5  # the row; flags and values of known numbers; hinges
    assert sizes(denoiser.backbone.output)[1] == 6
    assert denoiser.conditional
    assert isinstance(preset.sampler, MultistepSampler)
    assert preset.plan == TrainingPlan(epochs=None, max_steps=20_000, decay='trapezoid', patience=0.5)


@pytest.mark.parametrize(('numbers', 'hinges', 'networks'), [(0, 0, 0), (1, 5, 0), (128, 640, 0), (129, 0, 129)])
def test_hinges_of_few_columns_or_neighbourhoods_of_many(numbers, hinges, networks):
    denoiser = default_preset().denoiser(Layout(numbers, MIXED.frequencies), 50_000)
    assert sizes(denoiser.backbone.input)[0] == numbers + 5 + 2 * numbers + hinges
    assert (0 if denoiser.neighbourhoods is None else len(denoiser.neighbourhoods.near)) == networks
    assert denoiser.independent_first is (networks == 0)
    rows = torch.cat([torch.zeros(4, numbers), MIXED.one_hot(torch.zeros(4, 2).long())], dim=1).double()
    assert denoiser(rows, torch.ones(4).double()).isfinite().all()


@pytest.mark.parametrize(
    ('numbers', 'labels', 'num_rows', 'size'),
    [
        (18, 2, 1999, (64, 2)),
        (20, 0, 1999, (64, 2)),
        (18, 2, 2000, (128, 2)),
        (20, 0, 2000, (256, 4)),
        (48, 2, 1999, (128, 2)),
        (50, 0, 1999, (128, 2)),
        (18, 2, 4999, (128, 2)),
        (18, 2, 5000, (256, 3)),
        (48, 2, 2000, (256, 3)),
        (61, 2, 2000, (256, 3)),
        (62, 2, 2000, (256, 4)),
        (129, 2, 90_000, (128, 2)),  # beside neighbourhoods
        (129, 2, 300, (128, 2)),
    ],
)
def test_the_network_is_as_small_as_the_table(numbers, labels, num_rows, size):
    backbone = default_preset().denoiser(Layout(numbers, MIXED.frequencies[:labels]), num_rows).backbone
    assert (sizes(backbone.input)[1], len(backbone.blocks)) == size


@pytest.mark.parametrize('numbers', [1, 128])
def test_a_table_of_numbers_alone_has_no_hinges(numbers):
    denoiser = default_preset().denoiser(Layout(numbers), 5000)
    assert denoiser.neighbourhoods is None
    assert sizes(denoiser.backbone.input)[0] == 3 * numbers


@pytest.mark.parametrize('name', PRESETS)
def test_untrained_logits_are_the_levels_frequencies(name):
    """What a network learns first of a category is how frequent it is: it starts there, whatever it sees.

    The plain network's first layers are random already, so that its logits differ from these by its own output.
    """
    denoiser = PRESETS[name]().denoiser(MIXED, 5000)
    bias = denoiser.backbone.output.bias.detach()[1:]
    # Weights are float32; a level that no row has counts as one in a million.
    expected = torch.tensor([0.2, 0.8, 0.7, 0.3, 1e-6]).log()
    torch.testing.assert_close(bias, expected, rtol=1e-6, atol=0)
    if name == 'default':
        x_t, t = torch.zeros(2, 6).double(), torch.tensor([0.5, 50.0]).double()
        estimate = denoiser(x_t, t)[:, 1:]
        torch.testing.assert_close(estimate, torch.cat(MIXED.frequencies).expand(2, -1), rtol=0, atol=2e-6)


@pytest.mark.parametrize('name', PRESETS)
def test_recipes_by_name_train_and_sample(name):
    """A few epochs on rows on a line, with its half as a category: the loss falls; a few steps give whole rows."""
    preset = PRESETS[name]()
    assert preset.scaling in SCALINGS
    torch.manual_seed(0)
    layout = Layout(3, [torch.full((2,), 0.5).double()])
    denoiser = preset.denoiser(layout, 5000)
    line = torch.linspace(-1, 1, 500, dtype=torch.float64)[:, None]
    rows = torch.cat([line.expand(500, 3), layout.one_hot((line > 0).long())], dim=1)
    plan = TrainingPlan(**{**vars(preset.plan), 'epochs': 40})
    losses = train(denoiser, lambda _: rows, plan, torch.Generator().manual_seed(0)).losses
    assert len(losses) == 40
    # Two ends of ten epochs, 5,000 draws each: their means differ by chance by some per cent.
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    few = type(preset.sampler)(4)
    with torch.no_grad():
        drawn = few.sample(denoiser, 6, 5, torch.Generator().manual_seed(0))
    assert drawn.shape == (6, 5)
    assert drawn.isfinite().all()
    assert not layout.hidden(drawn).any()
    assert torch.equal(layout.levels(drawn), layout.one_hot(layout.codes(drawn)))


def test_each_recipe_builds_a_network_of_its_own():
    preset = paper_preset()
    first, second = preset.denoiser(Layout(2), 5000), preset.denoiser(Layout(2), 5000)
    assert first.backbone.input.weight.data_ptr() != second.backbone.input.weight.data_ptr()
