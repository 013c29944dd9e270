"""The compiled optimal power flow against pandapower.runopp, MATPOWER's published optimum and the equations."""

import numpy as np
import pandapower as pp
import pandapower.networks as networks
import pytest

from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power.opf import OptimalPowerFlow


def parts(opf, values):
    return dict(zip(('p_mw', 'q_mvar', 'vm_pu', 'va_degree'), values.reshape(4, len(opf.buses)), strict=True))


def drawn(opf, seed, low=0.9, high=1.1):
    factors = np.random.default_rng(seed).uniform(low, high, (2, len(opf.load_buses)))
    return factors * np.stack([opf.nominal_p_mw, opf.nominal_q_mvar])


def with_cigre_costs():
    """A medium-voltage network with phase-shifting transformers and switches."""
    net = networks.create_cigre_network_mv(with_der=False)
    for power in ('p_mw', 'q_mvar'):
        net.ext_grid[f'min_{power}'], net.ext_grid[f'max_{power}'] = -100.0, 100.0
    pp.create_poly_cost(net, 0, 'ext_grid', cp1_eur_per_mw=1.0)
    return net


@pytest.mark.parametrize('case', ['case5', 'case9', 'case14', 'case24_ieee_rts', 'case30', 'case39', 'cigre'])
def test_agrees_with_runopp(case):
    net = with_cigre_costs() if case == 'cigre' else getattr(networks, case)()
    opf = OptimalPowerFlow(net, flow_limit='current')
    # From a flat start runopp does not converge on case5, from the power flow's solution not on others.
    pp.runopp(net, numba=False, init='pf' if case == 'case5' else 'flat')
    assert opf.nominal.solved
    assert opf.nominal.cost == pytest.approx(net.res_cost, rel=1e-4)
    # runopp stops at a gradient of 1e-6 where the cost is flat in the voltages: it is the coarser of the two.
    voltages = parts(opf, opf.nominal.values)
    np.testing.assert_allclose(voltages['vm_pu'], net.res_bus.vm_pu[opf.buses], atol=2e-3)
    np.testing.assert_allclose(voltages['va_degree'], net.res_bus.va_degree[opf.buses], atol=0.1)


def test_agrees_with_runopp_for_a_drawn_load_with_reactive_and_quadratic_costs():
    net = networks.case9()
    net.poly_cost['cq1_eur_per_mvar'] = 0.5
    net.poly_cost['cq2_eur_per_mvar2'] = 0.02
    opf = OptimalPowerFlow(net, flow_limit='current')
    p_mw, q_mvar = drawn(opf, seed=3)
    net.load['p_mw'], net.load['q_mvar'] = p_mw, q_mvar
    assert net.load.bus.tolist() == opf.load_buses.tolist()
    pp.runopp(net, numba=False)
    assert opf.solve(p_mw, q_mvar).cost == pytest.approx(net.res_cost, rel=1e-6)


def test_reproduces_matpowers_optimum_of_case5():
    net = networks.case5()
    net.ext_grid['controllable'] = True
    assert OptimalPowerFlow(net, flow_limit='apparent').nominal.cost == pytest.approx(17551.89, abs=0.01)


@pytest.mark.parametrize('flow_limit', ['apparent', 'current'])
@pytest.mark.parametrize('case', ['case5', 'case24_ieee_rts'])
def test_rows_solve_the_power_flow_and_keep_every_limit(case, flow_limit):
    net = getattr(networks, case)()
    opf = OptimalPowerFlow(net, flow_limit)
    pp.runpp(net, calculate_voltage_angles=True, numba=False)
    y_bus = net._ppc['internal']['Ybus'].toarray()[np.ix_(*2 * (net._pd2ppc_lookups['bus'][opf.buses],))]
    sources = ['gen', 'sgen', 'ext_grid']
    for seed in range(20):
        p_load, q_load = drawn(opf, seed)
        point = opf.solve(p_load, q_load)
        assert point.solved
        row = parts(opf, point.values)
        voltage = row['vm_pu'] * np.exp(1j * np.deg2rad(row['va_degree']))
        mismatch = voltage * np.conj(y_bus @ voltage) - (row['p_mw'] + 1j * row['q_mvar']) / net.sn_mva
        assert np.abs(mismatch).max() < 1e-9
        # Interior points never cross a limit; 1e-9 leaves room for the rounding of sums in MW.
        assert np.all(row['vm_pu'] >= net.bus.min_vm_pu[opf.buses])
        assert np.all(row['vm_pu'] <= net.bus.max_vm_pu[opf.buses])
        for power, load in (('p_mw', p_load), ('q_mvar', q_load)):
            generation = row[power].copy()
            generation[np.searchsorted(opf.buses, opf.load_buses)] += load
            for side, sign in (('min', -1), ('max', 1)):
                limit = sum(
                    net[s].groupby('bus')[f'{side}_{power}'].sum().reindex(opf.buses).fillna(0) for s in sources
                )
                assert np.all(sign * generation <= sign * limit + 1e-9)


@pytest.mark.parametrize('flow_limit', ['apparent', 'current'])
def test_a_branch_rating_binds_in_the_unit_that_was_asked_for(flow_limit):
    net = networks.case5()
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
    opf = OptimalPowerFlow(networks.case14())
    p_mw, q_mvar = drawn(opf, seed=1)
    row = parts(opf, opf.solve(p_mw, q_mvar).values)
    only_load = [3, 4, 8, 9, 10, 11, 12, 13]  # case14 has generators at 0, 1, 2, 5, 7
    at, of = np.searchsorted(opf.buses, only_load), np.searchsorted(opf.load_buses, only_load)
    assert np.array_equal(row['p_mw'][at], -p_mw[of])
    assert np.array_equal(row['q_mvar'][at], -q_mvar[of])
    assert row['p_mw'][6] == 0.0


def test_values_at_a_limit_are_exactly_on_it():
    # At every load within 20 % of the nominal one, the two cheap generators of bus 0 run at their 40 + 170 MW.
    opf = OptimalPowerFlow(networks.case5(), flow_limit='current')
    at = opf.columns.index('p_mw_0')
    for factor in (0.8, 1.0, 1.2):
        point = opf.solve(factor * opf.nominal_p_mw, factor * opf.nominal_q_mvar)
        assert point.values[at] == 210.0
        assert point.mismatch_pu <= 1e-9


def test_a_solve_does_not_depend_on_the_ones_before():
    opf = OptimalPowerFlow(networks.case5())
    first, again = (opf.solve(*drawn(opf, seed)).values for seed in (1, 1))
    opf.solve(2 * opf.nominal_p_mw, opf.nominal_q_mvar)
    assert np.array_equal(first, again)
    assert np.array_equal(first, opf.solve(*drawn(opf, seed=1)).values)
    assert np.array_equal(first, OptimalPowerFlow(networks.case5()).solve(*drawn(opf, seed=1)).values)


def test_the_external_grids_voltage_is_fixed_unless_controllable():
    net = networks.case5()
    fixed = OptimalPowerFlow(net)
    net.ext_grid['controllable'] = True
    free = OptimalPowerFlow(net)
    assert parts(fixed, fixed.nominal.values)['vm_pu'][3] == net.ext_grid.vm_pu[0]
    assert abs(parts(free, free.nominal.values)['vm_pu'][3] - net.ext_grid.vm_pu[0]) > 1e-3
    assert free.nominal.cost < fixed.nominal.cost


def test_buses_joined_by_a_switch_have_columns_of_their_own():
    net = networks.case9()
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
    opf = OptimalPowerFlow(networks.case5())
    point = opf.solve(3 * opf.nominal_p_mw, opf.nominal_q_mvar)
    assert not point.solved
    assert point.reason == 'Infeasible_Problem_Detected'


def test_the_network_is_not_changed():
    net = networks.case5()
    before = pp.to_json(net)
    OptimalPowerFlow(net)
    assert pp.to_json(net) == before


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
    net = networks.case5()
    change(net)
    with pytest.raises(GridError) as error:
        OptimalPowerFlow(net)
    for fact in facts:
        assert fact in str(error.value)


def test_an_unknown_flow_limit_is_refused():
    with pytest.raises(GridError, match=r"flow_limit='apparent'.*got 'power'"):
        OptimalPowerFlow(networks.case5(), flow_limit='power')
