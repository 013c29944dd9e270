"""Our constraints on SDV's other synthesizers, and whole numbers and decimals under guided constraints."""

import numpy as np
import pandas as pd
import pytest
from sdv.sampling import Condition
from sdv.single_table import CTGANSynthesizer, GaussianCopulaSynthesizer, TVAESynthesizer

from mixed_table import make_synthesizer
from sdv_constrained_diffusion import Bounds, Formula, SumTo, as_sdv_constraint
from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError, ConstraintMismatchError
from sdv_version import fit, metadata_of, sample, sample_from_conditions, sample_remaining_columns

LAWS = [Formula('total == price * quantity', 1e-9), Bounds('price', 1, 9)]
PEERS = {
    'GaussianCopula': GaussianCopulaSynthesizer,
    'CTGAN': lambda metadata: CTGANSynthesizer(metadata, epochs=3),
    'TVAE': lambda metadata: TVAESynthesizer(metadata, epochs=3),
}


@pytest.fixture(scope='module')
def orders(num_rows=400):
    rng = np.random.default_rng(0)
    price, quantity = rng.uniform(1, 9, num_rows).round(2), rng.integers(1, 9, num_rows)
    kind = rng.choice(['a', 'b'], num_rows)
    return pd.DataFrame({'price': price, 'quantity': quantity, 'total': (price * quantity).round(2), 'kind': kind})


def assert_valid(rows, orders):
    pd.testing.assert_series_equal(rows.dtypes, orders.dtypes)
    # Two floats that stand for the same cents differ in the last digits of numbers below 100.
    assert (rows['total'] - rows['price'] * rows['quantity']).abs().max() <= 1e-9
    for column in ['price', 'total']:
        assert (rows[column] == rows[column].round(2)).all()
    assert rows['price'].between(1, 9).all()


@pytest.mark.parametrize('name', PEERS)
def test_rows_of_sdvs_synthesizers_obey_our_constraints(orders, name):
    synthesizer = PEERS[name](metadata_of(orders))
    synthesizer.add_constraints([as_sdv_constraint(LAWS)])
    rows = sample(fit(synthesizer, orders), 150)
    assert len(rows) == 150
    assert_valid(rows, orders)


def test_our_own_rows_keep_whole_numbers_and_decimals_under_a_law(orders):
    synthesizer = fit(make_synthesizer(orders, metadata_of(orders), LAWS, epochs=30), orders)
    rows = sample(synthesizer, 200)
    assert_valid(rows, orders)
    assert rows['quantity'].nunique() == 8


def test_fixed_values_that_break_a_law_among_themselves_are_refused_at_once(orders):
    synthesizer = fit(make_synthesizer(orders, metadata_of(orders), LAWS), orders)
    words = r'total == price \* quantity cannot be obeyed by 3 of 3 rows .* is off by 3, its .*leave a column open'
    with pytest.raises(ConstraintError, match=words):
        sample_from_conditions(synthesizer, [Condition({'price': 2.0, 'quantity': 4, 'total': 5.0}, num_rows=3)])
    known = orders[['price', 'quantity', 'total']].head(20).assign(quantity=lambda rows: rows['quantity'] + 1)
    with pytest.raises(ConstraintError, match='20 of 20 rows'):
        sample_remaining_columns(synthesizer, known)
    rows = sample_remaining_columns(synthesizer, orders[['price', 'quantity', 'total']].head(20))
    assert len(rows) == 20


def test_without_rounding_nothing_is_rounded(orders):
    synthesizer = make_synthesizer(orders, metadata_of(orders), LAWS, enforce_rounding=False)
    rows = sample(fit(synthesizer, orders), 50)
    assert rows['quantity'].dtype == 'float64'
    assert (rows['price'] != rows['price'].round(2)).any()


def test_a_composition_of_one_decimal_comes_to_a_hundred():
    cuts = np.sort(np.random.default_rng(0).integers(0, 1001, (400, 4)), axis=1)
    table = pd.DataFrame(np.diff(np.c_[np.zeros(400), cuts, np.full(400, 1000)], axis=1) / 10).add_prefix('s')
    laws = [SumTo(list(table.columns), 100, 1e-9), *[Bounds(name, 0, 100) for name in table]]
    rows = sample(fit(make_synthesizer(table, metadata_of(table), laws, epochs=30), table), 300)
    assert len(rows) == 300
    np.testing.assert_array_equal(rows, rows.round(1))
    np.testing.assert_allclose(rows.sum(axis='columns'), 100, rtol=0, atol=1e-9)
    assert (rows >= 0).all(axis=None)


def test_what_cannot_be_meant_is_refused(orders):
    with pytest.raises(ConstraintError, match='needs a list'):
        as_sdv_constraint(LAWS[0])
    with pytest.raises(ConstraintError, match='needs a list'):
        as_sdv_constraint([])
    with pytest.raises(ConstraintError, match='must be an instance'):
        as_sdv_constraint([Formula])
    wrong = [
        (Formula('total == prize'), ColumnMissingError),
        (Formula('total == price + 1e6'), ConstraintMismatchError),
    ]
    for law, error in wrong:
        synthesizer = PEERS['GaussianCopula'](metadata_of(orders))
        synthesizer.add_constraints([as_sdv_constraint([law])])
        with pytest.raises(error):
            fit(synthesizer, orders)


@pytest.mark.parametrize(('dtype', 'largest'), [('float32', 4e7), ('int8', 60), ('Int16', 9000)])
def test_rows_that_the_dtype_cannot_hold_are_drawn_again(dtype, largest):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(np.rint(rng.uniform(0, largest, (400, 2)))).set_axis(['u', 'v'], axis='columns')
    if dtype == 'float32':
        table = table // 8 * 8  # float32 holds every eighth whole number of this size and some between
    table = table.assign(w=table['u'] + table['v']).astype(dtype)
    metadata = metadata_of(table, {name: {'sdtype': 'numerical'} for name in table})
    synthesizer = fit(make_synthesizer(table, metadata, [SumTo(['u', 'v'], 'w')], epochs=10), table)
    rows = sample(synthesizer, 300)
    assert len(rows) == 300
    pd.testing.assert_series_equal(rows.dtypes, table.dtypes)
    exact = rows.astype('float64')
    assert (exact['u'] + exact['v'] == exact['w']).all()
