"""Scenario tables: reproducible, complete, honest about draws without a solution."""

import numpy as np
import pandapower as pp
import pandapower.networks as networks
import pandas as pd
import pyarrow.parquet as pq
import pytest

from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power import tables
from sdv_constrained_diffusion.power.opf import OptimalPowerFlow
from sdv_constrained_diffusion.power.scenarios import CHUNK_DRAWS, Scenarios, generate


@pytest.fixture(scope='module')
def tight():
    """Loads up to 1.6 x nominal: the generators of case5 do not reach them all."""
    return generate(networks.case5(), 60, seed=4, low=0.9, high=1.6)


def test_the_table_has_every_row_and_column():
    net = networks.case5()
    scenarios = generate(net, 40, seed=1)
    assert scenarios.table.columns.tolist() == tables.columns(net.bus.index)
    assert scenarios.table.shape == (40, 20)
    assert (scenarios.table.dtypes == np.float64).all()
    assert scenarios.metadata['draws'] == 40 + len(scenarios.unsolved)


def test_the_number_of_workers_does_not_change_the_rows(tight):
    two = generate(networks.case5(), 60, seed=4, low=0.9, high=1.6, workers=2)
    pd.testing.assert_frame_equal(two.table, tight.table, check_exact=True)
    pd.testing.assert_frame_equal(two.unsolved, tight.unsolved, check_exact=True)
    assert two.metadata == tight.metadata


def test_fewer_rows_are_the_first_of_more_and_seeds_differ(tight):
    fewer = generate(networks.case5(), 20, seed=4, low=0.9, high=1.6)
    pd.testing.assert_frame_equal(fewer.table, tight.table[:20], check_exact=True)
    other = generate(networks.case5(), 20, seed=5, low=0.9, high=1.6)
    assert not np.isclose(other.table['p_mw_1'], fewer.table['p_mw_1']).any()


def test_draws_without_a_solution_are_counted_and_returned(tight):
    unsolved = tight.unsolved
    assert len(unsolved) > 0
    assert tight.metadata['unsolved'] == len(unsolved)
    assert tight.metadata['draws'] == 60 + len(unsolved)
    assert sum(tight.metadata['unsolved_reasons'].values()) == len(unsolved)
    assert unsolved['draw'].is_monotonic_increasing
    opf = OptimalPowerFlow(networks.case5())
    draw = unsolved.iloc[0]
    demand = [draw[[f'demand_{power}_{bus}' for bus in opf.load_buses]].to_numpy(float) for power in ('p_mw', 'q_mvar')]
    assert opf.solve(*demand).reason == draw['reason'] == 'Infeasible_Problem_Detected'


def test_demands_are_uniform_in_the_range():
    net = networks.case9()  # loads at buses 4, 6, 8, none of which has a generator
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
    net = networks.case9()
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
    assert (loaded.metadata['seed'], loaded.metadata['low'], loaded.metadata['high']) == (4, 0.9, 1.6)
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
    ],
)
def test_arguments_out_of_range_are_named(arguments, fact):
    with pytest.raises(GridError, match=fact):
        generate(networks.case5(), **{'num_rows': 3, **arguments})


def test_an_isolated_bus_is_refused_by_name():
    net = networks.case5()
    pp.create_bus(net, 230.0, index=77)
    with pytest.raises(GridError, match=r'buses \[77\] are isolated'):
        generate(net, 3)


def test_a_nominal_case_without_solution_is_refused():
    net = networks.case5()
    net.load['scaling'] = 3.0
    with pytest.raises(GridError, match=r"'case5'.*Infeasible_Problem_Detected.*controllable"):
        generate(net, 3)


def test_a_hopeless_range_is_refused_after_the_first_chunk():
    with pytest.raises(GridError, match=rf'first {CHUNK_DRAWS} draws.*\[2, 3\].*only 0.*Infeasible'):
        generate(networks.case5(), 1000, low=2.0, high=3.0)
