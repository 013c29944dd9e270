"""Power-flow tables at working scale: feasibility, fidelity beside its floor, cost, and use of the rows for training.

    OMP_NUM_THREADS=1 python benchmarks/power.py
    OMP_NUM_THREADS=1 python benchmarks/power.py --networks case118 --forms apart --max-time 600 --seed 1
    python benchmarks/power.py --again

Half of the real rows trains, the other half judges; the training half judged as if it were synthetic is the floor. Two
forms of a table: 'wide', p, q, vm and va of each bus, and 'apart', with demand of loads and generation of generators.
Models stay in `results/models`; with `--again` they are not trained but sampled, by as many threads as torch has.
"""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import argparse
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sdv.utils import load_synthesizer
from sklearn.neural_network import MLPRegressor

from record import RESULTS, record
from sdv_constrained_diffusion import (
    ConstrainedDiffusionSynthesizer,
    OperatingLimits,
    PowerFlow,
    operating_point_metadata,
)
from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.feasibility import violations
from sdv_constrained_diffusion.power import scenarios, tables
from sdv_constrained_diffusion.power.networks import read_network
from sdv_constrained_diffusion.report.classifier import auc_standard_error, real_or_synthetic_auc

NUM_BINS = 40
DISPATCHED = 500
TABLE = 'operating_points'
DEMAND = ('pd_mw', 'qd_mvar')
FORMS = {'wide': tables.WIDE, 'apart': tables.APART}


@dataclass(frozen=True)
class Case:
    """How operating points of a network are drawn; loads between 80 and 120 % of nominal.

    Attributes:
        power_factor: 'constant': one factor for p and q of a load, 'independent': one for each.
        flow_limit: what the optimal power flow limits.
    """

    power_factor: str
    flow_limit: str


CASES = {
    'case5': Case('independent', 'current'),
    'case24_ieee_rts': Case('constant', 'apparent'),
    'case118': Case('constant', 'apparent'),
}


def operating_points(name: str, case: Case, num_rows: int, seed: int) -> tuple[Any, pd.DataFrame]:
    """The network, and its solved rows in both forms, kept for the next run; what they cost is recorded when made."""
    net, folder = read_network(name), RESULTS / 'points' / f'{name}-{num_rows}-{seed}'
    before = time.process_time()
    facts = scenarios.generate_to(
        folder,
        net,
        num_rows,
        seed,
        case.flow_limit,
        workers=1,
        loads=scenarios.UniformLoads(0.8, 1.2, case.power_factor),
        quantities=tuple(dict.fromkeys((*tables.WIDE, *tables.APART))),
    )
    cpu_s = time.process_time() - before
    if cpu_s > 1e-3 * num_rows:  # else they lay there
        record('power', network=name, seed=seed, rows=num_rows, opf_per_cpu_s=round(facts['draws'] / cpu_s, 1))
    return net, scenarios.Scenarios.load(folder).table


def wasserstein(one: np.ndarray, other: np.ndarray) -> float:
    """Exact joint W1, Euclidean, of two tables of equally many rows, shape (row, column)."""
    distance = cdist(one, other)
    return float(distance[linear_sum_assignment(distance)].mean())


def spreads(column: pd.Series) -> bool:
    """Whether a column of numbers has more than one value, the last digits of a solver aside."""
    known = column.dropna()
    return bool(np.ptp(known) > 1e-9 * known.abs().max())


def divergence(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Mean over columns of KL(real || synthetic) of histograms: bins over the real range, and what lies outside it.

    Every bin counts half a row more than it has, so that an empty one costs much, but not everything.
    """
    found = []
    for mine, its in zip(real.T, synthetic.T, strict=True):
        edges = np.linspace(mine.min(), mine.max(), NUM_BINS + 1)
        edges[0], edges[-1] = edges[0] - 1e-9, edges[-1] + 1e-9
        edges = np.r_[-np.inf, edges, np.inf]
        p, q = (np.histogram(each, edges)[0] + 0.5 for each in (mine, its))
        p, q = p / p.sum(), q / q.sum()
        found.append((p * np.log(p / q)).sum())
    return float(np.mean(found))


def regression_error(train: pd.DataFrame, test: pd.DataFrame, scale: pd.Series, seed: int) -> float:
    """RMSE, in standard deviations, of a small network that learns dispatch and voltages from loads."""
    given = [name for name in train.columns if name.startswith(DEMAND)]
    asked = [name for name in train.columns if name not in given]
    mean = test.mean()
    features, targets = ((train[names] - mean[names]) / scale[names] for names in (given, asked))
    # No early stopping: sklearn stops by a mean of R^2 that one column at its limit in nearly all rows decides.
    network = MLPRegressor(hidden_layer_sizes=(128, 128), alpha=1.0, random_state=seed, max_iter=200)
    network.fit(features, targets)
    errors = network.predict((test[given] - mean[given]) / scale[given]) - (test[asked] - mean[asked]) / scale[asked]
    return float(np.sqrt((errors**2).to_numpy().mean()))


def judge(synthetic: pd.DataFrame, training: pd.DataFrame, held_out: pd.DataFrame, seed: int) -> dict[str, float]:
    """Figures of fidelity and their floors."""
    varies = [name for name in held_out.columns if spreads(held_out[name])]
    scale = held_out[varies].std()
    kinds = {name: {'sdtype': 'numerical'} for name in varies}
    figures: dict[str, float] = {'columns': len(varies)}
    loads = any(name.startswith(DEMAND) for name in varies)
    arrays = {key: (each[varies] / scale).to_numpy() for key, each in
              {'synthetic': synthetic, 'floor': training, 'real': held_out}.items()}  # fmt: skip
    for key, table in (('', synthetic), ('floor_', training)):
        mine = arrays['floor' if key else 'synthetic']
        figures |= {
            f'{key}w1': wasserstein(mine, arrays['real']),
            f'{key}kl': divergence(arrays['real'], mine),
            f'{key}c2st_auc': real_or_synthetic_auc(held_out[varies], table[varies], kinds, seed),
        }
        if loads:
            figures[f'{key}tstr_error'] = regression_error(table[varies], held_out[varies], scale, seed)
    figures |= {
        'w1_ratio': figures['w1'] / figures['floor_w1'],
        'kl_ratio': figures['kl'] / figures['floor_kl'],
        'c2st_standard_error': auc_standard_error(len(held_out)),
    }
    if loads:
        figures['tstr_ratio'] = figures['tstr_error'] / figures['floor_tstr_error']
    return figures


def trained(
    path: Path, training: pd.DataFrame, laws: list[Constraint], max_time: float, seed: int
) -> tuple[ConstrainedDiffusionSynthesizer, float]:
    """A synthesizer, and the CPU seconds of its training."""
    metadata = operating_point_metadata(training, TABLE)
    synthesizer = ConstrainedDiffusionSynthesizer(metadata, max_time=max_time, seed=seed, enable_gpu=False)
    synthesizer.add_constraints(laws)
    before = time.process_time()
    synthesizer.fit({TABLE: training})
    fit_cpu_s = time.process_time() - before
    path.parent.mkdir(parents=True, exist_ok=True)
    synthesizer.save(str(path))
    return synthesizer, fit_cpu_s


def dispatch(
    synthesizer: ConstrainedDiffusionSynthesizer, held_out: pd.DataFrame, laws: list[Constraint], sn_mva: float
) -> dict[str, float]:
    """Dispatch and voltages for the demand of real instances that the model has not seen."""
    demand = held_out[[column for column in held_out if column.startswith(DEMAND)]].head(DISPATCHED)
    before, wall = time.process_time(), time.perf_counter()
    rows = synthesizer.sample_remaining_columns(demand)[TABLE]
    cpu_s, wall_s = time.process_time() - before, time.perf_counter() - wall
    off, beyond = (violations([each], rows)[1] for each in laws)
    return {
        'dispatched': len(rows),
        'dispatch_exact': bool((rows[demand.columns].to_numpy() == demand.to_numpy()).all()),
        'dispatch_mismatch_pu': float(off.max() / sn_mva),
        'dispatch_within_limits': float((beyond <= np.array(laws[1].tolerance)).all(axis=1).mean()),
        'dispatch_cpu_s': round(cpu_s, 2),
        'dispatch_wall_s': round(wall_s, 2),
    }


def measure(name: str, form: str, num_rows: int, max_time: float, seed: int, again: bool) -> None:
    """Trains and judges one model; with `again` it takes the last one and draws its rows once more."""
    case = CASES[name]
    net, rows = operating_points(name, case, num_rows, seed)
    rows = rows[[column for column in rows if column.startswith(FORMS[form])]]
    order = np.random.default_rng(seed).permutation(num_rows)
    training, held_out = (rows.iloc[part].reset_index(drop=True) for part in np.split(order, 2))
    flow = PowerFlow.from_pandapower(net, table=rows.columns)
    limits = OperatingLimits.from_pandapower(net, table=rows.columns, flow_limit=case.flow_limit)
    path, cost = RESULTS / 'models' / f'{name}-{form}-{max_time:g}-{seed}.pkl', {}
    if again:
        synthesizer = load_synthesizer(str(path))
        synthesizer.reset_sampling()
    else:
        synthesizer, fit_cpu_s = trained(path, training, [flow, limits], max_time, seed)
        cost = {'fit_cpu_s': round(fit_cpu_s, 1)}
    before, wall = time.process_time(), time.perf_counter()
    synthetic = synthesizer.sample(num_rows)[TABLE]
    sample_cpu_s, sample_wall_s = time.process_time() - before, time.perf_counter() - wall
    projection = synthesizer.get_projection_summary().iloc[0]
    off, beyond = (violations([each], synthetic)[1] for each in (flow, limits))
    record(
        'power',
        network=name,
        form=form,
        seed=seed,
        training_rows=len(training),
        max_time=max_time,
        **cost,
        mismatch_pu=float(off.max() / net.sn_mva),
        share_within_limits=float((beyond <= np.array(limits.tolerance)).all(axis=1).mean()),
        sample_rows=num_rows,
        sample_threads=torch.get_num_threads(),
        sample_wall_s=round(sample_wall_s, 2),
        sample_cpu_s=round(sample_cpu_s, 2),
        replaced=int(projection.num_replaced),
        displacement_median=float(projection.displacement_median),
        **(dispatch(synthesizer, held_out, [flow, limits], net.sn_mva) if form == 'apart' else {}),
        **judge(synthetic.head(len(held_out)), training, held_out, seed),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--networks', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--forms', nargs='+', choices=FORMS, default=list(FORMS))
    parser.add_argument('--rows', type=int, default=5000, help='real rows, half of which train')
    parser.add_argument('--max-time', type=float, default=600, help='CPU seconds of training')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--again', action='store_true', help='sample and judge the models of an earlier run')
    options = parser.parse_args()
    for name, form in itertools.product(options.networks, options.forms):
        measure(name, form, options.rows, options.max_time, options.seed, options.again)


if __name__ == '__main__':
    main()
