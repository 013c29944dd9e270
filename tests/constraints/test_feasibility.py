import numpy as np
import pandas as pd
import pytest

from sdv_constrained_diffusion.constraints.base import constraint
from sdv_constrained_diffusion.constraints.feasibility import COLUMNS, feasibility, share_feasible, violations
from sdv_constrained_diffusion.errors import ColumnMissingError, DataError


@constraint(columns=['gen_mw', 'load_mw'], tolerance=0.5, unit='MW')
def balance(table):
    return table.gen_mw - table.load_mw


@constraint(columns=['vm_pu'], lower=0.9, upper=1.1, tolerance=1e-3, unit='p.u.')
def voltage(table):
    return table.vm_pu


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    load, miss = rng.normal(100.0, 10.0, 400), rng.normal(0.0, 0.4, 400)
    return pd.DataFrame({'gen_mw': load + miss, 'load_mw': load, 'vm_pu': rng.uniform(0.88, 1.12, 400)})


def by_hand(data):
    miss = np.abs(data['gen_mw'] - data['load_mw']).to_numpy()
    outside = np.maximum(np.maximum(0.9 - data['vm_pu'], data['vm_pu'] - 1.1), 0.0).to_numpy()
    return miss, outside


def test_statistics_equal_those_of_numpy(data):
    found = feasibility([balance, voltage], data)
    assert tuple(found.columns) == COLUMNS
    assert found['equation'].tolist() == ['balance', 'voltage']
    assert found['unit'].tolist() == ['MW', 'p.u.']
    for line, violation, tolerance in zip(found.itertuples(), by_hand(data), (0.5, 1e-3), strict=True):
        assert line.tolerance == tolerance
        # Same operations in float64; only the order of a sum may differ.
        np.testing.assert_allclose(line.max, violation.max(), rtol=1e-12)
        np.testing.assert_allclose(line.p99, np.percentile(violation, 99), rtol=1e-12)
        np.testing.assert_allclose(line.mean, violation.mean(), rtol=1e-12)
        assert line.share_within_tolerance == (violation <= tolerance).mean()


def test_a_row_counts_only_when_it_obeys_every_equation(data):
    miss, outside = by_hand(data)
    expected = ((miss <= 0.5) & (outside <= 1e-3)).mean()
    shares = feasibility([balance, voltage], data)['share_within_tolerance']
    assert share_feasible([balance, voltage], data) == expected
    assert expected < shares.min()


def test_violations_have_one_row_per_row_of_the_table(data):
    equations, found = violations([balance, voltage], data)
    assert [equation.constraint for equation in equations] == ['balance', 'voltage']
    np.testing.assert_allclose(found, np.stack(by_hand(data), axis=1), rtol=1e-12)


def test_a_missing_number_is_never_feasible_and_shows(data):
    data.loc[0, ['gen_mw', 'load_mw']] = [1.0, 1.0]
    before = share_feasible([balance], data)
    data.loc[0, 'gen_mw'] = np.nan
    assert share_feasible([balance], data) == pytest.approx(before - 1 / 400)
    assert feasibility([balance], data)[['max', 'p99', 'mean']].isna().all(axis=None)


def test_column_order_and_further_columns_do_not_matter(data):
    other = data.assign(name='x')[['vm_pu', 'name', 'load_mw', 'gen_mw']]
    pd.testing.assert_frame_equal(feasibility([balance, voltage], other), feasibility([balance, voltage], data))


def test_errors_state_the_facts(data):
    with pytest.raises(DataError, match=r'shape \(0, 3\)'):
        feasibility([balance], data.head(0))
    with pytest.raises(DataError, match='at least one constraint'):
        share_feasible([], data)
    with pytest.raises(ColumnMissingError, match="'gen_mw'"):
        feasibility([balance], data.drop(columns='gen_mw'))
