"""How a denoiser is trained, and for how long."""

from dataclasses import dataclass

_UNLIMITED = 10**9
"""Epochs of a run that ends by its steps, its time or a stall."""

REFERENCE_WEIGHTS = 175_000
"""Networks of less than these take about as long for a step as one of these."""

UNWATCHED_EPOCHS = 500
"""Most passes over rows of which none are held out, where neither passes nor time are given."""


@dataclass(frozen=True)
class TrainingPlan:
    """How a denoiser is trained.

    Attributes:
        epochs: passes over the training rows; None for as many as steps and time allow. Where no rows are held out and
            no time is given, that is `UNWATCHED_EPOCHS` at most.
        max_steps: most optimiser steps of a network of `REFERENCE_WEIGHTS` or less, however many epochs; a larger one
            gets fewer, so that a run takes about as long. Whole epochs are left out, but at least one is made.
        max_time: processor seconds after which training ends, in the middle of an epoch if need be; None for no limit.
            The learning rate follows the time then, so a run on another machine gives another model.
        batch_size: rows per optimiser step.
        learning_rate: largest learning rate.
        weight_decay: AdamW's decoupled decay of all weights but biases; 0 is Adam.
        decay: after a warm-up 'cosine' to 0 over the run, or 'trapezoid': constant, then linear to 0 in the last
            quarter; or 'exponential': times `decay_factor` every `decay_steps`.
        warmup_steps: steps of linear warm-up (not with 'exponential'), at most a tenth of the run.
        decay_steps: see `decay`.
        decay_factor: see `decay`.
        ema: decay of the running mean of the weights that sampling uses; 0 switches it off.
        clip: largest gradient norm of a step; infinite switches clipping off.
        patience: a run with held-out rows ends early once this share of its steps has not lowered their loss: the
            last quarter begins then (the rate must be 'trapezoid'). If the loss is more than a hundredth above its
            lowest value, training goes back to that first, and the quarter is that of a run so far. None watches no
            rows.
    """

    epochs: int | None = 500
    max_steps: int | None = None
    max_time: float | None = None
    batch_size: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    decay: str = 'cosine'
    warmup_steps: int = 100
    decay_steps: int = 1500
    decay_factor: float = 0.9
    ema: float = 0.998
    clip: float = 1.0
    patience: float | None = None


def most_epochs(plan: TrainingPlan, weights: int, batches: int, unwatched: bool) -> int:
    """Passes after which a run ends that neither its time nor a stall has ended.

    Args:
        plan: how the run is made.
        weights: of the network.
        batches: steps of a pass.
        unwatched: whether no rows are held out.
    """
    epochs = plan.epochs
    if epochs is None:
        epochs = UNWATCHED_EPOCHS if unwatched and plan.max_time is None else _UNLIMITED
    if plan.max_steps is None:
        return epochs
    affordable = plan.max_steps * min(REFERENCE_WEIGHTS / weights, 1)
    return max(min(epochs, int(affordable / batches)), 1)
