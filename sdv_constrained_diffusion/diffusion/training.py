"""Algorithm 1: draw clean rows, noise them, step against the loss."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from sdv_constrained_diffusion._types import Rows
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser

_UNLIMITED = 10**9
"""Epochs of a run that ends by its time."""

REFERENCE_WEIGHTS = 700_000
"""A little more than the default network has on a table of fifteen columns."""

REDRAWN_AFTER = 200
"""Steps after which what values leave open is drawn anew, at the end of an epoch; drawing may cost as much as a few."""

_BAR = '{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}'


@dataclass(frozen=True)
class TrainingPlan:
    """How a denoiser is trained.

    Attributes:
        epochs: passes over the training rows; None for as many as the time allows.
        max_steps: most optimiser steps of a network of `REFERENCE_WEIGHTS`, however many epochs; a larger one gets
            fewer, so that a run takes about as long. Whole epochs are left out, but at least one is made.
        max_time: processor seconds after which training ends, in the middle of an epoch if need be; None for no limit.
            The learning rate follows the time then, so a run on another machine gives another model.
        batch_size: rows per optimiser step.
        learning_rate: largest learning rate.
        weight_decay: AdamW's decoupled decay; 0 is Adam.
        decay: 'cosine' to 0 over the run after a warm-up, or 'exponential': times `decay_factor` every `decay_steps`.
        warmup_steps: steps of linear warm-up (cosine only), at most a tenth of the run.
        decay_steps: see `decay`.
        decay_factor: see `decay`.
        ema: decay of the running mean of the weights that sampling uses; 0 switches it off.
        clip: largest gradient norm of a step; infinite switches clipping off.
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


@dataclass
class TrainingRecord:
    """What a training run leaves behind besides the weights.

    Attributes:
        losses: mean loss of each epoch.
        cpu_seconds: processor time of each epoch, all threads.
    """

    losses: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


class TrainingRows(Protocol):
    """Rows of model space that are written out when they are asked for; a tensor will do."""

    def __len__(self) -> int:
        """Number of rows."""

    def __getitem__(self, index: Tensor) -> Rows:
        """The rows of these numbers, shape (row, feature)."""


def train(
    denoiser: Denoiser,
    draw_rows: Callable[[torch.Generator], TrainingRows],
    plan: TrainingPlan,
    generator: torch.Generator,
    verbose: bool = False,
) -> TrainingRecord:
    """Trains a denoiser in place and leaves the averaged weights in it.

    Args:
        denoiser: the denoiser; its parameters' device is where the work is done.
        draw_rows: gives all clean rows of model space; called again after some epochs, so that what the values leave
            open is drawn anew.
        plan: epochs, batch size, learning rate and the like.
        generator: the only source of randomness.
        verbose: show a progress bar with the loss, when on a terminal.
    """
    rows = draw_rows(generator)
    batches = math.ceil(len(rows) / plan.batch_size)
    epochs = _UNLIMITED if plan.epochs is None else plan.epochs
    if plan.max_steps is not None:
        weights = sum(parameter.numel() for parameter in denoiser.parameters())
        affordable = plan.max_steps * min(REFERENCE_WEIGHTS / weights, 1)
        epochs = max(min(epochs, int(affordable / batches)), 1)
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
    )
    clock = _Clock(plan, epochs * batches)
    averaged = AveragedModel(denoiser, multi_avg_fn=_running_mean(plan.ema)) if plan.ema else None
    record = TrainingRecord()
    since_drawn = 0
    with tqdm(total=100, desc='Training', bar_format=_BAR, disable=None if verbose else True) as bar:
        for epoch in range(epochs):
            start, total, seen = time.process_time(), 0.0, 0
            for batch in torch.randperm(len(rows), generator=generator).split(plan.batch_size):
                for group in optimizer.param_groups:
                    group['lr'] = plan.learning_rate * clock.rate()
                loss = denoiser.loss(rows[batch], generator).mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(denoiser.parameters(), plan.clip)
                optimizer.step()
                if averaged is not None:
                    averaged.update_parameters(denoiser)
                total, seen = total + loss.item() * len(batch), seen + len(batch)
                over = clock.tick()
                bar.update(100 * clock.progress - bar.n)
                if over:
                    break
            record.losses.append(total / seen)
            record.cpu_seconds.append(time.process_time() - start)
            bar.set_postfix(epoch=epoch + 1, loss=f'{record.losses[-1]:.4f}')
            if clock.over:
                break
            since_drawn += batches
            if since_drawn >= REDRAWN_AFTER and epoch + 1 < epochs:
                rows, since_drawn = draw_rows(generator), 0
    if averaged is not None:
        denoiser.load_state_dict(averaged.module.state_dict())
    return record


class _Clock:
    """How far a run is, by its steps or, where that is farther, by its time."""

    def __init__(self, plan: TrainingPlan, num_steps: int) -> None:
        """Starts the clock."""
        self._plan, self._num_steps, self._step = plan, num_steps, 0
        self._start, self._elapsed = time.process_time(), 0.0
        self._warmup = max(min(plan.warmup_steps, num_steps // 10), 1)

    def rate(self) -> float:
        """Learning rate of the next step, as a share of the largest."""
        plan, step = self._plan, self._step
        if plan.decay == 'exponential':
            return plan.decay_factor ** (step // plan.decay_steps)
        return min((step + 1) / self._warmup, 0.5 * (1 + math.cos(math.pi * self.progress)))

    @property
    def progress(self) -> float:
        """Share of the run that is over."""
        return min(max(self._step / self._num_steps, self._elapsed), 1.0)

    def tick(self) -> bool:
        """Counts a step; True when the time is over."""
        self._step += 1
        if self._plan.max_time is not None:
            self._elapsed = (time.process_time() - self._start) / self._plan.max_time
        return self.over

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return self._elapsed >= 1


def _running_mean(ema: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Exponential mean of the weights whose memory grows with the run, so that short runs forget their start."""

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor | int) -> None:
        decay = min(ema, (1 + float(num_averaged)) / (10 + float(num_averaged)))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)

    return update
