import functools
import json
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pandapower as pp
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import LINE, case
from sdv_constrained_diffusion.constraints.base import Constraint, TableView
from sdv_constrained_diffusion.constraints.diagnosis import diagnose
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError, ConstraintMismatchError
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.projection import ResultCode, project
from sdv_constrained_diffusion.power.columns import Units
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.nets import result_row, solve, solved_row
from sdv_constrained_diffusion.power.tables import APART, KINDS, WIDE, columns

CASES = (
    'case4gs', 'case5', 'case6ww', 'case9', 'case14', 'case24_ieee_rts', 'case30', 'case_ieee30', 'case39', 'case57',
    'case89pegase', 'case118', 'case145', 'case_illinois200', 'case300',
)  # fmt: skip
"""Every transmission network from 4 to 300 buses that pandapower ships."""


def ring():
    """Three 110 kV buses whose ids are neither ordered nor contiguous: slack 42, generator 7, load 3."""
    net = pp.create_empty_network('ring', sn_mva=100.0)
    for bus in (42, 7, 3):
        pp.create_bus(net, 110.0, index=bus)
    pp.create_ext_grid(net, 42, vm_pu=1.02, va_degree=5.0)
    pp.create_gen(net, 7, p_mw=20.0, vm_pu=1.01)
    pp.create_load(net, 3, p_mw=40.0, q_mvar=10.0)
    for pair in ((42, 7), (7, 3), (3, 42)):
        pp.create_line_from_parameters(net, *pair, **LINE)
    return net


def joined_by_switches(net):
    for bus in (20, 11):
        pp.create_bus(net, 110.0, index=bus)
        pp.create_load(net, bus, p_mw=3.0, q_mvar=1.0)
    pp.create_switch(net, 3, 20, et='b', closed=True)
    pp.create_switch(net, 20, 11, et='b', closed=True)


def joined_to_slack_and_generator(net):
    for bus, other in ((20, 42), (11, 7)):
        pp.create_bus(net, 110.0, index=bus)
        pp.create_load(net, bus, p_mw=3.0, q_mvar=1.0)
        pp.create_switch(net, bus, other, et='b', closed=True)
    pp.create_gen(net, 11, p_mw=5.0, vm_pu=1.01)


def out_of_service(net):
    pp.create_bus(net, 110.0, index=99, in_service=False)
    pp.create_load(net, 99, p_mw=7.0)
    pp.create_line_from_parameters(net, 3, 99, **LINE)
    pp.create_line_from_parameters(net, 3, 42, **LINE, in_service=False)
    pp.create_load(net, 3, p_mw=7.0, in_service=False)
    pp.create_shunt(net, 3, q_mvar=7.0, in_service=False)


def open_line_end(net):
    line = pp.create_line_from_parameters(net, 3, 42, **LINE)
    pp.create_switch(net, 3, line, et='l', closed=False)


def tapped_transformer(net):
    pp.create_bus(net, 20.0, index=15)
    pp.create_load(net, 15, p_mw=8.0, q_mvar=2.0)
    pp.create_transformer(net, 3, 15, std_type='40 MVA 110/20 kV', tap_pos=5)


def phase_shifting_transformer(net):
    pp.create_bus(net, 110.0, index=15)
    pp.create_load(net, 15, p_mw=8.0, q_mvar=2.0)
    kinds = {'sn_mva': 60.0, 'vn_hv_kv': 110.0, 'vn_lv_kv': 110.0, 'vkr_percent': 0.3, 'vk_percent': 10.0}
    steps = {'tap_side': 'hv', 'tap_neutral': 0, 'tap_min': -9, 'tap_max': 9, 'tap_pos': 4, 'tap_step_degree': 1.5}
    pp.create_transformer_from_parameters(
        net, 3, 15, **kinds, **steps, pfe_kw=20.0, i0_percent=0.1, tap_changer_type='Ideal', shift_degree=10.0
    )
    pp.create_line_from_parameters(net, 15, 42, **LINE)


def three_winding_transformer(net):
    pp.create_bus(net, 20.0, index=15)
    pp.create_bus(net, 10.0, index=16)
    pp.create_load(net, 15, p_mw=8.0, q_mvar=2.0)
    pp.create_load(net, 16, p_mw=4.0, q_mvar=1.0)
    pp.create_transformer3w(net, 3, 15, 16, std_type='63/25/38 MVA 110/20/10 kV')


def shunts(net):
    pp.create_shunt(net, 3, q_mvar=-6.0, p_mw=0.5, vn_kv=100.0, step=2)
    pp.create_shunt(net, 3, q_mvar=3.0)
    pp.create_shunt(net, 7, q_mvar=4.0)


def wards(net):
    pp.create_ward(net, 3, ps_mw=1.0, qs_mvar=0.5, pz_mw=4.0, qz_mvar=2.0)
    pp.create_ward(net, 7, ps_mw=1.0, qs_mvar=0.5, pz_mw=4.0, qz_mvar=2.0, in_service=False)


def impedances(net):
    pp.create_impedance(net, 3, 42, rft_pu=0.02, xft_pu=0.2, sn_mva=50.0, rtf_pu=0.03, xtf_pu=0.25)
    pp.create_bus(net, 110.0, index=20)
    pp.create_load(net, 20, p_mw=3.0)
    pp.create_switch(net, 3, 20, et='b', closed=True, z_ohm=0.5)


def many_injections_at_one_bus(net):
    pp.create_gen(net, 7, p_mw=5.0, vm_pu=1.01)
    pp.create_load(net, 7, p_mw=6.0, q_mvar=2.0)
    pp.create_load(net, 42, p_mw=6.0, q_mvar=2.0, scaling=0.5)
    pp.create_sgen(net, 3, p_mw=2.0, q_mvar=0.3)
    pp.create_storage(net, 3, p_mw=-1.0, max_e_mwh=1.0)
    pp.create_motor(net, 3, pn_mech_mw=1.0, cos_phi=0.9, efficiency_percent=90.0)
    pp.create_asymmetric_load(net, 3, p_a_mw=0.5, p_b_mw=0.2, q_c_mvar=0.1)
    pp.create_asymmetric_sgen(net, 3, p_b_mw=0.4, q_a_mvar=0.1)


def voltage_dependent_load(net):
    net.load[['const_z_p_percent', 'const_i_q_percent']] = 30.0, 20.0


def dc_line(net):
    pp.create_dcline(net, 42, 3, p_mw=6.0, loss_percent=1.0, loss_mw=0.1, vm_from_pu=1.02, vm_to_pu=1.0)


def second_slack(net):
    pp.create_bus(net, 110.0, index=20)
    pp.create_line_from_parameters(net, 3, 20, **LINE)
    pp.create_gen(net, 20, p_mw=1.0, vm_pu=1.0, slack=True)


def open_transformer(net):
    tapped_transformer(net)
    pp.create_transformer(net, 3, 15, std_type='25 MVA 110/20 kV', tap_pos=2, index=9)
    pp.create_switch(net, 15, 9, et='t', closed=False)


def half_open_three_winding_transformer(net):
    three_winding_transformer(net)
    pp.create_transformer3w(net, 3, 15, 16, std_type='63/25/38 MVA 110/20/10 kV', index=4, tap_pos=3)
    pp.create_switch(net, 15, 4, et='t3', closed=False)


def unsymmetric_impedance(net):
    ends = {'rft_pu': 0.02, 'xft_pu': 0.2, 'rtf_pu': 0.03, 'xtf_pu': 0.25, 'gf_pu': 0.01, 'bf_pu': 0.02, 'bt_pu': 0.04}
    pp.create_impedance(net, 3, 42, sn_mva=50.0, **ends)


def parallel_line_between_joined_buses(net):
    joined_by_switches(net)
    pp.create_line_from_parameters(net, 20, 11, **LINE)
    pp.create_line_from_parameters(net, 11, 42, **LINE, parallel=2, df=0.8)


def second_area(net):
    for bus in (50, 51, 52):
        pp.create_bus(net, 110.0, index=bus)
        pp.create_load(net, bus, p_mw=5.0, q_mvar=1.0)
    pp.create_ext_grid(net, 50)
    for pair in ((50, 51), (51, 52), (52, 50)):
        pp.create_line_from_parameters(net, *pair, **LINE)


def elements_at_a_dead_bus(net):
    pp.create_bus(net, 110.0, index=99, in_service=False)
    for create in (pp.create_gen, pp.create_sgen, pp.create_load):
        create(net, 99, p_mw=2.0)
    pp.create_ext_grid(net, 99)
    pp.create_ward(net, 99, 1.0, 1.0, 1.0, 1.0)
    pp.create_shunt(net, 99, 1.0)
    pp.create_sgen(net, 3, p_mw=2.0)


FEATURES = (
    joined_by_switches, joined_to_slack_and_generator, out_of_service, open_line_end, tapped_transformer,
    phase_shifting_transformer, three_winding_transformer, shunts, wards, impedances, many_injections_at_one_bus,
    voltage_dependent_load, dc_line, second_slack, open_transformer, half_open_three_winding_transformer,
    unsymmetric_impedance, parallel_line_between_joined_buses, elements_at_a_dead_bus,
)  # fmt: skip

EVERYTHING = tuple(KINDS)


def with_feature(feature):
    net = ring()
    feature(net)
    return net


@functools.cache
def solved_points(name, num_rows=3):
    """Solutions of a network under random loads, with a column for every quantity of every element."""
    random, rows = np.random.default_rng(0), []
    for _ in range(num_rows):
        net = ring() if name == 'ring' else case(name)
        net.load['p_mw'] *= random.uniform(0.8, 1.2, len(net.load))
        net.load['q_mvar'] *= random.uniform(0.8, 1.2, len(net.load))
        rows.append(result_row(solve(net, who='test', tolerance_mva=1e-9), EVERYTHING))
    return pd.concat(rows, ignore_index=True)


@functools.cache
def grid_of(name):
    return Grid.from_pandapower(ring() if name == 'ring' else case(name))


def excess(constraint, table):
    """Largest violation of each row, in tolerances."""
    return (constraint.residual(table).abs() / torch.tensor(constraint.tolerance, dtype=torch.float64)).amax(1)


def table_of(constraint, frame):
    return TableView.from_dataframe(frame, constraint.columns, constraint.name)


def solved_table(net):
    constraint = PowerFlow.from_pandapower(net)
    return constraint, table_of(constraint, solved_row(net, tolerance_mva=1e-9))


@functools.cache
def solved_case(name):
    return solved_table(case(name))


def noisy_rows(constraint, table, rows=6):
    """Rows around the solution that obey nothing, so that no residual vanishes by accident."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(rows, table.values.shape[1], generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.02 if name.startswith('vm') else 3.0 for name in table.names], dtype=torch.float64)
    return TableView(table.names, table.values + noise * scale, constraint.name)


def assert_admittances_are_pandapowers(net, grid):
    """Its own matrices: no node of these cases is eliminated, so that not a bit differs."""
    internal, inner = net._ppc['internal'], net._pd2ppc_lookups['bus'][list(grid.buses)]
    assert np.array_equal(grid.y_bus[np.ix_(grid.node, grid.node)], internal['Ybus'].toarray()[np.ix_(inner, inner)])
    for side, end in enumerate(('Yf', 'Yt')):
        ours = grid.y_ends[grid.end_side == side].toarray()[:, grid.node]
        assert np.array_equal(ours, internal[end].toarray()[:, inner])


@pytest.mark.parametrize('name', CASES)
def test_solved_cases_obey_the_equations(name):
    net = solve(case(name), who='test', tolerance_mva=1e-9)
    grid, row = Grid.from_pandapower(net), result_row(net, EVERYTHING)
    constraint = PowerFlow(grid)
    table = table_of(constraint, row)
    residual = constraint.residual(table)
    assert residual.shape == (1, 2 * len(constraint.grid.y_bus))
    # runpp stops at 1e-9 MVA; Newton's last step and pandapower's split of Q among generators leave up to 1e-7.
    assert residual.abs().max() / constraint.grid.sn_mva < 1e-8
    # A row that is off by a thousandth of one voltage is seen.
    values = table.values.clone()
    values[0, table.names.index(columns(constraint.grid.buses)[2 * len(constraint.grid.buses)])] *= 1.001
    moved = constraint.residual(TableView(table.names, values))
    assert moved.abs().max() / constraint.grid.sn_mva > 1e-4
    # Demand, generation, flows and loadings, too: in MW, Mvar and percent.
    whole = PowerFlow(grid, table=row)
    assert list(row.columns) == grid.columns(EVERYTHING)
    assert whole.residual(table_of(whole, row)).abs().max() < 1e-6
    assert_admittances_are_pandapowers(net, grid)


@functools.cache
def bare_row():
    return solved_row(ring())


@pytest.mark.parametrize('feature', FEATURES, ids=lambda feature: feature.__name__)
def test_every_kind_of_element_obeys_the_equations(feature):
    net = solve(with_feature(feature), who='test', tolerance_mva=1e-9)
    grid, row = Grid.from_pandapower(net), result_row(net, EVERYTHING)
    assert list(row.columns) == grid.columns(EVERYTHING)
    # Net injections alone, demand and generation apart, and both; flows and loadings, which pandapower reckons with its
    # own admittances.
    for table in (None, row.columns[~row.columns.str.match('p_mw|q_mvar')], row.columns):
        constraint = PowerFlow(grid, table=table)
        # The default tolerance, 1e-6 MW on a base of 100 MVA; what runpp leaves is 1e-9 MVA and 1e-7 Mvar of rounding.
        assert excess(constraint, table_of(constraint, row)).max() <= 1
    # The element matters: without it the network has another operating point.
    bare = bare_row()
    assert np.abs(row[list(bare.columns)].to_numpy() - bare.to_numpy()).max() > 1e-3


def test_the_shunts_are_what_separates_res_bus_from_the_row():
    net = solve(case('case14'), who='test', tolerance_mva=1e-9)
    constraint, table = solved_table(net)
    values = table.values.clone()
    values[:, 14:28] = torch.as_tensor(-net.res_bus['q_mvar'].to_numpy())
    # Bus 9 (id 8) of the IEEE 14-bus case has 19 Mvar at nominal voltage.
    residual = constraint.residual(TableView(table.names, values))[0]
    worst = residual.abs().argmax()
    assert constraint.equation_names(28)[worst] == 'Q mismatch bus 8'
    assert residual[worst].item() == pytest.approx(19.0 * net.res_bus.at[8, 'vm_pu'] ** 2, abs=1e-5)


def test_buses_joined_by_switches_share_a_balance_and_a_voltage():
    constraint, table = solved_table(with_feature(joined_by_switches))
    assert constraint.grid.y_bus.shape == (3, 3)
    names = constraint.equation_names(len(constraint.unit))
    assert names[2:3] + names[6:] == [
        'P mismatch buses 3, 20, 11',
        'vm of bus 20 against bus 3', 'vm of bus 11 against bus 3',
        'va of bus 20 against bus 3', 'va of bus 11 against bus 3',
    ]  # fmt: skip
    assert constraint.unit == ['MW'] * 3 + ['Mvar'] * 3 + ['p.u.'] * 2 + ['degree'] * 2
    assert constraint.tolerance == [1e-6] * 6 + [1e-9] * 2 + [1e-7] * 2
    values = table.values.clone()
    values[0, table.names.index('p_mw_20')] += 1.0
    values[0, table.names.index('p_mw_11')] -= 1.0
    values[0, table.names.index('va_degree_11')] += 0.25
    residual = constraint.residual(TableView(table.names, values))[0]
    # Power shifted within the node changes nothing; only the angle's own equation sees the angle.
    assert residual[9].item() == pytest.approx(0.25)
    assert residual[:9].abs().max() < 1e-6


def test_residuals_are_in_mw_and_mvar():
    constraint, table = solved_table(ring())
    values = table.values.clone()
    values[0, table.names.index('p_mw_3')] += 2.0
    values[0, table.names.index('q_mvar_7')] -= 3.0
    residual = constraint.residual(TableView(table.names, values))[0]
    expected = dict.fromkeys(constraint.equation_names(6), 0.0) | {'P mismatch bus 3': 2.0, 'Q mismatch bus 7': -3.0}
    assert dict(zip(constraint.equation_names(6), residual.tolist(), strict=True)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('network', ['case5', 'case14', 'switches'])
def test_closed_form_jacobian_equals_the_automatic_one(network):
    joined = network == 'switches'
    constraint, table = solved_table(with_feature(joined_by_switches)) if joined else solved_case(network)
    table = noisy_rows(constraint, table)
    # In another order of columns and with one the constraint does not know.
    names = ('colour', *reversed(table.names))
    table = TableView(names, torch.cat([torch.ones(6, 1).double(), table.values.flip(1)], dim=1))
    closed, automatic = constraint.jacobian(table), Constraint.jacobian(constraint, table)
    # Entries up to 2e4 MW per p.u. are sums of about ten terms in another order: 1e-10 is far above rounding.
    torch.testing.assert_close(closed, automatic, rtol=1e-10, atol=1e-10)
    assert not closed[:, :, 0].any()
    assert closed.abs().max() > 1e2


def test_gradcheck():
    constraint, table = solved_table(with_feature(joined_by_switches))
    values = noisy_rows(constraint, table, rows=2).values.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda values: constraint.residual(TableView(table.names, values)), values)


def test_rows_never_meet():
    constraint, table = solved_case('case14')
    table = noisy_rows(constraint, table)
    single = [TableView(table.names, row[None]) for row in table.values]
    # A batch may be summed in another order than a row: rounding of a few thousand MW.
    alone = torch.cat([constraint.residual(row) for row in single])
    torch.testing.assert_close(constraint.residual(table), alone, rtol=0, atol=1e-10)
    alone = torch.cat([constraint.jacobian(row) for row in single])
    torch.testing.assert_close(constraint.jacobian(table), alone, rtol=0, atol=1e-10)
    assert constraint.residual(table)[0].ne(constraint.residual(table)[1]).all()


def test_single_precision_is_taken_as_it_comes():
    constraint, table = solved_case('case5')
    single = TableView(table.names, table.values.float())
    assert constraint.residual(single).dtype == constraint.jacobian(single).dtype == torch.float32


def test_own_column_names():
    net = case('case5')
    row = solved_row(net).rename(columns={'va_degree_3': 'angle', 'p_mw_0': 'plant'})
    constraint = PowerFlow.from_pandapower(net, columns={'va_degree_3': 'angle', 'p_mw_0': 'plant'})
    assert {'angle', 'plant'} < set(constraint.columns)
    assert constraint.residual(table_of(constraint, row)).abs().max() < 1e-5
    again = PowerFlow.from_parameters(constraint.parameters())
    assert again.columns == constraint.columns


def test_a_missing_column_names_the_way_out():
    net = case('case5')
    constraint, row = PowerFlow.from_pandapower(net), solved_row(net).rename(columns={'va_degree_3': 'va_deg_3'})
    with pytest.raises(ColumnMissingError) as caught:
        constraint.residual(TableView(tuple(row.columns), torch.as_tensor(row.to_numpy())))
    assert str(caught.value).startswith("PowerFlow needs column 'va_degree_3', which the table lacks.")
    assert "look close: 'va_deg" in str(caught.value)
    assert str(caught.value).endswith("Pass columns={'va_degree_3': 'va_deg_3'} or rename the column.")
    with pytest.raises(ColumnMissingError, match=r"columns=\{'va_degree_3': 'va_deg_3'\}"):
        constraint.require(row.columns)


def test_a_wrong_renaming_is_refused():
    net = case('case5')
    with pytest.raises(ConstraintError, match=r"'va_degre_3' is no standard name.*'va_degree_3'"):
        PowerFlow.from_pandapower(net, columns={'va_degre_3': 'angle'})
    with pytest.raises(ConstraintError, match=r"'p_mw_1' is used for several"):
        PowerFlow.from_pandapower(net, columns={'p_mw_0': 'p_mw_1'})


@pytest.mark.parametrize(
    ('write', 'cause'),
    [
        (lambda name, value: value / 100 if name[0] in 'pq' else value, 'per unit on 100 MVA'),
        (lambda name, value: np.radians(value) if name.startswith('va') else value, 'radians'),
        (lambda name, value: -value if name[0] in 'pq' else value, 'load as positive'),
    ],
)
def test_each_misreading_is_undone_by_its_own_reread_only(write, cause):
    constraint, table = solved_case('case14')
    wrong = torch.stack([torch.as_tensor(write(n, table[n])) for n in table.names], dim=1)
    misread = TableView(table.names, wrong)
    assert constraint.residual(misread).abs().max() > 1.0
    healed = {m.cause: constraint.residual(m.reread(misread)).abs().max().item() for m in constraint.misreadings()}
    assert len(healed) == 3
    for name, mismatch in healed.items():
        # The conversion to and fro costs rounding only, of powers of some 200 MW.
        assert (mismatch < 1e-6) == (cause in name), (name, mismatch)


def test_misreadings_keep_own_names_and_further_columns():
    net = ring()
    row = solved_row(net).rename(columns={'p_mw_3': 'town'}).assign(colour=1.0)
    constraint = PowerFlow.from_pandapower(net, columns={'p_mw_3': 'town'})
    table = TableView(tuple(row.columns), torch.as_tensor(row.to_numpy()))
    sign = next(m for m in constraint.misreadings() if 'load' in m.cause)
    read = sign.reread(table)
    assert read.names == table.names
    assert (read['town'] == -table['town']).all()
    assert (read[['colour', 'vm_pu_3']] == table[['colour', 'vm_pu_3']]).all()


def test_powers_on_a_base_of_one_mva_cannot_be_mistaken_for_per_unit():
    net = ring()
    net.sn_mva = 1.0
    assert not any('per unit' in m.cause for m in PowerFlow.from_pandapower(net).misreadings())


def test_plain_data_round_trip():
    constraint, table = solved_table(with_feature(joined_by_switches))
    again = PowerFlow.from_parameters(json.loads(json.dumps(constraint.parameters())))
    assert torch.equal(again.residual(table), constraint.residual(table))
    assert (again.tolerance, again.unit, again.columns) == (constraint.tolerance, constraint.unit, constraint.columns)


def test_a_pickle_is_read_without_pandapower(tmp_path):
    constraint, table = solved_case('case5')
    (tmp_path / 'state').write_bytes(pickle.dumps((constraint, table.names, table.values.numpy())))
    code = (
        'import pathlib, pickle, sys, torch\n'
        "sys.modules['pandapower'] = None\n"
        'from sdv_constrained_diffusion.constraints.base import TableView\n'
        f'constraint, names, values = pickle.loads(pathlib.Path({str(tmp_path / "state")!r}).read_bytes())\n'
        'assert constraint.residual(TableView(names, torch.as_tensor(values))).abs().max() < 1e-6\n'
    )
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)


TABLES = {
    'wide': WIDE,
    'apart': APART,
    'no angles': ('p_mw', 'q_mvar', 'vm_pu'),
    'active power and voltages': ('p_mw', 'vm_pu', 'va_degree'),
    'only p and q': ('p_mw', 'q_mvar'),
    'only demand and generation': ('pd_mw', 'qd_mvar', 'pg_mw', 'qg_mvar'),
    'flows and magnitudes': ('p_from_mw', 'q_from_mvar', 'p_to_mw', 'vm_pu'),
    'everything': EVERYTHING,
}


def power_flow_on(name, names):
    """The constraint on some columns, and what it reads of the solved points."""
    constraint = PowerFlow(grid_of(name), table=names)
    return constraint, table_of(constraint, solved_points(name))


def shifted(constraint, table, name, tolerances):
    """A table with one column moved so far that, to first order, some equation is off by this many tolerances."""
    place = table.names.index(name)
    slope = constraint.jacobian(table)[:, :, place].abs() / torch.tensor(constraint.tolerance, dtype=torch.float64)
    values = table.values.clone()
    values[:, place] += tolerances / slope.amax(1)
    return TableView(table.names, values)


@pytest.mark.parametrize('which', TABLES)
def test_each_column_of_a_table_that_lacks_some_is_bound(which, name='case9'):
    constraint, table = power_flow_on(name, grid_of(name).columns(TABLES[which]))
    assert excess(constraint, table).max() <= 1
    assert set(constraint.columns) == set(grid_of(name).columns(TABLES[which]))
    for column in constraint.columns:
        # Bends of the equations are far below a tenth of so small a move.
        off = excess(constraint, shifted(constraint, table, column, 1e3))
        assert (off > 9e2).all(), column
        assert (off < 1.1e3).all(), column


def check_any_columns(name, names):
    """What must hold of any columns that the class accepts."""
    try:
        constraint, table = power_flow_on(name, names)
    except ConstraintError as error:
        assert 'nothing is left to ask' in str(error)
        return
    assert excess(constraint, table).max() <= 1
    jacobian = constraint.jacobian(table)
    assert jacobian.isfinite().all()
    # A little off the solution. Where few equations tell the voltages there may be none there that meet them: then the
    # step that carries the derivative moves the residual.
    noise = torch.randn(table.values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = table.values + 1e-5 * noise
    residual = constraint.residual(table.with_values(values))
    carried = constraint.residual(table.with_values(values.requires_grad_(True))).detach()
    off = table.with_values(values.detach()[((carried - residual).abs() < 1e-6).all(1)])
    closed, automatic = constraint.jacobian(off), Constraint.jacobian(constraint, off)
    # Of the condition numbers of these searches, up to 1e5, the rounding of the solution's last step takes its share.
    torch.testing.assert_close(closed, automatic, rtol=1e-6, atol=1e-8 * float(jacobian.abs().max()))
    # Columns of which so small a move that the equations hardly bend must show.
    slope = jacobian.abs() / torch.tensor(constraint.tolerance, dtype=torch.float64)[:, None]
    for column in np.array(table.names)[(slope.amax(1) > 3e5).all(0).numpy()][:3]:
        assert (excess(constraint, shifted(constraint, table, str(column), 30.0)) > 10).all(), column


def columns_of(name, quantities):
    # Losses tell the magnitudes hardly, and currents not their direction: without these another solution may be found.
    if 'vm_pu' not in quantities:
        quantities = {*quantities, 'q_mvar'} - {'loading_percent'}
    return grid_of(name).columns(sorted(quantities))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(name=st.sampled_from(['case5', 'case9']), quantities=st.sets(st.sampled_from(EVERYTHING), min_size=1))
def test_any_quantities(name, quantities):
    check_any_columns(name, columns_of(name, quantities))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(name=st.sampled_from(['case5', 'case9']), quantities=st.sampled_from([*TABLES]), data=st.data())
def test_any_single_columns(name, quantities, data):
    names = grid_of(name).columns(TABLES[quantities])
    missing = data.draw(st.sets(st.sampled_from(names), max_size=len(names) // 2))
    check_any_columns(name, [each for each in names if each not in missing])


@pytest.mark.parametrize('which', ['wide', 'only p and q', 'everything'])
@pytest.mark.parametrize('name', ['case5', 'case9'])
def test_a_row_has_the_same_bits_in_any_company(name, which):
    # Odd numbers of buses, for which products of rows round by where a row lies in memory.
    names = grid_of(name).columns(TABLES[which])
    constraint = PowerFlow(grid_of(name), table=names)
    system = ConstraintSystem([constraint], solved_points(name)[names])
    noise = torch.randn(37, len(names), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = torch.tensor([2e-3 if each.startswith('vm') else 0.3 for each in system.columns], dtype=torch.float64)
    rows = system.values(solved_points(name)).repeat(13, 1)[:37] + scale * noise
    for evaluate in (system.residual, system.jacobian):
        together = evaluate(rows)
        for count in (1, 2, 15, 17):
            assert torch.equal(evaluate(rows[-count:]), together[-count:])


NEITHER_POWERS_NOR_VOLTAGES = (
    # Of twelve equations for six unknown voltages, the six combinations that hold at rest have another solution too.
    {f'p_mw_{bus}' for bus in (0, 1, 2, 3, 4, 5, 8)}
    | {'q_mvar_8', 'vm_pu_0', 'vm_pu_2', 'vm_pu_4', 'va_degree_0', 'va_degree_2', 'va_degree_3'},
    # Ten equations for nine: whole steps of Newton's method lead away.
    {f'p_mw_{bus}' for bus in (0, 2, 4, 6, 7)}
    | {f'q_mvar_{bus}' for bus in (1, 2, 3, 4, 8)}
    | {f'vm_pu_{bus}' for bus in (0, 2, 3, 6, 8)}
    | {f'va_degree_{bus}' for bus in (2, 4, 5, 6)},
)


@pytest.mark.parametrize('missing', NEITHER_POWERS_NOR_VOLTAGES, ids=['other solutions', 'leading away'])
def test_a_solution_far_from_the_networks_own_point_is_found(missing):
    names = [each for each in grid_of('case9').columns() if each not in missing]
    constraint = PowerFlow(grid_of('case9'), table=names)
    assert excess(constraint, table_of(constraint, solved_points('case9', 12))).max() <= 1


def test_networks_without_a_connection_have_an_angle_each():
    net = ring()
    second_area(net)
    solved = solve(net, who='test', tolerance_mva=1e-9)
    grid, row = Grid.from_pandapower(solved), result_row(solved, EVERYTHING)
    for quantities in (WIDE, ('p_mw', 'q_mvar'), ('pd_mw', 'qd_mvar', 'pg_mw', 'qg_mvar', 'vm_pu')):
        constraint = PowerFlow(grid, table=grid.columns(quantities))
        table = table_of(constraint, row)
        assert excess(constraint, table).max() <= 1
        assert constraint.jacobian(table).isfinite().all()
    # All angles of one area turned together change nothing, and those of a part of it do.
    constraint = PowerFlow(grid)
    for buses, change in (((50, 51, 52), 0.0), ((50, 51), 1.0)):
        turned = row.assign(**{f'va_degree_{bus}': row[f'va_degree_{bus}'] + 7.0 for bus in buses})
        assert (excess(constraint, table_of(constraint, turned)).max() > 1) == bool(change)


def test_columns_that_nothing_binds_are_refused_in_words():
    grid = grid_of('case5')
    for table, count in (([], 0), (['note', 'size'], 0), (grid.columns(['p_mw']), 5)):
        with pytest.raises(
            ConstraintError, match=rf'PowerFlow needs columns that are bound.*{count} columns.*nothing is'
        ):
            PowerFlow(grid, table=table)


def test_voltages_that_no_equation_asks_for_stay_where_they_are():
    # One node with three buses; of the rest of the network next to nothing is known.
    grid = Grid.from_pandapower(with_feature(joined_by_switches))
    for names, equation in ((['vm_pu_20', 'vm_pu_3'], 0), (['p_mw_42', 'vm_pu_3', 'vm_pu_20'], 1)):
        constraint = PowerFlow(grid, table=names)
        table = TableView(names, torch.tensor([[7.0, 1.0, 1.02]], dtype=torch.float64)[:, -len(names) :])
        assert constraint.equation_names(9)[equation:] == ['vm of bus 20 against bus 3']
        values = dict(zip(names, table.values[0].tolist(), strict=True))
        residual, jacobian = constraint.residual(table)[0], constraint.jacobian(table)[0]
        assert residual[equation].item() == pytest.approx(values['vm_pu_20'] - values['vm_pu_3'], abs=1e-15)
        # Any power at bus 42 fits some voltages.
        assert (residual[:equation].abs() < 1e-6).all()
        slope = {'vm_pu_20': 1.0, 'vm_pu_3': -1.0}
        assert jacobian[equation].tolist() == pytest.approx([slope.get(name, 0.0) for name in names], abs=1e-12)
        assert (jacobian[:equation].abs() < 1e-9).all()


def test_net_injections_and_those_of_their_elements_must_agree():
    grid = grid_of('ring')
    names = [*grid.columns(WIDE), 'pd_mw_0', 'pg_mw_gen_0']
    constraint = PowerFlow(grid, table=names)
    assert constraint.equation_names(20)[6:] == ['P of bus 7 against its elements', 'P of bus 3 against its elements']
    row = solved_points('ring').assign(pd_mw_0=lambda each: each['pd_mw_0'] + 2.0)
    residual = constraint.residual(table_of(constraint, row))
    # Injection less generation plus demand; the injection's own column still fits the voltages.
    assert residual[:, 7].tolist() == pytest.approx([2.0] * 3, abs=1e-6)
    assert residual[:, :7].abs().max() < 1e-6


def test_a_missing_own_name_is_not_taken_for_a_missing_column():
    grid = grid_of('case5')
    table = [name for name in grid.columns() if name != 'va_degree_3']
    with pytest.raises(
        ColumnMissingError, match=r"column 'va_deg_3', which the table lacks.*'va_degree_3'.*leave it out"
    ):
        PowerFlow(grid, columns={'va_degree_3': 'va_deg_3'}, table=table)
    assert 'va_deg_3' in PowerFlow(grid, columns={'va_degree_3': 'va_deg_3'}, table=[*table, 'va_deg_3']).columns


ALL_UNITS = [
    Units(power, angle, sign)
    for power in get_args(Units.__annotations__['power'])
    for angle in get_args(Units.__annotations__['angle'])
    for sign in get_args(Units.__annotations__['sign'])
]


def written(frame, units, sn_mva=100.0):
    """A table as these units have it, by their words alone."""
    frame = frame.copy()
    for name in frame.columns:
        if units.angle == 'radian' and name.startswith('va_degree'):
            frame[name] = np.radians(frame[name])
        if units.power == 'p.u.' and ('_mw' in name or '_mvar' in name):
            frame[name] /= sn_mva
        if units.sign == 'load' and name.startswith(('p_mw', 'q_mvar')):
            frame[name] = -frame[name]
    return frame


@pytest.mark.parametrize('units', ALL_UNITS, ids=str)
def test_units_and_signs_are_declared_once(units):
    grid, points = grid_of('case9'), solved_points('case9')
    for names in (grid.columns(), grid.columns(EVERYTHING)):
        constraint = PowerFlow(grid, table=names, units=units)
        table = table_of(constraint, written(points, units))
        assert excess(constraint, table).max() <= 1
        noise = torch.randn(table.values.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        off = table.with_values(table.values + 1e-3 * noise)
        closed, automatic = constraint.jacobian(off), Constraint.jacobian(constraint, off)
        torch.testing.assert_close(closed, automatic, rtol=1e-10, atol=1e-9)
        # Residuals stay in MW: a node that gets 2 MW more is 2 MW off.
        more = written(points.assign(p_mw_4=points['p_mw_4'] + 2.0), units)
        off_by = constraint.residual(table_of(constraint, more))[
            :, constraint.equation_names(99).index('P mismatch bus 4')
        ]
        assert off_by.tolist() == pytest.approx([2.0] * 3, abs=1e-6)
        assert (
            PowerFlow.from_parameters(json.loads(json.dumps(constraint.parameters()))).residual(table).abs().max()
            < 1e-6
        )


@pytest.mark.parametrize('meant', ALL_UNITS, ids=str)
def test_the_remedy_of_a_misreading_heals_it(meant):
    # The table is in other units than was declared; the remedy's own words, executed, declare the right ones.
    grid, points = grid_of('case9'), solved_points('case9')
    for name in ('power', 'angle', 'sign'):
        choices = get_args(Units.__annotations__[name])
        actual = replace(meant, **{name: choices[1 - choices.index(getattr(meant, name))]})
        data = written(points, actual)
        with pytest.raises(ConstraintMismatchError) as caught:
            diagnose([PowerFlow(grid, units=meant)], data)
        message = str(caught.value)
        assert 'Likely cause: the ' in message
        assert ('p_mw_* and q_mvar_*' in message) == (name != 'angle')
        key, value = re.search(r"declare (\w+)='(.*?)' in units", message).groups()
        assert replace(meant, **{key: value}) == actual
        if name == 'power':
            assert ('multiply' in message) == (meant.power == 'MW')


def test_the_remedies_of_two_mistakes_at_once_do_not_contradict_each_other():
    meant, actual = Units(), Units(power='p.u.', angle='radian')
    with pytest.raises(ConstraintMismatchError) as caught:
        diagnose([PowerFlow(grid_of('case9'), units=meant)], written(solved_points('case9'), actual))
    told = dict(re.findall(r"declare (\w+)='(.*?)' in units", str(caught.value)))
    assert replace(meant, **told) == actual


def test_misread_demand_and_generation_are_named_by_their_columns():
    points = written(solved_points('case9'), Units(power='p.u.'))
    names = grid_of('case9').columns(APART)
    with pytest.raises(ConstraintMismatchError, match=r'pd_mw_\*, qd_mvar_\*, pg_mw_\* and qg_mvar_\* by 100'):
        diagnose([PowerFlow(grid_of('case9'), table=names)], points)


def test_a_large_grid_is_pickled_written_and_read_in_single_precision():
    # More than 64 nodes: the matrices are sparse.
    net = solve(case('case89pegase'), who='test', tolerance_mva=1e-9)
    row = result_row(net, EVERYTHING)
    constraint = PowerFlow(Grid.from_pandapower(net), table=row)
    table = table_of(constraint, row)
    for again in (
        pickle.loads(pickle.dumps(constraint)),
        PowerFlow.from_parameters(json.loads(json.dumps(constraint.parameters()))),
    ):
        assert torch.equal(again.residual(table), constraint.residual(table))
    single = TableView(table.names, table.values.float())
    assert constraint.residual(single).dtype == torch.float32
    # Powers of some 1e4 MW in 24 bits.
    assert constraint.residual(single).abs().max() < 1.0
    wide = PowerFlow(constraint.grid)
    noisy = noisy_rows(wide, table_of(wide, row), rows=2)
    closed, automatic = wide.jacobian(noisy), Constraint.jacobian(wide, noisy)
    torch.testing.assert_close(closed, automatic, rtol=1e-9, atol=1e-9 * float(closed.abs().max()))
    system = ConstraintSystem([wide], row)
    rows = system.values(row) + noisy_rows(wide, table_of(wide, row), rows=19).values - noisy.values[:1]
    together = system.residual(rows)
    assert all(torch.equal(system.residual(rows[-count:]), together[-count:]) for count in (1, 2, 17))


def test_a_network_of_1354_buses_is_projected():
    net = solve(case('case1354pegase'), who='test')
    grid, row = Grid.from_pandapower(net), result_row(net)
    assert_admittances_are_pandapowers(net, grid)
    constraint = PowerFlow(grid)
    assert constraint.residual(table_of(constraint, row)).abs().max() / grid.sn_mva < 1e-6
    # Rows around the solution, for want of twenty power flows: only their spread is used.
    scale = np.repeat([1.0, 1.0, 2e-3, 0.1], len(grid.buses))
    random = np.random.default_rng(0)
    rows = row.to_numpy() + scale * random.normal(size=(20, row.shape[1]))
    data = pd.DataFrame(rows, columns=row.columns)
    system = ConstraintSystem([constraint], data)
    values = system.values(data)
    # One Jacobian, against central differences along a direction: they are good to 1e-7 of what they differ.
    direction, step = torch.from_numpy(scale * random.normal(size=row.shape[1])), 1e-4
    slope = system.jacobian(values[:1])[0] @ direction
    ends = system.residual(torch.stack([values[0] + step * direction, values[0] - step * direction]))
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-6 * float(slope.abs().max()))
    projected = project(Chord(system, values), values[:2], torch.zeros(2, row.shape[1], dtype=torch.bool))
    assert projected.codes.tolist() == [int(ResultCode.CONVERGED)] * 2
    assert system.excess(projected.values).max() <= 1
    # There are half as many equations as columns: the shortest way is about sqrt(1/2) of the way back.
    assert projected.displacement.tolist() == pytest.approx([0.5**0.5] * 2, rel=0.1)
