"""SDV's own constraints: every row obeys them, also under fixed values; the methods about them answer as SDV's do."""

import json

import numpy as np
import pandas as pd
import pytest
from sdv.cag import (
    FixedCombinations,
    FixedIncrements,
    Inequality,
    OneHotEncoding,
    Range,
    SingleTableProgrammableConstraint,
)
from sdv.cag._errors import ConstraintNotMetError
from sdv.sampling import Condition

from mixed_table import make_synthesizer
from sdv_constrained_diffusion import Bounds, SumTo, as_sdv_constraint, constraint, load_constraints
from sdv_constrained_diffusion.errors import ConstraintError
from sdv_version import (
    TABLE,
    auto_assign_transformers,
    fit,
    metadata_of,
    preprocess,
    sample,
    sample_from_conditions,
    sample_remaining_columns,
    validate,
)
from written_laws import Below, enough


class Total(SingleTableProgrammableConstraint):
    """`total = net + tax`, to the cent: the total is left out of the model and worked out anew."""

    def transform(self, data):
        return data.drop(columns='total')

    def get_updated_metadata(self, metadata):
        (table,) = metadata.tables.values()
        del table.columns['total']
        return metadata

    def reverse_transform(self, transformed_data):
        return transformed_data.assign(total=(transformed_data['net'] + transformed_data['tax']).round(2))

    def is_valid(self, synthetic_data):
        return (synthetic_data['net'] + synthetic_data['tax'] - synthetic_data['total']).abs() <= 0.005


CONSTRAINTS = {
    'Inequality': lambda: Inequality('least', 'most'),
    'Inequality of dates': lambda: Inequality('start', 'end'),
    'Inequality of dates as text': lambda: Inequality('opened', 'closed'),
    'Range': lambda: Range('floor', 'middle', 'ceiling'),
    'FixedCombinations': lambda: FixedCombinations(['town', 'country']),
    'FixedIncrements': lambda: FixedIncrements('step', 50),
    'OneHotEncoding': lambda: OneHotEncoding(['is_a', 'is_b', 'is_c']),
    'ProgrammableConstraint': Total,
}

COUNTRY = {'Paris': 'F', 'Lyon': 'F', 'Rome': 'I', 'Oslo': 'N'}
DESCRIBED = {
    'town': {'sdtype': 'categorical'},
    'least': {'sdtype': 'numerical'},
    'most': {'sdtype': 'numerical'},
    'opened': {'sdtype': 'datetime', 'datetime_format': '%Y-%m-%d'},
    'closed': {'sdtype': 'datetime', 'datetime_format': '%Y-%m-%d'},
}


@pytest.fixture(scope='module')
def table(num_rows=300):
    random = np.random.default_rng(0)
    least = random.integers(0, 6, num_rows)
    start = pd.Timestamp('2020-01-01') + pd.to_timedelta(random.integers(0, 300, num_rows), 'D')
    end = start + pd.to_timedelta(random.integers(0, 40, num_rows), 'D')
    floor = random.normal(0, 1, num_rows).round(3)
    middle = (floor + random.gamma(2, 1, num_rows) + 0.001).round(3)
    town = random.choice(list(COUNTRY), num_rows)
    kind = random.integers(0, 3, num_rows)
    net, tax = random.gamma(2, 10, num_rows).round(2), random.gamma(3, 5, num_rows).round(2)
    return pd.DataFrame(
        {
            'least': least,
            'most': least + random.integers(0, 6, num_rows),
            'start': start,
            'end': end,
            'opened': start.strftime('%Y-%m-%d').astype(object),
            'closed': end.strftime('%Y-%m-%d').astype(object),
            'floor': floor,
            'middle': middle,
            'ceiling': (middle + random.gamma(2, 1, num_rows) + 0.001).round(3),
            'town': town,
            'country': [COUNTRY[each] for each in town],
            'step': random.integers(1, 40, num_rows) * 50,
            'is_a': (kind == 0).astype(int),
            'is_b': (kind == 1).astype(int),
            'is_c': (kind == 2).astype(int),
            'net': net,
            'tax': tax,
            'total': (net + tax).round(2),
            'mood': random.choice(np.array(['good', 'bad', None], object), num_rows),
            'value': random.normal(size=num_rows),
        }
    )


def constrained(table, constraints, **arguments):
    described = {name: DESCRIBED[name] for name in table.columns if name in DESCRIBED}
    return make_synthesizer(table, metadata_of(table, described), constraints, **arguments)


@pytest.fixture(scope='module')
def fitted(table):
    """Under all constraints at once."""
    return fit(constrained(table, [make() for make in CONSTRAINTS.values()]), table)


@pytest.fixture
def fresh(fitted):
    """The fitted synthesizer as `fit` left it."""
    fitted.reset_sampling()
    return fitted


def assert_valid(rows):
    """Each constraint once more, in words of its own."""
    assert (rows['least'] <= rows['most']).all()
    assert (rows['start'] <= rows['end']).all()
    assert (rows['opened'] <= rows['closed']).all()  # year first: text is ordered as dates are
    assert (rows['floor'] < rows['middle']).all()
    assert (rows['middle'] < rows['ceiling']).all()
    assert (rows['town'].map(COUNTRY) == rows['country']).all()
    assert (rows['step'] % 50 == 0).all()
    assert (rows[['is_a', 'is_b', 'is_c']].sum(axis='columns') == 1).all()
    assert rows[['is_a', 'is_b', 'is_c']].isin([0, 1]).all(axis=None)
    assert ((rows['net'] + rows['tax'] - rows['total']).abs() <= 0.005).all()


@pytest.mark.parametrize('name', CONSTRAINTS)
def test_every_row_obeys_the_constraint(table, name):
    synthesizer = fit(constrained(table, [CONSTRAINTS[name]()], epochs=2), table)
    rows = sample(synthesizer, 200)
    assert len(rows) == 200
    assert list(rows.columns) == list(table.columns)
    pd.testing.assert_series_equal(rows.dtypes, table.dtypes)
    synthesizer.validate_constraints(rows)
    (found,) = synthesizer.get_constraints()
    assert isinstance(found, type(CONSTRAINTS[name]()))


def test_every_row_obeys_all_constraints_at_once(fresh, table):
    rows = sample(fresh, 300)
    assert list(rows.index) == list(range(300))
    assert list(rows.columns) == list(table.columns)
    pd.testing.assert_series_equal(rows.dtypes, table.dtypes)
    assert_valid(rows)
    fresh.validate_constraints(rows)


def test_rows_under_constraints_do_not_depend_on_the_batch_size(fresh):
    whole = sample(fresh, 60)
    fresh.reset_sampling()
    pd.testing.assert_frame_equal(sample(fresh, 60, batch_size=13), whole)
    fresh.reset_sampling()
    pd.testing.assert_frame_equal(sample(fresh, 20), whole.head(20))


def test_values_that_a_constraint_computes_are_found_among_shared_candidates():
    # The model knows the start and the length, not the end: rows with a given end are matched, all to the same draws.
    random = np.random.default_rng(2)
    start = random.uniform(10, 20, 2000)
    table = pd.DataFrame({'start': start, 'end': start + random.uniform(0, 4, 2000)})
    synthesizer = fit(make_synthesizer(table, metadata_of(table), [Inequality('start', 'end')], epochs=60), table)
    known = pd.DataFrame({'end': random.uniform(14, 20, 400)})
    # A batch of 1,024 has about ten rows within a percent of each end, so 400 ends need few batches.
    rows = sample_remaining_columns(synthesizer, known, max_tries_per_batch=6)
    pd.testing.assert_series_equal(rows['end'], known['end'])
    length = rows['end'] - rows['start']
    assert (length >= 0).all()
    # Uniform on [0, 4] whatever the end: mean 2, and 0.3 is five standard errors of 400 rows.
    assert abs(length.mean() - 2) < 0.3
    assert rows['start'].is_unique


def test_rows_that_cannot_be_matched_do_not_hold_up_the_others():
    random = np.random.default_rng(3)
    start = random.uniform(10, 20, 1000)
    table = pd.DataFrame({'start': start, 'end': start + random.uniform(0, 4, 1000)})
    # A wide table: what is compared must be the matched columns only.
    table = table.join(pd.DataFrame(random.normal(size=(1000, 200))).add_prefix('n'))
    synthesizer = fit(make_synthesizer(table, metadata_of(table), [Inequality('start', 'end')], epochs=5), table)
    known = pd.DataFrame({'end': np.r_[np.full(1100, 99.0), random.uniform(15, 18, 40)]})
    rows = sample_remaining_columns(synthesizer, known, max_tries_per_batch=4)
    np.testing.assert_array_equal(np.sort(rows['end']), np.sort(known['end'][1100:]))


def test_matched_rows_are_written_in_the_order_in_which_they_are_returned(fresh, table, tmp_path):
    rows = sample_remaining_columns(fresh, table[['end']].head(30), folder=tmp_path)
    assert (tmp_path / f'{TABLE}.csv').read_text() == rows.to_csv(index=False)


def test_missing_values_under_constraints_stay_missing(table):
    random = np.random.default_rng(1)
    holed = table.drop(columns=['opened', 'closed']).copy()
    for column in ['end', 'middle', 'country']:
        holed.loc[random.uniform(size=len(holed)) < 0.2, column] = None
    constraints = [CONSTRAINTS[name]() for name in ('Inequality of dates', 'Range', 'FixedCombinations')]
    synthesizer = fit(constrained(holed, constraints, epochs=20), holed)
    rows = sample(synthesizer, 300)
    synthesizer.validate_constraints(rows)
    for column in ['end', 'middle', 'country']:
        # 4 standard errors of the difference of two shares near 0.2 of 300 rows are 0.13.
        assert abs(rows[column].isna().mean() - holed[column].isna().mean()) <= 0.13


def test_constraints_come_back_as_given_and_are_written_as_json(table, tmp_path):
    given = [make() for name, make in CONSTRAINTS.items() if name != 'ProgrammableConstraint']
    synthesizer = constrained(table, given)
    assert [each.get_constraint_dict() for each in synthesizer.get_constraints()] == [
        each.get_constraint_dict() for each in given
    ]
    synthesizer.get_constraints(tmp_path / 'constraints.json')
    written = json.loads((tmp_path / 'constraints.json').read_text())
    assert [each['class_name'] for each in written] == [type(each).__name__ for each in given]
    with pytest.raises(ValueError, match='already exists'):
        synthesizer.get_constraints(tmp_path / 'constraints.json')


def test_constraints_of_both_kinds_come_back_from_one_file(table, tmp_path):
    given = [CONSTRAINTS['FixedCombinations'](), Bounds('value', -5, 5), SumTo(['net', 'tax'], 'total', 0.01), enough]
    numbers = table.assign(gen_mw=2.0 + table['value'] ** 2, load_mw=table['value'] ** 2)
    constrained(numbers, given).get_constraints(tmp_path / 'constraints.json')
    synthesizer = constrained(numbers, load_constraints(tmp_path / 'constraints.json'))
    assert [type(each) for each in synthesizer.get_constraints()] == [type(each) for each in given]
    rows = sample(fit(synthesizer, numbers), 50)
    assert (rows['town'].map(COUNTRY) == rows['country']).all()
    assert ((rows['net'] + rows['tax'] - rows['total']).abs() <= 0.01).all()
    assert (rows['gen_mw'] >= rows['load_mw'] - 1e-6).all()


def test_nothing_is_written_when_one_constraint_cannot_be(table, tmp_path):
    synthesizer = constrained(
        table, [CONSTRAINTS['Inequality'](), constraint(columns=['value'])(lambda rows: rows.value)]
    )
    with pytest.raises(ConstraintError, match='cannot be written down'):
        synthesizer.get_constraints(tmp_path / 'constraints.json')
    assert not list(tmp_path.iterdir())


def test_limits_may_be_numpys_and_what_json_cannot_hold_is_named(table, tmp_path):
    law = Below(('value', 'net'), np.array([5, 900]))
    constrained(table, [law]).get_constraints(tmp_path / 'constraints.json')
    (again,) = load_constraints(tmp_path / 'constraints.json')
    assert (again.columns, again.upper) == (['value', 'net'], [5, 900])
    projecting = constrained(table, [as_sdv_constraint([Bounds('value', -5, 5)])])
    with pytest.raises(ConstraintError, match='cannot be written down'):
        projecting.get_constraints(tmp_path / 'other.json')
    assert not (tmp_path / 'other.json').exists()


@pytest.mark.parametrize(
    'written',
    [
        1,
        {'class_name': 'Inequality'},
        {'class_name': '__doc__', 'parameters': {}},
        {'class_name': 'Unheard', 'parameters': {}},
        {'class_name': 'Inequality', 'parameters': {'lowest': 'a'}},
    ],
)
def test_a_file_of_something_else_is_refused(written, tmp_path):
    (tmp_path / 'constraints.json').write_text(json.dumps([written]))
    with pytest.raises(ConstraintError, match=r'is no written constraint|does not take the parameters'):
        load_constraints(tmp_path / 'constraints.json')


def test_constraints_are_added_one_after_the_other(table):
    synthesizer = constrained(table, [CONSTRAINTS['Inequality']()])
    synthesizer.add_constraints([CONSTRAINTS['FixedCombinations']()])
    assert [type(each) for each in synthesizer.get_constraints()] == [Inequality, FixedCombinations]
    fit(synthesizer, table)
    synthesizer.validate_constraints(sample(synthesizer, 50))


def test_rows_that_disobey_are_found(fresh, table):
    fresh.validate_constraints(table)
    for column, value in {'least': 100, 'country': 'I', 'step': 105, 'total': 0.0, 'is_a': 1, 'ceiling': -50.0}.items():
        spoiled = table.copy()
        spoiled.loc[spoiled['town'] == 'Paris', column] = value
        with pytest.raises(ConstraintNotMetError, match='requirement is not met for row indices'):
            fresh.validate_constraints(spoiled)


def test_data_that_disobey_are_refused(table):
    spoiled = table.copy()
    spoiled.loc[4, 'start'] = pd.Timestamp('2020-12-31')
    synthesizer = constrained(spoiled, [CONSTRAINTS['Inequality of dates']()])
    with pytest.raises(ConstraintNotMetError, match='Inequality'):
        validate(synthesizer, spoiled)
    with pytest.raises(ConstraintNotMetError, match='Inequality'):
        fit(synthesizer, spoiled)


@pytest.mark.parametrize('names', [[], ['Inequality'], list(CONSTRAINTS)], ids=['none', 'one', 'all'])
def test_categories_are_still_learned_as_they_are_after_constraints_were_added(table, names):
    # SDV makes a new DataProcessor and forgets which transformers the class wants.
    synthesizer = constrained(table, ())
    synthesizer.add_constraints([CONSTRAINTS[name]() for name in names])
    auto_assign_transformers(synthesizer, table)
    transformers = synthesizer.get_transformers()
    assert transformers['mood'] is None
    unconstrained = constrained(table, ())
    auto_assign_transformers(unconstrained, table)
    expected = unconstrained.get_transformers()
    for column in set(transformers) & set(expected):
        assert type(transformers[column]) is type(expected[column]), column
    fit(synthesizer, table)
    assert synthesizer.get_transformers()['mood'] is None


def test_the_modified_metadata_tell_what_is_learned(table, fresh):
    original = metadata_of(table, DESCRIBED).to_dict()
    assert fresh.get_metadata().to_dict() == original
    assert fresh.get_metadata('original').to_dict() == original
    modified = fresh.get_metadata('modified').to_dict()['tables']['t']['columns']
    assert 'town#country' in modified
    assert 'total' not in modified
    synthesizer = constrained(table, [make() for make in CONSTRAINTS.values()])
    assert set(preprocess(synthesizer, table).columns) >= {'town#country', 'step#increment', 'value'}


@pytest.mark.parametrize(
    'values',
    [
        {'value': 0.125},
        {'mood': None},
        {'least': 3},
        {'most': 7},
        {'least': 3, 'most': 5},
        {'least': 3, 'mood': 'bad', 'value': -0.5},
        {'town': 'Lyon'},
        {'country': 'F'},
        {'town': 'Rome', 'country': 'I'},
        {'step': 100},
        {'net': 12.5},
        {'is_a': 1},
        {'is_a': 0, 'is_b': 1, 'is_c': 0},
        {'middle': 0.5},
        {'start': pd.Timestamp('2020-03-01')},
        # What all columns of a constraint together determine is known to the model.
        {'start': pd.Timestamp('2020-03-01'), 'end': pd.Timestamp('2020-03-09')},
        {'opened': '2020-03-01', 'closed': '2020-03-09'},
        {'floor': -0.25, 'middle': 0.5, 'ceiling': 1.75},
        {'floor': -0.25, 'middle': 0.5, 'ceiling': 1.75, 'town': 'Rome', 'country': 'I', 'mood': 'bad'},
    ],
    ids=lambda values: ', '.join(f'{name}={value}' for name, value in values.items()),
)
def test_rows_with_fixed_values_obey_the_constraints(fresh, table, values):
    rows = sample_from_conditions(fresh, [Condition(values, num_rows=5)], max_tries_per_batch=20)
    assert len(rows) == 5
    pd.testing.assert_series_equal(rows.dtypes, table.dtypes)
    assert_valid(rows)
    for column, value in values.items():
        assert rows[column].isna().all() if value is None else (rows[column] == value).all()


def test_a_value_that_a_constraint_works_out_is_met_and_never_breaks_the_constraint(fresh):
    # One total in some thousands is this one to the cent; SDV accepts one percent and then writes the value asked for.
    rows = sample_from_conditions(fresh, [Condition({'total': 30.0}, num_rows=3)], max_tries_per_batch=12)
    assert len(rows) >= 1
    assert (rows['total'] == 30.0).all()
    assert_valid(rows)


@pytest.mark.parametrize('values', [{'least': 5, 'most': 3}, {'town': 'Rome', 'country': 'F'}, {'step': 105}])
def test_fixed_values_that_disobey_are_refused(fresh, values):
    with pytest.raises((ValueError, ConstraintNotMetError)):
        sample_from_conditions(fresh, [Condition(values, num_rows=3)], max_tries_per_batch=3)


def test_known_rows_under_constraints_all_come_back(fresh, table):
    known = table[['town', 'country', 'value', 'mood']].head(100)
    rows = sample_remaining_columns(fresh, known)
    assert_valid(rows)
    pd.testing.assert_frame_equal(rows[['town', 'country', 'value']], known[['town', 'country', 'value']])
    pd.testing.assert_series_equal(rows['mood'].isna(), known['mood'].isna())
    assert (rows['mood'].dropna() == known['mood'].dropna()).all()


def test_no_rows_have_the_tables_columns(fresh, table):
    assert list(sample(fresh, 0).columns) == list(table.columns)


def test_a_function_without_its_decorator_is_refused_in_words():
    table = pd.DataFrame({'x': [1.0, 2.0], 'y': [2.0, 4.0]})

    def twice(x, y):
        return y - 2 * x

    with pytest.raises(ConstraintError, match=r'the function twice\. Decorate it with @constraint'):
        make_synthesizer(table).add_constraints([twice])
