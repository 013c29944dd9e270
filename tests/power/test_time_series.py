import copy
import functools
import sys

import numpy as np
import pandapower as pp
import pandas as pd
import pytest
from pandapower.control import ConstControl
from pandapower.timeseries import DFData, OutputWriter, run_timeseries

from cases import LINE, case
from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power.nets import solved_row
from sdv_constrained_diffusion.power.tables import APART, FLOWS, WIDE
from sdv_constrained_diffusion.power.time_series import read_time_series
from sdv_constrained_diffusion.power.validation import validation_report

STEPS = [3, 4, 7]
EVERYTHING = [
    *(('res_bus', each) for each in ('vm_pu', 'va_degree', 'p_mw', 'q_mvar')),
    *((f'res_{table}', each) for table in ('load', 'gen', 'sgen', 'ext_grid') for each in ('p_mw', 'q_mvar')),
    *(('res_line', f'{power}_{end}_{unit}') for power, unit in (('p', 'mw'), ('q', 'mvar')) for end in ('from', 'to')),
    *(('res_trafo', f'{power}_{end}_{unit}') for power, unit in (('p', 'mw'), ('q', 'mvar')) for end in ('hv', 'lv')),
    *((f'res_{table}', 'loading_percent') for table in ('line', 'trafo')),
    ('res_line', 'i_ka'),
]


def feeder():
    """Shunts of several steps and another rated voltage, wards, and an element of every kind that has columns."""
    net = pp.create_empty_network('feeder', sn_mva=10.0)
    for bus, vn_kv in ((42, 110.0), (7, 110.0), (3, 20.0)):
        pp.create_bus(net, vn_kv, index=bus)
    pp.create_bus(net, 20.0, index=9, in_service=False)
    pp.create_ext_grid(net, 42, vm_pu=1.02)
    pp.create_gen(net, 7, p_mw=8.0, vm_pu=1.01, index=5)
    pp.create_sgen(net, 3, p_mw=2.0, q_mvar=0.5)
    for bus, p_mw in ((7, 3.0), (3, 4.0), (3, 5.0), (9, 1.0)):
        pp.create_load(net, bus, p_mw=p_mw, q_mvar=p_mw / 4)
    pp.create_shunt(net, 3, q_mvar=-1.0, p_mw=0.1, step=2, max_step=3, vn_kv=21.0)
    pp.create_shunt(net, 3, q_mvar=-5.0, in_service=False)
    pp.create_ward(net, 3, ps_mw=0.3, qs_mvar=0.1, pz_mw=0.5, qz_mvar=0.2)
    pp.create_ward(net, 7, ps_mw=0.3, qs_mvar=0.1, pz_mw=0.0, qz_mvar=0.0)
    pp.create_line_from_parameters(net, 42, 7, **LINE)
    pp.create_transformer(net, 7, 3, std_type='40 MVA 110/20 kV', tap_pos=2)
    return net


def demand():
    return pd.DataFrame(np.random.default_rng(0).uniform(1.0, 6.0, (len(STEPS), 2)), index=STEPS)


def run(net, folder, log_variables=EVERYTHING, kind='.p', profile=None, recycle=False, **options):
    """Loads 0 and 2 follow the profile. (Recycling is pandapower's batch mode, which cannot log every variable.)"""
    net = copy.deepcopy(net)
    source = DFData(demand() if profile is None else profile)
    ConstControl(net, 'load', 'p_mw', net.load.index[[0, 2]], data_source=source, profile_name=[0, 1])
    OutputWriter(net, output_path=str(folder), output_file_type=kind, log_variables=list(log_variables), **options)
    options = {'tolerance_mva': 1e-9, 'numba': False, 'recycle': recycle}
    run_timeseries(net, STEPS, verbose=False, continue_on_divergence=True, **options)


@functools.cache
def everything():
    return solved(feeder(), (*WIDE, *APART[:4], *FLOWS))


def solved(net, quantities):
    """The oracle: each time step's loads, solved one by one."""
    rows = []
    for _, (first, second) in demand().iterrows():
        at_step = copy.deepcopy(net)
        at_step.load.loc[net.load.index[[0, 2]], 'p_mw'] = first, second
        rows.append(solved_row(at_step, 1e-9, quantities))
    return pd.concat(rows).set_axis(pd.Index(STEPS, name='time_step'))


@pytest.mark.parametrize(
    ('kind', 'tolerance'),
    # Both power flows stop at 1e-9 MVA. A .json has ten decimals, and pandas reads an .xlsx to about fifteen digits.
    [('.p', 1e-8), ('.csv', 1e-8), ('.csv.gz', 1e-8), ('.json', 1e-8), ('.xlsx', 1e-8)],
)
def test_a_table_is_what_each_time_step_solves_to(kind, tolerance, tmp_path):
    run(feeder(), tmp_path, kind=kind)
    table = read_time_series(tmp_path, feeder())
    expected = everything()
    assert table.columns.tolist() == expected.columns.tolist()
    pd.testing.assert_frame_equal(table, expected, rtol=0, atol=tolerance)
    assert table.std().max() > 0.1


def test_a_comma_may_separate(tmp_path):
    run(feeder(), tmp_path, [('res_bus', 'vm_pu')], '.csv', csv_separator=',')
    table = read_time_series(tmp_path, feeder())
    assert table.columns.tolist() == ['vm_pu_42', 'vm_pu_7', 'vm_pu_3']


def test_pandapowers_batch_mode_counts_elements_instead_of_naming_them(tmp_path):
    net = feeder()
    run(net, tmp_path, [('res_bus', 'vm_pu'), ('res_line', 'loading_percent')], '.csv', recycle=None)
    assert pd.read_csv(tmp_path / 'res_bus' / 'vm_pu.csv', sep=';', index_col=0).columns.tolist() == list('0123')
    table = read_time_series(tmp_path, net)
    assert table.columns.tolist() == ['vm_pu_42', 'vm_pu_7', 'vm_pu_3', 'loading_percent_line_0']
    # Its power flow stops at 1e-8 MVA, whatever it is told.
    pd.testing.assert_frame_equal(table, everything()[table.columns], rtol=0, atol=1e-6)


def test_what_was_not_logged_has_no_column(tmp_path):
    net = feeder()
    run(
        net, tmp_path, [('res_load', 'p_mw', [2]), ('res_bus', 'p_mw', [7]), ('res_gen', 'vm_pu'), ('res_line', 'i_ka')]
    )
    table = read_time_series(tmp_path, net)
    expected = everything()[['p_mw_7', 'pd_mw_2']]
    pd.testing.assert_frame_equal(table, expected, rtol=0, atol=1e-8)


def test_windings_of_a_three_winding_transformer(tmp_path):
    net = feeder()
    pp.create_bus(net, 10.0, index=30)
    pp.create_load(net, 30, p_mw=1.0, q_mvar=0.2)
    pp.create_transformer3w(net, 7, 3, 30, std_type='63/25/38 MVA 110/20/10 kV')
    run(net, tmp_path, [('res_trafo3w', each) for each in ('p_hv_mw', 'q_mv_mvar', 'p_lv_mw', 'loading_percent')])
    table = read_time_series(tmp_path, net)
    assert table.columns.tolist() == ['p_from_mw_trafo3w_0_hv', 'p_to_mw_trafo3w_0_lv', 'q_to_mvar_trafo3w_0_mv']
    pd.testing.assert_frame_equal(table, solved(net, FLOWS)[table.columns], rtol=0, atol=1e-8)


def test_shunts_are_taken_out_only_with_the_voltage(tmp_path):
    net = feeder()
    run(net, tmp_path, [('res_bus', 'p_mw')])
    with pytest.raises(GridError, match=r"needs res_bus\.vm_pu of 3 to turn res_bus\.p_mw.*\('res_bus', 'vm_pu'\)"):
        read_time_series(tmp_path, net)


def test_dc_lines_are_added(tmp_path):
    net = feeder()
    pp.create_dcline(net, 42, 3, p_mw=1.0, loss_percent=1.0, loss_mw=0.1, vm_from_pu=1.02, vm_to_pu=1.0)
    powers = [('res_bus', 'p_mw'), ('res_bus', 'q_mvar'), ('res_bus', 'vm_pu')]
    lines = [
        ('res_dcline', f'{power}_{end}_{unit}')
        for power, unit in (('p', 'mw'), ('q', 'mvar'))
        for end in ('from', 'to')
    ]
    run(net, tmp_path / 'all', powers + lines)
    table = read_time_series(tmp_path / 'all', net)
    pd.testing.assert_frame_equal(table, solved(net, WIDE)[table.columns], rtol=0, atol=1e-6)
    run(net, tmp_path / 'some', powers)
    with pytest.raises(GridError, match=r'needs res_dcline\.p_from_mw of 0'):
        read_time_series(tmp_path / 'some', net)


def test_time_steps_that_failed_are_left_out(tmp_path):
    profile = demand()
    profile.loc[4] = 1e4
    run(feeder(), tmp_path, profile=profile)
    table = read_time_series(tmp_path, feeder())
    expected = everything().drop(index=4)
    pd.testing.assert_frame_equal(table, expected, rtol=0, atol=1e-8)


def case9_with_infeed(infeed, folder, log_variables, load=(80.0, 90.0, 100.0, 110.0)):
    net = case('case9')
    pp.create_sgen(net, 4, p_mw=1.0)
    profile = pd.DataFrame({'infeed': infeed, 'load': load})
    ConstControl(net, 'sgen', 'p_mw', 0, data_source=DFData(profile), profile_name='infeed')
    ConstControl(net, 'load', 'p_mw', 0, data_source=DFData(profile), profile_name='load')
    OutputWriter(net, output_path=str(folder), output_file_type='.csv', log_variables=log_variables)
    run_timeseries(net, range(4), verbose=False, continue_on_divergence=True, recycle=False, numba=False)
    return net


def test_time_steps_of_zeros_are_kept(tmp_path):
    infeed, powers = [0.0, 0.0, 5.0, 9.0], [('res_sgen', 'p_mw'), ('res_sgen', 'q_mvar')]
    net = case9_with_infeed(infeed, tmp_path / 'bare', powers)
    with pytest.warns(UserWarning, match=r'the 2 time steps that are 0 .* first of them 0, and keeps them\. Log \('):
        table = read_time_series(tmp_path / 'bare', net)
    assert table['pg_mw_sgen_0'].tolist() == infeed
    # The second step fails, which only its voltages tell.
    load = (80.0, 1e5, 100.0, 110.0)
    net = case9_with_infeed(infeed, tmp_path / 'voltages', [*powers, ('res_bus', 'vm_pu', [4, 5])], load)
    table = read_time_series(tmp_path / 'voltages', net)
    assert table.index.tolist() == [0, 2, 3]
    assert table['pg_mw_sgen_0'].tolist() == [0.0, 5.0, 9.0]


def test_columns_are_indices_where_these_are_logged_in_another_order(tmp_path):
    net = case('case9')
    net.load.index = [2, 0, 1]
    ConstControl(net, 'load', 'p_mw', 0, data_source=DFData(pd.DataFrame({'p': [80.0, 90.0]})), profile_name='p')
    writer = OutputWriter(net, output_path=str(tmp_path), output_file_type='.csv', log_variables=[])
    writer.log_variable('res_load', 'p_mw', index=[0, 1, 2])
    run_timeseries(net, range(2), verbose=False, recycle=False, numba=False)
    table = read_time_series(tmp_path, net)
    assert table['pd_mw_0'].tolist() == [80.0, 90.0]
    for load in (1, 2):
        assert table[f'pd_mw_{load}'].tolist() == [net.load.at[load, 'p_mw']] * 2


def test_positions_that_may_be_indices_are_refused(tmp_path):
    net = feeder()
    pp.toolbox.reindex_buses(net, {42: 2, 7: 0, 3: 3, 9: 1})
    run(net, tmp_path / 'batch', [('res_bus', 'vm_pu')], '.csv', recycle=None)
    with pytest.raises(GridError, match=r'column of res_bus\.vm_pu .* columns 0, 1, 2, 3 .* 2, 0, 3, 1\. Log without'):
        read_time_series(tmp_path / 'batch', net)
    run(net, tmp_path / 'named', [('res_bus', 'vm_pu')], '.csv')
    table = read_time_series(tmp_path / 'named', net)
    np.testing.assert_allclose(table[['vm_pu_2', 'vm_pu_0', 'vm_pu_3']], everything().filter(like='vm_pu'), atol=1e-8)


def test_evaluated_functions_are_no_elements(tmp_path):
    run(feeder(), tmp_path, [('res_bus', 'vm_pu', None, np.max), ('res_load', 'p_mw')], '.csv')
    assert read_time_series(tmp_path, feeder()).columns.tolist() == ['pd_mw_0', 'pd_mw_1', 'pd_mw_2']


def test_a_folder_without_anything_to_read_is_refused(tmp_path):
    run(feeder(), tmp_path, [('res_line', 'i_ka')], '.csv')
    with pytest.raises(GridError, match=r"needs a folder with an OutputWriter's files.*files: res_line/i_ka\.csv\."):
        read_time_series(tmp_path, feeder())


def test_files_of_two_runs_are_refused(tmp_path):
    run(feeder(), tmp_path, [('res_bus', 'vm_pu'), ('res_load', 'p_mw')])
    path = tmp_path / 'res_load' / 'p_mw.p'
    pd.read_pickle(path).iloc[1:].to_pickle(path)
    with pytest.raises(GridError, match=r"the same time steps.*'pd_mw_0' has 2, 'vm_pu_42' 3"):
        read_time_series(tmp_path, feeder())


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    run(feeder(), tmp_path, [('res_bus', 'vm_pu')], '.xlsx')
    for name in [name for name in sys.modules if name.split('.')[0] == 'openpyxl']:
        monkeypatch.delitem(sys.modules, name)
    # None there makes Python refuse the import.
    monkeypatch.setitem(sys.modules, 'openpyxl', None)
    with pytest.raises(MissingExtraError, match=r"needs the library 'openpyxl'.*pip install openpyxl"):
        read_time_series(tmp_path, feeder())


def test_a_time_series_passes_the_independent_check(tmp_path):
    net = case('case14')
    run(net, tmp_path, [('res_bus', each) for each in ('vm_pu', 'va_degree', 'p_mw', 'q_mvar')], '.csv')
    table = read_time_series(tmp_path, net)
    assert validation_report(net, table).agrees
    # Without its shunt the network has other solutions.
    net.shunt['in_service'] = False
    assert not validation_report(net, table).agrees
