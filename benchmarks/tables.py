"""Fidelity and cost on real tables, against the synthesizers of the installed SDV, in one run.

    OMP_NUM_THREADS=1 python benchmarks/tables.py --tables adult --budgets 60 120 240 300 600

Half of each table trains, the other half judges (`judge.py`); the training half judged as if it were synthetic is the
floor. Prints and keeps one JSON line for each table and for each synthesizer on it, as soon as it is known; a
synthesizer that fails leaves its error there. README.md explains the figures; `--smoke` tries the whole path in a
minute.
"""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import argparse
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sdv.single_table import CTGANSynthesizer, GaussianCopulaSynthesizer, TVAESynthesizer

from judge import Figures, judge
from real_tables import ADULT, Halves, sources, split
from record import record
from sdv_constrained_diffusion import ConstrainedDiffusionSynthesizer
from sdv_constrained_diffusion.report.comparison import Comparison, one_table

EPOCHS = 300
SMOKE_EPOCHS, SMOKE_ROWS = 2, 400
PEERS = {'GaussianCopula': GaussianCopulaSynthesizer, 'CTGAN': CTGANSynthesizer, 'TVAE': TVAESynthesizer}
BESIDE_FLOOR = (
    'shapes_error_percent',
    'trends_error_percent',
    'missing_error_percent',
    'c2st_auc',
    'efficacy_auc',
)
"""The figures whose floor is repeated on every line; the others have theirs on the floor's own line."""

Contestant = tuple[Figures, Callable[[Any], Any]]
"""What distinguishes a synthesizer in the results, and what makes it from metadata."""


def contestants(arguments: argparse.Namespace) -> Iterator[Contestant]:
    """Ours by default and at each budget of CPU seconds, then the peers; two epochs for everyone in a smoke run."""
    ours = partial(ConstrainedDiffusionSynthesizer, seed=arguments.seed, verbose=False)
    for budget in [None, *arguments.budgets]:
        limit = {'epochs': SMOKE_EPOCHS} if arguments.smoke else {'max_time': budget}
        yield {'synthesizer': 'ConstrainedDiffusion', 'budget_cpu_s': budget}, partial(ours, **limit)
    epochs = SMOKE_EPOCHS if arguments.smoke else EPOCHS
    for name in arguments.peers:
        make = PEERS[name]
        yield {'synthesizer': name}, make if name == 'GaussianCopula' else partial(make, epochs=epochs)


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """CPU seconds of all threads, wall seconds, and what the work returned."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return time.process_time() - cpu, time.perf_counter() - wall, result


def seed_everything(seed: int) -> None:
    """The peers draw from the global generators."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def judged(halves: Halves, synthetic: pd.DataFrame, seed: int) -> Iterator[Figures]:
    table = halves.metadata.to_dict()['tables'][halves.name]
    return judge(Comparison(halves.held_out, synthetic, halves.train, table), halves.task, seed)


def fit_sample_judge(make: Callable[[Any], Any], halves: Halves, seed: int) -> Iterator[Figures]:
    """Figures as they become known."""
    seed_everything(seed)
    synthesizer = make(halves.metadata)
    cpu, wall, _ = timed(lambda: synthesizer.fit({halves.name: halves.train.copy()}))
    yield {'fit_cpu_s': cpu, 'fit_wall_s': wall}
    num_rows = len(halves.train)
    cpu, wall, sampled = timed(lambda: synthesizer.sample(num_rows))
    synthetic = one_table('synthetic_data', sampled)
    yield {
        'sample_cpu_s': cpu,
        'sample_rows': len(synthetic),
        'sample_rows_per_cpu_s': len(synthetic) / cpu,
        'sample_rows_per_wall_s': len(synthetic) / wall,
    }
    yield from judged(halves, synthetic, seed)


def gather(steps: Iterator[Figures]) -> Figures:
    """All figures, or those before the first failure and what it was."""
    figures: Figures = {}
    try:
        for each in steps:
            figures |= each
    except Exception as error:  # A peer may fail in any way; the others are still to be measured.
        traceback.print_exc()
        figures['error'] = f'{type(error).__name__}: {error}'
    return figures


def plain(value: Any) -> Any:
    """Numbers to five digits, as JSON has them: NaN is null."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, float | np.floating):
        return float(f'{value:.5g}') if np.isfinite(value) else None
    return value


def run(halves: Halves, arguments: argparse.Namespace) -> None:
    name = 'tables-smoke' if arguments.smoke else 'tables'
    columns = halves.metadata.to_dict()['tables'][halves.name]['columns']
    settings = {
        'table': halves.name,
        'rows': len(halves.train),
        'columns': len(columns),
        'seed': arguments.seed,
        'threads': torch.get_num_threads(),
        **{f'{package}_version': version(package) for package in ('sdv', 'sdmetrics', 'torch')},
    }
    record(
        name,
        **settings,
        rows_held_out=len(halves.held_out),
        missing_percent=plain(100 * float(halves.train.isna().to_numpy().mean())),
        sdtypes={column: description['sdtype'] for column, description in columns.items()},
        metadata_changes=halves.metadata_changes,
        target=halves.task.target,
        left_out_of_features=halves.task.leaks,
    )
    floor = plain(gather(judged(halves, halves.train, arguments.seed)))
    record(name, **settings, synthesizer='floor', **floor)
    beside = {f'floor_{figure}': floor.get(figure) for figure in BESIDE_FLOOR}
    for who, make in contestants(arguments):
        print(halves.name, *who.values(), '...', file=sys.stderr, flush=True)
        figures = plain(gather(fit_sample_judge(make, halves, arguments.seed)))
        record(name, **settings, **who, **figures, **beside)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--tables', nargs='+', choices=[*sources()], default=[*sources()])
    parser.add_argument('--budgets', nargs='*', type=float, default=[60, 240], help='CPU seconds of training, ours')
    parser.add_argument('--peers', nargs='+', choices=[*PEERS, 'none'], default=[*PEERS])
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--adult', type=Path, default=ADULT, help='UCI Adult as CSV with a header')
    parser.add_argument('--smoke', action='store_true', help='few rows and epochs, kept apart as tables-smoke')
    arguments = parser.parse_args(argv)
    if 'none' in arguments.peers:
        arguments.peers = []
    return arguments


def main() -> None:
    arguments = parse()
    # SDV and SDMetrics warn of what these tables are full of: missing values, constant columns, unsaved metadata.
    warnings.simplefilter('ignore')
    for name in arguments.tables:
        source = sources(arguments.adult)[name]
        run(split(name, source, arguments.seed, SMOKE_ROWS if arguments.smoke else None), arguments)


if __name__ == '__main__':
    main()
