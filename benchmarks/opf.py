"""Rate of the compiled optimal power flow against a loop over `pandapower.runopp`, on the same loads in one run.

    OMP_NUM_THREADS=1 python benchmarks/opf.py

CPU seconds of one thread. Both sides count every draw, solved or not; building the problem is reported apart.
"""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import time

import numpy as np
import pandapower
import pandapower.networks
from pandapower.optimal_powerflow import OPFNotConverged

from record import record
from sdv_constrained_diffusion.power.opf import OptimalPowerFlow

SEED = 0
DRAWS = {'case5': (1000, 40), 'case24_ieee_rts': (400, 20)}
"""Network to the number of draws for the compiled problem and, of those, for the much slower `runopp`."""


START = {'case5': 'pf', 'case24_ieee_rts': 'flat'}
"""Where `runopp` starts: from a flat start it does not converge on case5."""


def cpu_seconds(work) -> tuple[float, list]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def runopp_cost(net, load_buses: np.ndarray, p_mw: np.ndarray, q_mvar: np.ndarray) -> float:
    place = {bus: index for index, bus in enumerate(load_buses)}
    at = [place[bus] for bus in net.load.bus]
    net.load['p_mw'], net.load['q_mvar'] = p_mw[at], q_mvar[at]
    try:
        pandapower.runopp(net, numba=False, init=START[net.name])
    except OPFNotConverged:
        return np.nan
    return net.res_cost


def compare(name: str, draws: int, draws_runopp: int) -> None:
    net = getattr(pandapower.networks, name)()
    net.name = name
    assert net.load.bus.is_unique
    build_s, opf = cpu_seconds(lambda: OptimalPowerFlow(net, 'current'))
    factors = np.random.default_rng(SEED).uniform(0.8, 1.2, (draws, 2, len(opf.load_buses)))
    demands = list(factors * np.stack([opf.nominal_p_mw, opf.nominal_q_mvar]))
    ours_s, points = cpu_seconds(lambda: [opf.solve(*demand) for demand in demands])
    theirs_s, costs = cpu_seconds(lambda: [runopp_cost(net, opf.load_buses, *d) for d in demands[:draws_runopp]])
    gaps = [abs(p.cost / c - 1) for p, c in zip(points, costs, strict=False) if p.solved and np.isfinite(c)]
    rate, rate_runopp = draws / ours_s, draws_runopp / theirs_s
    record(
        'opf',
        network=name,
        seed=SEED,
        flow_limit='current',
        draws=draws,
        draws_runopp=draws_runopp,
        build_cpu_s=round(build_s, 3),
        rows_per_cpu_s=round(rate, 1),
        runopp_rows_per_cpu_s=round(rate_runopp, 2),
        ratio=round(rate / rate_runopp, 1),
        solved=sum(p.solved for p in points),
        solved_runopp=int(np.isfinite(costs).sum()),
        largest_relative_cost_gap=max(gaps, default=None),
    )


if __name__ == '__main__':
    for case, (number, number_runopp) in DRAWS.items():
        compare(case, number, number_runopp)
