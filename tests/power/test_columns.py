"""Power flow on whichever columns a table has, against pandapower's solutions and automatic differentiation."""

import functools
import json

import numpy as np
import pandas as pd
import pytest
import torch

from cases import case
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.errors import ConstraintError
from sdv_constrained_diffusion.power.columns import Units
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.nets import solved_row
from sdv_constrained_diffusion.power.tables import APART, FLOWS, WIDE

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
