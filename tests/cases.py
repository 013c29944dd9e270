"""Networks and operating points that several tests use."""

import copy
import functools

import numpy as np
import pandapower.networks as networks
import pandas as pd

from sdv_constrained_diffusion.power.nets import solved_row

LINE = {'length_km': 20.0, 'r_ohm_per_km': 0.1, 'x_ohm_per_km': 0.4, 'c_nf_per_km': 9.0, 'max_i_ka': 1.0}
"""An overhead line of 110 kV, for `pandapower.create_line_from_parameters`."""


@functools.cache
def _loaded(name):
    return getattr(networks, name)()


def case(name):
    """A fresh copy of a pandapower case: reading it from its file takes fifty times as long."""
    return copy.deepcopy(_loaded(name))


@functools.cache
def operating_points(name='case5', num_rows=7):
    """Power-flow solutions under random loads; an odd number, so that the median is one of them."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(num_rows):
        net = case(name)
        net.load['p_mw'] *= random.uniform(0.8, 1.2, len(net.load))
        net.load['q_mvar'] *= random.uniform(0.8, 1.2, len(net.load))
        rows.append(solved_row(net))
    return pd.concat(rows, ignore_index=True)
