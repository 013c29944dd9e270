"""What a classifier sees in the default recipe's rows: single columns, the columns it leans on, and pairs of those.

    OMP_NUM_THREADS=1 python benchmarks/seen.py --tasks case24 --budgets 300 --seeds 0
    OMP_NUM_THREADS=1 python benchmarks/seen.py --tasks multimodal --budgets 60 --seeds 0 --law-seeds 50 51 52 53

One JSON line for each task, budget and seed. `alone` is the AUC of a column by itself; `importance` what the AUC of the
classifier of all columns loses when a column of rows that it has not seen is shuffled; `pairs` the AUC of two columns,
among those of the largest importance and those worst alone. The training half, judged in the same way, says what two
real tables have. With `--law-seeds`, other draws of a task whose law does not depend on the seed, a line more says what
is left of the AUC when each number keeps its ranks and gets the quantiles of the training half, or of those draws: what
the training half does not tell of the marginals, no method could know. It has that of the draws' own rows, too.
"""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import argparse
import itertools
import warnings

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.inspection import permutation_importance
from sklearn.model_selection import train_test_split

from contestant import TABLE, metadata_of, our_synthesizer
from fidelity import varying
from record import record
from sdv_constrained_diffusion.report.classifier import column_aucs, labelled_features, real_or_synthetic_auc
from tasks import TASKS, Task

MOST_ROWS = 5000
"""Rows of each kind that are looked at."""

NUM_IMPORTANT, NUM_ALONE, NUM_SHOWN = 10, 3, 5

OF_ONE_LAW = ('case5', 'case24', 'case118', 'heavy-tailed', 'multimodal')
"""Tasks of numbers alone whose law does not depend on the seed."""

NUM_PARTS = 4
"""Tables as large as the training half that get other quantiles together, so that each keeps the scatter of its own."""


def importances(
    real: pd.DataFrame, synthetic: pd.DataFrame, columns: dict[str, dict[str, str]], seed: int
) -> pd.Series:
    """Loss of AUC by column, largest first; mean of five shuffles of a third of the rows."""
    features, is_synthetic = labelled_features(real, synthetic, columns, seed)
    shown, others, shown_labels, other_labels = train_test_split(
        features, is_synthetic, test_size=1 / 3, stratify=is_synthetic, random_state=seed
    )
    trees = HistGradientBoostingClassifier(early_stopping=False, random_state=seed).fit(shown, shown_labels)
    found = permutation_importance(trees, others, other_labels, scoring='roc_auc', n_repeats=5, random_state=seed)
    return pd.Series(found.importances_mean, index=features.columns).sort_values(ascending=False)


def varying_columns(real: pd.DataFrame, task: Task) -> dict[str, dict[str, str]]:
    """The columns that vary, as the classifier takes them."""
    return {name: {'sdtype': kind} for name, kind in task.sdtypes.items() if varying(real[name], kind)}


def seen(synthetic: pd.DataFrame, task: Task, seed: int) -> dict[str, object]:
    """The worst columns and pairs of some rows, beside the held-out ones."""
    real, synthetic = task.held_out.head(MOST_ROWS), synthetic.head(MOST_ROWS)
    columns = varying_columns(real, task)
    alone = pd.Series(column_aucs(real, synthetic, columns, seed)).sort_values(ascending=False)
    important = importances(real, synthetic, columns, seed)
    candidates = dict.fromkeys([*important.index[:NUM_IMPORTANT], *alone.index[:NUM_ALONE]])
    pairs = {
        ' & '.join(pair): real_or_synthetic_auc(real, synthetic, {name: columns[name] for name in pair}, seed)
        for pair in itertools.combinations(candidates, 2)
    }
    return {
        'c2st_auc': round(real_or_synthetic_auc(real, synthetic, columns, seed), 4),
        'alone': alone.head(NUM_SHOWN).round(3).to_dict(),
        'importance': important.head(NUM_SHOWN).round(3).to_dict(),
        'pairs': pd.Series(pairs).sort_values(ascending=False).head(NUM_SHOWN).round(3).to_dict(),
        'median_pair': round(float(np.median(list(pairs.values()))), 3),
    }


def with_quantiles_of(rows: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Each column by its ranks, with the values that others have there."""
    shares = (rows.rank() - 0.5) / len(rows)
    return pd.DataFrame({name: np.quantile(others[name], shares[name]) for name in rows})


def by_marginals(synthetic: pd.DataFrame, law: pd.DataFrame, task: Task, seed: int) -> dict[str, float]:
    """Mean AUC of the parts of some rows, as they are and with other marginals; and of the law's own rows."""
    columns = varying_columns(task.held_out, task)
    names = list(columns)
    tables = {
        'as_drawn': synthetic,
        'quantiles_of_training_half': with_quantiles_of(synthetic[names], task.train),
        'quantiles_of_law': with_quantiles_of(synthetic[names], law),
        'law': law.sample(min(len(law), len(synthetic)), random_state=seed),
    }
    size = len(task.held_out)

    def mean_auc(rows: pd.DataFrame) -> float:
        parts = [rows.iloc[first : first + size] for first in range(0, len(rows) - size + 1, size)]
        return float(np.mean([real_or_synthetic_auc(task.held_out, part, columns, seed) for part in parts]))

    return {label: round(mean_auc(rows), 4) for label, rows in tables.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=list(TASKS))
    parser.add_argument('--budgets', nargs='+', type=float, default=[300], help='CPU seconds of training')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--law-seeds', nargs='+', type=int, default=[], help='draws that stand for the law of a task')
    options = parser.parse_args()
    if options.law_seeds and not {*options.tasks} <= {*OF_ONE_LAW}:
        parser.error(f'--law-seeds needs tasks of {OF_ONE_LAW}, but got {options.tasks}.')
    if shared := {*options.law_seeds} & {*options.seeds}:
        parser.error(f'--law-seeds needs other draws than --seeds, but both have {sorted(shared)}.')
    warnings.simplefilter('ignore')
    for name, seed in itertools.product(options.tasks, options.seeds):
        task = TASKS[name](seed)
        record('seen', task=name, seed=seed, rows='training half', **seen(task.train, task, seed))
        for budget in options.budgets:
            metadata = metadata_of(task.train, task.sdtypes)
            synthesizer = our_synthesizer(metadata, 'default', budget, 0, task.laws)
            synthesizer.fit({TABLE: task.train})
            rows = synthesizer.sample(len(task.train))[TABLE]
            label = f'default after {budget:g} s'
            record('seen', task=name, seed=seed, rows=label, **seen(rows, task, seed))
            if options.law_seeds:
                draws = [TASKS[name](other) for other in options.law_seeds]
                law = pd.concat([half for draw in draws for half in (draw.train, draw.held_out)], ignore_index=True)
                many = synthesizer.sample(NUM_PARTS * len(task.train))[TABLE]
                record('seen', task=name, seed=seed, rows=label, **by_marginals(many, law, task, seed))


if __name__ == '__main__':
    main()
