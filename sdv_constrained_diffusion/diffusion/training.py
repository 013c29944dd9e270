"""Algorithm 1: draw clean rows, noise them, step against the loss."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from sdv_constrained_diffusion._types import Rows
from sdv_constrained_diffusion.diffusion.clock import Clock
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser
from sdv_constrained_diffusion.diffusion.plan import TrainingPlan, most_epochs
from sdv_constrained_diffusion.diffusion.watch import Stateful, Watch

REDRAWN_AFTER = 200
"""Steps after which what values leave open is drawn anew, at the end of an epoch; drawing may cost as much as a few."""

_BAR = '{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}'


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
    epochs = most_epochs(plan, sum(parameter.numel() for parameter in denoiser.parameters()), batches, held_out is None)
    fused = next(denoiser.parameters()).device.type != 'mps'  # which older versions of torch lack
    optimizer = torch.optim.AdamW(parameter_groups(denoiser, plan.weight_decay), lr=plan.learning_rate, fused=fused)
    clock = Clock(plan, epochs * batches)
    averaged = AveragedModel(denoiser, multi_avg_fn=_running_mean(plan.ema)) if plan.ema else None
    watch = None
    if held_out is not None and plan.patience is not None:
        parts: list[Stateful] = [denoiser, optimizer, *([] if averaged is None else [averaged])]
        sampled = cast(Denoiser, denoiser if averaged is None else averaged.module)
        watch = Watch(held_out, plan.patience, sampled, parts)
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
        (biases if name.endswith('bias') else others).append(parameter)
    return [{'params': others, 'weight_decay': decay}, {'params': biases, 'weight_decay': 0.0}]


def _running_mean(ema: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Exponential mean of the weights whose memory grows with the run, so that short runs forget their start."""

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor | int) -> None:
        before = float(num_averaged)
        decay = min(ema, (1 + before) / (10 + before))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)

    return update
