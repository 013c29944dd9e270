"""The compiled optimal power flow against pandapower.runopp, MATPOWER's published optimum and the equations."""

from dataclasses import replace

import numpy as np
import pandapower as pp
import pandapower.networks as networks
import pytest

from cases import case
from sdv_constrained_diffusion.constraints.base import TableView
from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power import tables
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.nets import solved_row
from sdv_constrained_diffusion.power.scenarios import generate
from sdv_constrained_diffusion.power.scenarios.models.outages import removable_branches
from sdv_constrained_diffusion.power.scenarios.solvers.opf import OptimalPowerFlow
from sdv_constrained_diffusion.power.scenarios.solvers.opf_case import read_case
from sdv_constrained_diffusion.power.tables import BASE


def parts(opf, values):
    return dict(zip(('p_mw', 'q_mvar', 'vm_pu', 'va_degree'), values.reshape(4, len(opf.buses)), strict=True))


def drawn(opf, seed, low=0.9, high=1.1):
    nominal = opf.drawable.nominal
    p, q = np.random.default_rng(seed).uniform(low, high, (2, len(nominal.pd_mw)))
    return replace(nominal, pd_mw=p * nominal.pd_mw, qd_mvar=q * nominal.qd_mvar)


def scaled(opf, p, q):
    nominal = opf.drawable.nominal
    return replace(nominal, pd_mw=p * nominal.pd_mw, qd_mvar=q * nominal.qd_mvar)


def with_cigre_costs():
    """A medium-voltage network with phase-shifting transformers and switches."""
    net = networks.create_cigre_network_mv(with_der=False)
    for power in ('p_mw', 'q_mvar'):
        net.ext_grid[f'min_{power}'], net.ext_grid[f'max_{power}'] = -100.0, 100.0
    pp.create_poly_cost(net, 0, 'ext_grid', cp1_eur_per_mw=1.0)
    return net


@pytest.mark.parametrize('name', ['case5', 'case9', 'case14', 'case24_ieee_rts', 'case30', 'case39', 'cigre'])
def test_agrees_with_runopp(name):
    net = with_cigre_costs() if name == 'cigre' else case(name)
    opf = OptimalPowerFlow(net, flow_limit='current')
    # From a flat start runopp does not converge on case5, from the power flow's solution not on others.
    pp.runopp(net, numba=False, init='pf' if name == 'case5' else 'flat')
    assert opf.nominal.solved
    assert opf.nominal.cost == pytest.approx(net.res_cost, rel=1e-4)
    # runopp stops at a gradient of 1e-6 where the cost is flat in the voltages: it is the coarser of the two.
    voltages = parts(opf, opf.nominal.values)
    np.testing.assert_allclose(voltages['vm_pu'], net.res_bus.vm_pu[opf.buses], atol=2e-3)
    np.testing.assert_allclose(voltages['va_degree'], net.res_bus.va_degree[opf.buses], atol=0.1)


def test_agrees_with_runopp_for_a_drawn_load_with_reactive_and_quadratic_costs():
    net = case('case9')
    net.poly_cost['cq1_eur_per_mvar'] = 0.5
    net.poly_cost['cq2_eur_per_mvar2'] = 0.02
    opf = OptimalPowerFlow(net, flow_limit='current')
    draw = drawn(opf, seed=3)
    net.load['p_mw'], net.load['q_mvar'] = draw.pd_mw, draw.qd_mvar
    pp.runopp(net, numba=False)
    assert opf.solve(draw).cost == pytest.approx(net.res_cost, rel=1e-6)


def test_reproduces_matpowers_optimum_of_case5():
    net = case('case5')
    net.ext_grid['controllable'] = True
    assert OptimalPowerFlow(net, flow_limit='apparent').nominal.cost == pytest.approx(17551.89, abs=0.01)


@pytest.mark.parametrize('flow_limit', ['apparent', 'current'])
@pytest.mark.parametrize('name', ['case5', 'case24_ieee_rts'])
def test_rows_solve_the_power_flow_and_keep_every_limit(name, flow_limit):
    net = case(name)
    opf = OptimalPowerFlow(net, flow_limit)
    pp.runpp(net, calculate_voltage_angles=True, numba=False)
    y_bus = net._ppc['internal']['Ybus'].toarray()[np.ix_(*2 * (net._pd2ppc_lookups['bus'][opf.buses],))]
    sources = ['gen', 'sgen', 'ext_grid']
    for seed in range(20):
        draw = drawn(opf, seed)
        point = opf.solve(draw)
        assert point.solved
        row = parts(opf, point.values)
        voltage = row['vm_pu'] * np.exp(1j * np.deg2rad(row['va_degree']))
        mismatch = voltage * np.conj(y_bus @ voltage) - (row['p_mw'] + 1j * row['q_mvar']) / net.sn_mva
        assert np.abs(mismatch).max() < 1e-9
        # Interior points never cross a limit; 1e-9 leaves room for the rounding of sums in MW.
        assert np.all(row['vm_pu'] >= net.bus.min_vm_pu[opf.buses])
        assert np.all(row['vm_pu'] <= net.bus.max_vm_pu[opf.buses])
        for power, load in (('p_mw', draw.pd_mw), ('q_mvar', draw.qd_mvar)):
            generation = row[power].copy()
            generation[np.searchsorted(opf.buses, net.load.bus)] += load
            for side, sign in (('min', -1), ('max', 1)):
                limit = sum(
                    net[s].groupby('bus')[f'{side}_{power}'].sum().reindex(opf.buses).fillna(0) for s in sources
                )
                assert np.all(sign * generation <= sign * limit + 1e-9)


@pytest.mark.parametrize('flow_limit', ['apparent', 'current'])
def test_a_branch_rating_binds_in_the_unit_that_was_asked_for(flow_limit):
    net = case('case5')
    opf = OptimalPowerFlow(net, flow_limit)
    vm_pu, va_degree = (parts(opf, opf.nominal.values)[name] for name in ('vm_pu', 'va_degree'))
    pp.runpp(net, numba=False)
    y_from, y_to = (net._ppc['internal'][name] for name in ('Yf', 'Yt'))
    voltage = vm_pu * np.exp(1j * np.deg2rad(va_degree))
    ends = [(y_from, net.line.from_bus), (y_to, net.line.to_bus)]
    loading = [np.abs(y @ voltage) * (vm_pu[nodes] if flow_limit == 'apparent' else 1) for y, nodes in ends]
    rating = np.sqrt(3) * net.line.max_i_ka * 230 / net.sn_mva
    share = np.max(np.array(loading) / rating.to_numpy(), axis=0)
    assert share.max() == pytest.approx(1, abs=1e-7)  # Ipopt ends 1e-11 from a limit; 1e-7 tells 'current' apart


def test_load_buses_without_generation_carry_exactly_the_demand():
    opf = OptimalPowerFlow(case('case14'))
    draw = drawn(opf, seed=1)
    row = parts(opf, opf.solve(draw).values)
    only_load = [3, 4, 8, 9, 10, 11, 12, 13]  # case14 has generators at 0, 1, 2, 5, 7
    at, of = np.searchsorted(opf.buses, only_load), np.searchsorted(case('case14').load.bus, only_load)
    assert np.array_equal(row['p_mw'][at], -draw.pd_mw[of])
    assert np.array_equal(row['q_mvar'][at], -draw.qd_mvar[of])
    assert row['p_mw'][6] == 0.0


def test_values_at_a_limit_are_exactly_on_it():
    # At every load within 20 % of the nominal one, the two cheap generators of bus 0 run at their 40 + 170 MW.
    opf = OptimalPowerFlow(case('case5'), flow_limit='current')
    at = opf.columns.index('p_mw_0')
    for factor in (0.8, 1.0, 1.2):
        point = opf.solve(scaled(opf, factor, factor))
        assert point.values[at] == 210.0
        assert point.mismatch_pu <= 1e-9


def test_a_solve_does_not_depend_on_the_ones_before():
    opf = OptimalPowerFlow(case('case5'))
    first, again = (opf.solve(drawn(opf, seed)).values for seed in (1, 1))
    opf.solve(scaled(opf, 2, 1))
    assert np.array_equal(first, again)
    assert np.array_equal(first, opf.solve(drawn(opf, seed=1)).values)
    assert np.array_equal(first, OptimalPowerFlow(case('case5')).solve(drawn(opf, seed=1)).values)


def test_the_external_grids_voltage_is_fixed_unless_controllable():
    net = case('case5')
    fixed = OptimalPowerFlow(net)
    net.ext_grid['controllable'] = True
    free = OptimalPowerFlow(net)
    assert parts(fixed, fixed.nominal.values)['vm_pu'][3] == net.ext_grid.vm_pu[0]
    assert abs(parts(free, free.nominal.values)['vm_pu'][3] - net.ext_grid.vm_pu[0]) > 1e-3
    assert free.nominal.cost < fixed.nominal.cost


def test_buses_joined_by_a_switch_have_columns_of_their_own():
    net = case('case9')
    joined = pp.create_bus(net, vn_kv=345.0, min_vm_pu=0.9, max_vm_pu=1.1)
    pp.create_switch(net, 4, joined, et='b', closed=True)
    load_at_4 = net.load.index[net.load.bus == 4]
    net.load.loc[load_at_4, 'bus'] = joined
    pp.create_sgen(net, joined, p_mw=7.0, q_mvar=2.0)
    opf = OptimalPowerFlow(net)
    row = parts(opf, opf.nominal.values)
    p_mw = dict(zip(opf.buses.tolist(), row['p_mw'], strict=True))
    assert p_mw[4] == 0.0
    assert p_mw[joined] == pytest.approx(7.0 - net.load.p_mw[load_at_4].sum(), abs=1e-12)
    assert row['vm_pu'][opf.buses == joined] == row['vm_pu'][opf.buses == 4]


def test_an_impossible_load_comes_back_with_the_solvers_reason():
    opf = OptimalPowerFlow(case('case5'))
    point = opf.solve(scaled(opf, 3, 1))
    assert not point.solved
    assert point.reason == 'Infeasible_Problem_Detected'


def test_the_network_is_not_changed():
    net = case('case5')
    before = pp.to_json(net)
    OptimalPowerFlow(net)
    assert pp.to_json(net) == before


@pytest.mark.parametrize(('kind', 'index'), [('line', 2), ('trafo', 1)])
def test_an_outage_is_the_network_without_the_branch(kind, index):
    net = case('case14')
    opf = OptimalPowerFlow(net, 'current', topology_varies=True)
    net[kind].loc[index, 'in_service'] = False
    without = OptimalPowerFlow(net, 'current')
    for seed in range(3):
        draw = drawn(opf, seed)
        out = opf.solve(replace(draw, topology=f'{kind}_{index}'))
        assert out.solved
        # Two searches for one optimum: where the cost is flat, they stop at voltages that differ by more than it does.
        assert out.cost == pytest.approx(without.solve(draw).cost, rel=1e-9)
        np.testing.assert_allclose(out.values, without.solve(draw).values, atol=1e-3)


def test_an_outage_has_the_admittances_that_pandapower_gives():
    net = case('case24_ieee_rts')
    numbers = read_case(net)
    removable, islanding = removable_branches(net)
    assert sorted(numbers.branch_rows) == sorted(removable + islanding)
    for label in removable[::7]:
        kind, index = label.split('_')
        net[kind].loc[int(index), 'in_service'] = False
        expected = read_case(net).admittances
        net[kind].loc[int(index), 'in_service'] = True
        found, row = numbers.without(label), numbers.branch_rows[label]
        np.testing.assert_array_equal(found.bus.toarray(), expected.bus.toarray())
        for y_found, y_expected in zip(found.ends, expected.ends, strict=True):
            np.testing.assert_array_equal(np.delete(y_found.toarray(), row, axis=0), y_expected.toarray())
            assert not y_found[[row]].toarray().any()


def test_a_problem_whose_topology_and_costs_vary_solves_the_base_case_as_one_that_is_fixed():
    net = case('case24_ieee_rts')
    fixed, varying = OptimalPowerFlow(net), OptimalPowerFlow(net, costs_vary=True, topology_varies=True)
    for seed in range(3):
        draw = drawn(fixed, seed)
        # The same program with other roundings; Ipopt stops at 1e-10 p.u.
        np.testing.assert_allclose(varying.solve(draw).values, fixed.solve(draw).values, atol=1e-6)


def test_cost_factors_are_costs_multiplied():
    net = case('case9')
    net.poly_cost['cq2_eur_per_mvar2'] = 0.02
    opf = OptimalPowerFlow(net, 'current', costs_vary=True)
    assert opf.drawable.priced == ('ext_grid_0', 'gen_0', 'gen_1')
    factors = np.array([0.7, 1.4, 1.1])
    draw = replace(opf.drawable.nominal, cost_factors=factors)
    costs = [name for name in net.poly_cost if name.startswith(('cp', 'cq'))]
    labels = net.poly_cost['et'].astype(str) + '_' + net.poly_cost['element'].astype(str)
    by_row = labels.map(dict(zip(opf.drawable.priced, factors, strict=True)))
    net.poly_cost[costs] = net.poly_cost[costs].mul(by_row, axis=0)
    pp.runopp(net, numba=False)
    assert opf.solve(draw).cost == pytest.approx(net.res_cost, rel=1e-6)
    assert opf.nominal.cost != pytest.approx(net.res_cost, rel=1e-2)


def test_a_draw_that_was_not_compiled_for_is_refused():
    opf = OptimalPowerFlow(case('case9'))
    nominal = opf.drawable.nominal
    with pytest.raises(GridError, match=r'costs_vary=True'):
        opf.solve(replace(nominal, cost_factors=1.1 * nominal.cost_factors))
    with pytest.raises(GridError, match=r"'line_1'.*topology_varies=True"):
        opf.solve(replace(nominal, topology='line_1'))
    with pytest.raises(GridError, match=r"'line_99'.*such as 'line_0'"):
        OptimalPowerFlow(case('case9'), topology_varies=True).solve(replace(nominal, topology='line_99'))


def with_every_kind_of_element():
    """Two loads at a bus, a dispatched load, a fixed and a dispatched static generator, a fused bus."""
    net = case('case9')
    joined = pp.create_bus(net, vn_kv=345.0, min_vm_pu=0.9, max_vm_pu=1.1)
    pp.create_switch(net, 4, joined, et='b', closed=True)
    net.load['controllable'] = False
    pp.create_load(net, 6, p_mw=20.0, q_mvar=5.0, scaling=0.5, controllable=False)
    pp.create_load(
        net, joined, p_mw=10.0, controllable=True, min_p_mw=5.0, max_p_mw=12.0, min_q_mvar=0.0, max_q_mvar=0.0
    )
    pp.create_poly_cost(net, 4, 'load', cp1_eur_per_mw=-1.0)
    pp.create_sgen(net, 6, p_mw=30.0, q_mvar=3.0, controllable=False)
    limits = {'min_p_mw': 0.0, 'max_p_mw': 15.0, 'min_q_mvar': -5.0, 'max_q_mvar': 5.0}
    pp.create_sgen(net, joined, p_mw=9.0, controllable=True, **limits)
    pp.create_poly_cost(net, 1, 'sgen', cp1_eur_per_mw=0.5)
    return net


@pytest.mark.parametrize('topology', [BASE, 'line_4'])
def test_every_quantity_agrees_with_runpp_at_the_same_set_points(topology):
    net = with_every_kind_of_element()
    quantities = (*tables.WIDE, *tables.APART[:4], *tables.FLOWS)
    opf = OptimalPowerFlow(net, 'current', quantities, topology_varies=True)
    assert opf.columns == Grid.from_pandapower(net).columns(quantities)
    assert opf.drawable.loads == ('0', '1', '2', '3')
    assert opf.drawable.infeeds == ('sgen_0',)
    draw = replace(drawn(opf, seed=5), infeed_mw=np.array([12.0]), infeed_mvar=np.array([1.5]), topology=topology)
    point = opf.solve(draw)
    row = dict(zip(opf.columns, point.values, strict=True))
    assert point.solved
    # runpp is told what the row says of every load and generator, and must find the rest.
    for quantity in ('p_mw', 'q_mvar'):
        for table, letter, prefix in (('load', 'd', ''), ('sgen', 'g', 'sgen_'), ('gen', 'g', 'gen_')):
            if quantity in net[table]:
                name = quantity.replace('_', f'{letter}_', 1)
                net[table][quantity] = [row[f'{name}_{prefix}{index}'] for index in net[table].index]
    net.load['scaling'] = 1.0
    net.gen['vm_pu'] = [row[f'vm_pu_{bus}'] for bus in net.gen.bus]
    if topology != BASE:
        net.line.loc[4, 'in_service'] = False
    found = solved_row(net, quantities=quantities).iloc[0].reindex(opf.columns, fill_value=0.0)
    # runpp stops at 1e-8 MVA; lines of case9 carry some 100 MW.
    np.testing.assert_allclose(found, point.values, atol=2e-6)
    assert (row['p_from_mw_line_4'] == 0.0) == (topology == 'line_4')


def with_pwl_cost(net):
    net.poly_cost = net.poly_cost[net.poly_cost.et != 'gen']
    pp.create_pwl_cost(net, 0, 'gen', [[0, 20, 1], [20, 40, 2]])


def with_dcline(net):
    pp.create_dcline(net, 0, 4, p_mw=1, loss_percent=0, loss_mw=0, vm_from_pu=1, vm_to_pu=1)


def with_voltage_dependent_load(net):
    net.load['const_z_p_percent'] = 50.0


def without_loads(net):
    net.load['in_service'] = False


@pytest.mark.parametrize(
    ('change', 'facts'),
    [
        (with_pwl_cost, ["'case5'", '1 rows in net.pwl_cost', 'net.poly_cost']),
        (with_dcline, ['net.dcline', "'case5' has 1 rows", 'out of service']),
        (with_voltage_dependent_load, ['const_z_p_percent', 'shunts']),
        (without_loads, ["'case5'", 'Add rows to net.load']),
    ],
)
def test_what_is_not_carried_is_refused_by_name(change, facts):
    net = case('case5')
    change(net)
    with pytest.raises(GridError) as error:
        OptimalPowerFlow(net)
    for fact in facts:
        assert fact in str(error.value)


def test_an_unknown_flow_limit_is_refused():
    with pytest.raises(GridError, match=r"flow_limit='apparent'.*got 'power'"):
        OptimalPowerFlow(case('case5'), flow_limit='power')


def test_the_networks_model_of_transformers_is_that_of_its_power_flow():
    net = case('case24_ieee_rts')
    net.trafo[['i0_percent', 'pfe_kw']] = 0.3, 50.0
    pp.set_user_pf_options(net, trafo_model='pi')
    row = generate(net, 2, 0).table
    law = PowerFlow.from_pandapower(net)
    # The default model, 't', misses by a tenth of a megawatt.
    assert law.residual(TableView.from_dataframe(row, law.columns)).abs().max() < 1e-5
