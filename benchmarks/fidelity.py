"""Closeness to the data at equal CPU time: ours, SDV's synthesizers and published tabular diffusion, task by task.

    OMP_NUM_THREADS=1 python benchmarks/fidelity.py --tasks case5 multimodal --methods default tabddpm --budgets 60 120
    OMP_NUM_THREADS=1 python benchmarks/fidelity.py --peers-python PATH   (an environment with synthyverse)

Every method runs in a process of its own, on one thread, from the same training rows; its rows are judged here, by rows
that it has not seen. One JSON line for each run, in `results/fidelity.jsonl`; `fidelity_page.py`
makes the page in the docs of them. README.md explains the figures.
"""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from sdmetrics.single_column import KSComplement, TVComplement
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import r2_score

from contestant import METHODS, PEERS
from judge import all_pairs_error, efficacy, percent_error
from power import spreads, wasserstein
from real_tables import Task as Prediction
from record import RESULTS, record
from sdv_constrained_diffusion.report.classifier import (
    DISCRETE,
    auc_standard_error,
    column_aucs,
    real_or_synthetic_auc,
)
from sdv_constrained_diffusion.report.comparison import Comparison
from tasks import TASKS, Task

BUDGETS = (60, 120, 300, 600)
BUDGETLESS = ('GaussianCopula',)
MOST_MATCHED = 2500
"""Rows that the exact Wasserstein distance matches; its cost is cubic."""

COPIED = 1e-6
"""Rows this near to a training row are it; deviations of numbers, a change of label is 1."""

NEAR_SHARE = 0.05
"""Of the held-out rows, that are by chance much nearer to one training row than to any other."""

TIMES_BUDGET, MORE_S = 4, 900
"""A method that takes this many times its budget and this many seconds more, on the wall clock, is given up."""

Figures = dict[str, object]


def numbers_of(tables: dict[str, pd.DataFrame], sdtypes: dict[str, str]) -> dict[str, np.ndarray]:
    """Tables as standardised numbers, and indicators over the square root of two: another level is a distance of one.

    By the held-out rows' means, deviations and levels; a missing number is 0.
    """
    real = tables['held_out']
    columns: dict[str, list[np.ndarray]] = {key: [] for key in tables}
    for name, sdtype in sdtypes.items():
        if sdtype in DISCRETE:
            levels = real[name].astype(str).unique()
            for key, table in tables.items():
                columns[key].append((table[name].astype(str).to_numpy()[:, None] == levels) / 2**0.5)
            continue
        for key, table in tables.items():
            standard = (pd.to_numeric(table[name], errors='coerce') - real[name].mean()) / real[name].std()
            columns[key].append(standard.fillna(0).to_numpy(dtype='float64')[:, None])
    return {key: np.hstack(each) for key, each in columns.items()}


def whitened_auc(real: pd.DataFrame, synthetic: pd.DataFrame, sdtypes: dict[str, str], seed: int) -> float:
    """The classifier's AUC on principal components of the numbers, each of unit variance: narrow directions count."""
    names = [name for name, sdtype in sdtypes.items() if sdtype not in DISCRETE]
    tables = [each[names].astype('float64').fillna(real[names].mean()) for each in (real, synthetic)]
    centred = [((each - tables[0].mean()) / tables[0].std()).to_numpy() for each in tables]
    _, size, axes = np.linalg.svd(centred[0], full_matrices=False)
    kept = size > 1e-4 * size[0]
    frames = [pd.DataFrame(each @ axes[kept].T / size[kept] * len(real) ** 0.5) for each in centred]
    frames = [each.rename(columns=str) for each in frames]
    return real_or_synthetic_auc(*frames, {name: {'sdtype': 'numerical'} for name in frames[0]}, seed)


def usefulness(train: pd.DataFrame, task: Task, sdtypes: dict[str, str], seed: int) -> float:
    """What trees that learned the target from these rows are worth on real ones: AUC of a label, R^2 of a number."""
    described = {name: {'sdtype': sdtype} for name, sdtype in sdtypes.items()}
    if sdtypes[task.target] in DISCRETE:
        positive = task.held_out[task.target].value_counts().index[-1]
        return efficacy(train, task.held_out, described, Prediction(task.target, positive), seed)
    features = [name for name in sdtypes if name != task.target]
    trees = HistGradientBoostingRegressor(early_stopping=False, random_state=seed)
    trees.fit(train[features], train[task.target])
    return float(r2_score(task.held_out[task.target], trees.predict(task.held_out[features])))


def learned_by_heart(few: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> Figures:
    """What nearest neighbours say of it: shares of rows nearer to a training row, to one alone of them, and on one.

    Args:
        few: some of the synthetic and of the held-out rows, as numbers.
        arrays: all training and held-out rows.
    """
    tree = cKDTree(arrays['train'])
    nearest = {key: tree.query(few[key], k=2)[0] for key in ('synthetic', 'held_out')}
    to_train, to_held_out = nearest['synthetic'][:, 0], cKDTree(arrays['held_out']).query(few['synthetic'])[0]
    nearer = (to_train < to_held_out) + 0.5 * (to_train == to_held_out)
    # Where both distances are 0 no row is nearer than the next.
    ratios = {key: np.divide(*each.T, out=np.ones(len(each)), where=each[:, 1] > 0) for key, each in nearest.items()}
    return {
        'dcr_share': float(nearer.mean()),
        'nndr_share': float((ratios['synthetic'] < np.quantile(ratios['held_out'], NEAR_SHARE)).mean()),
        'copied_share': float((to_train <= COPIED).mean()),
    }


def judged(synthetic: pd.DataFrame, task: Task, seed: int) -> Figures:
    """All measures of some rows, as many as there are to learn from; of columns that vary.

    Raises:
        ValueError: there are too few rows, or numbers are missing or infinite that never are in the training rows.
    """
    if len(synthetic) < len(task.train):
        raise ValueError(f'{len(synthetic)} rows came, {len(task.train)} were asked for')
    real = task.held_out
    varies = {name: sdtype for name, sdtype in task.sdtypes.items() if varying(real[name], sdtype)}
    numbers = [name for name, sdtype in varies.items() if sdtype not in DISCRETE and not task.train[name].isna().any()]
    if not np.isfinite(synthetic[numbers].to_numpy(dtype='float64')).all():
        raise ValueError('numbers are missing or infinite that never are in the training rows')
    described = {name: {'sdtype': sdtype} for name, sdtype in varies.items()}
    alone = column_aucs(real, synthetic, described, seed)
    arrays = numbers_of({'synthetic': synthetic, 'train': task.train, 'held_out': real}, varies)
    random = np.random.default_rng(seed)
    few = {key: random.permutation(each)[:MOST_MATCHED] for key, each in arrays.items()}
    figures: Figures = {
        **quality_errors(Comparison(real, synthetic, task.train, {'columns': described})),
        'c2st_auc': real_or_synthetic_auc(real, synthetic, described, seed),
        'c2st_standard_error': auc_standard_error(len(real)),
        'c2st_whitened_auc': whitened_auc(real, synthetic, varies, seed),
        'w1_ratio': wasserstein(few['synthetic'], few['held_out']) / wasserstein(few['train'], few['held_out']),
        'usefulness': usefulness(synthetic, task, varies, seed),
        'worst_columns_auc': dict(sorted(alone.items(), key=lambda each: -each[1])[:3]),
    }
    if synthetic is not task.train:
        figures |= learned_by_heart(few, arrays)
    if task.log_density is not None:
        of_rows = [task.log_density(each[list(varies)].to_numpy()) for each in (synthetic, real)]
        figures['log_density_shift'] = float(of_rows[0].mean() - of_rows[1].mean())
    return figures


def varying(column: pd.Series, sdtype: str) -> bool:
    """Whether a column takes more than one value, or numbers that differ by more than rounding."""
    return column.nunique() > 1 if sdtype in DISCRETE else spreads(column)


def quality_errors(tables: Comparison) -> Figures:
    """100 minus SDMetrics' Column Shapes, and Column Pair Trends over all pairs, in percent.

    Where all columns are numbers, CorrelationSimilarity is reckoned for all pairs at once.
    """
    real, synthetic = tables.reference, tables.synthetic
    kinds = {name: column['sdtype'] in DISCRETE for name, column in tables.modelled.items()}
    shapes = [
        (TVComplement if discrete else KSComplement).compute(real[name], synthetic[name])
        for name, discrete in kinds.items()
    ]
    figures: Figures = {'shapes_error_percent': percent_error(float(np.mean(shapes)))}
    if any(kinds.values()) or real[list(kinds)].isna().to_numpy().any():
        return {**figures, **all_pairs_error(tables)}
    varies = [name for name in kinds if np.ptp(real[name]) > 0 and np.ptp(synthetic[name]) > 0]
    both = [np.corrcoef(each[varies].to_numpy().T)[np.triu_indices(len(varies), 1)] for each in (real, synthetic)]
    return {**figures, 'trends_error_percent': 50 * float(np.abs(both[0] - both[1]).mean()), 'pairs': len(both[0])}


def run(task: Task, method: str, budget: int, seed: int, python: str) -> Figures:
    """Cost and rows of a method, judged; or how it failed."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        task.train.to_parquet(folder / 'train.parquet')
        (folder / 'sdtypes.json').write_text(json.dumps(task.sdtypes))
        (folder / 'laws.pkl').write_bytes(pickle.dumps(task.laws))
        home = Path(__file__).parent
        command = [python, str(home / 'contestant.py'), place, method, str(budget), str(seed), str(len(task.train))]
        with (folder / 'log').open('w+') as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {'CUDA_VISIBLE_DEVICES': ''})
            try:
                process.wait(timeout=TIMES_BUDGET * budget + MORE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return {'error': f'given up after {TIMES_BUDGET * budget + MORE_S} s'}
            log.seek(0)
            if process.returncode:
                return {'error': (log.read().strip().splitlines() or ['no word'])[-1]}
        cost = json.loads((folder / 'cost.json').read_text())
        synthetic = pd.read_parquet(folder / 'synthetic.parquet')[list(task.sdtypes)]
    try:
        return {**cost, **judged(synthetic, task, seed)}
    except ValueError as error:
        return {**cost, 'error': str(error)}


def references(task: Task, seed: int) -> dict[str, pd.DataFrame]:
    """The training half as if it were synthetic, as many independent draws from it, and its columns shuffled.

    What is drawn row by row scatters around what was learned: no measure of one column can be expected far below that
    of `bootstrap`, however well the table is known. `shuffled` knows the columns and not the rows: its share of rows
    nearer to the training half is that of rows that know the columns alone.
    """
    drawn = task.train.sample(len(task.train), replace=True, random_state=seed).reset_index(drop=True)
    random = np.random.default_rng(seed)
    shuffled = task.train.apply(lambda column: column.iloc[random.permutation(len(column))].reset_index(drop=True))
    return {'floor': task.train, 'bootstrap': drawn, 'shuffled': shuffled}


def recorded() -> set[tuple[str, str, int, int]]:
    """Task, method, budget and seed of the runs that the file has already, 0 for no budget; failed ones, too."""
    path = RESULTS / 'fidelity.jsonl'
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return {(line['task'], line['method'], line.get('budget_cpu_s') or 0, line['seed']) for line in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=list(TASKS))
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))
    parser.add_argument('--budgets', nargs='+', type=int, default=list(BUDGETS), help='CPU seconds of training')
    parser.add_argument('--seeds', nargs='+', type=int, default=[1])
    parser.add_argument('--peers-python', help='interpreter with synthyverse; without it those peers are left out')
    parser.add_argument('--resume', action='store_true', help='leave out what the file has already')
    options = parser.parse_args()
    done = recorded() if options.resume else set()
    # SDMetrics warns of constant columns, scikit-learn of what else tables are full of.
    warnings.simplefilter('ignore')
    for seed in options.seeds:
        for name in options.tasks:
            task = TASKS[name](seed)
            of_task = {'task': name, 'seed': seed, 'rows': len(task.train), 'columns': len(task.sdtypes)}
            for reference, rows in references(task, seed).items():
                if (name, reference, 0, seed) not in done:
                    record('fidelity', **of_task, method=reference, **judged(rows, task, seed))
            for method in options.methods:
                python = options.peers_python if method in PEERS else sys.executable
                for budget in options.budgets if method not in BUDGETLESS else [None]:
                    if python is not None and (name, method, budget or 0, seed) not in done:
                        figures = run(task, method, budget or 0, seed, python)
                        record('fidelity', **of_task, method=method, budget_cpu_s=budget, **figures)


if __name__ == '__main__':
    main()
