"""One method on one table, in a process of its own: `fidelity.py` starts it, with the interpreter of the method's home.

    python contestant.py FOLDER METHOD BUDGET_S SEED NUM_ROWS

FOLDER holds `train.parquet` and `sdtypes.json`, for ours `laws.pkl`, too; rows go to `synthetic.parquet`, the cost
to `cost.json`. Nothing of this project is imported before a method is asked for: the peers' environment lacks it.
The budget is that of training; what comes before it in `fit` is on top, imports and pilots are not counted.
"""

import json
import pickle
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

TABLE = 'table'
BATCH_SIZE = 512
"""Rows per step of the peers, as of ours: their own 4,096 would be all rows of most tables."""

PILOT_S = 2.0
"""CPU seconds that pilots must differ by before they tell what one more epoch or step costs."""

Sample = Callable[[int], pd.DataFrame]
Prepared = Callable[[], Sample]
"""Fits when called, and gives what draws rows."""

Method = Callable[[pd.DataFrame, dict[str, str], float, int, Path], Prepared]
"""Training rows, sdtypes, CPU seconds of training, seed, folder -> what is ready to fit."""


def affordable(fit: Callable[[int], object], budget: float) -> int:
    """How many epochs, or steps, cost as much as the budget, by short fits whose preprocessing cancels."""
    few, many = 2, 8
    fit(few)  # warms up
    before = _cpu_s(fit, few)
    while (more := _cpu_s(fit, many) - before) < PILOT_S:
        many *= 3
    return max(int(budget * (many - few) / more), 1)


def _cpu_s(fit: Callable[[int], object], number: int) -> float:
    before = time.process_time()
    fit(number)
    return time.process_time() - before


def metadata_of(train: pd.DataFrame, sdtypes: dict[str, str]) -> Any:
    """SDV's metadata as detected, with the sdtypes of the task and no key."""
    from sdv.metadata import Metadata

    metadata = Metadata.detect_from_dataframes({TABLE: train})
    if metadata.to_dict()['tables'][TABLE].get('primary_key') is not None:
        metadata.remove_primary_key(TABLE)
    for column, sdtype in sdtypes.items():
        metadata.update_column(column, TABLE, sdtype=sdtype)
    return metadata


def of_sdv(make: Callable[[Any], Any], train: pd.DataFrame, sdtypes: dict[str, str]) -> Sample:
    synthesizer = make(metadata_of(train, sdtypes))
    synthesizer.fit({TABLE: train})
    return lambda num_rows: synthesizer.sample(num_rows)[TABLE]


def our_synthesizer(metadata: Any, preset: Any, budget: float, seed: int, laws: Sequence[Any]) -> Any:
    """This project's synthesizer of a table, on the processor, not fitted yet; a preset or its name."""
    from sdv_constrained_diffusion import ConstrainedDiffusionSynthesizer

    synthesizer = ConstrainedDiffusionSynthesizer(
        metadata, preset=preset, max_time=budget, seed=seed, verbose=False, enable_gpu=False
    )
    if laws:
        synthesizer.add_constraints(laws)
    return synthesizer


def ours(preset: str, lawful: bool = True) -> Method:
    """This project's synthesizer; if `lawful` it obeys the table's laws, where there are any."""

    def prepare(train: pd.DataFrame, sdtypes: dict[str, str], budget: float, seed: int, folder: Path) -> Prepared:
        import sdv_constrained_diffusion  # noqa: F401  Its import is not counted.

        laws = pickle.loads((folder / 'laws.pkl').read_bytes()) if lawful else []
        return lambda: of_sdv(lambda metadata: our_synthesizer(metadata, preset, budget, seed, laws), train, sdtypes)

    return prepare


def of_sdv_in_epochs(name: str) -> Method:
    """A network of SDV's, which has epochs but no budget."""

    def prepare(train: pd.DataFrame, sdtypes: dict[str, str], budget: float, seed: int, folder: Path) -> Prepared:
        from sdv import single_table

        kind = getattr(single_table, f'{name}Synthesizer')

        def fit(epochs: int) -> Sample:
            return of_sdv(lambda metadata: kind(metadata, epochs=epochs), train, sdtypes)

        epochs = affordable(fit, budget)
        return lambda: fit(epochs)

    return prepare


def gaussian_copula(train: pd.DataFrame, sdtypes: dict[str, str], budget: float, seed: int, folder: Path) -> Prepared:
    """SDV's GaussianCopula, which needs no budget."""
    from sdv.single_table import GaussianCopulaSynthesizer

    return lambda: of_sdv(GaussianCopulaSynthesizer, train, sdtypes)


def of_synthyverse(name: str) -> Method:
    """A diffusion model of synthyverse with its own defaults, as many steps as the budget pays for.

    Its schedules end with the last step; TabSyn's autoencoder gets as many steps as its diffusion. Those that need a
    discrete column get one of coin tosses where there is none.
    """

    def prepare(train: pd.DataFrame, sdtypes: dict[str, str], budget: float, seed: int, folder: Path) -> Prepared:
        from synthyverse.generators import SynthyverseGenerator

        discrete = [column for column, sdtype in sdtypes.items() if sdtype != 'numerical']
        if not discrete:
            discrete, train = [COIN], train.assign(**{COIN: np.random.default_rng(seed).integers(2, size=len(train))})

        def fit(steps: int) -> Any:
            generator = SynthyverseGenerator(
                name,
                missing_imputation_method='keep' if train.isna().to_numpy().any() else 'drop',
                random_state=seed,
                training_steps=steps,
                val_steps=0,
                batch_size=min(BATCH_SIZE, len(train)),
                **({'vae_training_steps': steps} if name == 'tabsyn' else {}),
            )
            generator.fit(train, discrete)
            return generator

        steps = affordable(fit, budget)

        def fitted() -> Sample:
            generator = fit(steps)
            return lambda num_rows: generator.generate(num_rows, random_state=seed)

        return fitted

    return prepare


COIN = 'coin'

PEERS = ('tabddpm', 'tabsyn', 'tabdiff', 'cdtd', 'tabcascade')
"""Methods that live in an environment of their own."""

METHODS: dict[str, Method] = {
    'default': ours('default'),
    'default without laws': ours('default', lawful=False),
    'paper': ours('paper'),
    'GaussianCopula': gaussian_copula,
    'CTGAN': of_sdv_in_epochs('CTGAN'),
    'TVAE': of_sdv_in_epochs('TVAE'),
    **{name: of_synthyverse(name) for name in PEERS},
}


def main() -> None:
    folder, method, budget, seed, num_rows = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    train = pd.read_parquet(folder / 'train.parquet')
    sdtypes = json.loads((folder / 'sdtypes.json').read_text())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    fit = METHODS[method](train, sdtypes, budget, seed, folder)
    before = time.process_time()
    sample = fit()
    fit_cpu_s = time.process_time() - before
    before = time.process_time()
    synthetic = sample(num_rows)
    sample_cpu_s = time.process_time() - before
    synthetic.reset_index(drop=True).to_parquet(folder / 'synthetic.parquet')
    cost = {
        'fit_cpu_s': round(fit_cpu_s, 2),
        'sample_cpu_s': round(sample_cpu_s, 3),
        'rows_per_cpu_s': round(num_rows / sample_cpu_s, 1),
        'peak_mb': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    (folder / 'cost.json').write_text(json.dumps(cost))


if __name__ == '__main__':
    main()
