"""Operating limits: those of the network, exact together with the power flow."""

import json

import numpy as np
import pytest
import torch

from cases import case
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.errors import ConstraintError
from sdv_constrained_diffusion.guidance.finishing import Finisher
from sdv_constrained_diffusion.guidance.projection import ResultCode
from sdv_constrained_diffusion.power import scenarios
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.limits import OperatingLimits
from sdv_constrained_diffusion.power.tables import APART, FLOWS


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
