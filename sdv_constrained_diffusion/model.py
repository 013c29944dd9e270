"""One fitted table: encoder, denoiser and sampler together. This is what SDV calls a synthesizer's `_model`."""

import copy
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sdv_constrained_diffusion._batches import Item, Result, in_threads
from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion._types import Table
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser
from sdv_constrained_diffusion.diffusion.devices import is_available
from sdv_constrained_diffusion.diffusion.plan import TrainingPlan
from sdv_constrained_diffusion.diffusion.presets import Preset, is_small
from sdv_constrained_diffusion.diffusion.sampler import Given
from sdv_constrained_diffusion.diffusion.training import TrainingRecord, train
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.gauss_newton import GaussNewtonGuidance
from sdv_constrained_diffusion.guidance.gradient import GradientGuidance
from sdv_constrained_diffusion.guidance.guided import CLEAR, GuidedDenoiser
from sdv_constrained_diffusion.guidance.steering import ErrorCovariance, SteeredDenoiser, SteeringPlan
from sdv_constrained_diffusion.tabular.encoder import TableEncoder

BLOCK = 1024
"""Rows drawn at once. Always whole blocks, each from a generator of its own, so that rows do not depend on batches."""

GUIDANCE: dict[str, type[GuidedDenoiser]] = {'gradient': GradientGuidance, 'gauss_newton': GaussNewtonGuidance}
"""Guided denoisers by the name that the synthesizer takes."""


TYPICAL_ROWS = 2048
"""Rows on which a denoiser is calibrated and its errors are measured, and that stand for the training table once it is
gone."""

ADJUSTING_BLOCKS = 5
"""Blocks of rows that are drawn to adjust marginals. Two leave quantiles that chance has moved by so much that it is
seen where columns are many (docs/decisions/0036)."""

MOST_LEVELS = 64
"""Noise levels at which errors are measured; a sampler with more steps takes the nearest."""


HELD_OUT_SHARE, FEWEST_HELD_OUT, MOST_HELD_OUT = 0.1, 10, 2000
"""Share of the training rows whose loss tells when to stop, and the fewest and most such rows; tables that would have
fewer hold none out."""

MANY_ROWS = 5000
"""Tables of less than these that are not small hold none out either: the loss stalls long before their rows come no
closer (docs/decisions/0026)."""


@dataclass(frozen=True)
class Guidance:
    """How constraints correct each step of sampling.

    Attributes:
        method: a name in `GUIDANCE`, not 'none'.
        scale: strength of that method, 1 for its natural step.
        chord: the constraints and their linearisation.
        plan: which constraints the training rows do not obey.
        covariance: of the denoiser's error; None where no equation is steered.
        trust: how far a correction may move a number, as a share of the noise that is left.
        clear: ratio of signal to noise from which on rows are corrected.
    """

    method: str
    scale: float
    chord: Chord
    plan: SteeringPlan
    covariance: ErrorCovariance | None = None
    trust: float = math.inf
    clear: float = CLEAR

    @property
    def labels(self) -> list[str]:
        """The columns of labels that steered equations depend on."""
        if self.covariance is None:
            return []
        system = self.chord.system
        steering = [system.constraints[owner] for owner in system.owners[self.plan.steered].unique().tolist()]
        return sorted({name for each in steering for name in each.columns if system.readings[name].discrete})

    def guide(self, denoiser: Denoiser, encoder: TableEncoder, generator: torch.Generator, num_steps: int) -> Denoiser:
        """The denoiser with corrected estimates, for one block of rows; the generator draws each row's target.

        However few the steps, the last one is corrected.
        """
        last = denoiser.schedule.noise(denoiser.schedule.grid(num_steps)[-2])
        clear = min(self.clear, (1 - 1e-9) * float(last.alpha / last.sigma))
        if self.covariance is not None:
            targets = self.plan.targets
            drawn = targets[torch.randint(len(targets), (BLOCK,), generator=generator)] if len(targets) > 1 else targets
            denoiser = SteeredDenoiser(
                denoiser, encoder, self.chord.system, self.plan.steered, drawn.expand(BLOCK, -1), self.covariance
            )
        guided = GUIDANCE[self.method]
        return guided(denoiser, encoder, self.chord, self.scale, self.plan.redrawn, self.trust, clear)


class DiffusionModel:
    """A denoiser trained on one processed table.

    Attributes:
        encoder: processed table <-> model space.
        denoiser: the trained denoiser, unguided; None when no column varies.
        record: losses and cost of the training run.
    """

    def __init__(
        self,
        encoder: TableEncoder,
        denoiser: Denoiser | None,
        preset: Preset,
        record: TrainingRecord,
        device: str = 'cpu',
    ) -> None:
        """Keeps the parts; `device` is where the denoiser's weights are."""
        self.encoder, self.denoiser, self.record = encoder, denoiser, record
        self._sampler = preset.sampler
        self._device = device
        self._free_encoder = encoder  # of rows of which no number is given
        self.set_random_state(0)

    @classmethod
    def fit(
        cls,
        data: pd.DataFrame,
        preset: Preset,
        plan: TrainingPlan,
        discrete: Collection[str] = (),
        continuous: Collection[str] = (),
        seed: int | None = None,
        device: str = 'cpu',
        verbose: bool = False,
    ) -> 'DiffusionModel':
        """Trains a model.

        Args:
            data: processed table.
            preset: scaling, network, schedule and sampler.
            plan: how to train; usually the preset's.
            discrete: columns whose values are categories.
            continuous: columns of numbers that may take values between those that were observed, however few.
            seed: seeds weights, batches and noise; drawn afresh when None.
            device: torch device that trains and samples.
            verbose: show a progress bar, when on a terminal.
        """
        seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        encoder = TableEncoder.fit(data, preset.scaling, discrete, continuous)
        if not encoder.num_features:
            return cls(encoder, None, preset, TrainingRecord(), device)
        values = encoder.values(data)
        with torch.random.fork_rng(devices=[]):  # weights are drawn on the processor
            torch.default_generator.manual_seed(seed)
            denoiser = preset.denoiser(encoder.layout, len(values)).to(device)
        generator = torch.Generator().manual_seed(seed)
        denoiser.measure(encoder.training_rows(values, generator).numbers)
        learned, held_out = _held_out(len(values), encoder.layout, plan, generator)
        to_learn = values[learned]
        record = train(
            denoiser,
            lambda draw: encoder.training_rows(to_learn, draw),
            plan,
            generator,
            verbose,
            encoder.encode(values[held_out], generator) if len(held_out) else None,
        )
        some = torch.randperm(len(to_learn), generator=generator)[:TYPICAL_ROWS]
        denoiser.requires_grad_(False).calibrate(encoder.encode(to_learn[some], generator), generator)
        model = cls(encoder, denoiser, preset, record, device)
        if preset.adjusted(encoder.layout):
            model._adjust(generator)
        return model

    @property
    def loss_values(self) -> pd.DataFrame:
        """Mean training loss of each epoch, and that of held-out rows where it was measured; epochs from 0.

        Columns 'Epoch', 'Loss' and 'Held-out Loss'.
        """
        epochs = range(len(self.record.losses))
        held_out = pd.Series(self.record.held_out_losses, index=epochs, dtype='float64')
        return pd.DataFrame({'Epoch': epochs, 'Loss': self.record.losses, 'Held-out Loss': held_out})

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
        self._drawn_with: Guidance | None = None

    def sample(self, num_rows: int, guidance: Guidance | None = None) -> pd.DataFrame:
        """Takes the next rows of the stream.

        Args:
            num_rows: how many rows.
            guidance: corrects each step; None for rows as the denoiser draws them.

        Returns:
            a processed table with index 0 ... num_rows - 1.
        """
        if guidance != self._drawn_with:
            self._waiting, self._drawn_with = None, guidance
        waiting = [] if self._waiting is None else [self._waiting]
        missing = max(math.ceil((num_rows - sum(map(len, waiting))) / BLOCK), 0)
        generators = [self._next_generator() for _ in range(missing)]
        values = torch.cat([*waiting, *self._each(lambda each: self._draw_block(guidance, each), generators)])
        self._waiting = values[num_rows:].clone()
        return self.encoder.frame(values[:num_rows])

    def complete(self, known: pd.DataFrame, guidance: Guidance | None = None) -> pd.DataFrame:
        """Draws one row for each row of `known`, given its columns.

        Args:
            known: some columns of a processed table, one or more, and at least one row.
            guidance: corrects each step; None for rows as the denoiser draws them.

        Returns:
            a processed table with index 0, 1, ...; known columns are as given, numbers of few values up to the
            nearest of these, also where they contradict what the training rows show.

        Raises:
            DataError: a value is one that the column cannot take.
        """
        encoder = self.encoder.select(list(known.columns))
        places = [self.encoder.columns.index(name) for name in known.columns]

        def completed(part: Table, generator: torch.Generator) -> Tensor:
            # Filled up to a whole block, so that a row has the same bits whatever comes with it.
            filled = torch.cat([part, part[-1:].expand(BLOCK - len(part), -1)])
            given = Given(encoder.encode(filled, generator), encoder.features(torch.ones_like(filled).bool()))
            drawn = self._draw_block(guidance, generator, given)[: len(part)]
            drawn[:, places] = part
            return drawn

        parts = [(part, self._next_generator()) for part in encoder.values(known).split(BLOCK)]
        return self.encoder.frame(torch.cat(self._each(lambda each: completed(*each), parts)))

    def _each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Results of the work on each item; several at once, but where weights are on MPS, which takes one thread."""
        return in_threads(work, items, most=1 if self._device == 'mps' else None)

    def draw_apart(self, num_rows: int, guidance: Guidance | None = None) -> pd.DataFrame:
        """Rows as `sample` draws them, always the same and without touching its stream; arguments as there."""
        apart = copy.copy(self)
        apart.set_random_state(0)
        return apart.sample(num_rows, guidance)

    def measure_errors(self, data: pd.DataFrame) -> ErrorCovariance | None:
        """Covariance of the denoiser's error at the noise levels that the sampler visits.

        Args:
            data: typical rows of the processed table; the first `TYPICAL_ROWS` serve.
        """
        if self.denoiser is None:
            return None
        generator, values = torch.Generator().manual_seed(0), self.encoder.values(data.head(TYPICAL_ROWS))
        times = self.denoiser.schedule.grid(min(self._sampler.num_steps, MOST_LEVELS))[:-1]
        with torch.no_grad():
            return ErrorCovariance.measure(self.denoiser, self.encoder, values, times, generator)

    def _adjust(self, generator: torch.Generator) -> None:
        """Draws rows, and reads free ones from now on so that they have the marginals of the training rows."""
        assert self.denoiser is not None
        denoiser, width = self.denoiser, self.encoder.num_features
        seeds = torch.randint(2**62, (ADJUSTING_BLOCKS,), generator=generator).tolist()

        def drawn(seed: int) -> Tensor:
            return self._sampler.sample(denoiser, BLOCK, width, torch.Generator().manual_seed(seed))

        self._free_encoder = self.encoder.adjusted_to(self.encoder.layout.numbers(torch.cat(self._each(drawn, seeds))))

    def _next_generator(self) -> torch.Generator:
        """The source of randomness of the stream's next block."""
        seed = int(np.random.SeedSequence([self._seed, self._next_block]).generate_state(1)[0])
        self._next_block += 1
        return torch.Generator().manual_seed(seed)

    def _draw_block(self, guidance: Guidance | None, generator: torch.Generator, given: Given | None = None) -> Table:
        if self.denoiser is None:
            return self.encoder.decode(torch.zeros(BLOCK, 0, dtype=torch.float64))
        # Numbers that are given are encoded as in training, and the rest hangs on them, not on marginals.
        free = given is None or not self.encoder.layout.numbers(given.known).any()
        encoder = self._free_encoder if free else self.encoder
        denoiser = (
            self.denoiser
            if guidance is None
            else guidance.guide(self.denoiser, encoder, generator, self._sampler.num_steps)
        )
        if guidance is not None and guidance.labels:
            given = self._with_labels(guidance.labels, generator, given)
        return encoder.decode(self._sampler.sample(denoiser, BLOCK, encoder.num_features, generator, given))

    def _with_labels(self, labels: list[str], generator: torch.Generator, given: Given | None) -> Given:
        """Draws the labels first: a law that depends on them must know them before the numbers take shape."""
        assert self.denoiser is not None
        rows = self._sampler.sample(self.denoiser, BLOCK, self.encoder.num_features, generator, given)
        known = self.encoder.select(labels).features(torch.ones(BLOCK, len(labels), dtype=torch.bool))
        if given is not None:
            rows, known = torch.where(given.known, given.rows, rows), known | given.known
        return Given(rows, known)

    def __getstate__(self) -> dict[str, Any]:
        """Weights travel on the CPU, so that a model trained on a GPU loads anywhere."""
        denoiser = None if self.denoiser is None else copy.deepcopy(self.denoiser).cpu()
        return self.__dict__ | {'denoiser': denoiser}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Weights go back to the device they were trained on, if there is one."""
        self.__dict__ = state
        if self.denoiser is not None and is_available(self._device):
            self.denoiser.to(self._device)


def _held_out(num_rows: int, layout: Layout, plan: TrainingPlan, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers of the rows that are learned and of those that tell when to stop.

    Which tables hold rows out was found for the default recipe's networks.
    """
    count = 0 if plan.patience is None else min(int(HELD_OUT_SHARE * num_rows), MOST_HELD_OUT)
    if count < FEWEST_HELD_OUT or (num_rows < MANY_ROWS and not is_small(layout, num_rows)):
        return torch.arange(num_rows), torch.arange(0)
    order = torch.randperm(num_rows, generator=generator)
    return order[count:], order[:count]
