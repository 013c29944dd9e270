import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp
from sdmetrics.reports import DiagnosticReport, QualityReport
from sdv.metadata import Metadata

from sdv_constrained_diffusion.constraints.base import constraint
from sdv_constrained_diffusion.errors import ColumnMissingError, DataError
from sdv_constrained_diffusion.report import fidelity
from sdv_constrained_diffusion.report.comparison import compare, one_table
from sdv_constrained_diffusion.report.fidelity import FidelityReport

COLUMNS = {
    'id': {'sdtype': 'id'},
    'gen_mw': {'sdtype': 'numerical'},
    'load_mw': {'sdtype': 'numerical'},
    'vm_pu': {'sdtype': 'numerical'},
    'day': {'sdtype': 'datetime', 'datetime_format': '%Y-%m-%d'},
    'season': {'sdtype': 'categorical'},
    'region': {'sdtype': 'categorical'},
}
METADATA = {'tables': {'grid': {'primary_key': 'id', 'columns': COLUMNS}}}
NUMERIC = {'columns': {name: COLUMNS[name] for name in ('gen_mw', 'load_mw', 'vm_pu')}}


@constraint(columns=['gen_mw', 'load_mw'], tolerance=0.05, unit='MW')
def balance(table):
    return table.gen_mw - table.load_mw


def grid(num_rows, seed, shift=0.0, miss=0.0):
    rng = np.random.default_rng(seed)
    load = rng.normal(100 + shift, 10, num_rows)
    season = np.where(load + rng.normal(0, 5, num_rows) > 100, 'winter', 'summer')
    return pd.DataFrame(
        {
            'id': range(num_rows),
            'gen_mw': load + miss * rng.normal(size=num_rows),
            'load_mw': load,
            'vm_pu': rng.normal(1.0, 0.01, num_rows),
            'day': pd.to_datetime('2024-01-01') + pd.to_timedelta(rng.integers(0, 365, num_rows), unit='D'),
            'season': season,
            'region': rng.choice(['north', 'south', 'east'], num_rows),
        }
    )


def generated(real, synthetic, metadata=METADATA, **arguments):
    report = FidelityReport()
    report.generate(real, synthetic, metadata, verbose=False, **arguments)
    return report


@pytest.fixture(scope='module')
def tables():
    return grid(600, 0), grid(600, 1, shift=8.0, miss=0.05), grid(600, 2)


@pytest.fixture(scope='module')
def report(tables):
    real, synthetic, held_out = tables
    return generated(real, synthetic, constraints=[balance], held_out_data=held_out)


def scores(report):
    return report.get_properties().set_index('Property')


def sdmetrics_scores(kind, reference, other, metadata=METADATA, threshold=None):
    found = kind()
    if threshold is not None:
        found.real_correlation_threshold = found.real_association_threshold = threshold
    found.generate({'grid': reference}, {'grid': other}, metadata, verbose=False)
    return found.get_properties().set_index('Property')['Score']


@pytest.mark.parametrize(('position', 'column'), [(1, 'Score'), (0, 'Floor')])
def test_scores_equal_those_of_sdmetrics(tables, report, position, column):
    # The tables have equal sizes already, so nothing is cut and the numbers must be the same to the last digit but one.
    other, reference = tables[position], tables[2]
    quality = sdmetrics_scores(QualityReport, reference, other)
    every = sdmetrics_scores(QualityReport, reference, other, threshold=0)
    diagnostic = sdmetrics_scores(DiagnosticReport, reference, other)
    found = scores(report)[column]
    assert found['Column Shapes'] == pytest.approx(quality['Column Shapes'], rel=1e-12)
    assert found['Column Pair Trends'] == pytest.approx(quality['Column Pair Trends'], rel=1e-12)
    assert found['Column Pair Trends (all pairs)'] == pytest.approx(every['Column Pair Trends'], rel=1e-12)
    assert found['Data Validity'] == pytest.approx(diagnostic['Data Validity'], rel=1e-12)
    assert found['Data Structure'] == diagnostic['Data Structure']
    assert quality['Column Pair Trends'] != every['Column Pair Trends']


def test_numeric_tables_take_one_pass_and_the_same_scores(tables):
    names = list(NUMERIC['columns'])
    real, synthetic, held_out = (data[names] for data in tables)
    found = scores(generated(real, synthetic, NUMERIC, held_out_data=held_out))
    metadata = {'tables': {'grid': NUMERIC}}
    for column, other in (('Score', synthetic), ('Floor', real)):
        expected = sdmetrics_scores(QualityReport, held_out, other, metadata)['Column Pair Trends']
        assert found.loc['Column Pair Trends', column] == pytest.approx(expected, rel=1e-12)


def test_ks_complement_equals_scipys(tables, report):
    real, synthetic, held_out = tables
    details = report.get_details('Column Shapes').set_index('Column')
    assert list(details.columns) == ['Metric', 'Score', 'Floor']
    for name in NUMERIC['columns']:
        # SDMetrics rounds to six decimals before it compares.
        assert details.loc[name, 'Score'] == pytest.approx(1 - ks_2samp(held_out[name], synthetic[name]).statistic)
        assert details.loc[name, 'Floor'] == pytest.approx(1 - ks_2samp(held_out[name], real[name]).statistic)
    numbers = details[details['Metric'] == 'KSComplement']
    assert report.mean_ks_complement.score == pytest.approx(numbers['Score'].mean())
    assert report.mean_ks_complement.floor == pytest.approx(numbers['Floor'].mean())


def test_constraints_are_judged_on_every_row(tables, report):
    real, synthetic, _ = tables
    miss = (synthetic['gen_mw'] - synthetic['load_mw']).abs()
    line = report.get_details('Constraint Satisfaction').iloc[0]
    assert line['max'] == pytest.approx(miss.max())
    assert line['p99'] == pytest.approx(np.percentile(miss, 99))
    assert line['mean'] == pytest.approx(miss.mean())
    assert line['real_max'] == 0.0
    assert tuple(scores(report).loc['Constraint Satisfaction']) == ((miss <= 0.05).mean(), 1.0)
    # A single bad row among rows that are cut for the comparison must still be found.
    spoilt = pd.concat([grid(400, 5)] * 3, ignore_index=True).assign(id=range(1200))
    spoilt.loc[777, 'gen_mw'] += 50
    again = generated(real, spoilt, constraints=[balance], held_out_data=tables[2])
    assert again.get_details('Constraint Satisfaction')['max'].item() == pytest.approx(50)
    assert scores(again).loc['Constraint Satisfaction', 'Score'] == 1199 / 1200


def test_real_rows_reach_the_floor_and_shifted_rows_do_not(tables, report):
    real, _, held_out = tables
    same = scores(generated(real, real, held_out_data=held_out))
    pd.testing.assert_series_equal(same['Score'], same['Floor'], check_names=False)
    found = scores(report)
    assert found.loc['Column Shapes', 'Score'] < found.loc['Column Shapes', 'Floor']
    assert report.auc.score > 0.6
    assert report.auc.floor == pytest.approx(0.5, abs=0.06)
    assert found.loc['Real or Synthetic', 'Score'] == pytest.approx(1 - 2 * abs(report.auc.score - 0.5))


def test_without_held_out_rows_the_real_rows_are_halved(monkeypatch):
    seen = []
    monkeypatch.setattr(fidelity, 'compare', lambda *given: seen.append(compare(*given)) or seen[-1])
    real, synthetic = grid(101, 0), grid(500, 1)
    report = generated(real, synthetic)
    assert report.get_info()['num_rows_compared'] == seen[0].num_rows == 50
    reference, other = set(seen[0].reference['id']), set(seen[0].other_real['id'])
    assert len(reference) == len(other) == len(seen[0].synthetic) == 50
    assert reference.isdisjoint(other)


@pytest.mark.parametrize(('sizes', 'expected'), [((90, 30, 60), 30), ((90, 80, 40), 40), ((50, 80, 60), 50)])
def test_tables_are_compared_at_equal_size(sizes, expected):
    real, synthetic, held_out = (grid(size, seed) for seed, size in enumerate(sizes))
    found = compare(real, synthetic, METADATA['tables']['grid'], held_out, seed=0)
    assert len(found.reference) == len(found.synthetic) == len(found.other_real) == expected
    assert set(found.modelled) == set(COLUMNS) - {'id'}


def test_forms_of_data_and_metadata_give_the_same_scores(tables):
    real, synthetic, held_out = (data.head(60) for data in tables)
    plain = generated(real, synthetic, METADATA['tables']['grid'], held_out_data=held_out)
    named = generated({'grid': real}, {'grid': synthetic}, METADATA, held_out_data={'grid': held_out})
    of_sdv = generated(real, synthetic, Metadata.load_from_dict(METADATA), held_out_data=held_out[list(COLUMNS)[::-1]])
    for other in (named, of_sdv):
        pd.testing.assert_frame_equal(plain.get_properties(), other.get_properties())


def test_the_seed_decides_and_inputs_stay_as_they_were(tables):
    real, synthetic, _ = (data.head(80) for data in tables)
    copies = real.copy(), synthetic.copy()
    first, again, other = (generated(real, synthetic, seed=seed).to_dict() for seed in (0, 0, 1))
    assert first == again
    assert first['properties'] != other['properties']
    pd.testing.assert_frame_equal(real, copies[0])
    pd.testing.assert_frame_equal(synthetic, copies[1])


def test_quiet_unless_asked(tables, capfd):
    real, synthetic, _ = (data.head(60) for data in tables)
    generated(real, synthetic.assign(vm_pu=1.0))
    assert capfd.readouterr() == ('', '')
    FidelityReport().generate(real, synthetic, METADATA)
    assert 'Column Shapes' in capfd.readouterr().out


def test_every_property_has_details_and_a_figure(report):
    names = report.get_properties()['Property']
    assert names.is_unique
    for name in names:
        assert not report.get_details(name).empty
        assert len(report.get_visualization(name).data) == 2
    assert report.get_score() == pytest.approx(report.get_properties()['Score'].mean())


def test_saved_reports_come_back(report, tmp_path):
    report.save(tmp_path / 'report.pkl')
    again = FidelityReport.load(tmp_path / 'report.pkl')
    assert again.to_dict() == report.to_dict()
    # Neither the real rows nor the synthetic ones may leave with the report.
    assert (tmp_path / 'report.pkl').stat().st_size < 60_000


def test_json_holds_the_numbers_of_the_report(report, tmp_path):
    report.to_json(tmp_path / 'report.json')
    content = json.loads((tmp_path / 'report.json').read_text('utf-8'), parse_constant=pytest.fail)
    assert content == report.to_dict()
    assert content['score'] == report.get_score()
    assert pd.DataFrame(content['properties']).equals(report.get_properties())
    assert {line['Measure'] for line in content['summary']} > set(report.get_properties()['Property'])


def test_page_has_a_section_per_property(report, tmp_path):
    report.to_html(tmp_path / 'report.html')
    page = (tmp_path / 'report.html').read_text('utf-8')
    for name in report.get_properties()['Property']:
        assert f'<h2>{name}</h2>' in page


def test_a_table_of_one_column_has_no_pairs(tables, tmp_path):
    real, synthetic, _ = (data[['vm_pu']] for data in tables)
    report = generated(real, synthetic, {'columns': {'vm_pu': COLUMNS['vm_pu']}})
    found = scores(report)
    assert found.loc[['Column Pair Trends', 'Column Pair Trends (all pairs)']].isna().all(axis=None)
    assert report.get_score() == pytest.approx(found['Score'].dropna().mean())
    report.to_html(tmp_path / 'report.html')
    report.to_json(tmp_path / 'report.json')
    assert json.loads((tmp_path / 'report.json').read_text())['properties'][1]['Score'] is None


def test_constant_columns_and_categories_alone_have_pages(tables, tmp_path):
    real, synthetic, _ = tables
    constant = {name: data.assign(vm_pu=1.0, gen_mw=1.0) for name, data in (('real', real), ('synthetic', synthetic))}
    names = ['season', 'region']
    columns = {'columns': {name: COLUMNS[name] for name in names}}
    for number, report in enumerate([generated(*constant.values()), generated(real[names], synthetic[names], columns)]):
        report.to_html(tmp_path / f'{number}.html')
        assert 0 < report.get_score() <= 1
    assert np.isnan(report.mean_ks_complement.score)


def test_errors_state_the_facts(tables, report):
    real, synthetic, _ = tables
    with pytest.raises(DataError, match=r"synthetic_data lacks \['vm_pu'\] and has \['v'\]"):
        generated(real, synthetic.rename(columns={'vm_pu': 'v'}))
    with pytest.raises(DataError, match='at least 10 rows in synthetic_data; it got 0'):
        generated(real, synthetic.head(0))
    with pytest.raises(DataError, match='at least 20 rows in real_data; it got 19'):
        generated(real.head(19), synthetic)
    with pytest.raises(DataError, match='holds 2'):
        generated({'a': real, 'b': real}, synthetic)
    with pytest.raises(DataError, match="'grid', but real_data holds the table 'net'"):
        generated({'net': real}, synthetic)
    with pytest.raises(DataError, match='it got list'):
        one_table('real_data', [real])
    with pytest.raises(DataError, match='describe 2'):
        generated(real, synthetic, {'tables': {'a': {}, 'b': {}}})
    with pytest.raises(DataError, match='it got str'):
        generated(real, synthetic, 'metadata')
    with pytest.raises(ColumnMissingError, match="'load_mw'"):
        names = ['gen_mw', 'vm_pu']
        generated(
            real[names], synthetic[names], {'columns': {name: COLUMNS[name] for name in names}}, constraints=[balance]
        )
    with pytest.raises(ValueError, match=r"'Coverage'.*Column Shapes"):
        report.get_details('Coverage')
    with pytest.raises(ValueError, match='generate'):
        FidelityReport().get_score()


def test_the_package_root_imports_no_report():
    code = 'import sys, sdv_constrained_diffusion; print([n for n in sys.modules if "diffusion.report" in n])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == '[]\n'
