import copy
import dataclasses
import importlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pandapower as pp
import pandapower.networks as networks
import pandas as pd
import pytest
import scipy.sparse as sp

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power import scenarios
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.nets import UNSUPPORTED, result_row, solve, solved_row
from sdv_constrained_diffusion.power.tables import KINDS, columns

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


@pytest.mark.parametrize('read', [Grid.from_pandapower, result_row, lambda net: scenarios.generate(net, 3)])
def test_a_name_in_place_of_a_network_is_refused(read):
    with pytest.raises(GridError, match=r"needs a pandapowerNet, .*str 'case5'.*read_network"):
        read('case5')


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


@pytest.mark.parametrize('element', [*UNSUPPORTED])
def test_elements_that_the_equations_cannot_carry_are_named_with_the_way_out(element):
    net = two_buses()
    net[element] = pd.DataFrame({'in_service': [False, True, True]}, index=[2, 5, 11])
    with pytest.raises(GridError, match=rf"'pair' has the {element} 5, 11 in service\. Re"):
        Grid.from_pandapower(net)
    with pytest.raises(GridError, match=rf'solved_row needs elements.*{element} 5, 11'):
        solved_row(net)


def test_every_element_that_pandapower_knows_is_carried_refused_or_no_part_of_an_ac_network():
    carried = {
        'bus',
        'ext_grid',
        'gen',
        'sgen',
        'load',
        'storage',
        'motor',
        'asymmetric_load',
        'asymmetric_sgen',
        'shunt',
    }
    carried |= {'ward', 'line', 'trafo', 'trafo3w', 'impedance', 'dcline', 'switch'}
    # Direct-current buses meet the alternating-current ones by converters only, which are refused.
    elsewhere = {'bus_dc', 'line_dc', 'source_dc', 'load_dc', 'controller', 'measurement', 'group'}
    tables = {
        name
        for name, table in pp.create_empty_network().items()
        if isinstance(table, pd.DataFrame) and not name.startswith(('res_', '_')) and not name.endswith('_cost')
    }
    assert tables - carried - elsewhere - set(UNSUPPORTED) - {'characteristic', 'graph'} == set()


def test_what_others_than_loads_and_generators_inject_is_fixed():
    net = two_buses()
    pp.create_bus(net, 110.0, index=9)
    pp.create_line_from_parameters(net, 7, 9, **LINE)
    pp.create_storage(net, 9, p_mw=-1.0, q_mvar=0.25, max_e_mwh=1.0)
    pp.create_motor(net, 9, pn_mech_mw=0.9, cos_phi=0.6, efficiency_percent=90.0)
    pp.create_asymmetric_load(net, 9, p_a_mw=0.5, p_b_mw=0.25, q_c_mvar=0.125)
    pp.create_asymmetric_sgen(net, 9, p_b_mw=0.5, q_a_mvar=0.25)
    pp.create_ward(net, 9, ps_mw=2.0, qs_mvar=1.0, pz_mw=4.0, qz_mvar=2.0)
    pp.create_dcline(net, 42, 7, p_mw=2.0, loss_percent=5.0, loss_mw=0.1, vm_from_pu=1.0, vm_to_pu=1.0)
    grid = Grid.from_pandapower(net)
    # A motor of 0.9 MW at 90 % draws 1 MW and 4/3 Mvar at a power factor of 0.6; a line loses 0.1 MW and 5 %.
    expected_mw = {42: -2.0, 7: 0.95 * 2.0 - 0.1, 9: 1.0 - 1.0 - 0.75 + 0.5 - 2.0}
    assert dict(zip(grid.buses, grid.rest_mw, strict=True)) == pytest.approx(expected_mw, abs=1e-12)
    rest_mvar = dict(zip(grid.buses, grid.rest_mvar, strict=True))
    assert rest_mvar.pop(9) == pytest.approx(-0.25 - 4 / 3 - 0.125 + 0.25 - 1.0, abs=1e-12)
    # A DC line holds the voltage at both of its ends with whatever reactive power that takes.
    assert np.isnan([*rest_mvar.values()]).all()


def test_elements_are_where_they_are_whatever_the_order_of_the_tables():
    net = two_buses()
    pp.create_bus(net, 110.0, index=0, in_service=False)
    pp.create_bus(net, 110.0, index=5)
    for pair in ((7, 5), (5, 42), (0, 42)):
        pp.create_line_from_parameters(net, *pair, **LINE)
    pp.create_sgen(net, 5, p_mw=1.0, index=8)
    pp.create_sgen(net, 0, p_mw=1.0, index=3)
    pp.create_load(net, 5, p_mw=2.0, index=40)
    pp.create_load(net, 42, p_mw=2.0, index=4)
    net.bus, net.line, net.load = net.bus.loc[[5, 0, 42, 7]], net.line.loc[[3, 2, 0, 1]], net.load.loc[[40, 4, 0]]
    net = solve(net, who='test', tolerance_mva=1e-9)
    grid = Grid.from_pandapower(net)
    assert grid.buses == (5, 42, 7)
    assert (grid.loads, [grid.buses[at] for at in grid.load_at]) == (('40', '4', '0'), [5, 42, 7])
    assert (grid.generators, [grid.buses[at] for at in grid.generator_at]) == (('ext_grid_0', 'sgen_8'), [42, 5])
    assert grid.branches == ('line_3', 'line_2', 'line_0', 'line_1')
    vm, va = (net.res_bus.loc[[*grid.buses], each].to_numpy() for each in ('vm_pu', 'va_degree'))
    v = np.zeros(len(grid.y_bus), dtype=complex)
    v[grid.node] = vm * np.exp(1j * np.deg2rad(va))
    for row, (branch, side, node) in enumerate(zip(grid.end_branch, grid.end_side, grid.end_node, strict=True)):
        power = grid.sn_mva * v[node] * np.conj(grid.y_ends.toarray()[row] @ v)
        end, index = ('from', 'to')[side], int(grid.branches[branch].split('_')[1])
        if not (side == 0 and index == 3):
            assert power.real == pytest.approx(net.res_line.at[index, f'p_{end}_mw'], abs=1e-9)
            assert power.imag == pytest.approx(net.res_line.at[index, f'q_{end}_mvar'], abs=1e-9)
        # The line to the bus that is out of service hangs on the other.
        assert grid.buses[list(grid.node).index(node)] == net.line.at[index, f'{end}_bus']
    assert [int(side) for branch, side in zip(grid.end_branch, grid.end_side, strict=True) if branch == 0] == [1]


def test_ratings_are_in_percent_of_the_base_current_and_none_is_none():
    net = two_buses(max_i_ka=0.5, parallel=2, df=0.8)
    for rating in (0.0, np.nan):
        pp.create_line_from_parameters(net, 42, 7, **{**LINE, 'max_i_ka': rating})
    grid = Grid.from_pandapower(net)
    base_ka = 10.0 / (np.sqrt(3) * 110.0)
    assert grid.loading_per_pu[:1].tolist() == pytest.approx([100 * base_ka / (0.5 * 2 * 0.8)])
    assert grid.labels('loading_percent') == ['line_0']
    assert result_row(solve(net, who='test'), ['loading_percent']).columns.tolist() == ['loading_percent_line_0']


def test_a_branch_that_an_option_takes_out_is_out():
    # pandapower may be told to drop branches with an open switch instead of letting them hang on one end.
    net = two_buses()
    line = pp.create_line_from_parameters(net, 42, 7, **LINE)
    pp.create_switch(net, 7, line, et='l', closed=False)
    assert Grid.from_pandapower(net).branches == ('line_0', 'line_1')
    pp.set_user_pf_options(net, neglect_open_switch_branches=True)
    assert Grid.from_pandapower(net).branches == ('line_0',)


def test_quantities_that_there_are_not_are_refused():
    net = solve(two_buses(), who='test')
    grid = Grid.from_pandapower(net)
    for wrong in (['p_mw', 'pd'], 'p_mw'):
        with pytest.raises(
            GridError, match=r"result_row needs quantities of \['p_mw'.*but got '(pd|p_mw)'.*tables\.APART"
        ):
            result_row(net, wrong)
        with pytest.raises(GridError, match=r'Grid\.columns needs quantities'):
            grid.columns(wrong)


def test_a_network_of_many_kinds_of_elements_is_written_down_whole():
    # Four voltage levels, switches of all kinds, two- and three-winding transformers, an impedance, shunts, DC lines.
    net = networks.example_multivoltage()
    pp.toolbox.replace_xward_by_internal_elements(net)
    net = solve(net, who='test', tolerance_mva=1e-9)
    grid = Grid.from_pandapower(net)
    assert len(grid.y_bus) < len(grid.buses)
    assert {branch.split('_')[0] for branch in grid.branches} == {'line', 'trafo', 'trafo3w', 'impedance'}
    assert grid.columns([*KINDS]) == result_row(net, [*KINDS]).columns.tolist()
    for again in (Grid.from_dict(json.loads(json.dumps(grid.to_dict()))), pickle.loads(pickle.dumps(grid))):
        for field in dataclasses.fields(Grid):
            one, other = getattr(grid, field.name), getattr(again, field.name)
            assert type(one) is type(other), field.name
            if sp.issparse(one):
                assert (one != other).nnz == 0
            elif isinstance(one, np.ndarray):
                assert np.array_equal(one, other, equal_nan=one.dtype.kind == 'f'), field.name
                assert one.dtype == other.dtype
            else:
                assert one == other
