import copy

import numpy as np
import pandapower as pp
import pandas as pd
import pytest

from cases import LINE, case
from sdv_constrained_diffusion.errors import ColumnMissingError, GridError
from sdv_constrained_diffusion.power.nets import solved_row
from sdv_constrained_diffusion.power.validation import verify_with_runpp

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


def operating_points(net, rows):
    generator = np.random.default_rng(0)
    solved = []
    for _ in range(rows):
        scaled = copy.deepcopy(net)
        scaled.load['scaling'] = generator.uniform(0.7, 1.1, len(net.load))
        solved.append(solved_row(scaled, tolerance_mva=1e-9))
    return pd.concat(solved, ignore_index=True)


@pytest.mark.parametrize(
    'make', [substation, lambda: case('case14'), lambda: case('case118')], ids=['own', '14', '118']
)
def test_solved_rows_are_confirmed(make):
    net = make()
    rows = operating_points(net, 4)
    report = verify_with_runpp(net, rows)
    assert report.columns.tolist() == ['converged', *ERRORS]
    assert report['converged'].all()
    assert (report[ERRORS] < SOLVER).all(axis=None)
    # The rows differ, so that a solver that ignored them would have been caught.
    assert rows.std().max() > 0.1


@pytest.mark.parametrize(
    ('column', 'step', 'seen_in'),
    [
        ('p_mw_42', 1.0, 'error_p_mw'),
        ('q_mvar_42', 1.0, 'error_q_mvar'),
        ('q_mvar_7', 1.0, 'error_q_mvar'),
        ('va_degree_7', 0.5, 'error_va_degree'),
        ('vm_pu_3', 0.01, 'error_vm_pu'),
        ('vm_pu_20', 0.01, 'error_vm_pu'),
        ('va_degree_20', 0.5, 'error_va_degree'),
    ],
)
def test_what_the_power_flow_finds_is_compared(column, step, seen_in):
    net = substation()
    row = operating_points(net, 1)
    row[column] += step
    report = verify_with_runpp(net, row).iloc[0]
    assert report['converged']
    assert report[seen_in] == pytest.approx(step, abs=1e-6)
    others = [name for name in ERRORS if name != seen_in]
    assert (report[others].astype(float) < SOLVER[others]).all()


@pytest.mark.parametrize('column', ['p_mw_7', 'p_mw_15', 'q_mvar_3', 'vm_pu_42', 'vm_pu_7', 'va_degree_42'])
def test_what_the_power_flow_is_given_is_used(column):
    net = substation()
    row = operating_points(net, 1)
    row[column] += 0.01 if column.startswith('vm') else 2.0
    report = verify_with_runpp(net, row).iloc[0]
    assert report['converged']
    # Another set-point has another solution: voltages, or at least the slack's power, move far beyond the solver's.
    assert report['error_vm_pu'] > 1e-5 or report['error_va_degree'] > 1e-3


def test_angles_are_compared_modulo_full_turns():
    net = case('case9')
    row = solved_row(net, tolerance_mva=1e-9)
    row['va_degree_4'] += 720.0
    assert verify_with_runpp(net, row)['error_va_degree'].max() < 1e-6


def test_rows_without_a_solution_are_reported_not_raised():
    net = case('case9')
    rows = pd.concat([solved_row(net, tolerance_mva=1e-9)] * 3, ignore_index=True)
    rows.loc[0, 'p_mw_4'] = -1e5
    rows.loc[1, 'q_mvar_4'] = np.nan
    report = verify_with_runpp(net, rows)
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


def test_the_network_and_the_rows_are_left_alone():
    net, rows = case('case9'), solved_row(case('case9'))
    before, rows_before = copy.deepcopy(net), rows.copy()
    verify_with_runpp(net, rows)
    assert pp.toolbox.nets_equal(net, before)
    pd.testing.assert_frame_equal(rows, rows_before)


def test_own_column_names_and_missing_columns():
    net = case('case9')
    rows = solved_row(net, tolerance_mva=1e-9).rename(columns={'va_degree_3': 'va_deg_3'})
    report = verify_with_runpp(net, rows, columns={'va_degree_3': 'va_deg_3'})
    assert (report[ERRORS] < SOLVER).all(axis=None)
    with pytest.raises(ColumnMissingError, match=r"columns=\{'va_degree_3': 'va_deg_3'\}"):
        verify_with_runpp(net, rows)


def test_solver_options_of_the_network_do_not_bend_the_check():
    net = substation()
    rows = solved_row(net, tolerance_mva=1e-9)
    # pandapower lets a network's own options win over an argument that has its default value.
    pp.set_user_pf_options(net, calculate_voltage_angles=False)
    assert (verify_with_runpp(net, rows)[ERRORS] < SOLVER).all(axis=None)


def test_an_isolated_bus_is_named():
    net = case('case9')
    rows = solved_row(net)
    pp.create_bus(net, 345.0, index=77)
    with pytest.raises(GridError, match='77'):
        verify_with_runpp(net, rows)
