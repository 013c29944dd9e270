"""Scenario tables: reproducible, complete, honest about draws without a solution."""

from dataclasses import dataclass, replace

import joblib
import numpy as np
import pandapower as pp
import pandapower.networks as networks
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cases import case
from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power import tables
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.nets import solved_row
from sdv_constrained_diffusion.power.scenarios import (
    CostPerturbation,
    LoadModel,
    NormalLoads,
    ProfileInfeed,
    ProfileLoads,
    Scenarios,
    UniformInfeed,
    UniformLoads,
    generate,
)
from sdv_constrained_diffusion.power.scenarios.models.outages import Outages, removable_branches
from sdv_constrained_diffusion.power.scenarios.recipe import CHUNK_DRAWS
from sdv_constrained_diffusion.power.scenarios.solvers.opf import OptimalPowerFlow
from sdv_constrained_diffusion.power.tables import APART, FLOWS, WIDE


@pytest.fixture(scope='module')
def tight():
    """Loads up to 1.6 x nominal: the generators of case5 do not reach them all."""
    return generate(case('case5'), 60, seed=4, low=0.9, high=1.6)


def test_the_table_has_every_row_and_column():
    net = case('case5')
    scenarios = generate(net, 40, seed=1)
    assert scenarios.table.columns.tolist() == tables.columns(net.bus.index)
    assert scenarios.table.shape == (40, 20)
    assert (scenarios.table.dtypes == np.float64).all()
    assert scenarios.metadata['draws'] == 40 + len(scenarios.unsolved)


def test_the_number_of_workers_does_not_change_the_rows(tight):
    two = generate(case('case5'), 60, seed=4, low=0.9, high=1.6, workers=2)
    pd.testing.assert_frame_equal(two.table, tight.table, check_exact=True)
    pd.testing.assert_frame_equal(two.unsolved, tight.unsolved, check_exact=True)
    assert two.metadata == tight.metadata


def test_fewer_rows_are_the_first_of_more_and_seeds_differ(tight):
    fewer = generate(case('case5'), 20, seed=4, low=0.9, high=1.6)
    pd.testing.assert_frame_equal(fewer.table, tight.table[:20], check_exact=True)
    other = generate(case('case5'), 20, seed=5, low=0.9, high=1.6)
    assert not np.isclose(other.table['p_mw_1'], fewer.table['p_mw_1']).any()


def test_draws_without_a_solution_are_counted_and_returned(tight):
    unsolved = tight.unsolved
    assert len(unsolved) > 0
    assert tight.metadata['unsolved'] == len(unsolved)
    assert tight.metadata['draws'] == 60 + len(unsolved)
    assert sum(tight.metadata['unsolved_reasons'].values()) == len(unsolved)
    assert unsolved['draw'].is_monotonic_increasing
    opf = OptimalPowerFlow(case('case5'))
    draw = unsolved.iloc[0]
    demand = {quantity: draw[[f'{quantity}_{load}' for load in range(3)]].to_numpy(float) for quantity in APART[:2]}
    point = opf.solve(replace(opf.drawable.nominal, **demand))
    assert point.reason == draw['reason'] == 'Infeasible_Problem_Detected'


def test_demands_are_uniform_in_the_range():
    net = case('case9')  # loads at buses 4, 6, 8, none of which has a generator
    table = generate(net, 300, seed=2, low=0.7, high=0.9).table
    factors = {
        (power, bus): -table[f'{power}_{bus}'] / net.load.set_index('bus')[power][bus]
        for power in ('p_mw', 'q_mvar')
        for bus in net.load.bus
    }
    for factor in factors.values():
        assert factor.between(0.7, 0.9).all()
        # Mean of 300 uniform draws: standard error 0.2 / sqrt(12 * 300) = 0.0033; five of them.
        assert factor.mean() == pytest.approx(0.8, abs=0.017)
    correlation = np.corrcoef(np.array(list(factors.values())))
    assert np.abs(correlation - np.eye(len(factors))).max() < 5 / np.sqrt(300)


def test_constant_power_factor_keeps_the_ratio_of_q_to_p():
    net = case('case9')
    table = generate(net, 20, power_factor='constant').table
    for _, load in net.load.iterrows():
        np.testing.assert_allclose(
            table[f'q_mvar_{load.bus}'] / table[f'p_mw_{load.bus}'], load.q_mvar / load.p_mw, rtol=1e-14
        )


def test_parquet_keeps_every_value_and_the_metadata(tight, tmp_path):
    path = tmp_path / 'case5.parquet'
    tight.save_parquet(path)
    loaded = Scenarios.load(path)
    pd.testing.assert_frame_equal(loaded.table, tight.table, check_exact=True)
    pd.testing.assert_frame_equal(loaded.unsolved, tight.unsolved, check_exact=True)
    assert loaded.metadata == tight.metadata
    assert loaded.metadata['network'] == 'case5'
    assert loaded.metadata['seed'] == 4
    assert loaded.metadata['loads'] == {
        **{'model': 'UniformLoads', 'low': 0.9, 'high': 1.6, 'power_factor': 'independent'}
    }
    assert 'generation positive' in loaded.metadata['sign_convention']
    assert b'sdv_constrained_diffusion.scenarios' in pq.read_schema(path).metadata
    pd.testing.assert_frame_equal(pd.read_parquet(path), tight.table, check_exact=True)


def test_loading_an_alien_or_half_file_says_so(tight, tmp_path):
    alien = tmp_path / 'alien.parquet'
    tight.table.to_parquet(alien)
    with pytest.raises(GridError, match=r'sdv_constrained_diffusion\.scenarios'):
        Scenarios.load(alien)
    path = tmp_path / 'case5.parquet'
    tight.save_parquet(path)
    (tmp_path / 'case5.unsolved.parquet').unlink()
    with pytest.raises(GridError, match=r'case5\.unsolved\.parquet'):
        Scenarios.load(path)


@pytest.mark.parametrize(
    ('arguments', 'fact'),
    [
        ({'num_rows': 0}, 'num_rows of at least 1, but got 0'),
        ({'num_rows': 10.5}, 'whole number'),
        ({'seed': -1}, 'seed of at least 0, but got -1'),
        ({'low': 1.2, 'high': 0.8}, 'low=1.2, high=0.8'),
        ({'high': float('nan')}, 'high=nan'),
        ({'power_factor': 'fixed'}, "got 'fixed'"),
        ({'flow_limit': 'power'}, "got 'power'"),
        ({'workers': 0}, 'workers=0'),
        ({'solver': 'dc'}, "got 'dc'"),
        ({'quantities': ['p']}, "got 'p'"),
        ({'loads': UniformLoads(), 'low': 0.9}, 'either loads or low'),
        ({'infeed': UniformInfeed()}, 'not controllable'),
        ({'solver': 'pf', 'costs': CostPerturbation(0.1)}, "solver='pf' has none"),
        ({'outages': Outages(branches=('line_9',))}, "'line_9' is none of"),
        ({'loads': ProfileLoads(pd.DataFrame({'0': [1.0], '1': [1.0]}))}, "lacks '2'"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, fact):
    with pytest.raises(GridError, match=fact):
        generate(case('case5'), **{'num_rows': 3, **arguments})


def test_an_isolated_bus_is_refused_by_name():
    net = case('case5')
    pp.create_bus(net, 230.0, index=77)
    with pytest.raises(GridError, match=r'buses \[77\] are isolated'):
        generate(net, 3)


def test_a_nominal_case_without_solution_is_refused():
    net = case('case5')
    net.load['scaling'] = 3.0
    with pytest.raises(GridError, match=r"'case5'.*Infeasible_Problem_Detected.*controllable"):
        generate(net, 3)


def test_a_hopeless_range_is_refused_after_the_first_chunk():
    with pytest.raises(GridError, match=rf'first {CHUNK_DRAWS} draws.*2\.0.*3\.0.*only 0.*Infeasible'):
        generate(case('case5'), 1000, low=2.0, high=3.0)


def with_wind():
    """case14 with two static generators that are not dispatched."""
    net = case('case14')
    pp.create_sgen(net, 9, p_mw=20.0, q_mvar=4.0, scaling=0.5)
    pp.create_sgen(net, 13, p_mw=5.0)
    return net


def test_apart_has_the_demand_of_every_load_and_the_generation_of_every_generator():
    net = with_wind()
    pp.create_load(net, 9, p_mw=3.0, q_mvar=1.0)
    scenarios = generate(net, 40, infeed=UniformInfeed(0.2, 0.9), quantities=(*APART, *WIDE[:2]))
    table, grid = scenarios.table, Grid.from_pandapower(net)
    assert table.columns.tolist() == grid.columns((*APART, *WIDE[:2]))
    factors = {
        **{f'pd_mw_{i}': (net.load.p_mw[i], 0.8, 1.2) for i in net.load.index},
        **{f'qd_mvar_{i}': (net.load.q_mvar[i], 0.8, 1.2) for i in net.load.index},
        **{'pg_mw_sgen_0': (10.0, 0.2, 0.9), 'qg_mvar_sgen_0': (2.0, 0.2, 0.9), 'pg_mw_sgen_1': (5.0, 0.2, 0.9)},
    }
    for name, (nominal, low, high) in factors.items():
        assert (table[name] / nominal).between(low - 1e-12, high + 1e-12).all()
        assert (table[name] / nominal).std() > 0.1 * (high - low)
    # Two loads at one bus are drawn apart.
    assert len(np.unique((table['pd_mw_11'] / table['pd_mw_5']).round(6))) == 40
    for power in ('p_mw', 'q_mvar'):
        demand, generation = (
            table[[f'{power[0]}{side}{power[1:]}_{label}' for label in labels]].to_numpy()
            for side, labels in (('d', grid.loads), ('g', grid.generators))
        )
        summed = np.zeros((40, len(grid.buses)))
        np.add.at(summed.T, grid.generator_at, generation.T)
        np.subtract.at(summed.T, grid.load_at, demand.T)
        # Sums of a few hundred MW, to rounding.
        np.testing.assert_allclose(summed, table[grid.columns([power])], atol=1e-10)


def test_plain_power_flow_rows_are_those_of_runpp():
    net = with_wind()
    quantities = (*WIDE, *APART[:4], *FLOWS)
    scenarios = generate(
        net, 12, solver='pf', infeed=UniformInfeed(), outages=Outages(0.7), quantities=quantities, seed=3
    )
    out = scenarios.table['topology']
    assert {'base'} < set(out)
    for _, row in scenarios.table[:6].iterrows():
        there = with_wind()
        there.load['p_mw'] = [row[f'pd_mw_{i}'] for i in net.load.index]
        there.load['q_mvar'] = [row[f'qd_mvar_{i}'] for i in net.load.index]
        there.sgen['scaling'] = 1.0
        there.sgen['p_mw'] = [row[f'pg_mw_sgen_{i}'] for i in net.sgen.index]
        there.sgen['q_mvar'] = [row[f'qg_mvar_sgen_{i}'] for i in net.sgen.index]
        if row['topology'] != 'base':
            kind, index = row['topology'].split('_')
            there[kind].loc[int(index), 'in_service'] = False
            assert row[[f'{each}_{row["topology"]}' for each in FLOWS]].tolist() == [0.0] * 5
        expected = solved_row(there, quantities=quantities).iloc[0].reindex(row.index[:-1], fill_value=0.0)
        np.testing.assert_array_equal(row[:-1].astype(float), expected)
        # Set-points are kept: the slack alone takes up the difference.
        assert row[['pg_mw_gen_0', 'vm_pu_1']].tolist() == pytest.approx([net.gen.p_mw[0], net.gen.vm_pu[0]], rel=1e-12)


def test_a_power_flow_that_does_not_converge_is_kept_with_its_reason():
    scenarios = generate(case('case14'), 3, solver='pf', low=3.5, high=4.5)
    assert scenarios.unsolved['reason'].unique().tolist() == ['LoadflowNotConverged']
    assert scenarios.metadata['unsolved_reasons'] == {'LoadflowNotConverged': len(scenarios.unsolved)}


def test_outages_come_as_often_as_asked_and_never_island_a_bus():
    net = case('case14')
    scenarios = generate(net, 120, seed=1, low=0.7, high=0.8, outages=Outages(0.6))
    topology, outages = scenarios.table['topology'], scenarios.metadata['outages']
    removable, islanding = removable_branches(net)
    assert (outages['candidates'], outages['islanding']) == (removable, islanding)
    assert islanding == ['trafo_3']
    assert set(topology) <= {'base', *removable}
    # Deviation of the share: sqrt(0.6 * 0.4 / 120) = 0.045; four of them.
    assert abs((topology != 'base').mean() - 0.6) < 0.18
    assert topology.nunique() > 12
    rows = scenarios.table[topology == topology[topology != 'base'].iloc[0]]
    kind, index = rows['topology'].iloc[0].split('_')
    net[kind].loc[int(index), 'in_service'] = False
    grid = Grid.from_pandapower(net)
    vm, va = (rows[grid.columns([quantity])].to_numpy() for quantity in ('vm_pu', 'va_degree'))
    voltage = vm * np.exp(1j * np.deg2rad(va))
    power = voltage * np.conj(voltage @ grid.y_bus.T) * grid.sn_mva
    # The solver's mismatch is below 1e-9 p.u.
    np.testing.assert_allclose(power.real, rows[grid.columns(['p_mw'])], atol=1e-6)


def test_a_branch_whose_loss_islands_a_bus_is_one_without_which_pandapower_finds_no_supply():
    for net in (case('case14'), case('case30'), networks.example_multivoltage()):
        removable, islanding = removable_branches(net)
        for label in (*removable, *islanding):
            kind, index = label.split('_')
            net[kind].loc[int(index), 'in_service'] = False
            assert bool(pp.topology.unsupplied_buses(net)) == (label in islanding), label
            net[kind].loc[int(index), 'in_service'] = True


def test_outages_that_leave_no_bus_supplied_are_refused():
    with pytest.raises(GridError, match=r'leaves every bus supplied.*14 candidates'):
        Outages().candidates(networks.create_cigre_network_mv())
    with pytest.raises(GridError, match=r'leaves every bus supplied.*1 candidates'):
        Outages(branches=('trafo_3',)).candidates(case('case14'))
    with pytest.raises(GridError, match=r'share from 0 to 1, but got 1\.5'):
        Outages(1.5)


def test_perturbed_costs_change_the_dispatch_and_are_columns():
    net = case('case9')
    fixed = generate(net, 30, low=0.9, high=1.1, quantities=APART)
    varied = generate(net, 30, low=0.9, high=1.1, quantities=APART, costs=CostPerturbation(0.4))
    assert varied.table.columns[-3:].tolist() == [f'cost_factor_{each}' for each in ('ext_grid_0', 'gen_0', 'gen_1')]
    # The streams of loads and costs are apart: the same seed gives the same loads with and without.
    demand = Grid.from_pandapower(net).columns(APART[:2])
    pd.testing.assert_frame_equal(varied.table[demand], fixed.table[demand], check_exact=True)
    cheap = varied.table['cost_factor_gen_0'] < 0.8
    saved = varied.table['pg_mw_gen_0'] - fixed.table['pg_mw_gen_0']
    assert saved[cheap].min() > 0
    assert saved[varied.table['cost_factor_gen_0'] > 1.2].max() < 0


def test_profiles_of_loads_and_infeed_meet_at_one_hour():
    net = with_wind()
    loads = pd.DataFrame({str(i): [0.8, 0.9, 1.0, 1.1] for i in net.load.index})
    infeed = pd.DataFrame({'sgen_0': [0.0, 0.2, 0.4, 0.6], 'sgen_1': [0.1, 0.2, 0.3, 0.4]})
    for order in ('drawn', 'in_turn'):
        table = generate(
            net, 24, loads=ProfileLoads(loads, order), infeed=ProfileInfeed(infeed, order), quantities=APART
        ).table
        hours = ((table['pd_mw_2'] / net.load.p_mw[2] - 0.8) * 10).round().astype(int)
        np.testing.assert_allclose(table['pg_mw_sgen_0'], 10 * infeed['sgen_0'].to_numpy()[hours], atol=1e-12)
        np.testing.assert_allclose(table['pg_mw_sgen_1'], 5 * infeed['sgen_1'].to_numpy()[hours], atol=1e-12)
        assert (hours.tolist() == 6 * [0, 1, 2, 3]) == (order == 'in_turn')


def test_unsolved_draws_hold_everything_that_was_drawn():
    net = with_wind()
    scenarios = generate(
        net,
        8,
        loads=NormalLoads(0.6, 0.9, mean=1.5),
        infeed=UniformInfeed(),
        costs=CostPerturbation(0.2),
        outages=Outages(0.8),
        quantities=APART,
    )
    assert len(scenarios.unsolved) > 0
    opf = OptimalPowerFlow(net, costs_vary=True, topology_varies=True)
    drawable = opf.drawable
    for _, row in scenarios.unsolved[:3].iterrows():
        draw = replace(
            drawable.nominal,
            pd_mw=row[[f'pd_mw_{i}' for i in drawable.loads]].to_numpy(float),
            qd_mvar=row[[f'qd_mvar_{i}' for i in drawable.loads]].to_numpy(float),
            infeed_mw=row[[f'pg_mw_{i}' for i in drawable.infeeds]].to_numpy(float),
            infeed_mvar=row[[f'qg_mvar_{i}' for i in drawable.infeeds]].to_numpy(float),
            cost_factors=row[[f'cost_factor_{i}' for i in drawable.priced]].to_numpy(float),
            topology=row['topology'],
        )
        assert opf.solve(draw).reason == row['reason']


@dataclass(frozen=True)
class Peak(LoadModel):
    """A model of one's own."""

    share: float

    def factors(self, generator, loads, chunk):
        return np.full((len(chunk.numbers), 2, len(loads)), self.share)


class Nameless(LoadModel):
    def factors(self, generator, loads, chunk):
        return np.ones((len(chunk.numbers), 2, len(loads)))


def test_a_load_model_of_ones_own_is_written_into_the_metadata():
    scenarios = generate(case('case5'), np.int64(3), loads=Peak(np.float64(0.95)))
    assert scenarios.metadata['loads'] == {'model': 'Peak', 'share': 0.95}
    np.testing.assert_allclose(scenarios.table['p_mw_1'], -0.95 * case('case5').load.p_mw[0])
    with pytest.raises(GridError, match=r'finite factors of shape \(32, 2, 3\) from Peak'):
        generate(case('case5'), 3, loads=Peak(np.nan))
    with pytest.raises(GridError, match=r'got a Nameless.*dataclass\(frozen=True\)'):
        generate(case('case5'), 3, loads=Nameless())


@pytest.mark.parametrize('backend', ['threading', 'multiprocessing'])
def test_an_outer_configuration_of_joblib_is_obeyed(tight, backend):
    """Threads share a solver, and the backend 'multiprocessing' gives no results as they come, like that of Ray."""
    with joblib.parallel_config(backend=backend, n_jobs=2):
        scenarios = generate(case('case5'), 60, seed=4, low=0.9, high=1.6)
    pd.testing.assert_frame_equal(scenarios.table, tight.table, check_exact=True)
    pd.testing.assert_frame_equal(scenarios.unsolved, tight.unsolved, check_exact=True)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'seed': None}, 'needs a seed of at least 0, but got None'),
        ({'seed': 1.5}, r'needs a seed of at least 0, but got 1\.5'),
        ({'quantities': ()}, r'needs a sequence of quantities, but got \(\)'),
        ({'quantities': 'p_mw'}, "needs a sequence of quantities, but got 'p_mw'"),
    ],
)
def test_a_seed_and_quantities_are_asked_for_in_words(options, message):
    with pytest.raises(GridError, match=message):
        generate(case('case5'), 3, **options)
