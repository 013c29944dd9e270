"""Scenarios spread over a cluster by joblib's own configuration."""

import joblib
import pandas as pd
from distributed import Client, LocalCluster

from cases import case
from sdv_constrained_diffusion.power.scenarios import Scenarios, UniformLoads, generate, generate_to
from sdv_constrained_diffusion.power.scenarios.recipe import _problem

WHAT = {'seed': 4, 'loads': UniformLoads(0.9, 1.5)}


def compiled():
    """How often this process has compiled a network."""
    return _problem.cache_info().misses


def test_a_dask_cluster_of_two_processes_gives_the_rows_of_one(tmp_path):
    net = case('case5')
    alone = generate(net, 200, **WHAT)
    options = {'n_workers': 2, 'processes': True, 'threads_per_worker': 1, 'dashboard_address': None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        with joblib.parallel_config(backend='dask'):
            spread = generate(net, 200, **WHAT)
            generate_to(tmp_path / 'scenarios', net, 200, **WHAT)
        # Both have solved: a worker compiles the network when it is handed its first draws.
        assert min(client.run(compiled).values()) >= 1
        assert len(client.run(compiled)) == 2
    for found in (spread, Scenarios.load(tmp_path / 'scenarios')):
        pd.testing.assert_frame_equal(found.table, alone.table, check_exact=True)
        pd.testing.assert_frame_equal(found.unsolved, alone.unsolved, check_exact=True)
