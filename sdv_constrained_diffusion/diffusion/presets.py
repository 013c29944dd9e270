"""Whole recipes by name: scaling, network, noise schedule, training plan, sampler."""

from collections.abc import Callable
from dataclasses import dataclass

from sdv_constrained_diffusion.diffusion.backbone import PlainMLP, ResidualMLP
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser, NoisePredictor, PreconditionedDenoiser
from sdv_constrained_diffusion.diffusion.sampler import AncestralSampler, HeunSampler, Sampler
from sdv_constrained_diffusion.diffusion.schedule import EDMSchedule, linear_schedule
from sdv_constrained_diffusion.diffusion.training import TrainingPlan


@dataclass(frozen=True)
class Preset:
    """A recipe.

    Attributes:
        scaling: how columns enter model space: 'quantile' or 'minmax'.
        denoiser: builds an untrained denoiser for a number of features.
        plan: how it is trained.
        sampler: how rows are drawn from it.
    """

    scaling: str
    denoiser: Callable[[int], Denoiser]
    plan: TrainingPlan
    sampler: Sampler


def paper_preset(decay_steps: int = 1500, decay_factor: float = 0.9) -> Preset:
    """The recipe of Hoseinpour and Dvorkin (2025), section IV.

    Min-max scaling to [-1, 1]; six hidden layers of 500 with ReLU; 1,000 linear noise levels; Adam, 15,000 epochs of
    batches of 500; all 1,000 ancestral steps.

    Args:
        decay_steps: the learning rate falls after this many steps.
        decay_factor: what it is multiplied by then; the paper's text leaves the number open.
    """
    return Preset(
        scaling='minmax',
        denoiser=lambda num_features: NoisePredictor(PlainMLP(num_features, width=500, depth=6), linear_schedule()),
        plan=TrainingPlan(
            epochs=15_000,
            batch_size=500,
            learning_rate=1e-4,
            weight_decay=0.0,
            decay='exponential',
            decay_steps=decay_steps,
            decay_factor=decay_factor,
            ema=0.0,
            clip=float('inf'),
        ),
        sampler=AncestralSampler(num_steps=1000, eta=1.0),
    )


def default_preset() -> Preset:
    """Normal scores, preconditioned residual network, Heun sampling (Karras et al. 2022): minutes, not hours."""
    return Preset(
        scaling='quantile',
        denoiser=lambda num_features: PreconditionedDenoiser(
            ResidualMLP(num_features, width=256, depth=4), EDMSchedule()
        ),
        plan=TrainingPlan(),
        sampler=HeunSampler(num_steps=18),
    )


PRESETS: dict[str, Callable[[], Preset]] = {'default': default_preset, 'paper': paper_preset}
"""Recipes by the name that the synthesizer takes."""
