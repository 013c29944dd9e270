import copy
import importlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pandapower as pp
import pandapower.networks as networks
import pytest

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.nets import result_row, solved_row
from sdv_constrained_diffusion.power.tables import columns

LINE = {'length_km': 10.0, 'r_ohm_per_km': 0.1, 'x_ohm_per_km': 0.4, 'c_nf_per_km': 9.0, 'max_i_ka': 1.0}
BASE_OHM = 110.0**2 / 10.0


def two_buses(**line):
    net = pp.create_empty_network('pair', f_hz=50.0, sn_mva=10.0)
    first, second = pp.create_bus(net, 110.0, index=42), pp.create_bus(net, 110.0, index=7)
    pp.create_ext_grid(net, first)
    pp.create_load(net, second, p_mw=5.0, q_mvar=1.0)
    pp.create_line_from_parameters(net, first, second, **{**LINE, **line})
    return net


def test_a_line_is_its_pi_circuit():
    grid = Grid.from_pandapower(two_buses())
    y = BASE_OHM / complex(1.0, 4.0)
    charging = 1j * 2 * np.pi * 50.0 * 90e-9 * BASE_OHM
    expected = np.array([[y + charging / 2, -y], [-y, y + charging / 2]])
    # Closed form; float64 rounding of admittances of about 300 per unit.
    np.testing.assert_allclose(grid.y_bus[np.ix_(grid.node, grid.node)], expected, rtol=1e-12)
    assert (grid.name, grid.sn_mva, grid.buses) == ('pair', 10.0, (42, 7))


def test_a_shunt_is_an_admittance():
    net = two_buses()
    plain = Grid.from_pandapower(net)
    pp.create_shunt(net, 7, q_mvar=2.0, p_mw=0.5, step=2, vn_kv=100.0)
    shunted = Grid.from_pandapower(net)
    difference = shunted.y_bus - plain.y_bus
    # Two steps of 0.5 MW and 2 Mvar rated at 100 kV, on 10 MVA and 110 kV: g - jb = 2 (0.05 - 0.2j) 1.21.
    at = plain.node[plain.buses.index(7)]
    assert difference[at, at] == pytest.approx(2 * (0.05 - 0.2j) * 1.21)
    assert np.count_nonzero(np.abs(difference) > 1e-12) == 1


def test_a_phase_shifter_makes_the_matrix_unsymmetric():
    net = two_buses(c_nf_per_km=0.0)
    third = pp.create_bus(net, 20.0, index=3)
    pp.create_transformer_from_parameters(
        net, 42, third, sn_mva=40.0, vn_hv_kv=110.0, vn_lv_kv=20.0, vkr_percent=0.0, vk_percent=10.0,
        pfe_kw=0.0, i0_percent=0.0, shift_degree=150.0,
    )  # fmt: skip
    grid = Grid.from_pandapower(net)
    hv, lv = (grid.node[grid.buses.index(bus)] for bus in (42, 3))
    # Ideal shifter on the high side behind x = 0.1 * 10 / 40: Y_hl = -y / conj(tap), Y_lh = -y / tap.
    y, tap = 1 / 0.025j, np.exp(1j * np.deg2rad(150.0))
    assert grid.y_bus[hv, lv] == pytest.approx(-y / np.conj(tap))
    assert grid.y_bus[lv, hv] == pytest.approx(-y / tap)


def test_the_open_end_of_a_line_is_eliminated_exactly():
    net = two_buses()
    far = pp.create_bus(net, 110.0, index=9)
    pp.create_line_from_parameters(net, 7, far, **LINE)
    pp.create_line_from_parameters(net, 42, far, **LINE)
    line = pp.create_line_from_parameters(net, 42, 7, **LINE)
    net.line.loc[line, 'in_service'] = False
    without = Grid.from_pandapower(net)
    net.line.loc[line, 'in_service'] = True
    pp.create_switch(net, 7, line, et='l', closed=False)
    hanging = Grid.from_pandapower(net)
    assert hanging.buses == without.buses
    assert hanging.y_bus.shape == (3, 3)
    # Half the charging at the near end, and the other half behind the series admittance.
    y, half = BASE_OHM / complex(1.0, 4.0), 1j * np.pi * 50.0 * 90e-9 * BASE_OHM
    difference = hanging.y_bus - without.y_bus
    at = hanging.node[hanging.buses.index(42)]
    assert difference[at, at] == pytest.approx(half + y * half / (y + half), rel=1e-9)
    difference[at, at] = 0
    assert np.abs(difference).max() < 1e-12


def test_closed_switches_join_buses_to_one_node():
    net = two_buses()
    for bus in (20, 5):
        pp.create_bus(net, 110.0, index=bus)
    pp.create_switch(net, 7, 20, et='b', closed=True)
    pp.create_switch(net, 20, 5, et='b', closed=True)
    grid = Grid.from_pandapower(net)
    assert grid.buses == (42, 7, 20, 5)
    assert grid.y_bus.shape == (2, 2)
    assert len(set(grid.node[1:])) == 1
    assert grid.node[0] != grid.node[1]
    assert sorted(grid.representative) == [0, 1]
    assert grid.fused.tolist() == [2, 3]


def test_what_is_out_of_service_has_no_columns():
    net = two_buses()
    pp.create_bus(net, 110.0, index=99, in_service=False)
    pp.create_load(net, 99, p_mw=1.0)
    assert Grid.from_pandapower(net).buses == (42, 7)
    assert solved_row(net).columns.tolist() == columns([42, 7])


def test_the_row_leaves_out_what_shunts_and_wards_draw():
    net = two_buses()
    pp.create_shunt(net, 7, q_mvar=2.0, p_mw=0.5)
    pp.create_ward(net, 7, ps_mw=1.0, qs_mvar=0.25, pz_mw=2.0, qz_mvar=0.5)
    pp.create_ward(net, 42, ps_mw=1.0, qs_mvar=0.25, pz_mw=2.0, qz_mvar=0.5, in_service=False)
    row = solved_row(net).iloc[0]
    # What remains at bus 7 is the load and the ward's constant power; 1e-12 is rounding of a difference of MW.
    assert row['p_mw_7'] == pytest.approx(-6.0, abs=1e-12)
    assert row['q_mvar_7'] == pytest.approx(-1.25, abs=1e-12)
    assert row['p_mw_42'] > 6.0


def test_the_network_is_left_alone_and_its_solver_options_ignored():
    net = two_buses()
    pp.set_user_pf_options(net, algorithm='bfsw', trafo_model='pi')
    before = copy.deepcopy(net)
    grid = Grid.from_pandapower(net)
    assert pp.toolbox.nets_equal(net, before)
    assert len(net.res_bus) == 0
    assert net.user_pf_options == before.user_pf_options
    assert grid.y_bus.shape == (2, 2)


def test_a_model_option_is_kept():
    net = networks.example_multivoltage()
    net.xward['in_service'] = False
    t_model, pi_model = copy.deepcopy(net), copy.deepcopy(net)
    pp.set_user_pf_options(pi_model, trafo_model='pi')
    difference = Grid.from_pandapower(t_model).y_bus - Grid.from_pandapower(pi_model).y_bus
    assert np.abs(difference).max() > 1e-9


def test_result_row_reads_an_optimal_power_flow():
    net = networks.case14()
    pp.runopp(net)
    row = result_row(net).iloc[0]
    grid = Grid.from_pandapower(net)
    vm, va, p, q = (
        np.array([row[f'{quantity}_{bus}'] for bus in grid.buses])
        for quantity in ('vm_pu', 'va_degree', 'p_mw', 'q_mvar')
    )
    v = np.zeros(len(grid.y_bus), dtype=complex)
    v[grid.node] = vm * np.exp(1j * np.deg2rad(va))
    s = grid.sn_mva * v * np.conj(grid.y_bus @ v)
    # The interior-point solver stops at a mismatch of about 1e-6 per unit; a shunt left in would show as 19 Mvar.
    assert np.abs(s[grid.node] - (p + 1j * q)).max() < 1e-2


def test_a_network_without_results_is_refused():
    with pytest.raises(GridError, match=r"'pair' holds no bus voltages.*solved_row"):
        result_row(two_buses())


def test_round_trip_and_pickle():
    net = networks.case9()
    grid = Grid.from_pandapower(net)
    for again in (Grid.from_dict(json.loads(json.dumps(grid.to_dict()))), pickle.loads(pickle.dumps(grid))):
        assert (again.name, again.sn_mva, again.buses) == (grid.name, grid.sn_mva, grid.buses)
        assert np.array_equal(again.node, grid.node)
        assert np.array_equal(again.y_bus, grid.y_bus)


def test_isolated_buses_are_named_with_the_way_out():
    net = two_buses()
    for bus in (31, 77):
        pp.create_bus(net, 110.0, index=bus)
    pp.create_line_from_parameters(net, 31, 77, **LINE)
    with pytest.raises(GridError, match=r"'pair'.*31, 77.*toolbox\.set_isolated_areas_out_of_service"):
        Grid.from_pandapower(net)
    pp.toolbox.set_isolated_areas_out_of_service(net)
    assert Grid.from_pandapower(net).buses == (42, 7)


def test_a_power_flow_that_fails_says_what_pandapower_said():
    net = two_buses()
    net.load['p_mw'] = 1e5
    with pytest.raises(GridError, match=r"'pair'.*LoadflowNotConverged.*did not converge.*pandapower\.diagnostic"):
        Grid.from_pandapower(net)


def test_a_network_without_slack_is_refused():
    net = two_buses()
    net.ext_grid['in_service'] = False
    with pytest.raises(GridError, match=r"'pair'.*slack"):
        Grid.from_pandapower(net)


def test_a_network_of_slacks_only_is_refused():
    net = two_buses()
    pp.create_ext_grid(net, 7)
    with pytest.raises(GridError, match=r'every bus.*slack'):
        Grid.from_pandapower(net)


def test_elements_that_are_no_admittance_are_named():
    net = two_buses()
    ward = {'ps_mw': 0, 'qs_mvar': 0, 'pz_mw': 0, 'qz_mvar': 0, 'r_ohm': 1, 'x_ohm': 1, 'vm_pu': 1}
    pp.create_xward(net, 7, **ward, index=12)
    with pytest.raises(GridError, match=r'xward 12 in service.*replace_xward_by_internal_elements'):
        Grid.from_pandapower(net)
    pp.toolbox.replace_xward_by_internal_elements(net)
    assert len(Grid.from_pandapower(net).buses) == 3


def test_a_missing_pandapower_names_the_extra(monkeypatch):
    def missing(name, package=None):
        raise ModuleNotFoundError(f'No module named {name!r}', name=name)

    monkeypatch.setattr(importlib, 'import_module', missing)
    with pytest.raises(MissingExtraError, match=r"'pandapower'.*\[power\]"):
        Grid.from_pandapower(None)


def test_a_library_that_pandapower_lacks_keeps_its_own_message(monkeypatch):
    def missing(name, package=None):
        raise ModuleNotFoundError("No module named 'networkx'", name='networkx')

    monkeypatch.setattr(importlib, 'import_module', missing)
    with pytest.raises(ModuleNotFoundError, match='networkx'):
        Grid.from_pandapower(None)


def test_importing_the_equations_does_not_import_pandapower():
    code = (
        'import sys; import sdv_constrained_diffusion.power.constraints, sdv_constrained_diffusion.power.validation; '
        "assert 'pandapower' not in sys.modules"
    )
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)
