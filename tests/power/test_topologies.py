"""Outages: exact against pandapower with the branch out of service, each row on its own topology."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch

from cases import case
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.errors import ConstraintError, GridError
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.nets import solved_row
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
