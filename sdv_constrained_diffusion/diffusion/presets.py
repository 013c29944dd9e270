"""Whole recipes by name: scaling, network, noise schedule, training plan, sampler."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.diffusion.backbone import PlainMLP, ResidualMLP
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser, NoisePredictor, PreconditionedDenoiser
from sdv_constrained_diffusion.diffusion.masking import Masking
from sdv_constrained_diffusion.diffusion.neighbourhoods import NeighbourhoodMLPs
from sdv_constrained_diffusion.diffusion.plan import TrainingPlan
from sdv_constrained_diffusion.diffusion.sampler import AncestralSampler, MultistepSampler, Sampler
from sdv_constrained_diffusion.diffusion.schedule import EDMSchedule, linear_schedule


def never(layout: Layout) -> bool:
    """For no table."""
    return False


@dataclass(frozen=True)
class Preset:
    """A recipe.

    Attributes:
        scaling: how columns enter model space: 'quantile' or 'minmax'.
        denoiser: builds an untrained denoiser for rows of a layout, of which there are so many to learn from.
        plan: how it is trained.
        sampler: how rows are drawn from it.
        adjusted: whether columns without a state are read so that free rows have the marginals of training rows.
    """

    scaling: str
    denoiser: Callable[[Layout, int], Denoiser]
    plan: TrainingPlan
    sampler: Sampler
    adjusted: Callable[[Layout], bool] = field(default_factory=lambda: never)


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
        denoiser=lambda layout, num_rows: NoisePredictor(
            _knowing_frequencies(PlainMLP(layout.num_features, width=500, depth=6), layout), linear_schedule(), layout
        ),
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
    """Normal scores, masked categories, preconditioned residual network, multistep sampling: minutes, not hours.

    The network is small where the table is. It sees hinges of the columns if there are categories or states, or has
    neighbourhoods beside it if there are many numbers, whose marginals are adjusted; of fewer, independent ones are
    drawn first; see `PreconditionedDenoiser`.
    """
    return Preset(
        scaling='quantile',
        denoiser=_default_denoiser,
        plan=TrainingPlan(epochs=None, max_steps=20_000, decay='trapezoid', patience=0.5),
        sampler=MultistepSampler(num_steps=30),
        adjusted=has_many_numbers,
    )


KNOTS = (-1.5, -0.75, 0.0, 0.75, 1.5)
"""Where the default recipe's hinges bend, in deviations of a column's normal scores."""

MOST_HINGED = 128
"""Tables of more numbers than this get neighbourhoods; smaller ones hinges, if they have categories or states
(docs/decisions/0024)."""


FEW_ROWS = 2000
"""Tables of less rows are small, however many columns they have."""

FEW_CELLS, FEW_MIXED_CELLS = 40_000, 100_000
"""Tables of less cells, rows times columns of model space, are small: those of numbers alone, those with others."""

MANY_COLUMNS = 64
"""Tables with discrete columns and less columns than this get three blocks, not four."""


def has_many_numbers(layout: Layout) -> bool:
    """Whether a table gets neighbourhoods, and its marginals are adjusted (docs/decisions/0024 and 0035)."""
    return layout.num_numbers > MOST_HINGED


def is_small(layout: Layout, num_rows: int) -> bool:
    """Whether a large network would soon learn the table by heart (read off docs/decisions/0026 and 0029)."""
    few = FEW_MIXED_CELLS if layout.num_blocks else FEW_CELLS
    return num_rows < FEW_ROWS or num_rows * layout.num_columns < few


def _size(layout: Layout, num_rows: int) -> tuple[int, int]:
    """Width and depth of the network (docs/decisions/0029)."""
    # Beside neighbourhoods a large network has less to find, and learns rows by heart sooner.
    if has_many_numbers(layout):
        return 128, 2
    if is_small(layout, num_rows):
        return (64 if num_rows * layout.num_columns < FEW_CELLS else 128), 2
    return 256, (3 if layout.num_blocks and layout.num_columns < MANY_COLUMNS else 4)


def _default_denoiser(layout: Layout, num_rows: int) -> Denoiser:
    wide = has_many_numbers(layout)
    width, depth = _size(layout, num_rows)
    # With hinges a network learns rows by heart sooner where all columns are numbers.
    knots = KNOTS if layout.num_blocks and not wide else ()
    num_extra = (2 + len(knots)) * layout.num_numbers
    backbone = ResidualMLP(layout.num_features, width=width, depth=depth, num_extra=num_extra)
    return PreconditionedDenoiser(
        _knowing_frequencies(backbone, layout),
        EDMSchedule(),
        layout,
        known_share=0.5,
        knots=knots,
        neighbourhoods=NeighbourhoodMLPs(layout.num_numbers) if wide else None,
        independent_first=not wide,
    )


Backbone = TypeVar('Backbone', PlainMLP, ResidualMLP)


def _knowing_frequencies(backbone: Backbone, layout: Layout) -> Backbone:
    """Starts the logits at the levels' frequencies in the training rows."""
    with torch.no_grad():
        backbone.output.bias[layout.num_numbers :] = Masking(layout).log_frequencies()
    return backbone


PRESETS: dict[str, Callable[[], Preset]] = {'default': default_preset, 'paper': paper_preset}
"""Recipes by the name that the synthesizer takes."""
