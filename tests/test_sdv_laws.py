"""Discovered laws, and constraints that come and go, on tables that could be damaged by them."""

import numpy as np
import pandas as pd
import pytest
from sdv.sampling import Condition

from sdv_constrained_diffusion import Bounds, ConditionalOn, ConstrainedDiffusionSynthesizer, Formula, SumTo, constraint
from sdv_constrained_diffusion.errors import ConstraintError
from sdv_version import fit, metadata_of, sample, sample_from_conditions, sample_remaining_columns

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
NUMERICAL = {'sdtype': 'numerical'}


@pytest.fixture(autouse=True)
def few_typical_rows(monkeypatch):
    """A quarter of the rows that usually stand for the training rows: what is tested here needs no more."""
    for module in ('enforcement', 'model'):
        monkeypatch.setattr(f'sdv_constrained_diffusion.{module}.TYPICAL_ROWS', 512)


def fitted(table, laws=(), columns=None, **arguments):
    described = metadata_of(table, columns)
    synthesizer = ConstrainedDiffusionSynthesizer(described, **({'epochs': 8, 'seed': 0} | arguments))
    if laws:
        synthesizer.add_constraints(list(laws))
    return fit(synthesizer, table)


def noise(num_rows=800, seed=0):
    rng = np.random.default_rng(seed)
    return rng, pd.DataFrame({'x': rng.normal(size=num_rows), 'y': rng.normal(size=num_rows)})


@pytest.mark.parametrize('sdtype', ['numerical', 'categorical'])
def test_dummies_stay_zeros_and_ones(sdtype):
    rng, table = noise()
    dummies = pd.get_dummies(pd.Series(rng.integers(0, 4, len(table))), prefix='is', dtype=int)
    table = pd.concat([table, dummies], axis=1)
    synthesizer = fitted(table, columns={name: {'sdtype': sdtype} for name in dummies})
    rows = sample(synthesizer, 300)
    assert set(np.unique(rows[dummies.columns])) == {0, 1}
    if sdtype == 'numerical':
        assert len(synthesizer.get_discovered_laws()) == 1
        assert (rows[dummies.columns].sum(axis=1) == 1).all()


def test_numbers_that_are_categories_take_no_part_in_laws():
    rng, table = noise()
    table['a'] = rng.choice([1, 5, 9], len(table))
    table['b'] = 10 - table['a']
    synthesizer = fitted(table, columns={name: {'sdtype': 'categorical'} for name in 'ab'})
    assert synthesizer.get_discovered_laws() == []
    assert set(sample(synthesizer, 200)['a']) <= {1, 5, 9}


def test_discovered_laws_leave_columns_within_their_ranges():
    rng, table = noise()
    table['a'], table['b'] = rng.gamma(0.5, 2, len(table)), rng.gamma(0.5, 2, len(table))
    table['c'] = table['a'] + table['b']
    rows = sample(fitted(table), 400)
    assert (rows['a'] + rows['b'] - rows['c']).abs().max() <= 1e-6
    for name in 'abc':
        assert rows[name].min() >= table[name].min() - 1e-9
        assert rows[name].max() <= table[name].max() + 1e-9


def test_whole_numbers_in_a_fixed_ratio_stay_whole():
    rng, table = noise()
    table['a'] = 2 * rng.integers(0, 200, len(table))
    table['b'] = table['a'] // 2 * 3
    synthesizer = fitted(table, columns={'a': NUMERICAL, 'b': NUMERICAL})
    assert len(synthesizer.get_discovered_laws()) == 1
    rows = sample(synthesizer, 200)
    assert (rows.dtypes[['a', 'b']] == np.int64).all()
    assert (rows['b'] * 2 == rows['a'] * 3).all()


@pytest.mark.parametrize('zone', ['Europe/Berlin', None])
def test_moments_a_fixed_time_apart_stay_so_in_any_zone(zone):
    rng, table = noise()
    start = pd.Series(pd.Timestamp('2024-01-01') + pd.to_timedelta(rng.integers(0, 500_000, len(table)), 'min'))
    table['start'] = start.dt.tz_localize('UTC').dt.tz_convert(zone) if zone else start
    table['end'] = table['start'] + pd.Timedelta(days=3)
    rows = sample(fitted(table), 200)
    assert str(rows['start'].dtype) == str(table['start'].dtype)
    assert (rows['end'] - rows['start'] == pd.Timedelta(days=3)).all()


@pytest.mark.parametrize('rounding', [True, False])
def test_dates_written_as_text_obey_the_law_as_they_are_written(rounding):
    rng, table = noise()
    start = pd.Timestamp('2024-01-01') + pd.to_timedelta(rng.integers(0, 500, len(table)), 'D')
    table['start'], table['end'] = start.strftime('%Y-%m-%d'), (start + pd.Timedelta(days=5)).strftime('%Y-%m-%d')
    dates = {'sdtype': 'datetime', 'datetime_format': '%Y-%m-%d'}
    rows = sample(fitted(table, columns={'start': dates, 'end': dates}, enforce_rounding=rounding), 200)
    gap = pd.to_datetime(rows['end']) - pd.to_datetime(rows['start'])
    assert (gap == pd.Timedelta(days=5)).all()


def test_a_category_in_numbers_is_never_moved_by_a_constraint_of_after_training():
    rng, table = noise()
    table['c'] = rng.choice([10, 20, 40], len(table))
    synthesizer = fitted(table, columns={'c': {'sdtype': 'categorical'}})
    with pytest.raises(ConstraintError, match=r"\['c == 30'\] cannot be obeyed together: .*never moved"):
        synthesizer.add_constraints([SumTo(['c'], 30)])
    synthesizer.add_constraints([Formula('x == c')])
    rows = sample(synthesizer, 100)
    assert set(rows['c']) <= {10, 20, 40}
    assert (rows['x'] - rows['c']).abs().max() <= 1e-6


@pytest.mark.parametrize(
    'laws', [[SumTo(['x', 'y'], 1.0), SumTo(['x', 'y'], 2.0)], [Bounds('x', 0.5), Bounds('x', upper=-0.5)]]
)
def test_constraints_that_contradict_each_other_are_refused_before_any_row_is_drawn(laws):
    _, table = noise()
    with pytest.raises(ConstraintError, match=r'cannot be obeyed together: of 128 rows none .* the nearest misses'):
        fitted(table, laws)
    synthesizer = fitted(table)
    with pytest.raises(ConstraintError, match='cannot be obeyed together'):
        synthesizer.add_constraints(laws)
    assert synthesizer.get_constraints() == []
    assert len(sample(synthesizer, 10)) == 10


def test_a_column_whose_constraint_was_removed_is_rounded_and_clipped_again():
    _, table = noise()
    table['p'] = table['x'].abs().round(2)
    law = Bounds('p', 0, 1000)
    synthesizer = fitted(table, [law])
    synthesizer.remove_constraints([law])
    rows = sample(synthesizer, 300)
    assert (rows['p'] == rows['p'].round(2)).all()
    assert rows['p'].between(table['p'].min(), table['p'].max()).all()


def test_a_label_that_is_rare_binds_all_the_same():
    rng, table = noise(1500)
    table['kind'] = np.where(rng.uniform(size=1500) < 0.002, 'rare', 'common')
    assert 0 < (table['kind'] == 'rare').sum() < 9
    synthesizer = fitted(table)
    synthesizer.add_constraints([ConditionalOn('kind', 'rare', Bounds('x', 1, 2))])
    rows = sample_from_conditions(synthesizer, [Condition({'kind': 'rare'}, num_rows=5)])
    assert rows['x'].between(1 - 1e-9, 2 + 1e-9).all()


def test_a_label_that_no_row_holds_is_warned_of():
    rng, table = noise()
    table['kind'] = rng.choice(['a', 'b'], len(table))
    with pytest.warns(UserWarning, match="if kind is 'A' binds none of the training rows.*Check how the label"):
        fitted(table, [ConditionalOn('kind', 'A', Bounds('x', 0, 1))], epochs=1)


def test_a_conditional_equality_is_steered_to_and_takes_the_other_columns_with_it():
    rng, table = noise(1500)
    table['y'] = table['x'] + 0.1 * table['y']
    table['kind'] = rng.choice(['a', 'b'], 1500, p=[0.7, 0.3])
    synthesizer = fitted(table, epochs=80)
    synthesizer.add_constraints([ConditionalOn('kind', 'b', SumTo(['x'], 1.5))])
    rows = sample(synthesizer, 500)
    bound = rows[rows['kind'] == 'b']
    assert len(bound) > 50
    assert (bound['x'] - 1.5).abs().max() <= 1e-6
    # y is x up to 0.1; projection alone would leave it around 0 with deviation 1.
    assert abs(bound['y'].mean() - 1.5) <= 0.2
    assert bound['y'].std() <= 0.4
    assert abs(rows.loc[rows['kind'] == 'a', 'x'].mean()) <= 0.2


def test_fixed_values_that_make_an_inequality_unlikely_are_completed_all_the_same():
    _, table = noise()
    table['y'] = 0.9 * table['x'] + 0.3 * table['y']
    synthesizer = fitted(table, epochs=60)
    synthesizer.add_constraints([Bounds('y', lower=1.0)])
    known = pd.DataFrame({'x': [1.0, 1.2, -1.0]})
    rows = sample_remaining_columns(synthesizer, known)
    assert rows['x'].tolist() == [1.0, 1.2, -1.0]
    assert (rows['y'] >= 1 - 1e-9).all()
    # Afterwards rows are refused again, not moved to the limit.
    assert (sample(synthesizer, 100)['y'] > 1 + 1e-6).mean() > 0.95


def test_a_rule_between_labels_is_met_by_drawing_again():
    rng, table = noise()
    table['kind'], table['size'] = rng.choice(['a', 'b'], len(table)), rng.choice(['S', 'L'], len(table))

    @constraint(columns=['kind', 'size'])
    def no_large_a(rows):
        return ((rows.kind == 'a') & (rows.size == 'L')).double()

    synthesizer = fitted(table)
    synthesizer.add_constraints([no_large_a])
    rows = sample(synthesizer, 200)
    assert len(rows) == 200
    assert not ((rows['kind'] == 'a') & (rows['size'] == 'L')).any()
    assert ((rows['kind'] == 'a') & (rows['size'] == 'S')).any()


def test_numbers_read_as_labels_are_learned_as_categories():
    rng, table = noise()
    table['topology'] = rng.choice([1, 2, 3, 7], len(table))
    table['x'] = table['topology'] * table['y']

    @constraint(columns=['topology', 'x', 'y'], discrete=['topology'])
    def by_topology(rows):
        return rows.x - rows.topology.map({1: 1.0, 2: 2.0, 3: 3.0, 7: 7.0}) * rows.y

    rows = sample(fitted(table, [by_topology], columns={'topology': NUMERICAL}), 200)
    assert set(rows['topology']) <= {1, 2, 3, 7}
    assert (rows['x'] - rows['topology'] * rows['y']).abs().max() <= 1e-6
