import copy
import functools
import importlib
import json
import re

import numpy as np
import pandapower as pp
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cases import LINE, case
from sdv_constrained_diffusion.cli import app
from sdv_constrained_diffusion.errors import ColumnMissingError, GridError, MissingExtraError
from sdv_constrained_diffusion.power.columns import Units
from sdv_constrained_diffusion.power.nets import solved_row
from sdv_constrained_diffusion.power.tables import APART, FLOWS, WIDE
from sdv_constrained_diffusion.power.validation import (
    Agreement,
    validation_report,
    verify_with_lightsim2grid,
    verify_with_runpp,
)

BOTH = pytest.mark.parametrize('verify', [verify_with_runpp, verify_with_lightsim2grid], ids=['runpp', 'lightsim2grid'])
ERRORS = ['error_p_mw', 'error_q_mvar', 'error_vm_pu', 'error_va_degree']
# Both power flows stop at 1e-9 MVA; what is left is Newton's last step and pandapower's steps of 1e-7 Mvar.
SOLVER = pd.Series([1e-6, 1e-6, 1e-8, 1e-6], index=ERRORS)


def substation():
    """Switches, a shunt, a ward, a transformer that turns the phase by 150 degrees, and several kinds of injection."""
    net = pp.create_empty_network('substation', sn_mva=100.0)
    for bus, vn_kv in ((42, 110.0), (7, 110.0), (3, 110.0), (20, 110.0), (15, 20.0)):
        pp.create_bus(net, vn_kv, index=bus)
    pp.create_ext_grid(net, 42, vm_pu=1.02, va_degree=5.0)
    pp.create_gen(net, 7, p_mw=20.0, vm_pu=1.01)
    pp.create_gen(net, 7, p_mw=4.0, vm_pu=1.01)
    pp.create_sgen(net, 3, p_mw=2.0, q_mvar=0.5)
    pp.create_storage(net, 20, p_mw=1.0, max_e_mwh=1.0)
    for bus, p_mw in ((42, 5.0), (7, 5.0), (3, 20.0), (20, 10.0), (15, 6.0)):
        pp.create_load(net, bus, p_mw=p_mw, q_mvar=p_mw / 4)
    pp.create_shunt(net, 3, q_mvar=-6.0, p_mw=0.5)
    pp.create_ward(net, 20, ps_mw=1.0, qs_mvar=0.5, pz_mw=4.0, qz_mvar=2.0)
    pp.create_switch(net, 3, 20, et='b', closed=True)
    pp.create_transformer(net, 3, 15, std_type='40 MVA 110/20 kV', tap_pos=3)
    for pair in ((42, 7), (7, 3), (3, 42)):
        pp.create_line_from_parameters(net, *pair, **LINE)
    return net


def operating_points(net, rows, quantities=WIDE):
    generator = np.random.default_rng(0)
    solved = []
    for _ in range(rows):
        scaled = copy.deepcopy(net)
        scaled.load['scaling'] = generator.uniform(0.7, 1.1, len(net.load))
        solved.append(solved_row(scaled, 1e-9, quantities))
    return pd.concat(solved, ignore_index=True)


@functools.cache
def substation_row():
    return operating_points(substation(), 1)


def with_three_windings():
    """A star point that the table has no bus for, a DC line, and a second external grid with a voltage of its own."""
    net = substation()
    pp.create_bus(net, 10.0, index=30)
    pp.create_transformer3w(net, 42, 15, 30, std_type='63/25/38 MVA 110/20/10 kV')
    pp.create_load(net, 30, p_mw=3.0, q_mvar=1.0)
    pp.create_dcline(net, 42, 3, p_mw=3.0, loss_percent=1.0, loss_mw=0.1, vm_from_pu=1.02, vm_to_pu=1.0)
    pp.create_bus(net, 110.0, index=50)
    pp.create_line_from_parameters(net, 50, 7, **LINE)
    pp.create_ext_grid(net, 50, vm_pu=1.01, va_degree=4.0)
    return net


@BOTH
@pytest.mark.parametrize(
    ('make', 'quantities'),
    [
        (substation, WIDE),
        (with_three_windings, WIDE),
        (with_three_windings, APART),
        (lambda: case('case118'), APART),
    ],
    ids=['own', 'three windings', 'three windings apart', '118'],
)
def test_solved_rows_are_confirmed(make, quantities, verify):
    net = make()
    rows = operating_points(net, 2, quantities)
    report = verify(net, rows)
    assert report.columns.tolist() == ['converged', *ERRORS]
    assert report['converged'].all()
    assert (report[ERRORS] < SOLVER).all(axis=None)
    # The rows differ, so that a solver that ignored them would have been caught.
    assert rows.std().max() > 0.1


def stepped(*steps):
    """The substation's row again and again, each time with one column moved."""
    rows = pd.concat([substation_row()] * len(steps), ignore_index=True)
    for row, (column, step) in enumerate(steps):
        rows.loc[row, column] += step
    return rows


@BOTH
def test_what_the_power_flow_finds_is_compared(verify):
    steps = {
        ('p_mw_42', 1.0): 'error_p_mw',
        ('q_mvar_42', 1.0): 'error_q_mvar',
        ('q_mvar_7', 1.0): 'error_q_mvar',
        ('va_degree_7', 0.5): 'error_va_degree',
        ('vm_pu_3', 0.01): 'error_vm_pu',
        ('vm_pu_20', 0.01): 'error_vm_pu',
        ('va_degree_20', 0.5): 'error_va_degree',
    }
    report = verify(substation(), stepped(*steps))
    assert report['converged'].all()
    for row, ((column, step), seen_in) in enumerate(steps.items()):
        assert report.loc[row, seen_in] == pytest.approx(step, abs=1e-6), column
        others = [name for name in ERRORS if name != seen_in]
        assert (report.loc[row, others].astype(float) < SOLVER[others]).all(), column


@BOTH
def test_what_the_power_flow_is_given_is_used(verify):
    powers, voltages = ('p_mw_7', 'p_mw_15', 'q_mvar_3', 'va_degree_42'), ('vm_pu_42', 'vm_pu_7')
    report = verify(substation(), stepped(*((name, 2.0) for name in powers), *((name, 0.01) for name in voltages)))
    assert report['converged'].all()
    # Another set-point has another solution: voltages, or at least the slack's power, move far beyond the solver's.
    assert ((report['error_vm_pu'] > 1e-5) | (report['error_va_degree'] > 1e-3)).all()


@BOTH
def test_angles_are_compared_modulo_full_turns(verify):
    net = case('case9')
    row = solved_row(net, tolerance_mva=1e-9)
    row['va_degree_4'] += 720.0
    assert verify(net, row)['error_va_degree'].max() < 1e-6


@BOTH
def test_rows_without_a_solution_are_reported_not_raised(verify):
    net = case('case9')
    rows = pd.concat([solved_row(net, tolerance_mva=1e-9)] * 3, ignore_index=True)
    rows.loc[0, 'p_mw_4'] = -1e5
    rows.loc[1, 'q_mvar_4'] = np.nan
    report = verify(net, rows)
    assert report['converged'].tolist() == [False, False, True]
    assert report.loc[:1, ERRORS].isna().all(axis=None)
    # The row after a failure is not harmed by it.
    assert (report.loc[2, ERRORS].astype(float) < SOLVER).all()


def test_the_draw_is_without_replacement_and_reproducible():
    net = case('case9')
    rows = pd.concat([solved_row(net)] * 12, ignore_index=True).set_index(np.arange(100, 112))
    first, again, other = (verify_with_runpp(net, rows, num_rows=4, seed=seed).index for seed in (1, 1, 2))
    assert len(set(first)) == 4
    assert set(first) <= set(rows.index)
    assert first.equals(again)
    assert not first.equals(other)
    assert verify_with_runpp(net, rows.iloc[:2], num_rows=None).index.tolist() == [100, 101]


@BOTH
def test_the_network_and_the_rows_are_left_alone(verify):
    net, rows = case('case9'), solved_row(case('case9'))
    before, rows_before = copy.deepcopy(net), rows.copy()
    verify(net, rows)
    assert pp.toolbox.nets_equal(net, before)
    pd.testing.assert_frame_equal(rows, rows_before)


def test_own_column_names_and_missing_columns():
    net = case('case9')
    rows = solved_row(net, tolerance_mva=1e-9).rename(columns={'va_degree_3': 'va_deg_3'})
    report = verify_with_runpp(net, rows, columns={'va_degree_3': 'va_deg_3'})
    assert (report[ERRORS] < SOLVER).all(axis=None)
    with pytest.raises(ColumnMissingError, match=r"columns=\{'va_degree_3': 'va_deg_3'\}"):
        verify_with_runpp(net, rows)


@BOTH
def test_solver_options_of_the_network_do_not_bend_the_check(verify):
    net, rows = substation(), substation_row()
    # pandapower lets a network's own options win over an argument that has its default value.
    pp.set_user_pf_options(net, calculate_voltage_angles=False)
    assert (verify(net, rows)[ERRORS] < SOLVER).all(axis=None)


def test_an_isolated_bus_is_named():
    net = case('case9')
    rows = solved_row(net)
    pp.create_bus(net, 345.0, index=77)
    with pytest.raises(GridError, match='77'):
        verify_with_runpp(net, rows)


@functools.cache
def _with_outages(quantities=WIDE):
    """case14, row by row: as it is, without line 3, without transformer 0, without two branches."""
    rows = []
    for topology in ('base', 'line_3', 'trafo_0', 'line_3+trafo_0'):
        net = case('case14')
        for label in topology.split('+') if topology != 'base' else ():
            table, index = label.split('_')
            net[table].loc[int(index), 'in_service'] = False
        rows.append(solved_row(net, 1e-9, quantities).assign(topology=topology))
    return pd.concat(rows, ignore_index=True)


def with_outages(quantities=WIDE):
    return _with_outages(quantities).copy()


@BOTH
def test_each_row_is_solved_in_its_own_topology(verify):
    net, rows = case('case14'), with_outages().iloc[[1, 0, 3, 2]]
    assert (verify(net, rows)[ERRORS] < SOLVER).all(axis=None)
    # Without the column, only the row with nothing out of service is a solution.
    blind = verify(net, rows.drop(columns='topology'))
    assert ((blind[ERRORS] > SOLVER).any(axis=1)).tolist() == [True, False, True, True]


@BOTH
@pytest.mark.parametrize('label', ['line_99', 'load_0', 'line', ''])
def test_a_topology_that_names_no_branch_is_refused(label, verify):
    net = case('case14')
    with pytest.raises(GridError, match=rf"but got '{label}'\. Write 'base' .* 'line_0', 'trafo_0'"):
        verify(net, solved_row(net).assign(topology=label))


def test_a_topology_that_cuts_off_a_bus():
    net = case('case14')
    net.line.loc[0, 'in_service'] = False
    # Bus 7 hangs on one transformer (trafo 3).
    rows = solved_row(net).assign(topology='trafo_3')
    with pytest.raises(GridError, match=r"'trafo_3' cuts off the buses 7 of .*Remove the rows"):
        verify_with_lightsim2grid(net, rows)
    assert not validation_agrees(verify_with_runpp(net, rows))


def validation_agrees(compared):
    return (compared[ERRORS] < SOLVER).all(axis=None)


@BOTH
def test_flows_of_branches_are_compared(verify):
    steps = {
        'p_from_mw_line_5': 'error_flow',
        'q_to_mvar_trafo_1': 'error_flow',
        'loading_percent_line_2': 'error_loading_percent',
        'p_from_mw_line_3': 'error_flow',
    }
    sound = with_outages(APART + FLOWS)
    rows = pd.concat([sound, *[sound.iloc[[1]]] * len(steps)], ignore_index=True)
    # What is out of service has no column in a solved row, so NaN in the table.
    assert np.isnan(rows.loc[1, 'p_from_mw_line_3'])
    for row, column in enumerate(steps, start=len(sound)):
        rows.loc[row, column] = np.nan_to_num(rows.loc[row, column]) + 0.5
    report = verify(case('case14'), rows)
    flows = ['error_flow', 'error_loading_percent']
    # Both solvers stop at 1e-8 MVA.
    assert (report.loc[: len(sound) - 1, flows] < 1e-6).all(axis=None)
    for row, (column, seen_in) in enumerate(steps.items(), start=len(sound)):
        assert report.loc[row, seen_in] == pytest.approx(0.5, abs=1e-6), column


@functools.cache
def _many_rows():
    return operating_points(case('case14'), 6)


def many_rows():
    return _many_rows().copy()


@settings(max_examples=3, deadline=None)
@given(order=st.permutations(range(6)), size=st.integers(1, 6))
def test_rows_never_meet(order, size):
    net, rows = case('case14'), many_rows()
    rows.loc[3, 'p_mw_10'] = 1e6
    together = verify_with_lightsim2grid(net, rows)
    some = verify_with_lightsim2grid(net, rows.iloc[order[:size]])
    assert together['converged'].tolist() == [True, True, True, False, True, True]
    # Another order of additions moves the solver's last digits.
    pd.testing.assert_frame_equal(some, together.iloc[order[:size]], rtol=0, atol=1e-9)


@BOTH
@pytest.mark.parametrize('quantities', [WIDE, (*APART, *FLOWS)], ids=['wide', 'apart'])
def test_a_table_without_angles_is_checked_for_what_it_has(quantities, verify):
    # The slack's angle is 5 degrees, behind which transformers turn by 150.
    net = substation()
    rows = operating_points(net, 3, quantities)
    bare = rows[[name for name in rows if not name.startswith('va_degree')]].copy()
    bare.loc[1, 'vm_pu_3'] += 0.01
    report = verify(net, bare)
    assert report['converged'].all()
    assert 'error_va_degree' not in report
    errors = report.drop(columns='converged')
    # Two power flows that stop at 1e-8 MVA; loadings are in percent.
    assert (errors.loc[[0, 2]] < 1e-5).all(axis=None)
    assert report.loc[1, 'error_vm_pu'] == pytest.approx(0.01, abs=1e-6)
    # One angle that is missing is a mistake.
    with pytest.raises(ColumnMissingError, match="needs column 'va_degree_3'"):
        verify(net, rows.drop(columns='va_degree_3'))
    with pytest.raises(ColumnMissingError, match="needs column 'vm_pu_"):
        verify(net, bare.drop(columns=[name for name in bare if name.startswith('vm_pu')]))


def test_what_was_not_checked_is_said():
    net, rows = case('case9'), solved_row(case('case9'), 1e-9, (*APART, 'p_mw'))
    bare = rows[[name for name in rows if not name.startswith('va_degree')]].assign(cost=1.0)
    report = validation_report(net, bare)
    assert report.agrees
    assert report.complete
    assert report.lacking == ('va_degree',)
    assert report.unchecked == (*(f'p_mw_{bus}' for bus in range(9)), 'cost')
    assert 'not in the table, so not checked: va_degree' in str(report).splitlines()
    assert 'columns that were not checked: p_mw_0, ' in str(report)
    written = report.to_dict()
    assert (written['lacking'], written['unchecked'][-1]) == (('va_degree',), 'cost')
    plain = validation_report(net, rows.filter(regex='^(?!p_mw)'))
    assert (plain.lacking, plain.unchecked) == ((), ())
    assert len(str(plain).splitlines()) == 2


@pytest.mark.parametrize('quantities', [WIDE, (*APART, *FLOWS)], ids=['wide', 'apart'])
def test_units_and_signs_are_declared(quantities, tmp_path):
    net, rows = case('case14'), with_outages(quantities)
    own = rows.copy()
    injections = rows.columns.str.match('p_mw|q_mvar')
    powers = injections | rows.columns.str.match('pd_|qd_|pg_|qg_|p_from|q_from|p_to|q_to')
    angles = rows.columns.str.match('va_degree')
    own.loc[:, powers] /= net.sn_mva
    own.loc[:, injections] *= -1
    own.loc[:, angles] = np.deg2rad(own.loc[:, angles].astype(float))
    units = Units(power='p.u.', angle='radian', sign='load')
    before = own.copy()
    report = validation_report(net, own, units=units)
    assert report.agrees, str(report)
    pd.testing.assert_frame_equal(own, before)
    assert not validation_report(net, own).agrees
    own.to_parquet(tmp_path / 'rows.parquet')
    words = ['--power-unit', 'p.u.', '--angle-unit', 'radian', '--sign', 'load']
    answer = CliRunner().invoke(app, ['validate', 'case14', str(tmp_path / 'rows.parquet'), *words])
    assert answer.exit_code == 0, answer.output
    answer = CliRunner().invoke(app, ['validate', 'case14', str(tmp_path / 'rows.parquet'), '--power-unit', 'kW'])
    assert answer.exit_code == 1
    assert answer.stderr.startswith("error: Units needs power of ['MW', 'p.u.'], but got 'kW'")


def test_a_missing_library_names_the_extra(monkeypatch, tmp_path):
    net, rows = case('case9'), solved_row(case('case9'), tolerance_mva=1e-9)
    real = importlib.import_module

    def missing(name, package=None):
        if name.startswith('lightsim2grid'):
            raise ModuleNotFoundError(f'No module named {name!r}', name='lightsim2grid')
        return real(name, package)

    monkeypatch.setattr(importlib, 'import_module', missing)
    with pytest.raises(MissingExtraError, match=r"verify_with_lightsim2grid.*'lightsim2grid'.*\[validation\]"):
        verify_with_lightsim2grid(net, rows)
    report = validation_report(net, rows)
    assert [each.solver for each in report.agreements] == ['runpp']
    # runpp has checked the only row.
    assert report.agrees
    assert report.complete
    assert str(report).splitlines()[1].startswith('lightsim2grid: skipped.')
    many = pd.concat([rows] * 3, ignore_index=True)
    report = validation_report(net, many, num_rows=2)
    assert report.agrees
    assert not report.complete
    assert (report.to_dict()['complete'], report.to_dict()['num_rows']) == (False, 3)
    many.to_parquet(tmp_path / 'rows.parquet')
    answer = CliRunner().invoke(app, ['validate', 'case9', str(tmp_path / 'rows.parquet'), '--rows', '2'])
    assert answer.exit_code == 0, answer.output
    assert "pip install 'sdv-constrained-diffusion[validation]'" in answer.output
    assert 'not all rows were checked: 2 of 3' in answer.output


def test_the_report_counts_the_rows_that_agree():
    net, rows = case('case14'), many_rows().set_index(np.array(list('abcdef')))
    report = validation_report(net, rows, num_rows=None)
    assert report.agrees
    assert [(each.checked, each.converged, each.agreeing, each.worst) for each in report.agreements] == [
        (6, 6, 6, ())
    ] * 2
    rows.loc['b', 'vm_pu_9'] += 2e-6
    rows.loc['e', 'q_mvar_2'] += 2.0
    rows.loc['c', 'p_mw_10'] = 1e6
    report = validation_report(net, rows, num_rows=None)
    assert not report.agrees
    for each in report.agreements:
        assert (each.checked, each.converged, each.agreeing) == (6, 5, 3)
        assert each.worst == ('c', 'e', 'b')
        assert each.largest['error_vm_pu'] == pytest.approx(2e-6, rel=1e-3)
        assert each.largest['error_q_mvar'] == pytest.approx(2.0)
    assert validation_report(net, rows.loc[['b']], tolerance_vm_pu=1e-5).agrees
    written = json.loads(json.dumps(report.to_dict()))
    assert written['agreements'][1]['agreeing'] == 3
    assert written['tolerances']['error_p_mw'] == pytest.approx(1e-6 * net.sn_mva)


def test_a_table_without_rows_does_not_pass():
    report = validation_report(case('case9'), solved_row(case('case9')).iloc[:0])
    assert not report.agrees
    assert [each.checked for each in report.agreements] == [0, 0]


def test_no_row_that_converges_is_no_number():
    compared = pd.DataFrame([(False, *[np.nan] * 4)] * 2, columns=['converged', *ERRORS])
    agreement = Agreement.of('any', compared, dict.fromkeys(ERRORS, 1.0))
    assert (agreement.converged, agreement.agreeing, agreement.worst) == (0, 0, (0, 1))
    assert np.isnan(list(agreement.largest.values())).all()


def test_the_command_says_which_rows_disagree(tmp_path):
    rows, out = many_rows(), tmp_path / 'report.json'
    rows.to_parquet(tmp_path / 'rows.parquet')
    answer = CliRunner().invoke(app, ['validate', 'case14', str(tmp_path / 'rows.parquet'), '--rows', '2'])
    assert answer.exit_code == 0, answer.output
    assert 'runpp: 2 of 2 rows agree' in answer.output
    assert 'lightsim2grid: 6 of 6 rows agree' in answer.output
    rows.loc[4, 'va_degree_7'] += 0.01
    rows.to_csv(tmp_path / 'rows.csv', index=False)
    answer = CliRunner().invoke(app, ['validate', 'case14', str(tmp_path / 'rows.csv'), '--out', str(out)])
    assert answer.exit_code == 1
    assert 'lightsim2grid: 5 of 6 rows agree' in answer.output
    assert 'worst rows: 4' in answer.output
    assert json.loads(out.read_text())['agreements'][1]['worst'] == [4]


@pytest.mark.parametrize('out', ['missing/report.json', '.'])
def test_the_command_looks_for_the_reports_folder_first(out, tmp_path):
    # There is no such table either, which would be the second complaint.
    answer = CliRunner().invoke(app, ['validate', 'case9', 'none.parquet', '--out', str(tmp_path / out)])
    assert answer.exit_code == 1
    assert answer.stderr.startswith('error: validate needs --out to be a file in an existing folder, but got ')


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('none.parquet', 'existing file'),
        ('rows.txt', r'a \.csv file, a \.parquet file'),
        ('corrupt.parquet', r'that can be read by its name.*corrupt\.parquet'),
        ('empty.csv', r'that can be read by its name.*empty\.csv'),
        ('binary.csv', r'that can be read by its name.*binary\.csv'),
    ],
)
def test_the_command_refuses_what_is_no_table(name, message, tmp_path):
    (tmp_path / 'rows.txt').write_text('rows')
    (tmp_path / 'corrupt.parquet').write_bytes(b'PAR1 and no more')
    (tmp_path / 'empty.csv').touch()
    (tmp_path / 'binary.csv').write_bytes(bytes(range(256)))
    answer = CliRunner().invoke(app, ['validate', 'case9', str(tmp_path / name)])
    assert answer.exit_code == 1
    assert re.match(rf'error: read_table needs .*{message}', answer.stderr)
