"""The loss of held-out rows, which tells when to stop."""

import copy
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from sdv_constrained_diffusion._types import Rows
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser

FIRST_MEASURED, MEASURED_AFTER = 50, 0.05
"""Steps before the held-out loss is measured, and the share of the run so far after which it is measured again."""

FEWEST_STEPS = 200
"""Steps before a loss that does not fall counts as stalled."""

LEARNED_BY_HEART = 0.01
"""Share by which a stalled loss may exceed the lowest; beyond it training goes back to where that was."""

NOISED = 2000
"""Rows, with repetitions under other noise, on which a held-out loss is measured."""


@runtime_checkable
class Stateful(Protocol):
    """What training changes: weights, their running mean, an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Takes a state."""


class Watch:
    """Watches the loss of held-out rows, always under the same noise, so that it changes with the weights only.

    Attributes:
        due: step at which the loss is to be measured next.
        stalled: whether it has been found not to fall any more.
    """

    def __init__(self, held_out: Rows, patience: float, denoiser: Denoiser, parts: Sequence[Stateful]) -> None:
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
