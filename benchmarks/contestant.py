"""One method on one table, in a process of its own: `fidelity.py` starts it, with the interpreter of the method's home.

    python contestant.py FOLDER METHOD BUDGET_S SEED NUM_ROWS

FOLDER holds `train.parquet` and `sdtypes.json`, for ours `laws.pkl`, too; rows go to `synthetic.parquet`, the cost
to `cost.json`. Nothing is imported before a method is asked for: the peers' environment does not have this project.
"""

import json
import pickle
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

TABLE = 'table'
MOST_BATCH = 4096
"""Batch size of the peers' own defaults, where a table has as many rows."""

Sample = Callable[[int], pd.DataFrame]
Fit = Callable[[pd.DataFrame, dict[str, str], float, int, Path], Sample]
"""Training rows, sdtypes, CPU seconds, seed, folder -> what draws rows."""


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


def ours(preset: str) -> Fit:
    """This project's synthesizer; it obeys the table's laws if there are any."""

    def fit(train: pd.DataFrame, sdtypes: dict[str, str], budget: float, seed: int, folder: Path) -> Sample:
        from sdv_constrained_diffusion import ConstrainedDiffusionSynthesizer

        def make(metadata: Any) -> Any:
            synthesizer = ConstrainedDiffusionSynthesizer(
                metadata, preset=preset, max_time=budget, seed=seed, verbose=False, enable_gpu=False
            )
            laws = pickle.loads((folder / 'laws.pkl').read_bytes())
            if laws:
                synthesizer.add_constraints(laws)
            return synthesizer

        return of_sdv(make, train, sdtypes)

    return fit


def of_sdv_in_epochs(name: str) -> Fit:
    """A network of SDV's, which has epochs but no budget: as many as it allows, by the time of short fits."""

    def fit(train: pd.DataFrame, sdtypes: dict[str, str], budget: float, seed: int, folder: Path) -> Sample:
        from sdv import single_table

        kind = getattr(single_table, f'{name}Synthesizer')
        spent = []
        for epochs in PILOT_EPOCHS:
            before = time.process_time()
            of_sdv(lambda metadata, epochs=epochs: kind(metadata, epochs=epochs), train, sdtypes)
            spent.append(time.process_time() - before)
        per_epoch = (spent[2] - spent[1]) / (PILOT_EPOCHS[2] - PILOT_EPOCHS[1])
        epochs = max(int((budget - spent[1]) / per_epoch), 1)
        start_clock()
        return of_sdv(lambda metadata: kind(metadata, epochs=epochs), train, sdtypes)

    return fit


def gaussian_copula(train: pd.DataFrame, sdtypes: dict[str, str], budget: float, seed: int, folder: Path) -> Sample:
    """SDV's GaussianCopula, which needs no budget."""
    from sdv.single_table import GaussianCopulaSynthesizer

    return of_sdv(GaussianCopulaSynthesizer, train, sdtypes)


def of_synthyverse(name: str) -> Fit:
    """A diffusion model of synthyverse with its own defaults, stopped by its own clock; no validation on the way."""

    def fit(train: pd.DataFrame, sdtypes: dict[str, str], budget: float, seed: int, folder: Path) -> Sample:
        from synthyverse.generators import SynthyverseGenerator

        discrete = [column for column, sdtype in sdtypes.items() if sdtype != 'numerical']
        generator = SynthyverseGenerator(
            name,
            missing_imputation_method='keep' if train.isna().to_numpy().any() else 'drop',
            random_state=seed,
            cap_train_time=budget,
            val_steps=0,
            batch_size=min(MOST_BATCH, len(train)),
        )
        generator.fit(train, discrete)
        return lambda num_rows: generator.generate(num_rows, random_state=seed)

    return fit


PILOT_EPOCHS = (1, 2, 12)
"""The first fit warms up, the others are compared."""

METHODS: dict[str, Fit] = {
    'default': ours('default'),
    'paper': ours('paper'),
    'GaussianCopula': gaussian_copula,
    'CTGAN': of_sdv_in_epochs('CTGAN'),
    'TVAE': of_sdv_in_epochs('TVAE'),
    **{name: of_synthyverse(name) for name in ('tabddpm', 'tabsyn', 'tabdiff', 'cdtd', 'tabcascade')},
}

_clock = {'fit': 0.0}


def start_clock() -> None:
    """Training begins now: what came before measured how long it may take."""
    _clock['fit'] = time.process_time()


def main() -> None:
    folder, method, budget, seed, num_rows = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    train = pd.read_parquet(folder / 'train.parquet')
    sdtypes = json.loads((folder / 'sdtypes.json').read_text())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    start_clock()
    sample = METHODS[method](train, sdtypes, budget, seed, folder)
    fit_cpu_s = time.process_time() - _clock['fit']
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
