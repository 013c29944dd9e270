"""Outages: exact against pandapower with the branch out of service, each row on its own topology."""

import copy
import json
import pickle

import numpy as np
import pandapower as pp
import pandas as pd
import pytest
import torch
from test_power_flow import (
    half_open_three_winding_transformer,
    open_line_end,
    parallel_line_between_joined_buses,
    ring,
    three_winding_transformer,
)

from cases import LINE, case
from sdv_constrained_diffusion.constraints import system as constraint_system
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError, GridError
from sdv_constrained_diffusion.power import topologies
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.limits import OperatingLimits
from sdv_constrained_diffusion.power.nets import result_row, solve, solved_row
from sdv_constrained_diffusion.power.tables import APART
from sdv_constrained_diffusion.power.topologies import ByTopology

OUTAGES = ('base', 'line_0', 'line_5', 'trafo_1', 'line_2+trafo_0')


def without(topology, name='case14'):
    net = copy.deepcopy(case(name))
    for label in topology.split('+') if topology != 'base' else []:
        table, _, index = label.partition('_')
        net[table].loc[int(index), 'in_service'] = False
    return net


@pytest.fixture(scope='module')
def rows():
    solved = [solved_row(without(each), 1e-9, APART).assign(topology=each) for each in OUTAGES for _ in range(2)]
    return pd.concat(solved, ignore_index=True).sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.mark.parametrize('topology', OUTAGES[1:])
def test_a_grid_without_branches_is_what_pandapower_makes_of_it(topology):
    ours = Grid.from_pandapower(case('case14')).without(*topology.split('+'))
    theirs = Grid.from_pandapower(without(topology))
    # Differences of admittances up to forty.
    np.testing.assert_allclose(ours.y_bus, theirs.y_bus, rtol=0, atol=1e-12)


def test_each_row_is_judged_on_its_own_topology(rows):
    law = ByTopology(PowerFlow.from_pandapower(case('case14'), table=rows), OUTAGES)
    system = ConstraintSystem([law], rows)
    values = system.values(rows)
    # The power flow stops at 1e-9 MVA.
    assert system.residual(values).abs().max() < 1e-6
    on_base = ConstraintSystem([law.law], rows)
    broken = on_base.residual(on_base.values(rows)).abs().amax(1) > 1
    assert (broken.numpy() == (rows['topology'] != 'base')).all()
    # One row by itself, bit by bit.
    alone = torch.cat([system.residual(row[None]) for row in values])
    assert torch.equal(alone, system.residual(values))


def test_the_derivative_equals_the_automatic_one(rows):
    law = ByTopology(PowerFlow.from_pandapower(case('case14'), table=rows), OUTAGES)
    law = ByTopology.from_parameters(json.loads(json.dumps(law.parameters())))
    system = ConstraintSystem([law], rows)
    leaf = system.values(rows)[:4].clone().requires_grad_(True)
    residual = system.residual(leaf)
    automatic = [torch.autograd.grad(each.sum(), leaf, retain_graph=True)[0] for each in residual.T]
    expected = torch.stack(automatic, dim=1).masked_fill(system.discrete, 0)
    # Derivatives up to some thousand MW per p.u.
    torch.testing.assert_close(system.jacobian(leaf.detach()), expected, rtol=1e-9, atol=1e-9)


def test_outages_that_are_unknown_or_cut_buses_off_are_refused():
    grid = Grid.from_pandapower(case('case14'))
    with pytest.raises(GridError, match="'line_99' is none"):
        grid.without('line_99')
    with pytest.raises(GridError, match=r'without trafo_3 the buses \[7\]'):
        grid.without('trafo_3')


def test_a_row_of_another_topology_is_refused(rows):
    law = ByTopology(PowerFlow.from_pandapower(case('case14'), table=rows), OUTAGES[:3])
    with pytest.raises(ConstraintError, match='4 rows name another'):
        ConstraintSystem([law], rows.sort_values('topology')).residual(
            ConstraintSystem([law], rows.sort_values('topology')).values(rows)
        )


def two_areas(net):
    """A second network beside the first, with a slack of its own."""
    for bus in (50, 51):
        pp.create_bus(net, 110.0, index=bus)
    pp.create_ext_grid(net, 50)
    pp.create_load(net, 51, p_mw=5.0)
    for _ in range(2):
        pp.create_line_from_parameters(net, 50, 51, **LINE)


def slack_at_the_end_of_a_spur(net):
    pp.create_bus(net, 110.0, index=50)
    pp.create_ext_grid(net, 50)
    pp.create_load(net, 50, p_mw=5.0)
    pp.create_line_from_parameters(net, 50, 3, **LINE)


def twin_lines_and_transformers(net):
    three_winding_transformer(net)
    pp.create_transformer3w(net, 3, 15, 16, std_type='63/25/38 MVA 110/20/10 kV', index=4, tap_pos=3)
    pp.create_line_from_parameters(net, 42, 7, **LINE, parallel=2, index=9)


NETWORKS = (
    open_line_end, parallel_line_between_joined_buses, half_open_three_winding_transformer, twin_lines_and_transformers,
    two_areas, slack_at_the_end_of_a_spur,
)  # fmt: skip


def in_buses(grid):
    """Admittances between buses, and what enters each end of a branch, whatever the nodes are numbered."""
    ends = {
        (grid.branches[branch], side): row
        for branch, side, row in zip(grid.end_branch, grid.end_side, grid.y_ends.toarray()[:, grid.node], strict=True)
    }
    return grid.y_bus[np.ix_(grid.node, grid.node)], ends


@pytest.mark.parametrize('feature', NETWORKS, ids=lambda feature: feature.__name__)
def test_every_single_outage_is_what_pandapower_makes_of_it(feature):
    net = ring()
    feature(net)
    grid = Grid.from_pandapower(net)
    for table in ('line', 'trafo', 'trafo3w'):
        for index in net[table].index:
            outage = copy.deepcopy(net)
            outage[table].loc[index, 'in_service'] = False
            try:
                theirs = Grid.from_pandapower(outage)
            except GridError as error:
                assert 'connected to a slack' in str(error)
                lost = str(error).split('these buses are not: ')[1].split('. ')[0]
                with pytest.raises(GridError, match=rf'{table}_{index} the buses \[{lost}\]'):
                    grid.without(f'{table}_{index}')
                continue
            ours = grid.without(f'{table}_{index}')
            assert ours.buses == theirs.buses
            y_bus, ends = in_buses(ours)
            their_y_bus, their_ends = in_buses(theirs)
            # Differences of admittances of up to some hundred per unit.
            np.testing.assert_allclose(y_bus, their_y_bus, rtol=0, atol=1e-11)
            for end, row in ends.items():
                np.testing.assert_allclose(row, their_ends.get(end, 0 * row), rtol=0, atol=1e-11)


def test_the_windings_of_a_transformer_go_together():
    net = ring()
    three_winding_transformer(net)
    pp.create_transformer3w(net, 3, 15, 16, std_type='63/25/38 MVA 110/20/10 kV', index=4)
    grid = Grid.from_pandapower(net)
    assert {label for label in grid.branches if label.startswith('trafo3w_4')} == {
        'trafo3w_4_hv',
        'trafo3w_4_mv',
        'trafo3w_4_lv',
    }
    lost = grid.without('trafo3w_4')
    gone = [grid.branches[branch].startswith('trafo3w_4') for branch in grid.end_branch]
    assert not lost.y_ends.toarray()[gone].any()
    assert lost.y_ends.toarray()[~np.array(gone)].any(axis=1).all()
    # Without one winding alone the others would still be coupled to it.
    for label in ('trafo3w_4_hv', 'trafo3w', 'line', '', 'base'):
        with pytest.raises(GridError, match=rf"needs branches of 'ring', but '{label}' is none\. Labels are such as '"):
            grid.without(label)


def test_a_branch_without_a_rating_has_none_when_it_is_out():
    net = ring()
    net.line['max_i_ka'] = [1.0, np.nan, 0.0]
    grid = Grid.from_pandapower(net)
    assert grid.labels('loading_percent') == ['line_0']
    assert grid.without('line_1').labels('loading_percent') == ['line_0']
    assert grid.without('line_0').labels('loading_percent') == ['line_0']


def test_unseen_voltages_are_solved_for_on_each_rows_own_topology(rows):
    names = [name for name in rows.columns if not name.startswith('va')]
    law = ByTopology(PowerFlow.from_pandapower(case('case14'), table=names), OUTAGES)
    system = ConstraintSystem([law], rows[names])
    values = system.values(rows)
    assert not any(name.startswith('va') for name in law.columns)
    assert system.residual(values).abs().max() < 1e-6
    wrong = values.clone()
    wrong[:, system.columns.index('pd_mw_3')] += 0.01
    assert (system.residual(wrong).abs().amax(1) > 1e-3).all()
    # Under another row's topology it does not hold.
    wrong = values.clone()
    wrong[:, system.columns.index('topology')] = values[:, system.columns.index('topology')].roll(1)
    moved = (wrong != values).any(1)
    assert (system.residual(wrong).abs().amax(1)[moved] > 1e-2).all()
    assert moved.sum() > 4


def test_limits_are_those_of_each_rows_own_topology(rows):
    net = case('case14')
    net.line['max_i_ka'] = 0.5
    net.line['max_loading_percent'] = 100.0
    limits = OperatingLimits.from_pandapower(net, table=rows, flow_limit='current')
    law = ByTopology(limits, OUTAGES)
    law = ByTopology.from_parameters(json.loads(json.dumps(law.parameters())))
    assert (law.name, law.column_limits) == ('OperatingLimits by topology', limits.column_limits)
    system = ConstraintSystem([law], rows)
    residual, names = system.residual(system.values(rows)), law.equation_names(99)
    for topology in OUTAGES:
        outage = without(topology)
        outage.line['max_i_ka'] = 0.5
        mine = (rows['topology'] == topology).to_numpy()
        expected = result_row(solve(outage, who='test', tolerance_mva=1e-9), ['loading_percent']).iloc[0]
        for place, name in enumerate(names):
            if name.startswith('loading_percent_line'):
                # An outage carries nothing.
                assert residual[mine, place].tolist() == pytest.approx([expected.get(name, 0.0)] * 2, abs=1e-6), name
    assert 'loading_percent_line_0' in names


def test_the_topology_may_have_a_column_of_its_own_name_and_a_law_outlives_the_network(rows):
    renamed = rows.rename(columns={'topology': 'outage'})
    law = ByTopology(PowerFlow.from_pandapower(case('case14'), table=rows), OUTAGES, column='outage')
    assert (law.columns[-1], law.discrete, law.name) == ('outage', ('outage',), 'PowerFlow by outage')
    system = ConstraintSystem([law], renamed)
    values = system.values(renamed)
    again = ConstraintSystem([pickle.loads(pickle.dumps(law))], renamed)
    assert torch.equal(again.residual(values), system.residual(values))
    assert system.residual(values[:0]).shape == (0, len(law.unit))
    assert system.jacobian(values[:0]).shape == (0, len(law.unit), len(law.columns))
    with pytest.raises(ColumnMissingError, match=r"PowerFlow by outage needs column 'outage'"):
        law.require(rows.columns)
    with pytest.raises(ColumnMissingError, match=r"'pd_mw_3'"):
        law.require(renamed.columns.drop('pd_mw_3'))


def test_derivatives_of_a_large_law_are_made_row_by_row_and_are_the_same(rows, monkeypatch):
    law = ByTopology(PowerFlow.from_pandapower(case('case14'), table=rows), OUTAGES)
    system = ConstraintSystem([law], rows)
    values = system.values(rows)
    together = system.jacobian(values)
    for module in (topologies, constraint_system):
        monkeypatch.setattr(module, 'LARGE', 0)
    apart = system.jacobian(values)
    # Rounding of products of rows in batches of another size.
    torch.testing.assert_close(apart, together, rtol=1e-12, atol=1e-10)
    # A row alone has the bits that it has in company.
    assert all(torch.equal(system.jacobian(values[row : row + 1])[0], apart[row]) for row in range(len(values)))


def test_one_word_is_no_list_of_topologies():
    with pytest.raises(ConstraintError, match=r"ByTopology needs .* but got PowerFlow and 'line_3'\. Pass a list"):
        ByTopology(PowerFlow.from_pandapower(case('case14')), 'line_3')


def test_a_branch_that_is_named_twice_is_out_once():
    grid = Grid.from_pandapower(case('case14'))
    assert np.array_equal(grid.without('line_3', 'line_3').y_bus, grid.without('line_3').y_bus)
