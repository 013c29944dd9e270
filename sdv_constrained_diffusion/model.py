"""One fitted table: encoder, denoiser and sampler together. This is what SDV calls a synthesizer's `_model`."""

import copy
from typing import Any

import numpy as np
import pandas as pd
import torch

from sdv_constrained_diffusion._types import Table
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser
from sdv_constrained_diffusion.diffusion.presets import Preset
from sdv_constrained_diffusion.diffusion.training import TrainingPlan, TrainingRecord, train
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.gauss_newton import GaussNewtonGuidance
from sdv_constrained_diffusion.guidance.gradient import GradientGuidance
from sdv_constrained_diffusion.tabular.encoder import TableEncoder

BLOCK = 1024
"""Rows drawn at once. Always whole blocks, each from a generator of its own, so that rows do not depend on batches."""

GUIDANCE = {'none': None, 'gradient': GradientGuidance, 'gauss_newton': GaussNewtonGuidance}
"""Guided denoisers by the name that the synthesizer takes."""


class DiffusionModel:
    """A denoiser trained on one processed table.

    Attributes:
        encoder: processed table <-> model space.
        denoiser: the trained denoiser, unguided.
        record: losses and cost of the training run.
    """

    def __init__(
        self, encoder: TableEncoder, denoiser: Denoiser, preset: Preset, record: TrainingRecord, device: str = 'cpu'
    ) -> None:
        """Keeps the parts; `device` is where the denoiser's weights are."""
        self.encoder, self.denoiser, self.record = encoder, denoiser, record
        self._sampler = preset.sampler
        self._device = device
        self.set_random_state(0)

    @classmethod
    def fit(
        cls,
        data: pd.DataFrame,
        preset: Preset,
        plan: TrainingPlan,
        seed: int | None = None,
        device: str = 'cpu',
        verbose: bool = False,
    ) -> 'DiffusionModel':
        """Trains a model.

        Args:
            data: processed table, numeric and finite.
            preset: scaling, network, schedule and sampler.
            plan: how to train; usually the preset's.
            seed: seeds weights, batches and noise; drawn afresh when None.
            device: torch device that trains and samples.
            verbose: show a progress bar, when on a terminal.
        """
        seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        encoder = TableEncoder.fit(data, preset.scaling)
        values = torch.as_tensor(data.to_numpy(dtype='float64', copy=True))
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            denoiser = preset.denoiser(encoder.num_features).to(device)
        record = TrainingRecord()
        if encoder.num_features:
            generator = torch.Generator().manual_seed(seed)
            record = train(denoiser, lambda draw: encoder.encode(values, draw), plan, generator, verbose)
        return cls(encoder, denoiser.requires_grad_(False), preset, record, device)

    @property
    def loss_values(self) -> pd.DataFrame:
        """Mean training loss of each epoch; columns 'Epoch' (from 0) and 'Loss'."""
        return pd.DataFrame({'Epoch': range(len(self.record.losses)), 'Loss': self.record.losses})

    def set_random_state(self, random_state: Any) -> None:
        """Starts the stream of rows anew.

        Args:
            random_state: a seed, a `(numpy.random.RandomState, torch.Generator)` pair, or None for a fresh stream.
        """
        if isinstance(random_state, tuple):
            random_state = random_state[1].initial_seed()
        self._seed = int(np.random.SeedSequence(random_state).generate_state(1)[0])
        self._next_block = 0
        self._waiting: Table | None = None
        self._drawn_with: tuple[str, float] | None = None

    def sample(
        self, num_rows: int, chord: Chord | None = None, guidance: str = 'none', guidance_scale: float = 1.0
    ) -> pd.DataFrame:
        """Takes the next rows of the stream.

        Args:
            num_rows: how many rows.
            chord: the constraints that guide; None for no guidance.
            guidance: a name in `GUIDANCE`.
            guidance_scale: strength of the guidance.

        Returns:
            a processed table with index 0 ... num_rows - 1.
        """
        denoiser, drawn_with = self.denoiser, ('none', 1.0)
        guided = GUIDANCE[guidance]
        if chord is not None and guided is not None:
            denoiser, drawn_with = (
                guided(self.denoiser, self.encoder, chord, guidance_scale),
                (guidance, guidance_scale),
            )
        if drawn_with != self._drawn_with:
            self._waiting, self._drawn_with = None, drawn_with
        blocks = [] if self._waiting is None else [self._waiting]
        while sum(map(len, blocks)) < num_rows:
            blocks.append(self._draw_block(denoiser))
        values = torch.cat(blocks)
        self._waiting = values[num_rows:].clone()
        return pd.DataFrame(values[:num_rows].numpy(), columns=list(self.encoder.columns))

    def _draw_block(self, denoiser: Denoiser) -> Table:
        seed = int(np.random.SeedSequence([self._seed, self._next_block]).generate_state(1)[0])
        self._next_block += 1
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            rows = self._sampler.sample(denoiser, BLOCK, self.encoder.num_features, generator)
            return self.encoder.decode(rows)

    def __getstate__(self) -> dict[str, Any]:
        """Weights travel on the CPU, so that a model trained on a GPU loads anywhere."""
        return self.__dict__ | {'denoiser': copy.deepcopy(self.denoiser).cpu()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Weights go back to the device they were trained on, if there is one."""
        self.__dict__ = state
        if self._device == 'cuda' and torch.cuda.is_available():
            self.denoiser.to(self._device)
