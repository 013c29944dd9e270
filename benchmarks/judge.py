"""How close synthetic rows are to held-out real ones: SDMetrics' scores, a classifier, a task learned on them.

Errors are in percent, $100 (1 - score)$, 0 is perfect. Every measure compares with the held-out half, so a synthesizer
that copies its training rows gains nothing, and the training half judged the same way gives the floor.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sdmetrics.column_pairs import ContingencySimilarity, CorrelationSimilarity
from sdmetrics.errors import ConstantInputError
from sdmetrics.reports import QualityReport
from sdmetrics.single_column import MissingValueSimilarity
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from real_tables import Task
from sdv_constrained_diffusion.report.classifier import (
    DISCRETE,
    auc_standard_error,
    column_aucs,
    real_or_synthetic_auc,
)
from sdv_constrained_diffusion.report.comparison import Comparison

NUM_BINS = 10
NUM_WORST = 3

Figures = dict[str, Any]


def judge(tables: Comparison, task: Task, seed: int) -> Iterator[Figures]:
    """Every measure in turn: what is known so far survives a measure that fails.

    Args:
        tables: held-out rows as the reference, synthetic rows, training rows.
        task: what is predicted.
        seed: of the classifiers.
    """
    yield _sdmetrics_errors(tables)
    yield all_pairs_error(tables)
    yield _missing_error(tables)
    yield _real_or_synthetic(tables, seed)
    yield {'efficacy_auc': efficacy(tables.synthetic, tables.reference, tables.modelled, task, seed)}


def percent_error(score: float) -> float:
    return 100 * (1 - score)


def _sdmetrics_errors(tables: Comparison) -> Figures:
    """Column Shapes and Column Pair Trends as SDMetrics' QualityReport gives them, with its thresholds and without.

    Column Shapes is the mean over the columns of KSComplement or TVComplement; both look at known values only.
    With its thresholds, Column Pair Trends averages over pairs with a correlation above 0.5 or an association above 0.3
    in the real table only. Without, it averages over all pairs, but bins the numbers of mixed pairs for the real and
    the synthetic table separately, each over its own range; `all_pairs_error` gives both the same bins.
    """
    with_thresholds, without = QualityReport(), QualityReport()
    without.real_correlation_threshold = without.real_association_threshold = 0
    metadata = {'tables': {'table': tables.table}}
    for report in (with_thresholds, without):
        report.generate({'table': tables.reference}, {'table': tables.synthetic}, metadata, verbose=False)
    scores, scores_all = (
        report.get_properties().set_index('Property')['Score'] for report in (with_thresholds, without)
    )
    return {
        'shapes_error_percent': percent_error(scores['Column Shapes']),
        'quality_report_score': with_thresholds.get_score(),
        'quality_report_trends_error_percent': percent_error(scores['Column Pair Trends']),
        'quality_report_trends_all_pairs_error_percent': percent_error(scores_all['Column Pair Trends']),
    }


def all_pairs_error(tables: Comparison) -> Figures:
    """Column Pair Trends over all pairs of columns, each pair of equal weight.

    Two numeric columns (datetimes are numbers): CorrelationSimilarity, Pearson, on the rows where both are known. Two
    discrete columns: ContingencySimilarity. One of each: ContingencySimilarity with the number in ten bins of equal
    width over the range of the real column, the outer ones open, and a bin of its own for missing values. A pair whose
    correlation is undefined, as when the synthetic column is constant, is left out, as SDMetrics does, and counted.
    """
    columns = tables.modelled
    real, synthetic = (_with_numbers(data, columns) for data in (tables.reference, tables.synthetic))
    numeric = {name for name, column in columns.items() if column['sdtype'] not in DISCRETE}
    scores = [
        _pair_score(real[list(pair)], synthetic[list(pair)], [name for name in pair if name in numeric])
        for pair in itertools.combinations(columns, 2)
    ]
    return {
        'trends_error_percent': percent_error(float(np.nanmean(scores))),
        'pairs': len(scores),
        'pairs_undefined': int(np.isnan(scores).sum()),
    }


def _pair_score(real: pd.DataFrame, synthetic: pd.DataFrame, numeric: list[str]) -> float:
    if len(numeric) < 2:
        return float(
            ContingencySimilarity.compute(
                real, synthetic, continuous_column_names=numeric or None, num_discrete_bins=NUM_BINS
            )
        )
    if min(len(real.dropna()), len(synthetic.dropna())) < 2:
        return np.nan
    try:
        return float(CorrelationSimilarity.compute(real, synthetic))
    except ConstantInputError:
        return np.nan


def _with_numbers(data: pd.DataFrame, columns: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The columns, those that are neither discrete nor missing as floats: datetimes in days."""
    return pd.DataFrame({name: _numbers(data[name], column) for name, column in columns.items()})


def _numbers(values: pd.Series, column: Mapping[str, Any]) -> pd.Series:
    if column['sdtype'] in DISCRETE:
        return values
    if column['sdtype'] == 'datetime':
        moments = pd.to_datetime(values, format=column.get('datetime_format'), errors='coerce')
        return (moments - pd.Timestamp(0)) / pd.Timedelta(days=1)
    return pd.to_numeric(values, errors='coerce').astype('Float64').astype('float64')


def _missing_error(tables: Comparison) -> Figures:
    """Mean difference of the shares of missing values: Column Shapes does not see them."""
    scores = [
        MissingValueSimilarity.compute(tables.reference[name], tables.synthetic[name]) for name in tables.modelled
    ]
    return {'missing_error_percent': percent_error(float(np.mean(scores)))}


def _real_or_synthetic(tables: Comparison, seed: int) -> Figures:
    """The classifier's AUC on all columns, and the columns that give the rows away by themselves."""
    pair = tables.reference, tables.synthetic, tables.modelled, seed
    alone = column_aucs(*pair)
    worst = sorted(alone, key=alone.__getitem__, reverse=True)[:NUM_WORST]
    return {
        'c2st_auc': real_or_synthetic_auc(*pair),
        'c2st_standard_error': auc_standard_error(min(len(tables.reference), len(tables.synthetic))),
        'worst_columns_auc': {name: alone[name] for name in worst},
    }


def efficacy(
    train: pd.DataFrame, test: pd.DataFrame, columns: Mapping[str, Mapping[str, Any]], task: Task, seed: int
) -> float:
    """AUC on `test` of boosted trees that learned the task from `train`; 0.5 when `train` has one class only."""
    train, test = (data.dropna(subset=[task.target]) for data in (train, test))
    wanted, actual = (data[task.target] == task.positive for data in (train, test))
    if wanted.nunique() < 2:
        return 0.5
    features = {name: column for name, column in columns.items() if name not in (task.target, *task.leaks)}
    trees = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
    trees.fit(_features(train, test, features), wanted)
    return float(roc_auc_score(actual, trees.predict_proba(_features(test, test, features))[:, 1]))


def _features(data: pd.DataFrame, coding: pd.DataFrame, columns: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Numbers, and categories as their place among those of `coding`; others count as missing."""
    features = _with_numbers(data, columns)
    for name, column in columns.items():
        if column['sdtype'] in DISCRETE:
            known = sorted(coding[name].dropna().unique(), key=str)
            codes = pd.Categorical(features[name], categories=known).codes.astype('float64')
            features[name] = np.where(codes < 0, np.nan, codes)
    return features
