import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from sdv_constrained_diffusion.errors import DataError
from sdv_constrained_diffusion.report.classifier import (
    auc_score,
    auc_standard_error,
    column_aucs,
    real_or_synthetic_auc,
)

NUMBER, CATEGORY = {'sdtype': 'numerical'}, {'sdtype': 'categorical'}


def gaussian(num_rows, seed, shift=0.0, names=('a', 'b')):
    values = np.random.default_rng(seed).normal(size=(num_rows, len(names)))
    values[:, 0] += shift
    return pd.DataFrame(values, columns=list(names))


def test_the_same_distribution_cannot_be_told_apart():
    auc = real_or_synthetic_auc(gaussian(2000, 0), gaussian(2000, 1), {'a': NUMBER, 'b': NUMBER})
    # Three standard errors of the AUC of tables that cannot be told apart, 0.027.
    assert abs(auc - 0.5) < 3 * auc_standard_error(2000)


@pytest.mark.parametrize('shift', [0.5, 1.5])
def test_a_shifted_gaussian_reaches_the_best_possible_auc(shift):
    auc = real_or_synthetic_auc(gaussian(3000, 0), gaussian(3000, 1, shift), {'a': NUMBER, 'b': NUMBER})
    best = norm.cdf(shift / np.sqrt(2))
    # No classifier beats the likelihood ratio, up to three standard errors (0.022); trees come within 0.03 of it.
    assert best - 0.05 < auc < best + 0.025


def test_a_spread_that_leaves_the_ranks_alone_is_seen():
    wide = gaussian(2000, 1) * [2.0, 1.0]
    assert real_or_synthetic_auc(gaussian(2000, 0), wide, {'a': NUMBER, 'b': NUMBER}) > 0.6


def test_each_columns_auc_names_the_one_that_differs():
    aucs = column_aucs(gaussian(2000, 0), gaussian(2000, 1, 1.0), {'a': NUMBER, 'b': NUMBER})
    assert list(aucs) == ['a', 'b']
    assert aucs['a'] == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.04)
    assert aucs['b'] == pytest.approx(0.5, abs=3 * auc_standard_error(2000))


def test_last_digits_are_not_classified():
    real = gaussian(1500, 0).round(1)
    digits = real + 1e-7 * np.random.default_rng(1).normal(size=real.shape)
    assert real_or_synthetic_auc(real, digits, {'a': NUMBER, 'b': NUMBER}) < 0.5 + 3 * auc_standard_error(1500)
    steps = real + 0.03 * np.random.default_rng(1).normal(size=real.shape)
    assert real_or_synthetic_auc(real, steps, {'a': NUMBER, 'b': NUMBER}) > 0.7


def test_round_off_of_a_constant_column_is_not_classified():
    real = gaussian(500, 0).assign(a=1.02)
    synthetic = gaussian(500, 1).assign(a=1.02 + 1e-15 * np.random.default_rng(2).integers(-2, 3, 500))
    auc = real_or_synthetic_auc(real, synthetic, {'a': NUMBER, 'b': NUMBER})
    assert abs(auc - 0.5) < 3 * auc_standard_error(500)


def test_categories_datetimes_and_missing_values_are_seen():
    rng = np.random.default_rng(0)
    days = pd.Series(pd.date_range('2024-01-01', periods=600).strftime('%Y-%m-%d'))
    real = pd.DataFrame({'kind': rng.choice(['x', 'y'], 600), 'day': days, 'number': rng.normal(size=600)})
    columns = {'kind': CATEGORY, 'day': {'sdtype': 'datetime', 'datetime_format': '%Y-%m-%d'}, 'number': NUMBER}
    assert column_aucs(real, real.assign(kind='x'), columns)['kind'] == pytest.approx(0.75, abs=0.03)
    assert column_aucs(real, real.assign(day='2024-12-31'), columns)['day'] > 0.95
    real, holes = gaussian(3000, 0, names=('number',)), gaussian(3000, 1, names=('number',))
    holes = holes.where(rng.random((3000, 1)) < 0.5)
    # Half of the rows give themselves away by a hole: AUC 1/2 + 1/4.
    assert column_aucs(real, holes, {'number': NUMBER})['number'] == pytest.approx(0.75, abs=0.03)


def test_ids_are_left_out_and_tables_cut_to_equal_size():
    real, synthetic = gaussian(3000, 0), gaussian(400, 1)
    columns = {'a': NUMBER, 'b': NUMBER, 'key': {'sdtype': 'id'}}
    auc = real_or_synthetic_auc(real.assign(key=range(3000)), synthetic.assign(key=-1), columns)
    assert abs(auc - 0.5) < 3 * auc_standard_error(400)


def test_the_seed_decides():
    real, synthetic = gaussian(300, 0), gaussian(200, 1)
    columns = {'a': NUMBER, 'b': NUMBER}
    first, again, other = (real_or_synthetic_auc(real, synthetic, columns, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_standard_error_is_that_of_ranks():
    rng = np.random.default_rng(0)
    ranks = np.array([rng.permutation(100)[:50].sum() for _ in range(4000)])
    aucs = (ranks - 50 * 49 / 2) / 50**2
    # The spread of 4,000 draws is known to 1.1 % (one standard error).
    assert auc_standard_error(50) == pytest.approx(aucs.std(), rel=0.04)


def test_score_is_symmetric():
    assert [auc_score(auc) for auc in (0.5, 0.0, 1.0, 0.75, 0.25)] == [1.0, 0.0, 0.0, 0.5, 0.5]


def test_errors_state_the_facts():
    with pytest.raises(DataError, match='4 real and 300 synthetic rows'):
        real_or_synthetic_auc(gaussian(4, 0), gaussian(300, 1), {'a': NUMBER})
    with pytest.raises(DataError, match='columns it got have: id'):
        real_or_synthetic_auc(gaussian(50, 0), gaussian(50, 1), {'a': {'sdtype': 'id'}})
    with pytest.raises(DataError, match=r"synthetic table lacks the columns \['b'\]"):
        column_aucs(gaussian(50, 0), gaussian(50, 1)[['a']], {'a': NUMBER, 'b': NUMBER})
