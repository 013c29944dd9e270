"""Algorithm 1: draw clean rows, noise them, step against the loss."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from sdv_constrained_diffusion._types import Rows
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser

_UNLIMITED = 10**9
"""Epochs of a run that ends by its steps, its time or a stall."""

REFERENCE_WEIGHTS = 175_000
"""Networks of less than these take about as long for a step as one of these."""

UNWATCHED_EPOCHS = 500
"""Most passes over rows of which none are held out, where neither passes nor time are given."""

REDRAWN_AFTER = 200
"""Steps after which what values leave open is drawn anew, at the end of an epoch; drawing may cost as much as a few."""

COOLING = 0.25
"""Share of a 'trapezoid' run in which the learning rate falls."""

FIRST_MEASURED, MEASURED_AFTER = 50, 0.05
"""Steps before the held-out loss is measured, and the share of the run so far after which it is measured again."""

FEWEST_STEPS = 200
"""Steps before a loss that does not fall counts as stalled."""

LEARNED_BY_HEART = 0.01
"""Share by which a stalled loss may exceed the lowest; beyond it training goes back to where that was."""

NOISED = 2000
"""Rows, with repetitions under other noise, on which a held-out loss is measured."""

_BAR = '{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}'


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


@dataclass
class TrainingRecord:
    """What a training run leaves behind besides the weights.

    Attributes:
        losses: mean loss of each epoch.
        cpu_seconds: processor time of each epoch, all threads.
        held_out_losses: by epoch, the lowest loss of held-out rows under the running mean of the weights, where it was
            measured; the last is that after training.
        stalled_at: epoch in which that loss was found not to fall any more; None where it went on falling.
        num_held_out: rows that were held out.
    """

    losses: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    held_out_losses: dict[int, float] = field(default_factory=dict)
    stalled_at: int | None = None
    num_held_out: int = 0

    def note(self, epoch: int, held_out_loss: float, last: bool) -> None:
        """Keeps a loss of held-out rows; of several in an epoch the lowest, but always the last of the run."""
        lowest = self.held_out_losses.get(epoch, math.inf)
        self.held_out_losses[epoch] = held_out_loss if last else min(held_out_loss, lowest)


@runtime_checkable
class _Stateful(Protocol):
    """What training changes: weights, their running mean, an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Takes a state."""


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
    held_out: Rows | None = None,
) -> TrainingRecord:
    """Trains a denoiser in place and leaves the averaged weights in it.

    Args:
        denoiser: the denoiser; its parameters' device is where the work is done.
        draw_rows: gives all clean rows of model space; called again after some epochs, so that what the values leave
            open is drawn anew.
        plan: epochs, batch size, learning rate and the like.
        generator: the only source of randomness.
        verbose: show a progress bar with the loss, when on a terminal.
        held_out: clean rows of model space that are not among those drawn; needed for the plan's `patience`.
    """
    rows = draw_rows(generator)
    batches = math.ceil(len(rows) / plan.batch_size)
    epochs = _most_epochs(
        plan, sum(parameter.numel() for parameter in denoiser.parameters()), batches, held_out is None
    )
    fused = next(denoiser.parameters()).device.type != 'mps'  # which older versions of torch lack
    optimizer = torch.optim.AdamW(parameter_groups(denoiser, plan.weight_decay), lr=plan.learning_rate, fused=fused)
    clock = _Clock(plan, epochs * batches)
    averaged = AveragedModel(denoiser, multi_avg_fn=_running_mean(plan.ema)) if plan.ema else None
    watch = None
    if held_out is not None and plan.patience is not None:
        parts: list[_Stateful] = [denoiser, optimizer, *([] if averaged is None else [averaged])]
        sampled = cast(Denoiser, denoiser if averaged is None else averaged.module)
        watch = _Watch(held_out, plan.patience, sampled, parts)
    record = TrainingRecord(num_held_out=0 if held_out is None else len(held_out))
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
                if watch is not None and (over or clock.step >= watch.due):
                    record.note(epoch, watch.measure(clock.step, keep=not clock.cools), last=over)
                    if watch.stalled and not clock.cools:
                        record.stalled_at = epoch
                        clock.cool(watch.resume(clock.step))
                bar.update(100 * clock.progress - bar.n)
                if over:
                    break
            record.losses.append(total / seen)
            record.cpu_seconds.append(time.process_time() - start)
            held_out_loss = record.held_out_losses.get(epoch)
            bar.set_postfix(
                epoch=epoch + 1,
                loss=f'{record.losses[-1]:.4f}',
                **({} if held_out_loss is None else {'held_out': f'{held_out_loss:.4f}'}),
            )
            if clock.over:
                break
            since_drawn += batches
            if since_drawn >= REDRAWN_AFTER and epoch + 1 < epochs:
                rows, since_drawn = draw_rows(generator), 0
    if averaged is not None:
        denoiser.load_state_dict(averaged.module.state_dict())
    return record


def parameter_groups(denoiser: nn.Module, decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: biases do not decay, above all not those that hold the levels' frequencies."""
    biases, others = list[Tensor](), list[Tensor]()
    for name, parameter in denoiser.named_parameters():
        (biases if name.endswith(('bias', 'shift')) else others).append(parameter)
    return [{'params': others, 'weight_decay': decay}, {'params': biases, 'weight_decay': 0.0}]


def _most_epochs(plan: TrainingPlan, weights: int, batches: int, unwatched: bool) -> int:
    """Passes after which a run ends that neither its time nor a stall has ended."""
    epochs = plan.epochs
    if epochs is None:
        epochs = UNWATCHED_EPOCHS if unwatched and plan.max_time is None else _UNLIMITED
    if plan.max_steps is None:
        return epochs
    affordable = plan.max_steps * min(REFERENCE_WEIGHTS / weights, 1)
    return max(min(epochs, int(affordable / batches)), 1)


class _Watch:
    """Watches the loss of held-out rows, always under the same noise, so that it changes with the weights only.

    Attributes:
        due: step at which the loss is to be measured next.
        stalled: whether it has been found not to fall any more.
    """

    def __init__(self, held_out: Rows, patience: float, denoiser: Denoiser, parts: Sequence[_Stateful]) -> None:
        """Keeps the denoiser whose loss is measured, and all parts whose state training changes."""
        self._rows = held_out.repeat(math.ceil(NOISED / len(held_out)), 1)[: max(NOISED, len(held_out))]
        self._patience, self._denoiser, self._parts = patience, denoiser, parts
        self._loss = self._lowest = math.inf
        self._lowest_at, self._saved = 0, list[dict[str, Any]]()
        self.due, self.stalled = FIRST_MEASURED, False

    def measure(self, step: int, keep: bool) -> float:
        """The loss after so many steps; `keep` says whether training may yet go back to here."""
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            losses = [self._denoiser.loss(part, generator) for part in self._rows.split(512)]
        self._loss = float(torch.cat(losses).mean())
        if self._loss < self._lowest:
            self._lowest, self._lowest_at = self._loss, step
        if keep and self._lowest_at == step:
            self._saved = [copy.deepcopy(part.state_dict()) for part in self._parts]
        self.stalled = step >= FEWEST_STEPS and self._lowest_at <= (1 - self._patience) * step
        self.due = step + max(FIRST_MEASURED, int(MEASURED_AFTER * step))
        return self._loss

    def resume(self, step: int) -> int:
        """Goes back to where the loss was lowest if it has risen much since; gives the steps that are behind then."""
        risen = self._loss > (1 + LEARNED_BY_HEART) * self._lowest
        if not risen:
            return step
        for part, state in zip(self._parts, self._saved, strict=True):
            part.load_state_dict(state)
        return self._lowest_at


class _Clock:
    """How far a run is, by its steps or, where that is farther, by its time.

    Attributes:
        step: steps that were made.
    """

    def __init__(self, plan: TrainingPlan, num_steps: int) -> None:
        """Starts the clock."""
        self._plan, self._num_steps, self.step = plan, num_steps, 0
        self._start, self._elapsed = time.process_time(), 0.0
        self._cooled_from, self._cooling_steps = 0, 0
        self._warmup = max(min(plan.warmup_steps, num_steps // 10), 1)

    def rate(self) -> float:
        """Learning rate of the next step, as a share of the largest."""
        plan, step = self._plan, self.step
        if plan.decay == 'exponential':
            return plan.decay_factor ** (step // plan.decay_steps)
        left = 1 - self.progress
        decayed = left / COOLING if plan.decay == 'trapezoid' else 0.5 * (1 - math.cos(math.pi * left))
        return min((step + 1) / self._warmup, decayed, 1.0)

    @property
    def progress(self) -> float:
        """Share of the run that is over."""
        run = max(self.step / self._num_steps, self._elapsed)
        if self._cooling_steps:
            run = max(run, 1 - COOLING + COOLING * (self.step - self._cooled_from) / self._cooling_steps)
        return min(run, 1.0)

    @property
    def cools(self) -> bool:
        """Whether the last `COOLING` of the run has begun."""
        return self.progress >= 1 - COOLING

    def cool(self, num_steps: int) -> None:
        """Lets the last `COOLING` of the run begin now, as of a run of which so many steps are behind."""
        self._cooled_from = self.step
        self._cooling_steps = max(math.ceil(COOLING / (1 - COOLING) * num_steps), 1)

    def tick(self) -> bool:
        """Counts a step; True when the run is over."""
        self.step += 1
        if self._plan.max_time is not None:
            self._elapsed = (time.process_time() - self._start) / self._plan.max_time
        return self.over

    @property
    def over(self) -> bool:
        """Whether the run is over."""
        return self.progress >= 1


def _running_mean(ema: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Exponential mean of the weights whose memory grows with the run, so that short runs forget their start."""

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor | int) -> None:
        before = float(num_averaged)
        decay = min(ema, (1 + before) / (10 + before))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)

    return update
