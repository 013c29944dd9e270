"""Operating limits: those of the network, exact together with the power flow."""

import copy
import json
import math
import pickle

import numpy as np
import pandapower as pp
import pandas as pd
import pytest
import torch
from test_power_flow import half_open_three_winding_transformer, ring, solved_points, tapped_transformer

from cases import LINE, case
from sdv_constrained_diffusion.constraints.base import Constraint, TableView
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError
from sdv_constrained_diffusion.guidance.finishing import Finisher
from sdv_constrained_diffusion.guidance.projection import ResultCode
from sdv_constrained_diffusion.power import scenarios
from sdv_constrained_diffusion.power.columns import Units
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.limits import OperatingLimits
from sdv_constrained_diffusion.power.nets import result_row, solve
from sdv_constrained_diffusion.power.scenarios.solvers.opf_case import read_case
from sdv_constrained_diffusion.power.tables import APART, FLOWS, KINDS, WIDE, column


@pytest.fixture(scope='module')
def points():
    """Optimal operating points, some values of which sit on limits."""
    quantities = (*APART, *FLOWS)
    return scenarios.generate(case('case5'), 60, 0, 0.8, 1.2, flow_limit='current', quantities=quantities).table


def limits_of(points, **options):
    return OperatingLimits.from_pandapower(case('case5'), table=points[apart(points)], **options)


def apart(points):
    return [name for name in points.columns if not name.startswith(('p_from', 'q_from', 'p_to', 'q_to', 'loading'))]


def test_optimal_operating_points_obey_the_limits_that_were_imposed(points):
    limits = limits_of(points, flow_limit='current', max_angle_difference_degree=40.0)
    system = ConstraintSystem([limits], points)
    violation = system.violation(system.residual(system.values(points)))
    assert (violation <= system.tolerance).all()
    assert {'p.u.', 'MW', 'Mvar', '%', 'degree'} == set(limits.unit)
    # The line whose rating binds in the network is among them, and at its limit in some row.
    loading = limits.equation_names(99).index('loading_percent_line_5')
    assert system.residual(system.values(points))[:, loading].max() == pytest.approx(100, abs=1e-4)


def test_flows_are_those_of_the_network(points):
    limits = limits_of(points, flow_limit='current')
    system = ConstraintSystem([limits], points)
    residual = system.residual(system.values(points))
    for place, name in enumerate(limits.equation_names(99)):
        if name.startswith('loading'):
            # Read from the voltages here, by the solver's own matrices there.
            np.testing.assert_allclose(residual[:, place].numpy(), points[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize('flow_limit', ['apparent', 'current'])
def test_the_derivative_equals_the_automatic_one(points, flow_limit):
    limits = limits_of(points, flow_limit=flow_limit, max_angle_difference_degree=40.0)
    system = ConstraintSystem([limits], points)
    leaf = system.values(points)[:5].clone().requires_grad_(True)
    residual = system.residual(leaf)
    automatic = [torch.autograd.grad(each.sum(), leaf, retain_graph=True)[0] for each in residual.T]
    # Derivatives up to some ten thousand percent per p.u.
    torch.testing.assert_close(system.jacobian(leaf.detach()), torch.stack(automatic, dim=1), rtol=1e-9, atol=1e-8)


def test_shaken_rows_come_back_within_all_limits_and_values_at_a_limit_are_it(points):
    table, net = points[apart(points)], case('case5')
    limits = limits_of(points, flow_limit='current')
    finisher = Finisher.fit([PowerFlow.from_pandapower(net, table=table.columns), limits], table)
    random = np.random.default_rng(0)
    shaken = table + 0.2 * table.std().to_numpy() * random.normal(size=table.shape)
    finished, _, projected = finisher.finish(shaken)
    # Some loads cannot be served within all limits.
    assert (projected.codes == ResultCode.CONVERGED).double().mean() > 0.8
    system = finisher.chord.system
    assert system.feasible(system.values(finished)).all()
    stopped = 0
    for name, (low, high) in limits.column_limits.items():
        assert finished[name].between(low, high).all()
        stopped += int(finished[name].isin([low, high]).sum())
    assert stopped > 10


def test_parameters_make_the_same_limits_again(points):
    limits = limits_of(points, flow_limit='current')
    again = OperatingLimits.from_parameters(json.loads(json.dumps(limits.parameters())))
    assert (again.columns, again.lower, again.upper) == (limits.columns, limits.lower, limits.upper)
    assert again.equation_names(99) == limits.equation_names(99)


def test_what_cannot_be_judged_or_is_unknown_is_refused():
    grid = Grid.from_pandapower(case('case5'))
    with pytest.raises(ConstraintError, match=r"knows no quantity 'vm_pu_77'"):
        OperatingLimits(grid, {'vm_pu_77': (0.9, 1.1)})
    with pytest.raises(ConstraintError, match=r"lower limit of 'vm_pu_1'.*1.1 and 0.9"):
        OperatingLimits(grid, {'vm_pu_1': (1.1, 0.9)})
    with pytest.raises(ConstraintError, match='none of the 1 limits belongs to a column'):
        OperatingLimits(grid, {'pg_mw_gen_0': (0.0, 40.0)})
    with pytest.raises(ConstraintError, match="but got 'power'"):
        OperatingLimits.from_pandapower(case('case5'), flow_limit='power')


def rated(net):
    """A network whose branches all have a `max_loading_percent`."""
    for table in ('line', 'trafo', 'trafo3w'):
        net[table]['max_loading_percent'] = 80.0
    return net


def judged(net, flow_limit, row, **options):
    """The limits' residuals on one row, by their names."""
    limits = OperatingLimits.from_pandapower(net, table=row, flow_limit=flow_limit, **options)
    residual = limits.residual(TableView.from_dataframe(row, limits.columns))[0].tolist()
    names = limits.equation_names(len(limits.unit))
    assert len(residual) == len(names) == len(limits.upper) == len(limits.lower) == len(limits.tolerance)
    return limits, dict(zip(names, residual, strict=True))


@pytest.mark.parametrize('feature', [tapped_transformer, half_open_three_winding_transformer])
def test_branches_of_every_kind_are_limited_by_their_rating(feature):
    net = ring()
    feature(net)
    rated(net)
    row = result_row(solve(net, who='test', tolerance_mva=1e-9), KINDS)
    limits, found = judged(net, 'current', row)
    loadings = [name for name in row.columns if name.startswith('loading')]
    assert set(found) == set(loadings)
    assert [found[name] for name in loadings] == pytest.approx(row[loadings].to_numpy()[0].tolist(), abs=1e-8)
    assert limits.upper == [80.0] * len(loadings)
    limits, found = judged(net, 'apparent', row)
    for name, size in found.items():
        branch, side = name.removeprefix('s_mva_').removesuffix(' end').split(' at its ')
        p, q = row[f'p_{side}_mw_{branch}'].item(), row[f'q_{side}_mvar_{branch}'].item()
        # Sizes of powers of up to 50 MW.
        assert size == pytest.approx(math.hypot(p, q), abs=1e-9)
    upper = dict(zip(found, limits.upper, strict=True))
    assert upper['s_mva_line_0 at its to end'] == pytest.approx(0.8 * math.sqrt(3) * 110.0 * LINE['max_i_ka'])
    if feature is tapped_transformer:
        assert upper['s_mva_trafo_0 at its from end'] == 0.8 * 40.0
    else:
        assert upper['s_mva_trafo3w_0_hv at its from end'] == 0.8 * 63.0
        assert upper['s_mva_trafo3w_4_lv at its to end'] == 0.8 * 38.0
        # The open winding has no end at a bus.
        assert not any('trafo3w_4_mv' in name for name in found)


def test_what_has_no_rating_or_none_that_voltages_can_exceed_is_not_limited():
    net = rated(ring())
    net.line['max_i_ka'] = [np.nan, 0.0, 1e5]
    net.bus[['min_vm_pu', 'max_vm_pu']] = [0.9, np.nan]
    for flow_limit in ('apparent', 'current'):
        limits = OperatingLimits.from_pandapower(net, flow_limit=flow_limit)
        assert limits.equation_names(9) == ['vm_pu_42', 'vm_pu_7', 'vm_pu_3']
        assert limits.upper == [math.inf] * 3
    # 1 p.u. of voltage over 8 ohm and 110 kV is 8 kA at most where no band limits the voltage.
    net.line['max_i_ka'] = 6.0
    assert len(OperatingLimits.from_pandapower(net, flow_limit='current').unit) == 6
    net.bus['max_vm_pu'] = 0.3
    net.bus['min_vm_pu'] = 0.2
    assert len(OperatingLimits.from_pandapower(net, flow_limit='current').unit) == 3


def test_limits_of_angles_may_be_one_sided():
    grid = Grid.from_pandapower(ring())
    pairs = {0: (-math.inf, 4.0), 1: (-3.0, math.inf), 2: (-math.inf, math.inf)}
    limits = OperatingLimits(grid, {f'angle_difference_degree_line_{line}': pair for line, pair in pairs.items()})
    assert limits.equation_names(9) == ['angle_difference_degree_line_0', 'angle_difference_degree_line_1']
    assert (limits.lower, limits.upper) == ([-math.inf, -3.0], [4.0, math.inf])
    # Lines run 42 - 7 and 7 - 3; a tolerance of 1e-6 radians.
    table = {name: 1.0 if name.startswith('vm') else 0.0 for name in limits.columns}
    table |= {'va_degree_42': 5.0, 'va_degree_7': 0.5, 'va_degree_3': 4.0}
    view = TableView(tuple(table), torch.tensor([[*table.values()]], dtype=torch.float64))
    assert limits.residual(view).tolist() == [pytest.approx([4.5, -3.5], rel=1e-12)]
    assert limits.tolerance == pytest.approx([math.degrees(1e-6)] * 2)


def test_a_branch_is_judged_where_the_voltages_that_it_depends_on_are_there():
    net = ring()
    half_open_three_winding_transformer(net)
    rated(net)
    grid = Grid.from_pandapower(net)
    # The power of each winding depends on the voltages at all three.
    for missing in ('vm_pu_16', 'va_degree_7'):
        table = [name for name in grid.columns() if name != missing]
        limits = OperatingLimits.from_pandapower(net, table=table)
        branches = {name.removeprefix('s_mva_').split(' ')[0] for name in limits.equation_names(99)}
        gone = {'vm_pu_16': {'trafo3w_0_hv', 'trafo3w_0_mv', 'trafo3w_0_lv', 'trafo3w_4_hv', 'trafo3w_4_lv'}}
        gone |= {'va_degree_7': {'line_0', 'line_1'}}
        whole = {label for label in grid.branches if label != 'trafo3w_4_mv'}
        assert branches == whole - gone[missing]
        assert missing not in limits.columns


@pytest.mark.parametrize('units', [Units('p.u.', 'radian', 'load'), Units(angle='radian')], ids=str)
def test_limits_hold_in_any_units(units):
    net = case('case9')
    row = result_row(solve(net, who='test', tolerance_mva=1e-9), (*APART, 'p_mw'))
    own = row.copy()
    for name in own.columns:
        own[name] *= 0.01 if units.power == 'p.u.' and ('_mw_' in name or '_mvar_' in name) else 1.0
        own[name] *= math.pi / 180 if name.startswith('va') else 1.0
        own[name] *= -1.0 if units.sign == 'load' and name.startswith('p_mw') else 1.0
    plain = OperatingLimits.from_pandapower(net, table=row, max_angle_difference_degree=30.0)
    limits = OperatingLimits.from_pandapower(net, table=own, units=units, max_angle_difference_degree=30.0)
    expected = plain.residual(TableView.from_dataframe(row, plain.columns))
    table = TableView.from_dataframe(own, limits.columns)
    # Powers up to 200 MW: rounding of their units.
    torch.testing.assert_close(limits.residual(table), expected, rtol=1e-11, atol=1e-10)
    closed, automatic = limits.jacobian(table), Constraint.jacobian(limits, table)
    torch.testing.assert_close(closed, automatic, rtol=1e-10, atol=1e-9)
    factor = 100.0 if units.power == 'p.u.' else 1.0
    assert limits.column_limits['pg_mw_gen_0'] == (10.0 / factor, 300.0 / factor)
    assert limits.column_limits['vm_pu_4'] == (0.9, 1.1)
    # In another order and with a column that is none of theirs.
    wider = TableView(('note', *reversed(table.names)), torch.cat([table.values[:, :1], table.values.flip(1)], dim=1))
    torch.testing.assert_close(limits.jacobian(wider)[:, :, 1:].flip(2), closed, rtol=1e-12, atol=1e-12)
    assert not limits.jacobian(wider)[:, :, 0].any()


@pytest.mark.parametrize('flow_limit', ['apparent', 'current'])
@pytest.mark.parametrize('quantities', [WIDE, APART], ids=['wide', 'apart'])
def test_rows_that_leave_their_limits_come_back_to_them_with_the_equalities(quantities, flow_limit):
    net, points = case('case9'), solved_points('case9', 12)
    table = points[[name for name in points.columns if name.startswith(tuple(f'{each}_' for each in quantities))]]
    # Limits as tight as the points allow, so that noise of their own size leaves them on all sides.
    for name in table.columns.intersection(points.filter(like='vm_pu').columns):
        net.bus.loc[int(name.split('_')[-1]), ['min_vm_pu', 'max_vm_pu']] = table[name].min(), table[name].max()
    for element, index in (('ext_grid', 0), ('gen', 0), ('gen', 1)):
        for quantity, power in (('pg_mw', 'p_mw'), ('qg_mvar', 'q_mvar')):
            values = points[f'{quantity}_{element}_{index}']
            net[element].loc[index, [f'min_{power}', f'max_{power}']] = values.min() - 1e-3, values.max() + 1e-3
    net.line['max_loading_percent'] = 1.02 * points.filter(like='loading').max().to_numpy()
    if flow_limit == 'apparent':
        net.line['max_loading_percent'] *= 1.06
    limits = OperatingLimits.from_pandapower(net, table=table, flow_limit=flow_limit)
    finisher = Finisher.fit([PowerFlow.from_pandapower(net, table=table), limits], table, {})
    noise = np.random.default_rng(0).normal(size=(60, table.shape[1]))
    shaken = pd.concat([table] * 5, ignore_index=True) + table.std().to_numpy() * noise
    own = limits.column_limits
    left = pd.DataFrame({name: ~shaken[name].between(*pair) for name, pair in own.items()})
    assert left.any(axis=1).mean() > 0.3
    finished, _, projected = finisher.finish(shaken, refusing=False)
    assert (projected.codes == ResultCode.CONVERGED).double().mean() > 0.9
    system = finisher.chord.system
    residual = system.residual(system.values(finished))
    assert (system.violation(residual) <= system.tolerance).all()
    # To the last bit: nothing beyond a limit, and what stopped there is exactly there.
    assert all(finished[name].between(*pair).all() for name, pair in own.items())
    assert sum(int(finished[name].isin(pair).sum()) for name, pair in own.items()) > 20
    if flow_limit == 'current':
        loadings = [number for number, each in enumerate(system.equations) if each.name.startswith('loading')]
        before = system.violation(system.residual(system.values(shaken)))[:, loadings]
        assert (before > 1e-3).any()


def test_limits_and_what_they_name_outlive_the_network():
    net = ring()
    half_open_three_winding_transformer(net)
    row = result_row(solve(rated(net), who='test'), APART)
    limits = OperatingLimits.from_pandapower(net, table=row, max_angle_difference_degree=9.0)
    table = TableView.from_dataframe(row, limits.columns)
    for again in (
        OperatingLimits.from_parameters(json.loads(json.dumps(limits.parameters()))),
        pickle.loads(pickle.dumps(limits)),
        limits.on(limits.grid),
    ):
        assert torch.equal(again.residual(table), limits.residual(table))
        assert (again.column_limits, again.tolerance, again.unit) == (
            limits.column_limits,
            limits.tolerance,
            limits.unit,
        )


def test_a_missing_column_of_a_limit_names_the_way_out():
    limits = OperatingLimits.from_pandapower(case('case9'))
    names = [name.replace('vm_pu_4', 'vmpu_4') for name in limits.columns]
    limits.require(limits.columns)
    with pytest.raises(ColumnMissingError) as caught:
        limits.require(names)
    assert str(caught.value).startswith("OperatingLimits needs column 'vm_pu_4', which the table lacks.")
    assert str(caught.value).endswith("Pass columns={'vm_pu_4': 'vmpu_4'} or rename the column.")


def narrow_generators(net):
    """Generators with bands of their own, one of them beyond its bus's; static ones, dispatched and not."""
    net.gen['max_vm_pu'], net.gen['min_vm_pu'] = 1.02, 0.99
    net.gen.loc[net.gen.index[0], 'max_vm_pu'] = 1.5
    for controllable in (True, False, None):
        pp.create_sgen(net, net.load['bus'].iloc[0], 30.0, max_p_mw=20.0, min_p_mw=0.0, controllable=controllable)
    net.sgen['max_q_mvar'], net.sgen['min_q_mvar'] = 5.0, -5.0


def left_alone(net):
    net.gen['controllable'] = [False] + [True] * (len(net.gen) - 1)


def nothing(net):
    pass


@pytest.mark.parametrize('change', [nothing, narrow_generators, left_alone], ids=lambda change: change.__name__)
@pytest.mark.parametrize('name', ['case5', 'case9', 'case14', 'case24_ieee_rts', 'case30', 'case118'])
def test_limits_are_those_that_pandapowers_optimal_power_flow_is_given(name, change):
    net = copy.deepcopy(case(name))
    change(net)
    problem, limits = read_case(net), OperatingLimits.from_pandapower(net, table=grid_columns(net))
    mine = {name: (low, high) for name, low, high in zip(limits._names, limits.lower, limits.upper, strict=True)}
    nodes, generators = problem.at_bus.shape[0], len(problem.generators)
    theirs = {}
    for number, label in enumerate(problem.generators):
        for quantity, place in (('pg_mw', 2 * nodes + number), ('qg_mvar', 2 * nodes + generators + number)):
            theirs[f'{quantity}_{label}'] = tuple(
                problem.sn_mva * side[place] for side in (problem.lower_x, problem.upper_x)
            )
    fixed = {net.bus.index.get_loc(bus) for bus in [*net.ext_grid['bus'], *undispatched(net)['bus']]}
    for place, (bus, node) in enumerate(zip(problem.buses, problem.node_of_bus, strict=True)):
        if place not in fixed:  # a set-point is no limit
            theirs[f'vm_pu_{bus}'] = (problem.lower_x[node], problem.upper_x[node])
    set_points = {f'pg_mw_gen_{index}' for index in undispatched(net).index}
    for key, pair in theirs.items():
        if key not in set_points:
            assert mine.get(key, (-np.inf, np.inf)) == pytest.approx(pair, rel=1e-12, abs=1e-12), key
    assert not set_points & set(mine)
    assert not {key for key in mine if key.startswith(('pg', 'qg'))} - set(theirs)


def undispatched(net):
    return net.gen[~net.gen['controllable'].astype(bool)] if 'controllable' in net.gen else net.gen.head(0)


def grid_columns(net):
    grid = Grid.from_pandapower(net)
    return [column(quantity, label) for quantity in APART for label in grid.labels(quantity)]


def test_what_the_table_cannot_tell_is_listed():
    net = case('case9')
    limits = OperatingLimits.from_pandapower(net)
    assert {name.rpartition('_')[0] for name in limits.not_judged} == {
        'pg_mw_ext_grid',
        'pg_mw_gen',
        'qg_mvar_ext_grid',
        'qg_mvar_gen',
    }
    without_angles = [name for name in grid_columns(net) if not name.startswith('va')]
    limits = OperatingLimits.from_pandapower(net, table=without_angles)
    assert {name.rpartition('_')[0] for name in limits.not_judged} == {'s_mva_line'}
    assert OperatingLimits.from_pandapower(net, table=grid_columns(net)).not_judged == ()
    with pytest.raises(ConstraintError, match='has them for no branch'):
        OperatingLimits.from_pandapower(net, table=without_angles, max_angle_difference_degree=10.0)


def test_a_column_of_loadings_is_limited_itself():
    net = case('case5')
    row = result_row(solve(net, who='test'), (*APART, *FLOWS))
    names = [name for name in row.columns if not name.startswith(('vm', 'va'))]
    limits = OperatingLimits.from_pandapower(net, table=names, flow_limit='current')
    own = {name: pair for name, pair in limits.column_limits.items() if name.startswith('loading')}
    assert own == {
        f'loading_percent_line_{index}': (-np.inf, 100.0) for index in net.line.index[net.line.max_loading_percent > 0]
    }
    table = TableView.from_dataframe(row, limits.columns)
    place = limits.equation_names(99).index('loading_percent_line_0')
    assert limits.residual(table)[0, place] == row['loading_percent_line_0'].iloc[0]
    with pytest.raises(ConstraintError, match='limits flows from above only, but got at least 5'):
        OperatingLimits(limits.grid, {'s_mva_line_0': (5, 10)}, table=row.columns)
