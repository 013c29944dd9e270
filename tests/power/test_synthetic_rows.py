"""A synthesizer of operating points, from scenarios with outages to rows that pandapower solves again."""

import numpy as np
import pytest
from sdv.sampling import Condition

from cases import case
from mixed_table import make_synthesizer
from sdv_constrained_diffusion import operating_point_metadata
from sdv_constrained_diffusion.constraints.feasibility import violations
from sdv_constrained_diffusion.power import scenarios
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.limits import OperatingLimits
from sdv_constrained_diffusion.power.tables import APART, FLOWS
from sdv_constrained_diffusion.power.topologies import ByTopology
from sdv_constrained_diffusion.power.validation import verify_with_runpp
from sdv_version import TABLE, fit, sample, sample_from_conditions, sample_remaining_columns

NAME = 'case24_ieee_rts'
TOPOLOGIES = ('base', 'line_5', 'line_20')


@pytest.fixture(scope='module')
def table():
    outages = scenarios.Outages(share=0.5, branches=TOPOLOGIES[1:])
    return scenarios.generate(case(NAME), num_rows=150, seed=0, quantities=APART, outages=outages, progress=False).table


@pytest.fixture(scope='module')
def fitted(table):
    """A few epochs: whatever the network has learned, the rows must be right."""
    net = case(NAME)
    laws = [law.from_pandapower(net, table=table) for law in (PowerFlow, OperatingLimits)]
    constraints = [ByTopology(law, TOPOLOGIES) for law in laws]
    return fit(make_synthesizer(table, operating_point_metadata(table, TABLE), constraints, epochs=60), table)


def check(fitted, rows):
    """Rows obey both laws; pandapower, given each row's set-points and outage, finds the same operating point."""
    report = fitted.constraint_report(rows)
    assert (report['max'] <= report['tolerance']).all(), report
    verdict = verify_with_runpp(case(NAME), rows, num_rows=None)
    assert verdict['converged'].all()
    # Rows may miss the balance by 1e-6 MW at each of 24 buses, of 100 MVA; voltages follow with factors of about one.
    assert verdict['error_p_mw'].max() < 1e-4
    assert verdict['error_vm_pu'].max() < 1e-6
    assert verdict['error_va_degree'].max() < 1e-4


def test_rows_of_several_topologies(fitted, table):
    assert set(table['topology']) == set(TOPOLOGIES)
    rows = sample(fitted, 60)
    assert set(rows['topology']) == set(TOPOLOGIES)
    check(fitted, rows)


def test_rows_of_a_topology_that_is_asked_for(fitted):
    rows = sample_from_conditions(fitted, [Condition({'topology': 'line_20'}, num_rows=20)])
    assert (rows['topology'] == 'line_20').all()
    check(fitted, rows)


def test_dispatch_for_the_demand_of_rows_that_were_not_shown(fitted):
    new = scenarios.generate(case(NAME), num_rows=20, seed=1, low=0.9, high=1.1, quantities=APART, progress=False).table
    demand = new[[name for name in new if name.startswith(('pd_', 'qd_'))]].assign(topology='base')
    rows = sample_remaining_columns(fitted, demand)
    assert len(rows) == 20
    np.testing.assert_array_equal(rows[demand.columns].to_numpy(), demand.to_numpy())
    check(fitted, rows)
    mismatch_mva = violations([PowerFlow.from_pandapower(case(NAME), table=rows)], rows)[1]
    assert mismatch_mva.max() <= 1e-8 * case(NAME).sn_mva


def test_flows_of_branches_are_columns_like_others():
    """Voltages and what enters the branches, loadings kept below their limits; injections are no columns at all."""
    net, quantities = case('case5'), ('vm_pu', 'va_degree', *FLOWS)
    table = scenarios.generate(net, num_rows=100, seed=0, quantities=quantities, progress=False).table
    laws = [law.from_pandapower(net, table=table) for law in (PowerFlow, OperatingLimits)]
    fitted = fit(make_synthesizer(table, operating_point_metadata(table, TABLE), laws, epochs=20), table)
    rows = sample(fitted, 50)
    report = fitted.constraint_report(rows)
    assert (report['max'] <= report['tolerance']).all(), report
    for branch, ends in (('line_0', ('from', 'to')), ('line_3', ('from', 'to'))):
        number = int(branch.split('_')[1])
        apparent = [np.hypot(rows[f'p_{end}_mw_{branch}'], rows[f'q_{end}_mvar_{branch}']) for end in ends]
        magnitude = [rows[f'vm_pu_{net.line.loc[number, f"{end}_bus"]}'] for end in ends]
        kilovolt = [net.bus.loc[net.line.loc[number, f'{end}_bus'], 'vn_kv'] for end in ends]
        current = [s / (3**0.5 * vm * kv) for s, vm, kv in zip(apparent, magnitude, kilovolt, strict=True)]
        loading = 100 * np.maximum(*current) / net.line.loc[number, 'max_i_ka']
        # The loading is met to 1e-6 of a percent, the flows to 1e-6 MW of a few hundred.
        np.testing.assert_allclose(rows[f'loading_percent_{branch}'], loading, atol=1e-4)


def test_metadata_of_operating_points_say_number_or_topology_and_no_key(table):
    described = operating_point_metadata(table, 'grid').to_dict()['tables']['grid']
    assert described.get('primary_key') is None
    sdtypes = {name: column['sdtype'] for name, column in described['columns'].items()}
    assert list(sdtypes) == list(table.columns)
    assert sdtypes.pop('topology') == 'categorical'
    assert set(sdtypes.values()) == {'numerical'}


def test_demand_far_outside_the_training_table_is_warned_of(fitted, table):
    demand = table.loc[table['topology'] == 'base', ['pd_mw_0', 'topology']].head(2).reset_index(drop=True)
    largest = table['pd_mw_0'].max()
    demand['pd_mw_0'] = largest + np.array([0.0, 0.2]) * np.ptp(table['pd_mw_0'])
    with pytest.warns(UserWarning, match=rf"'pd_mw_0' in 1 of 2 rows lie outside .*to {largest:.6g}"):
        rows = sample_remaining_columns(fitted, demand)
    check(fitted, rows)
