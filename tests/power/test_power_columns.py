"""Power flow on whichever columns a table has, against pandapower's solutions and automatic differentiation.

Then which columns hold which quantity, in which units and signs, and what a bus's injection is a sum of.
"""

import functools
import json
import math

import numpy as np
import pandapower as pp
import pandas as pd
import pytest
import torch
from test_power_flow import many_injections_at_one_bus, ring

from cases import case
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError
from sdv_constrained_diffusion.power.columns import PowerColumns, Units
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.nets import result_row, solve, solved_row
from sdv_constrained_diffusion.power.tables import APART, FLOWS, KINDS, WIDE, column

SUBSETS = {
    'wide': WIDE,
    'without angles': ('p_mw', 'q_mvar', 'vm_pu'),
    'injections only': ('p_mw', 'q_mvar'),
    'apart': APART,
    'apart without angles': APART[:5],
    'voltages and flows': ('vm_pu', 'va_degree', *FLOWS),
    'flows only': FLOWS[:4],
    'everything': (*WIDE, *APART[:4], *FLOWS),
}


@functools.cache
def solved(name):
    """A grid and operating points with all columns."""
    random, rows = np.random.default_rng(0), []
    for _ in range(4):
        net = case(name)
        net.load[['p_mw', 'q_mvar']] *= random.uniform(0.9, 1.1, (len(net.load), 1))
        rows.append(solved_row(net, 1e-9, SUBSETS['everything']))
    return Grid.from_pandapower(case(name)), pd.concat(rows, ignore_index=True)


def law_on(name, subset):
    grid, table = solved(name)
    law = PowerFlow(grid, table=grid.columns(SUBSETS[subset]))
    system = ConstraintSystem([law], table)
    return law, system, system.values(table)


@pytest.mark.parametrize('subset', SUBSETS)
@pytest.mark.parametrize('name', ['case5', 'case14'])
def test_solved_rows_obey_what_any_columns_say(name, subset):
    _, system, values = law_on(name, subset)
    # The power flow stops at 1e-9 MVA; what is solved for repeats that with derivatives of some hundred MW per p.u.
    assert system.residual(values).abs().max() < 1e-6


@pytest.mark.parametrize('subset', SUBSETS)
def test_the_derivative_equals_the_automatic_one_off_the_solution(subset):
    _, system, values = law_on('case5', subset)
    random = torch.Generator().manual_seed(0)
    shaken = values * (1 + 1e-3 * torch.randn(values.shape, generator=random, dtype=torch.float64))
    leaf = shaken.clone().requires_grad_(True)
    residual = system.residual(leaf)
    automatic = [torch.autograd.grad(each.sum(), leaf, retain_graph=True)[0] for each in residual.T]
    # Derivatives up to some ten thousand MW per p.u.; a solution that settled at 1e-14 p.u.
    torch.testing.assert_close(system.jacobian(shaken), torch.stack(automatic, dim=1), rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize('subset', ['without angles', 'apart', 'flows only'])
def test_a_wrong_value_shows(subset):
    _, system, values = law_on('case5', subset)
    wrong = values.clone()
    wrong[:, 1] += 0.1  # MW of a bus, a load, a line
    assert (system.residual(wrong).abs().amax(1) > 1e-3).all()


def test_units_and_signs_are_declared_once():
    grid, table = solved('case5')
    own = table[grid.columns()].copy()
    own[grid.columns(['p_mw', 'q_mvar'])] *= -1 / grid.sn_mva
    own[grid.columns(['va_degree'])] = np.deg2rad(own[grid.columns(['va_degree'])])
    law = PowerFlow(grid, units=Units(power='p.u.', angle='radian', sign='load'))
    for each in (law, PowerFlow.from_parameters(json.loads(json.dumps(law.parameters())))):
        system = ConstraintSystem([each], own)
        assert system.residual(system.values(own)).abs().max() < 1e-6
    as_read = ConstraintSystem([PowerFlow(grid)], own)
    assert as_read.residual(as_read.values(own)).abs().max() > 100


@pytest.mark.parametrize(('field', 'value'), [('power', 'kW'), ('angle', 'gon'), ('sign', 'minus')])
def test_unknown_units_are_refused(field, value):
    with pytest.raises(ConstraintError, match=f"Units needs {field} of .* but got '{value}'"):
        Units(**{field: value})


def test_columns_that_are_bound_by_nothing_are_refused():
    grid, _ = solved('case5')
    with pytest.raises(ConstraintError, match='nothing is left to ask'):
        PowerFlow(grid, table=grid.columns(['vm_pu']))


@functools.cache
def crowded():
    """A grid with several elements at each bus, and buses joined by a switch; and a solved row of everything."""
    net = ring()
    many_injections_at_one_bus(net)
    pp.create_bus(net, 110.0, index=20)
    pp.create_load(net, 20, p_mw=3.0, q_mvar=1.0)
    pp.create_switch(net, 3, 20, et='b', closed=True)
    solved = solve(net, who='test', tolerance_mva=1e-9)
    return Grid.from_pandapower(solved), result_row(solved, KINDS)


def of_everything(**arguments):
    grid, row = crowded()
    return PowerColumns(grid, table=row, **arguments), row


@pytest.mark.parametrize(
    ('units', 'factors'),
    [
        (Units(), {'p_mw': 1, 'qd_mvar': 1, 'va_degree': 1, 'vm_pu': 1, 'loading_percent': 1}),
        (Units('p.u.', 'radian', 'load'), {'p_mw': -50, 'q_mvar': -50, 'pd_mw': 50, 'pg_mw': 50, 'q_to_mvar': 50}),
        (Units(angle='radian', sign='load'), {'va_degree': 180 / math.pi, 'vm_pu': 1, 'q_mvar': -1, 'qg_mvar': 1}),
        (Units(power='p.u.'), {'loading_percent': 1, 'vm_pu': 1, 'va_degree': 1, 'p_from_mw': 50}),
    ],
)
def test_what_a_number_is_multiplied_by(units, factors):
    assert {quantity: units.factor(quantity, 50.0) for quantity in factors} == factors


@pytest.mark.parametrize(
    ('wrong', 'words'),
    [
        ({'powers': 'MW'}, r"Units has \['power', 'angle', 'sign'\], but got 'powers'"),
        ('MW', r"units needs Units\(...\) or a dictionary .*'power', 'angle', 'sign'.* but got 'MW'"),
    ],
)
def test_units_that_there_are_not(wrong, words):
    with pytest.raises(ConstraintError, match=words):
        of_everything(units=wrong)


def test_units_are_themselves_or_their_words():
    units = Units('p.u.', 'radian', 'load')
    assert Units.of(units) is units
    assert Units.of({'power': 'p.u.', 'angle': 'radian', 'sign': 'load'}) == units
    assert Units.of(None) == Units.of({}) == Units('MW', 'degree', 'generation')


def test_the_wide_table_is_the_default_and_any_columns_are_taken_otherwise():
    grid, row = crowded()
    assert PowerColumns(grid).names == tuple(grid.columns(WIDE))
    assert set(PowerColumns(grid, table=row).names) == set(row.columns)
    found = PowerColumns(grid, table=['note', 'vm_pu_3', 'pg_mw_sgen_0', 7, 'p_mw_42'])
    assert found.names == ('p_mw_42', 'vm_pu_3', 'pg_mw_sgen_0')
    assert [found.standard(place) for place in range(3)] == list(found.names)


def test_own_names_stand_in_the_standard_ones_place():
    grid, _ = crowded()
    own = {'vm_pu_3': 'voltage', 'p_mw_42': 'p_mw_7', 'p_mw_7': 'p_mw_42'}
    table = ['voltage', 'p_mw_42', 'p_mw_7', 'vm_pu_7']
    found = PowerColumns(grid, own, table)
    assert found.names == ('p_mw_7', 'p_mw_42', 'vm_pu_7', 'voltage')
    assert [found.standard(place) for place in range(4)] == ['p_mw_42', 'p_mw_7', 'vm_pu_7', 'vm_pu_3']
    assert found.names_of('vm_pu', 'p_mw') == ['vm_pu_7', 'voltage', 'p_mw_7', 'p_mw_42']
    places, buses = found.of('vm_pu')
    assert (places.tolist(), [grid.buses[bus] for bus in buses]) == ([2, 3], [7, 3])
    again = PowerColumns(grid, found.parameters()['columns'], found.parameters()['table'], found.parameters()['units'])
    assert (again.names, again.factors.tolist()) == (found.names, found.factors.tolist())


@pytest.mark.parametrize(
    ('own', 'table', 'error', 'words'),
    [
        ({'pd_mw_0': 'town'}, None, ConstraintError, r"'pd_mw_0' is no standard name.*with table= those of loads"),
        ({'pd_mw_9': 'town'}, ['town'], ConstraintError, r"'pd_mw_9' is no standard name.*look close: 'pd_mw_"),
        ({'p_mw_3': 'p_mw_7'}, None, ConstraintError, r"'p_mw_7' is used for several.*columns=\{\.\.\.\}"),
        (
            {'p_mw_3': 'twon'},
            ['town'],
            ColumnMissingError,
            r"'twon', which.*close: 'town'.*columns=\{'p_mw_3': \.\.\.\}",
        ),
    ],
)
def test_own_names_that_cannot_be(own, table, error, words):
    with pytest.raises(error, match=words):
        PowerColumns(crowded()[0], own, table)


def test_what_is_required_is_named_with_its_likely_twin():
    found, row = of_everything()
    found.require(row.columns)
    with pytest.raises(ColumnMissingError) as caught:
        found.require(row.columns.map(lambda name: name.replace('pd_mw_1', 'pd_mw1')))
    assert str(caught.value).startswith("PowerFlow needs column 'pd_mw_1', which the table lacks.")
    assert str(caught.value).endswith("Pass columns={'pd_mw_1': 'pd_mw1'} or rename the column.")


@pytest.mark.parametrize('power', ['p', 'q'])
@pytest.mark.parametrize('lacking', [(), ('p_mw', 'q_mvar')])
@pytest.mark.parametrize('units', [Units(), Units('p.u.', 'radian', 'load')], ids=str)
def test_injections_are_summed_from_what_the_table_tells(power, lacking, units):
    grid, row = crowded()
    names = [name for name in row.columns if not name.startswith(lacking or 'none')]
    found = PowerColumns(grid, table=names, units=units)
    known, weights, rest = found.injection(power)
    values = row[list(found.names)].to_numpy()[0] / found.factors
    quantity = {'p': 'p_mw', 'q': 'q_mvar'}[power]
    expected = row[[column(quantity, bus) for bus in grid.buses]].to_numpy()[0]
    assert known.all()
    # Sums of at most ten powers below 100 MW; motors, storage units and unsymmetric elements are in the rest.
    np.testing.assert_allclose(weights @ values + rest, expected, rtol=0, atol=1e-12)
    assert (np.abs(rest).max() > 0.1) == bool(lacking)


def test_a_bus_is_told_by_its_own_column_or_all_of_its_elements():
    grid, row = crowded()
    for gone, untold in (
        (['p_mw_7'], []),
        (['p_mw_7', 'pd_mw_1'], [7]),
        (['p_mw_3', 'p_mw_42', 'pg_mw_sgen_0', 'pg_mw_ext_grid_0'], [3, 42]),
    ):
        known, _, _ = PowerColumns(grid, table=row.columns.drop(gone)).injection('p')
        assert [bus for bus, told in zip(grid.buses, known, strict=True) if not told] == sorted(untold, reverse=True)


def test_injections_and_their_elements_balance():
    grid, row = crowded()
    found = PowerColumns(grid, table=row.columns.drop(['pd_mw_1', 'qg_mvar_gen_0']), units=Units(sign='load'))
    for power, without in (('p', [7]), ('q', [7])):
        buses, weights, constants = found.balances(power)
        assert [grid.buses[bus] for bus in buses] == [bus for bus in grid.buses if bus not in without]
        values = row[list(found.names)].to_numpy()[0] / found.factors
        np.testing.assert_allclose(weights @ values + constants, 0, rtol=0, atol=1e-12)
        own = [column({'p': 'p_mw', 'q': 'q_mvar'}[power], grid.buses[bus]) for bus in buses]
        assert [weights[row, found.names.index(name)] for row, name in enumerate(own)] == [-1.0] * len(own)


def test_reactive_power_at_a_dc_line_is_not_known_without_its_own_column():
    net = ring()
    pp.create_dcline(net, 42, 3, p_mw=6.0, loss_percent=1.0, loss_mw=0.1, vm_from_pu=1.02, vm_to_pu=1.0)
    grid = Grid.from_pandapower(net)
    names = grid.columns(('pd_mw', 'qd_mvar', 'pg_mw', 'qg_mvar'))
    found = PowerColumns(grid, table=names)
    assert found.injection('p')[0].tolist() == [True, True, True]
    assert found.injection('q')[0].tolist() == [False, True, False]
    assert not np.isnan(found.injection('q')[2]).any()
    assert PowerColumns(grid, table=[*names, 'q_mvar_3']).injection('q')[0].tolist() == [False, True, True]


def test_a_nodes_voltage_is_that_of_its_first_bus_with_a_column():
    grid, _ = crowded()
    node = grid.node[grid.buses.index(3)]
    assert grid.node[grid.buses.index(20)] == node
    for table, name in ((['vm_pu_20', 'vm_pu_3'], 'vm_pu_3'), (['vm_pu_20', 'vm_pu_7'], 'vm_pu_20')):
        found = PowerColumns(grid, table=table)
        states = found.states()
        assert found.names[states[node]] == name
        assert (states >= 0).sum() == (1 if 'vm_pu_3' in table else 2)
        assert (states[len(grid.y_bus) :] == -1).all()


def test_selections_pick_columns_in_their_unit():
    found, row = of_everything(units={'power': 'p.u.'})
    places, elements = found.of('p_from_mw')
    picked = found.selection(places) @ (row[list(found.names)].to_numpy()[0] / found.factors)
    assert picked.tolist() == pytest.approx(row[[f'p_from_mw_line_{each}' for each in elements]].to_numpy()[0].tolist())


def test_every_quantity_has_a_column_for_each_of_its_elements():
    grid, _ = crowded()
    assert set(WIDE) | set(APART) | set(FLOWS) == set(KINDS)
    for quantity in KINDS:
        assert grid.columns([quantity]) == [column(quantity, label) for label in grid.labels(quantity)]
    assert grid.labels('pg_mw') == ['ext_grid_0', 'gen_0', 'gen_1', 'sgen_0']
    assert grid.labels('p_to_mw') == ['line_0', 'line_1', 'line_2']
    assert grid.labels('qd_mvar') == ['0', '1', '2', '3']
    assert len(Grid.from_pandapower(case('case14')).labels('loading_percent')) == 20
