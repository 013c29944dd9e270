"""Powers, flows, loadings and angle differences that voltages imply: closed forms, pandapower, derivatives."""

import functools
import math

import numpy as np
import pandapower as pp
import pytest
import torch
from test_power_flow import (
    half_open_three_winding_transformer,
    open_line_end,
    phase_shifting_transformer,
    ring,
)

from cases import case
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.implied import ANGLE, APPARENT, ImpliedQuantities
from sdv_constrained_diffusion.power.nets import solve
from sdv_constrained_diffusion.power.tables import FLOWS

SIZES = (APPARENT, 'loading_percent')


@functools.cache
def many_branches():
    """Lines, one of them open at one end, two- and three-winding transformers, one of them open at one side."""
    net = ring()
    open_line_end(net)
    half_open_three_winding_transformer(net)
    tapped = pp.create_transformer(net, 3, 15, std_type='40 MVA 110/20 kV', tap_pos=5, parallel=2, df=0.7)
    net.trafo.loc[tapped, 'shift_degree'] = 0.0
    pp.create_impedance(net, 3, 42, rft_pu=0.02, xft_pu=0.2, sn_mva=50.0, rtf_pu=0.03, xtf_pu=0.25)
    net.trafo3w[['shift_mv_degree', 'shift_lv_degree']] = 0.0
    return solve(net, who='test', tolerance_mva=1e-9)


def voltages(grid, net):
    v = net.res_bus.loc[[grid.buses[bus] for bus in grid.representative]]
    return torch.tensor(v[['vm_pu']].to_numpy().T), torch.tensor(np.deg2rad(v[['va_degree']].to_numpy().T))


def everywhere(grid, quantities):
    """A quantity at all of its elements."""
    at_nodes = np.arange(len(grid.y_bus))
    all_ends = np.arange(len(grid.end_branch))
    places = {'p_mw': at_nodes, 'q_mvar': at_nodes, APPARENT: all_ends, ANGLE: all_ends}
    return [(each, places[each] if each in places else grid.ends(each)) for each in quantities]


def implied(grid, quantity, vm, va):
    return ImpliedQuantities(grid, everywhere(grid, [quantity])).values(vm, va)


def shaken(vm, va, rows=4):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, rows, vm.shape[1], generator=generator, dtype=torch.float64)
    return vm + 0.02 * noise[0], va + 0.05 * noise[1]


def result_of(net, label, quantity, side):
    """What pandapower's own result tables say of a branch, by the names it uses for its ends."""
    table, index, *winding = label.split('_')
    end = winding[0] if winding else {'trafo': ('hv', 'lv')}.get(table, ('from', 'to'))[side]
    return net[f'res_{table}'].at[int(index), quantity.replace('from', end).replace('to', end)]


@pytest.mark.parametrize('name', ['case9', 'case14', 'many_branches'])
def test_flows_are_pandapowers(name):
    net = many_branches() if name == 'many_branches' else solve(case(name), who='test', tolerance_mva=1e-9)
    grid = Grid.from_pandapower(net)
    vm, va = voltages(grid, net)
    for quantity in FLOWS[:4]:
        labels, side = grid.labels(quantity), int('_to_' in quantity)
        expected = [result_of(net, label, quantity, side) for label in labels]
        # The voltages that runpp delivers fit its flows to rounding: sums of a few terms of up to 1e4 MW.
        assert implied(grid, quantity, vm, va)[0].tolist() == pytest.approx(expected, abs=1e-8)


def test_loadings_are_pandapowers():
    net = many_branches()
    grid = Grid.from_pandapower(net)
    found = dict(
        zip(grid.labels('loading_percent'), implied(grid, 'loading_percent', *voltages(grid, net))[0], strict=True)
    )
    for table in ('line', 'trafo'):
        for index, loading in net[f'res_{table}']['loading_percent'].items():
            assert found.pop(f'{table}_{index}').item() == pytest.approx(loading, abs=1e-8), (table, index)
    for index, loading in net.res_trafo3w['loading_percent'].items():
        # pandapower states the largest of the three windings; the open one has no end at a bus.
        windings = [label for label in found if label.startswith(f'trafo3w_{index}_')]
        assert len(windings) == (2 if index == 4 else 3)
        assert max(found.pop(label).item() for label in windings) == pytest.approx(loading, abs=1e-8)
    # An impedance has no rating.
    assert not found


def test_a_lossless_line_between_two_buses_in_closed_form():
    # x between V1 and V2 at angle d: P = V1 V2 sin(d) / x, Q1 = (V1^2 - V1 V2 cos d) / x; |I| = |V1 - V2| / x.
    net = pp.create_empty_network(sn_mva=10.0)
    for bus in (8, 5):
        pp.create_bus(net, 110.0, index=bus)
    pp.create_ext_grid(net, 8)
    line = {'length_km': 10.0, 'r_ohm_per_km': 0.0, 'x_ohm_per_km': 12.1, 'c_nf_per_km': 0.0, 'max_i_ka': 0.02}
    pp.create_line_from_parameters(net, 8, 5, **line, index=3, df=0.5)
    grid = Grid.from_pandapower(net)
    v1, v2, angle, x = 1.03, 0.97, 0.3, 121.0 / (110.0**2 / 10.0)
    order = [grid.buses.index(bus) for bus in (8, 5)]
    vm, va = torch.zeros(1, 2).double(), torch.zeros(1, 2).double()
    vm[0, grid.node[order]] = torch.tensor([v1, v2], dtype=torch.float64)
    va[0, grid.node[order]] = torch.tensor([angle, 0.0], dtype=torch.float64)
    p, q1 = 10 * v1 * v2 * math.sin(angle) / x, 10 * (v1**2 - v1 * v2 * math.cos(angle)) / x
    q2 = 10 * (v2**2 - v1 * v2 * math.cos(angle)) / x
    current_ka = abs(v1 * np.exp(1j * angle) - v2) / x * 10 / (math.sqrt(3) * 110.0)
    expected = {
        'p_from_mw': [p], 'p_to_mw': [-p], 'q_from_mvar': [q1], 'q_to_mvar': [q2],
        'loading_percent': [100 * current_ka / (0.02 * 0.5)], APPARENT: [math.hypot(p, q1), math.hypot(p, q2)],
        ANGLE: [math.degrees(angle), -math.degrees(angle)],
    }  # fmt: skip
    found = {quantity: implied(grid, quantity, vm, va)[0].tolist() for quantity in expected}
    assert {each: pytest.approx(values, rel=1e-12) for each, values in expected.items()} == found
    injected = ImpliedQuantities(grid, everywhere(grid, ['p_mw', 'q_mvar'])).values(vm, va)[0, [*grid.node[order]] * 2]
    assert injected[:2].tolist() == pytest.approx([p, -p], rel=1e-12)


def test_the_end_of_the_larger_current_loads_a_branch():
    # A cable without load at its far end carries its charging at the near end, whichever end that is.
    net = many_branches()
    grid = Grid.from_pandapower(net)
    vm, va = shaken(*voltages(grid, net), rows=20)
    sizes = implied(grid, APPARENT, vm, va) / vm[:, grid.end_node] / grid.sn_mva * grid.loading_per_pu
    loading = implied(grid, 'loading_percent', vm, va)
    heavier = set()
    for place, label in enumerate(grid.labels('loading_percent')):
        ends = np.flatnonzero(grid.end_branch == grid.branches.index(label))
        expected, which = sizes[:, ends].max(dim=1)
        torch.testing.assert_close(loading[:, place], expected, rtol=1e-12, atol=0)
        heavier |= {int(each) for each in which}
    assert heavier == {0, 1}


@pytest.mark.parametrize('quantity', ['p_mw', 'q_mvar', *FLOWS, APPARENT, ANGLE])
def test_closed_form_derivatives_equal_automatic_ones(quantity):
    net = many_branches()
    grid = Grid.from_pandapower(net)
    vm, va = shaken(*voltages(grid, net))
    quantities = ImpliedQuantities(grid, everywhere(grid, [quantity]))
    closed = quantities.jacobian(vm, va)
    states = torch.cat([vm, va], dim=1)
    for row in range(len(vm)):
        automatic = torch.autograd.functional.jacobian(
            lambda state: quantities.values(*state[None].chunk(2, dim=1))[0], states[row]
        )
        # The same sums of about ten terms in another order.
        torch.testing.assert_close(closed[row], automatic, rtol=1e-11, atol=1e-9 * float(closed.abs().max()))
    assert closed.abs().max() > 1.0


@pytest.mark.parametrize('quantity', SIZES)
def test_the_size_of_nothing_has_no_direction(quantity):
    # No current without a difference of voltages; charging is none, too.
    net = ring()
    net.line['c_nf_per_km'] = 0.0
    grid = Grid.from_pandapower(net)
    flat = torch.ones(1, 3).double(), torch.zeros(1, 3).double()
    quantities = ImpliedQuantities(grid, everywhere(grid, [quantity]))
    # Below 1e-12 per unit nothing is told apart: 1e-10 MVA on 100 MVA, and 1e-10 of 5 times the rating.
    assert quantities.values(*flat).abs().max() < 1e-9
    assert quantities.jacobian(*flat).isfinite().all()


def test_quantities_come_in_the_order_they_were_wanted_on_any_state_of_the_grid():
    net = many_branches()
    grid = Grid.from_pandapower(net)
    vm, va = shaken(*voltages(grid, net))
    wanted = everywhere(grid, ['loading_percent', 'q_mvar', ANGLE, 'p_to_mw'])
    whole = ImpliedQuantities(grid, wanted)
    apart = [implied(grid, quantity, vm, va) for quantity, _ in wanted]
    # Rounding of powers of some hundred MW; batches of no whole size may add in another order.
    torch.testing.assert_close(whole.values(vm, va), torch.cat(apart, dim=1), rtol=1e-11, atol=1e-10)
    backwards = ImpliedQuantities(grid, [('q_mvar', np.array([2, 0])), ('p_mw', np.zeros(0, dtype=int))])
    again = implied(grid, 'q_mvar', vm, va)[:, [2, 0]]
    torch.testing.assert_close(backwards.values(vm, va), again, rtol=1e-11, atol=1e-10)
    outage = grid.without('line_1')
    lost = [grid.end_branch[end] == grid.branches.index('line_1') for end in grid.ends('p_to_mw')]
    flows = whole.on(outage).values(vm, va)[:, -len(lost) :]
    assert (flows[:, lost] == 0).all()
    torch.testing.assert_close(flows[:, ~np.array(lost)], apart[-1][:, ~np.array(lost)], rtol=1e-11, atol=1e-10)


def test_an_angle_difference_is_that_of_the_buses_whatever_the_transformer_shifts():
    net = ring()
    phase_shifting_transformer(net)
    solved = solve(net, who='test', tolerance_mva=1e-9)
    grid = Grid.from_pandapower(solved)
    ends = np.flatnonzero(grid.end_branch == grid.branches.index('trafo_0'))
    difference = solved.res_bus.at[3, 'va_degree'] - solved.res_bus.at[15, 'va_degree']
    found = ImpliedQuantities(grid, [(ANGLE, ends)]).values(*voltages(grid, solved))[0].tolist()
    assert found == pytest.approx([difference, -difference], rel=1e-12)
