"""Algorithm 1: draw clean rows, noise them, step against the loss."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from sdv_constrained_diffusion._types import Rows
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser


@dataclass(frozen=True)
class TrainingPlan:
    """How a denoiser is trained.

    Attributes:
        epochs: passes over the training rows.
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

    epochs: int = 500
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


def train(
    denoiser: Denoiser,
    draw_rows: Callable[[torch.Generator], Rows],
    plan: TrainingPlan,
    generator: torch.Generator,
    verbose: bool = False,
) -> TrainingRecord:
    """Trains a denoiser in place and leaves the averaged weights in it.

    Args:
        denoiser: the denoiser; its parameters' device is where the work is done.
        draw_rows: gives all clean rows of model space for an epoch, shape (row, feature); called once per epoch, so
            that point masses are spread anew each time.
        plan: epochs, batch size, learning rate and the like.
        generator: the only source of randomness.
        verbose: show a progress bar with the loss, when on a terminal.
    """
    rows = draw_rows(generator)
    batches = math.ceil(len(rows) / plan.batch_size)
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(plan, plan.epochs * batches))
    averaged = AveragedModel(denoiser, multi_avg_fn=_running_mean(plan.ema)) if plan.ema else None
    record = TrainingRecord()
    with tqdm(range(plan.epochs), desc='Training', unit='epoch', disable=None if verbose else True) as bar:
        for epoch in bar:
            start = time.process_time()
            total = 0.0
            for batch in torch.randperm(len(rows), generator=generator).split(plan.batch_size):
                loss = denoiser.loss(rows[batch], generator).mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(denoiser.parameters(), plan.clip)
                optimizer.step()
                scheduler.step()
                if averaged is not None:
                    averaged.update_parameters(denoiser)
                total += loss.item() * len(batch)
            record.losses.append(total / len(rows))
            record.cpu_seconds.append(time.process_time() - start)
            bar.set_postfix(loss=f'{record.losses[-1]:.4f}')
            if epoch + 1 < plan.epochs:
                rows = draw_rows(generator)
    if averaged is not None:
        denoiser.load_state_dict(averaged.module.state_dict())
    return record


def _rate(plan: TrainingPlan, num_steps: int) -> Callable[[int], float]:
    """Learning rate at a step, as a share of the largest."""
    if plan.decay == 'exponential':
        return lambda step: plan.decay_factor ** (step // plan.decay_steps)
    warmup = max(min(plan.warmup_steps, num_steps // 10), 1)

    def cosine(step: int) -> float:
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(step / num_steps, 1))))

    return cosine


def _running_mean(ema: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Exponential mean of the weights whose memory grows with the run, so that short runs forget their start."""

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor | int) -> None:
        decay = min(ema, (1 + float(num_averaged)) / (10 + float(num_averaged)))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)

    return update
