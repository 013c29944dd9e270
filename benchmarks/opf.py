"""Rate of the compiled optimal power flow against a loop over `pandapower.runopp`, on the same loads in one run.

    OMP_NUM_THREADS=1 python benchmarks/opf.py

CPU seconds of one thread. Both sides count every draw, solved or not; building the problem is reported apart. The same
draws are solved once more by a problem that serves any topology, and with a branch out of service in each.
"""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import time
from dataclasses import replace

import numpy as np
import pandapower
import pandapower.networks
from pandapower.optimal_powerflow import OPFNotConverged

from record import record
from sdv_constrained_diffusion.power.scenarios.draws import Draw, OperatingPoint
from sdv_constrained_diffusion.power.scenarios.models.outages import removable_branches
from sdv_constrained_diffusion.power.scenarios.solvers.opf import OptimalPowerFlow

SEED = 0
DRAWS = {'case5': (1000, 40), 'case24_ieee_rts': (400, 20)}
"""Network to the number of draws for the compiled problem and, of those, for the much slower `runopp`."""


START = {'case5': 'pf', 'case24_ieee_rts': 'flat'}
"""Where `runopp` starts: from a flat start it does not converge on case5."""


def cpu_seconds(work) -> tuple[float, list]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def runopp_cost(net, draw: Draw) -> float:
    net.load['p_mw'], net.load['q_mvar'] = draw.pd_mw, draw.qd_mvar
    try:
        pandapower.runopp(net, numba=False, init=START[net.name])
    except OPFNotConverged:
        return np.nan
    return net.res_cost


def solved(opf: OptimalPowerFlow, draws: list[Draw]) -> tuple[float, list[OperatingPoint]]:
    return cpu_seconds(lambda: [opf.solve(draw) for draw in draws])


def compare(name: str, num_draws: int, draws_runopp: int) -> None:
    net = getattr(pandapower.networks, name)()
    net.name = name
    build_s, opf = cpu_seconds(lambda: OptimalPowerFlow(net, 'current'))
    any_topology = OptimalPowerFlow(net, 'current', topology_varies=True)
    nominal, random = opf.drawable.nominal, np.random.default_rng(SEED)
    assert opf.drawable.loads == tuple(map(str, net.load.index))
    factors = random.uniform(0.8, 1.2, (num_draws, 2, len(nominal.pd_mw)))
    draws = [replace(nominal, pd_mw=p * nominal.pd_mw, qd_mvar=q * nominal.qd_mvar) for p, q in factors]
    outages = random.choice(removable_branches(net)[0], num_draws)
    ours_s, points = solved(opf, draws)
    same_s, _ = solved(any_topology, draws)
    outages_s, out = solved(any_topology, [replace(d, topology=each) for d, each in zip(draws, outages, strict=True)])
    theirs_s, costs = cpu_seconds(lambda: [runopp_cost(net, draw) for draw in draws[:draws_runopp]])
    gaps = [abs(p.cost / c - 1) for p, c in zip(points, costs, strict=False) if p.solved and np.isfinite(c)]
    rate, rate_runopp = num_draws / ours_s, draws_runopp / theirs_s
    record(
        'opf',
        network=name,
        seed=SEED,
        flow_limit='current',
        draws=num_draws,
        draws_runopp=draws_runopp,
        build_cpu_s=round(build_s, 3),
        rows_per_cpu_s=round(rate, 1),
        rows_per_cpu_s_any_topology=round(num_draws / same_s, 1),
        rows_per_cpu_s_outages=round(num_draws / outages_s, 1),
        runopp_rows_per_cpu_s=round(rate_runopp, 2),
        ratio=round(rate / rate_runopp, 1),
        solved=sum(p.solved for p in points),
        solved_outages=sum(p.solved for p in out),
        solved_runopp=int(np.isfinite(costs).sum()),
        largest_relative_cost_gap=max(gaps, default=None),
    )


if __name__ == '__main__':
    for case, (number, number_runopp) in DRAWS.items():
        compare(case, number, number_runopp)
