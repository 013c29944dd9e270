"""Constraints before and after training on a table of numbers, labels and moments, judged by what is delivered."""

import numpy as np
import pandas as pd
import pytest
from sdv.errors import SynthesizerInputError
from sdv.sampling import Condition
from sdv.single_table import GaussianCopulaSynthesizer
from sdv.utils import load_synthesizer

from sdv_constrained_diffusion import (
    Bounds,
    ConditionalOn,
    ConstrainedDiffusionSynthesizer,
    FidelityReport,
    Formula,
    Linear,
    Ordered,
    SumTo,
    as_sdv_constraint,
    constraint,
)
from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError, ConstraintMismatchError, DataError
from sdv_version import fit, metadata_of, sample, sample_from_conditions, sample_remaining_columns

RATES = {'food': 0.07, 'book': 0.0, 'luxury': 0.19}


@constraint(columns=['category', 'net', 'tax'], tolerance=0.005 + 1e-9, unit='EUR')
def tax_law(table):
    return table.tax - table.category.map(RATES) * table.net


LAWS = [tax_law, Ordered('issued', 'due')]


def invoices(num_rows=1000, seed=0):
    rng = np.random.default_rng(seed)
    category = rng.choice(list(RATES), num_rows, p=[0.5, 0.3, 0.2])
    net = rng.gamma(3, 60, num_rows).round(2).clip(1)
    tax = (pd.Series(category).map(RATES).to_numpy() * net).round(2)
    issued = pd.Timestamp('2023-01-01') + pd.to_timedelta(rng.integers(0, 700, num_rows), 'D')
    due = issued + pd.to_timedelta(rng.integers(0, 60, num_rows), 'D')
    money = {'category': category, 'net': net, 'tax': tax, 'total': (net + tax).round(2)}
    return pd.DataFrame(
        {**money, 'issued': issued, 'due': due.strftime('%d/%m/%Y').astype(object), 'id': np.arange(num_rows)}
    )


def described():
    return {'due': {'sdtype': 'datetime', 'datetime_format': '%d/%m/%Y'}, 'id': {'sdtype': 'id'}}


@pytest.fixture(autouse=True)
def few_typical_rows(monkeypatch):
    """A quarter of the rows that usually stand for the training rows: what is tested here needs no more."""
    for module in ('enforcement', 'model'):
        monkeypatch.setattr(f'sdv_constrained_diffusion.{module}.TYPICAL_ROWS', 512)


@pytest.fixture(scope='module')
def data():
    return invoices()


@pytest.fixture(scope='module')
def fitted(data):
    synthesizer = ConstrainedDiffusionSynthesizer(metadata_of(data, described()), epochs=60, seed=0)
    synthesizer.add_constraints(LAWS)
    return fit(synthesizer, data)


@pytest.fixture
def fresh(fitted):
    """The fitted synthesizer with the constraints it was fitted with."""
    yield fitted
    fitted.remove_constraints([each for each in fitted.get_constraints() if each not in LAWS])
    fitted.reset_sampling()


def due(rows):
    return pd.to_datetime(rows['due'], format='%d/%m/%Y')


def assert_valid(rows):
    # Cents stand within 1e-12 of their float64 neighbours.
    assert (rows['net'] + rows['tax'] - rows['total']).abs().max() <= 1e-9
    assert (rows['tax'] - rows['category'].map(RATES) * rows['net']).abs().max() <= 0.005 + 1e-9
    assert (rows['issued'] <= due(rows)).all()
    for column in ('net', 'tax', 'total'):
        assert (rows[column] == rows[column].round(2)).all()


def test_rows_obey_laws_over_labels_moments_and_cents(fresh, data):
    rows = sample(fresh, 400)
    pd.testing.assert_series_equal(rows.dtypes, data.dtypes)
    assert_valid(rows)
    assert set(rows['category']) == set(RATES)
    assert (rows['issued'] == rows['issued'].dt.floor('D')).all()


def test_the_sum_that_nobody_wrote_down_is_discovered_and_listed(fresh):
    (law,) = fresh.get_discovered_laws()
    assert {name: abs(weight) for name, weight in law.weights.items()} == {'net': 1.0, 'tax': 1.0, 'total': 1.0}
    report = fresh.constraint_report(sample(fresh, 100))
    assert report['kind'].tolist() == ['learned', 'learned', 'discovered']
    assert (report['share_within_tolerance'] == 1).all()
    assert (report['displacement_median'] >= 0).all()
    assert report['constraint'].tolist() == ['tax_law', 'issued <= due', law.name]


def test_discovery_can_be_switched_off(data):
    synthesizer = ConstrainedDiffusionSynthesizer(metadata_of(data, described()), epochs=1, seed=0, discover_laws=False)
    fit(synthesizer, data)
    assert synthesizer.get_discovered_laws() == []
    rows = sample(synthesizer, 100)
    assert (rows['net'] + rows['tax'] - rows['total']).abs().max() > 0.1
    with pytest.raises(SynthesizerInputError, match="'discover_laws' must be True or False"):
        ConstrainedDiffusionSynthesizer(metadata_of(data), discover_laws='yes')


def test_a_steering_equality_is_added_after_training(fresh, data):
    with pytest.warns(UserWarning, match=r'net == 150 \(steering\): [0-9.]+% of the rows that the model draws'):
        fresh.add_constraints([SumTo(['net'], 150.0, unit='EUR')])
    rows = sample(fresh, 200)
    assert len(rows) == 200
    assert_valid(rows)
    assert (rows['net'] == 150).all()
    report = fresh.constraint_report(rows).set_index('constraint')
    assert report.loc['net == 150', 'kind'] == 'steering'
    assert report.loc['tax_law', 'kind'] == 'learned'
    assert fresh.get_constraint_diagnosis()['kind'].tolist() == ['learned', 'learned', 'steering']


def test_an_inequality_on_a_moment_is_met_by_drawing_again_and_piles_nothing_up(fresh, data):
    with pytest.warns(UserWarning, match='2024-06-01 <= issued'):
        fresh.add_constraints([Bounds('issued', lower='2024-06-01')])
    rows = sample(fresh, 300)
    assert_valid(rows)
    assert (rows['issued'] >= '2024-06-01').all()
    # A day holds one of 183.
    assert (rows['issued'] == '2024-06-01').mean() <= 0.05
    assert fresh.constraint_report(rows).loc[2, 'num_redrawn'] > 100


def test_a_law_that_depends_on_a_label_is_added_and_removed(fresh):
    law = ConditionalOn('category', 'luxury', Bounds('net', 200, 300))
    with pytest.warns(UserWarning, match="if category is 'luxury'"):
        fresh.add_constraints([law])
    rows = sample(fresh, 300)
    assert_valid(rows)
    luxury = rows['category'] == 'luxury'
    assert rows.loc[luxury, 'net'].between(200, 300).all()
    assert not rows.loc[~luxury, 'net'].between(200, 300).all()
    fresh.remove_constraints([law.name])
    assert fresh.get_constraints() == LAWS
    assert not sample(fresh, 300).query("category == 'luxury'")['net'].between(200, 300).all()


def test_constraints_of_after_training_are_saved_and_loaded(fresh, tmp_path):
    with pytest.warns(UserWarning):
        fresh.add_constraints([Linear({'net': 1.0, 'tax': 1.0}, 90.0, 90.0)])
    fresh.save(tmp_path / 'model.pkl')
    loaded = load_synthesizer(tmp_path / 'model.pkl')
    assert [each.name for each in loaded.get_constraints()] == [each.name for each in fresh.get_constraints()]
    fresh.reset_sampling()
    loaded.reset_sampling()
    rows = sample(loaded, 100)
    pd.testing.assert_frame_equal(rows, sample(fresh, 100))
    assert (rows['total'] - 90).abs().max() <= 1e-6


def test_a_constraint_that_cannot_be_bound_changes_nothing(fresh):
    before = fresh.get_constraints()
    with pytest.raises(ColumnMissingError, match="'nett'"):
        fresh.add_constraints([Bounds('nett', 0, 1)])
    with pytest.raises(DataError, match="column 'id', but the metadata call it 'id', and SDV invents it"):
        fresh.add_constraints([Bounds('id', 0, 1)])
    with pytest.raises(ConstraintMismatchError, match='No row comes near it'):
        fresh.add_constraints([SumTo(['net'], -1e6)])
    with pytest.raises(SynthesizerInputError, match='before fit only'):
        fresh.add_constraints([as_sdv_constraint(LAWS)])
    with pytest.raises(SynthesizerInputError, match="no constraint 'nothing'; there are"):
        fresh.remove_constraints(['nothing'])
    assert fresh.get_constraints() == before
    assert_valid(sample(fresh, 50))


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize(
    'laws', [[], [SumTo(['net'], 150.0)], [Bounds('net', lower=600.0)], [Bounds('net', lower=200.0)]]
)
def test_rows_are_the_same_for_every_batch_size(fresh, laws):
    fresh.add_constraints(laws)
    tables = []
    for size in (40, 15):
        fresh.reset_sampling()
        tables.append(sample(fresh, 40, batch_size=size).drop(columns='id'))
    pd.testing.assert_frame_equal(*tables)


def test_fixed_labels_moments_and_numbers_are_kept_and_the_laws_obeyed(fresh, data):
    known = data[['category', 'net', 'due']].head(100)
    rows = sample_remaining_columns(fresh, known)
    pd.testing.assert_frame_equal(rows[known.columns], known)
    assert_valid(rows)


def test_fixed_values_that_no_row_can_complete_are_named(fresh):
    # Without the category, nothing is filled: but no rate is 50 %.
    conditions = [Condition({'net': 100.0, 'tax': 50.0}, num_rows=2)]
    with pytest.raises(ConstraintError, match=r"of 64 candidates the nearest misses 'tax_law' by .* EUR") as caught:
        sample_from_conditions(fresh, conditions)
    assert 'outside what the training table has' not in str(caught.value)
    conditions = [Condition({'net': 1e4, 'tax': 5e3}, num_rows=1)]
    with pytest.raises(ConstraintError, match=r"'net' and 1 more lie outside what the training table has \(here "):
        sample_from_conditions(fresh, conditions)
    # A sum of three columns, filled: at once.
    with pytest.raises(ConstraintError, match='cannot be obeyed by 1 of 1 rows'):
        sample_remaining_columns(fresh, pd.DataFrame({'net': [1.0], 'tax': [0.0], 'total': [7.0]}))
    assert_valid(sample(fresh, 30))


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_the_report_and_its_page_tell_what_became_of_each_constraint(fresh, data, tmp_path):
    fresh.add_constraints([SumTo(['net'], 150.0)])
    rows = sample(fresh, 200)
    laws = fresh.constraint_report(rows)
    report = FidelityReport()
    report.generate(
        data, rows, metadata_of(data, described()), fresh.get_constraints(), verbose=False, constraint_report=laws
    )
    pd.testing.assert_frame_equal(report.get_constraint_report(), laws)
    report.to_html(tmp_path / 'page.html')
    page = (tmp_path / 'page.html').read_text()
    for said in ('By constraint', 'redrawn', 'moved, p99', 'worst rows', 'steering', 'discovered'):
        assert said in page
    assert report.to_dict()['constraints'][2]['kind'] == 'steering'


def test_sdvs_own_synthesizers_obey_laws_over_labels_and_moments(data):
    synthesizer = GaussianCopulaSynthesizer(metadata_of(data, described()))
    synthesizer.add_constraints([as_sdv_constraint([*LAWS, Formula('net + tax == total')])])
    rows = sample(fit(synthesizer, data), 150)
    assert len(rows) == 150
    assert_valid(rows)


def test_training_rows_that_mostly_break_a_constraint_are_steered(data):
    synthesizer = ConstrainedDiffusionSynthesizer(metadata_of(data, described()), epochs=30, seed=0)
    synthesizer.add_constraints([Bounds('net', lower=500.0, unit='EUR')])
    with pytest.warns(UserWarning, match=r'500 <= net \(steering\): [0-9.]+% of the training rows .*worst rows: '):
        fit(synthesizer, data)
    rows = sample(synthesizer, 100)
    assert len(rows) == 100
    assert (rows['net'] >= 500).all()
    assert (rows['net'] == 500).mean() <= 0.05
