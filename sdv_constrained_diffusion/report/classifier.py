r"""Real or synthetic? A classifier's attempt to tell the rows apart (C2ST; Lopez-Paz and Oquab 2017).

Column shapes and pair trends look at one or two columns at a time; boosted trees look at all of them. The measure is
the area under the ROC curve, the probability that a synthetic row looks more synthetic than a real one:

$$\mathrm{AUC} = P(f(x_{synthetic}) > f(x_{real})) + \tfrac12 P(f(x_{synthetic}) = f(x_{real})),$$

0.5 when the tables cannot be told apart, 1 when every row gives itself away.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.tree import DecisionTreeClassifier

from sdv_constrained_diffusion.errors import DataError

ROUNDING = 1e-3
"""Numbers are rounded to this share of the real column's standard deviation."""

NUM_FOLDS = 5
DISCRETE = ('categorical', 'ordinal', 'boolean')
CLASSIFIED = ('numerical', 'datetime', *DISCRETE)
"""The sdtypes that are looked at: the value of an id, a key or a name says nothing about the distribution."""


def real_or_synthetic_auc(
    real: pd.DataFrame, synthetic: pd.DataFrame, columns: Mapping[str, Mapping[str, Any]], seed: int = 0
) -> float:
    """Cross-validated AUC of gradient-boosted trees that tell synthetic rows from real ones.

    The mean over five folds, on equal numbers of rows. Numbers are rounded to 1e-3 of the real column's standard
    deviation: the last digits of a solver or of a float32 network differ in every table, and no use of the table
    depends on them. Categories become ordinal codes, datetimes seconds; missing values stay missing.

    Args:
        real: real rows, at least five.
        synthetic: synthetic rows, at least five; the larger table is cut to the smaller at random.
        columns: the metadata's description of each column, `{'sdtype': ...}`; columns of other sdtypes than
            `CLASSIFIED` are left out, as are columns that are not described. Leave out keys.
        seed: of the cut, of the folds and of the trees.

    Returns:
        from 0 to 1; 0.5 is perfect, up to `auc_standard_error`.

    Raises:
        DataError: no column can be looked at, a column is missing, or a table has fewer than five rows.
    """
    features, is_synthetic = labelled_features(real, synthetic, columns, seed)
    # Early stopping would depend on the number of rows, and a table and its floor could be judged differently.
    trees = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
    return _cross_validated_auc(trees, features, is_synthetic, seed)


def column_aucs(
    real: pd.DataFrame, synthetic: pd.DataFrame, columns: Mapping[str, Mapping[str, Any]], seed: int = 0
) -> dict[str, float]:
    """AUC of a small decision tree that sees one column only: names the columns that give the rows away.

    Args:
        real: real rows, at least five.
        synthetic: synthetic rows, at least five.
        columns: as in `real_or_synthetic_auc`.
        seed: of the cut and of the folds.

    Returns:
        the AUC by column, 0.5 when the column alone tells nothing.

    Raises:
        DataError: as in `real_or_synthetic_auc`.
    """
    features, is_synthetic = labelled_features(real, synthetic, columns, seed)
    tree = DecisionTreeClassifier(max_leaf_nodes=32, min_samples_leaf=max(1, len(features) // 100), random_state=seed)
    return {
        name: _cross_validated_auc(tree, features[[name]], is_synthetic, seed) for name in columns if name in features
    }


def auc_standard_error(num_rows: int) -> float:
    r"""Standard error of the AUC of two tables that cannot be told apart, $\sqrt{(2n + 1) / 12 n^2}$.

    The null variance of the Mann-Whitney statistic. The cross-validated AUC of two tables of 500 Gaussian rows and ten
    columns varied by 1.25 times as much, that of 1,000 rows and forty columns by as much.

    Args:
        num_rows: rows n of each of the two tables.
    """
    return math.sqrt((2 * num_rows + 1) / 12) / num_rows


def auc_score(auc: float) -> float:
    """The AUC as a score, `1 - 2 |AUC - 0.5|`: 1 for tables that cannot be told apart, 0 for tables that always can."""
    return 1 - 2 * abs(auc - 0.5)


def labelled_features(
    real: pd.DataFrame, synthetic: pd.DataFrame, columns: Mapping[str, Mapping[str, Any]], seed: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """Equal numbers of real and synthetic rows, one upon the other, as numbers; True for the synthetic ones.

    What a classifier sees; arguments and errors as in `real_or_synthetic_auc`.
    """
    num_rows = min(len(real), len(synthetic))
    if num_rows < NUM_FOLDS:
        raise DataError(
            f'The real-or-synthetic classifier needs at least {NUM_FOLDS} rows of each kind; '
            f'it got {len(real)} real and {len(synthetic)} synthetic rows.'
        )
    names = [name for name, column in columns.items() if column.get('sdtype') in CLASSIFIED]
    if not names:
        kinds = sorted({str(column.get('sdtype')) for column in columns.values()})
        raise DataError(
            f'The real-or-synthetic classifier needs a column of one of the sdtypes {", ".join(CLASSIFIED)}; '
            f'the columns it got have: {", ".join(kinds) or "none"}.'
        )
    for who, data in (('real', real), ('synthetic', synthetic)):
        _require(who, data, names)
    rng = np.random.default_rng(seed)
    real, synthetic = (_cut(data, num_rows, rng) for data in (real, synthetic))
    features = pd.DataFrame({name: _numbers(real[name], synthetic[name], columns[name]) for name in names})
    return features, np.repeat([False, True], num_rows)


def _require(who: str, data: pd.DataFrame, names: Iterable[str]) -> None:
    missing = [name for name in names if name not in data.columns]
    if missing:
        raise DataError(f'The {who} table lacks the columns {missing}. Both tables need every column of the metadata.')


def _cut(data: pd.DataFrame, num_rows: int, rng: np.random.Generator) -> pd.DataFrame:
    return data if len(data) == num_rows else data.iloc[rng.permutation(len(data))[:num_rows]]


def _numbers(real: pd.Series, synthetic: pd.Series, column: Mapping[str, Any]) -> np.ndarray:
    """A column of both tables as numbers, real rows first, shape (2 row,)."""
    both = pd.concat([real, synthetic], ignore_index=True)
    if column['sdtype'] in DISCRETE:
        codes = pd.Categorical(both.astype('string')).codes.astype('float64')
        return np.where(codes < 0, np.nan, codes)
    if column['sdtype'] == 'datetime':
        moments = pd.to_datetime(both, format=column.get('datetime_format'), errors='coerce')
        values = ((moments - pd.Timestamp(0)) / pd.Timedelta(seconds=1)).to_numpy(dtype='float64')
    else:
        values = pd.to_numeric(both, errors='coerce').to_numpy(dtype='float64', na_value=np.nan)
    return _rounded(values, values[: len(real)])


def _rounded(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Values in whole steps of `ROUNDING` real standard deviations."""
    known = real[np.isfinite(real)]
    size, spread = (np.abs(known).max(), known.std()) if len(known) else (0.0, 0.0)
    # The standard deviation of a constant column is 0 or rounding noise; its own size is the scale that is left.
    step = ROUNDING * spread if spread > 1e-12 * size else 1e-9 * size
    return np.round(values / step) if step > 0 else values


def _cross_validated_auc(classifier: Any, features: pd.DataFrame, is_synthetic: np.ndarray, seed: int) -> float:
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed).split(features, is_synthetic)
    aucs = []
    for train, test in folds:
        classifier.fit(features.iloc[train], is_synthetic[train])
        aucs.append(roc_auc_score(is_synthetic[test], classifier.predict_proba(features.iloc[test])[:, 1]))
    return float(np.mean(aucs))
