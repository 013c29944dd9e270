"""What constraints cost and what they keep: steering, rounding, fixed values, rates. One JSON line per figure.

    OMP_NUM_THREADS=1 python benchmarks/constraints.py [--only case ...] [--seed 0]

Cases: steering, accounting, shares, conditions, rates, projection, batches. Distances between tables are the mean over
columns that vary of the Kolmogorov-Smirnov distance. The floor is the same distance between two halves of real rows
near the constraint, each as large as the table of rows that obey it. CPU seconds of one thread.
"""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import argparse
import functools
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandapower.networks
import pandas as pd
import torch
from scipy.stats import ks_2samp
from sdmetrics.reports import QualityReport
from sdv.cag import SingleTableProgrammableConstraint
from sdv.metadata import Metadata
from sdv.single_table import GaussianCopulaSynthesizer

from record import record
from sdv_constrained_diffusion import (
    Bounds,
    ConstrainedDiffusionSynthesizer,
    Constraint,
    Ordered,
    SumTo,
    constraint,
)
from sdv_constrained_diffusion.constraints.feasibility import share_feasible, violations
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.projection import ResultCode, project
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.scenarios import generate

TABLE = 'table'
NUM_ROWS = 10_000
"""Operating points of the IEEE 14-bus system."""

NUM_STEERED = 500
"""Rows that are compared at a time."""

TARGET_SHARE = 0.15
ON_BOUNDARY = 1e-6
"""Rows nearer to a limit than this, in column standard deviations, lie on it."""

RATES = {'food': 0.07, 'book': 0.0, 'luxury': 0.19}


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def fit(data: pd.DataFrame, laws: Sequence[Constraint], **arguments: Any) -> ConstrainedDiffusionSynthesizer:
    synthesizer = ConstrainedDiffusionSynthesizer(Metadata.detect_from_dataframes({TABLE: data}), **arguments)
    synthesizer.add_constraints(list(laws))
    synthesizer.fit({TABLE: data})
    return synthesizer


def distance(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """Mean KS distance of the columns that vary; a solver's last digits do not count."""
    varies = [name for name in other if np.ptp(other[name]) > 1e-7 * np.abs(other[name]).max()]
    return float(np.mean([ks_2samp(one[name].round(7), other[name].round(7)).statistic for name in varies]))


@functools.cache
def grid() -> tuple[Any, pd.DataFrame]:
    net = pandapower.networks.case14()
    return net, generate(net, NUM_ROWS, seed=0, progress=False).table


@functools.cache
def grid_synthesizer(seed: int) -> ConstrainedDiffusionSynthesizer:
    net, real = grid()
    return fit(real, [PowerFlow.from_pandapower(net)], seed=seed)


def steering(seed: int) -> None:
    """New constraints after training: distribution against the real rows that obey them, and against rejection."""
    net, real = grid()
    loads = [f'p_mw_{bus}' for bus in sorted(set(net.load.bus) - set(net.gen.bus) - set(net.ext_grid.bus))]
    total = real[loads].sum(axis=1)
    near = (total - total.quantile(1 - TARGET_SHARE)).abs().argsort().to_numpy()
    equality = SumTo(loads, float(total.quantile(1 - TARGET_SHARE)), tolerance=1e-6, unit='MW')
    steer('steering equality', equality, real.iloc[near[:NUM_STEERED]], real.iloc[near[: 2 * NUM_STEERED]], seed)

    column = 'vm_pu_13'
    for share in (TARGET_SHARE, 0.05):
        limit = float(real[column].quantile(1 - share))
        obey = real[real[column] >= limit]
        law = Bounds(column, lower=limit, unit='p.u.')
        steer(f'steering inequality, {share:.0%} of rows', law, obey.sample(NUM_STEERED, random_state=seed), obey, seed)
        rejection(column, limit, obey.sample(NUM_STEERED, random_state=seed), seed)


def steer(case: str, law: Constraint, reference: pd.DataFrame, around: pd.DataFrame, seed: int) -> None:
    synthesizer = grid_synthesizer(seed)
    laws = synthesizer.get_constraints()
    floor = float(np.mean([_halves(around, min(len(reference), len(around) // 2), split) for split in range(10)]))
    added, _ = cpu_seconds(lambda: synthesizer.add_constraints([law]))
    sampling, rows = cpu_seconds(lambda: synthesizer.sample(len(reference))[TABLE])
    synthesizer.guidance = 'none'
    column = law.columns[0]
    projected = distance(synthesizer.sample(len(reference))[TABLE], reference) if len(law.columns) > 1 else None
    synthesizer.guidance = 'gauss_newton'
    edge = (rows[column] - law.lower).abs() <= ON_BOUNDARY * reference[column].std()
    record(
        'constraints',
        case=case,
        law=law.name,
        ks=distance(rows, reference),
        floor=floor,
        ks_projection_alone=projected,
        share_within_tolerance=share_feasible([*laws, law], rows),
        share_on_boundary=float(edge.mean()) if len(law.columns) == 1 else None,
        rows=len(rows),
        cpu_seconds_to_add=round(added, 1),
        cpu_seconds_to_sample=round(sampling, 1),
        seed=seed,
    )
    synthesizer.remove_constraints([law])


class AtLeast(SingleTableProgrammableConstraint):
    """A column's lower limit as a constraint that SDV draws rows again for."""

    def __init__(self, column: str, limit: float) -> None:
        self.column, self.limit = column, limit

    def fit(self, data: pd.DataFrame, metadata: Any) -> None:
        """Needs nothing."""

    def transform(self, data: pd.DataFrame) -> pd.DataFrame:
        return data

    def get_updated_metadata(self, metadata: Any) -> Any:
        return metadata

    def reverse_transform(self, transformed_data: pd.DataFrame) -> pd.DataFrame:
        return transformed_data

    def is_valid(self, synthetic_data: pd.DataFrame) -> pd.Series:
        return synthetic_data[self.column] >= self.limit


def rejection(column: str, limit: float, reference: pd.DataFrame, seed: int) -> None:
    """The same inequality with SDV's GaussianCopula: by its own constraint, and by drawing and filtering."""
    _, real = grid()
    metadata = Metadata.detect_from_dataframes({TABLE: real})
    copula = GaussianCopulaSynthesizer(metadata)
    try:
        copula.add_constraints([AtLeast(column, limit)])
        fitting, _ = cpu_seconds(lambda: copula.fit({TABLE: real}))
        sampling, rows = cpu_seconds(lambda: copula.sample(len(reference))[TABLE])
        figures = {'rows': len(rows), 'ks': distance(rows, reference), 'cpu_seconds_to_sample': round(sampling, 1)}
    except Exception as error:
        figures = {'said': f'{type(error).__name__}: {error}'.replace('\n', ' ')[:160]}
    law = f'{column} >= {limit:.4f}'
    record('constraints', case='GaussianCopula with the inequality as an SDV constraint', law=law, **figures, seed=seed)

    copula = GaussianCopulaSynthesizer(metadata)
    fitting, _ = cpu_seconds(lambda: copula.fit({TABLE: real}))
    kept, drawn, start = [], 0, time.process_time()
    while sum(map(len, kept)) < len(reference) and drawn < 1_000_000:
        rows = copula.sample(5 * len(reference))[TABLE]
        drawn += len(rows)
        kept.append(rows[rows[column] >= limit])
    rows = pd.concat(kept).head(len(reference))
    flow = PowerFlow.from_pandapower(grid()[0])
    record(
        'constraints',
        case='GaussianCopula, rows drawn and filtered',
        law=law,
        ks=distance(rows, reference),
        share_obeying_power_flow=share_feasible([flow], rows),
        rows=len(rows),
        rows_drawn=drawn,
        cpu_seconds_to_fit=round(fitting, 1),
        cpu_seconds_to_sample=round(time.process_time() - start, 1),
        seed=seed,
    )


def _halves(rows: pd.DataFrame, size: int, seed: int) -> float:
    """Distance of two disjoint sets of real rows."""
    drawn = rows.sample(2 * size, random_state=seed)
    return distance(drawn.iloc[:size], drawn.iloc[size:])


@constraint(columns=['category', 'net', 'tax'], tolerance=0.005 + 1e-9, unit='EUR')
def tax_law(table: Any) -> torch.Tensor:
    """The tax is the category's rate of the net amount, rounded to the cent."""
    return table.tax - table.category.map(RATES) * table.net


def invoices(num_rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    category = rng.choice(list(RATES), num_rows, p=[0.5, 0.3, 0.2])
    net = (rng.gamma(2, 60, num_rows) * np.where(category == 'luxury', 4, 1)).round(2).clip(1)
    tax = (pd.Series(category).map(RATES).to_numpy() * net).round(2)
    issued = pd.Timestamp('2023-01-01') + pd.to_timedelta(rng.integers(0, 700, num_rows), 'D')
    due = issued + pd.to_timedelta(rng.integers(14, 60, num_rows), 'D')
    paid = np.maximum(due + pd.to_timedelta(rng.integers(-30, 25, num_rows), 'D'), issued)
    money = {'category': category, 'net': net, 'tax': tax, 'total': (net + tax).round(2)}
    return pd.DataFrame({**money, 'issued': issued, 'due': due, 'paid': paid})


def accounting(seed: int) -> None:
    data = invoices(20_000, seed)
    laws = [SumTo(['net', 'tax'], 'total', unit='EUR'), tax_law, Ordered('issued', 'due'), Ordered('issued', 'paid')]
    metadata = Metadata.detect_from_dataframes({TABLE: data})
    shapes, figures = {}, {}
    for label, chosen in {'constrained': laws, 'unconstrained': []}.items():
        synthesizer = fit(data, chosen, seed=seed, discover_laws=bool(chosen))
        seconds, rows = cpu_seconds(functools.partial(synthesizer.sample, len(data)))
        report = QualityReport()
        report.generate({TABLE: data}, rows, metadata.to_dict(), verbose=False)
        shapes[label] = report.get_properties().set_index('Property')['Score']['Column Shapes']
        money = rows[TABLE][['net', 'tax', 'total']]
        figures |= {
            f'share_valid_{label}': share_feasible(laws, rows[TABLE]),
            f'share_in_cents_{label}': float((money == money.round(2)).all(axis=1).mean()),
            f'cpu_seconds_to_sample_{label}': round(seconds, 1),
        }
    record('constraints', case='accounting', **figures, **{f'shapes_{k}': v for k, v in shapes.items()}, seed=seed)


def shares(seed: int) -> None:
    """Ten shares of one decimal that come to 100."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, 1001, (5000, 9)), axis=1)
    tenths = np.diff(np.c_[np.zeros(5000), cuts, np.full(5000, 1000)], axis=1)
    data = pd.DataFrame(tenths / 10).add_prefix('s')
    law = SumTo(list(data.columns), 100, tolerance=1e-9, unit='%')
    synthesizer = fit(data, [law], seed=seed)
    seconds, rows = cpu_seconds(lambda: synthesizer.sample(5000)[TABLE])
    record(
        'constraints',
        case='ten shares of one decimal that come to 100',
        share_valid=share_feasible([law], rows),
        share_of_one_decimal=float((rows == rows.round(1)).all(axis=1).mean()),
        ks=distance(rows, data),
        floor=distance(data.iloc[:2500], data.iloc[2500:]),
        cpu_seconds_to_sample=round(seconds, 1),
        seed=seed,
    )


def conditions(seed: int) -> None:
    """A thousand rows whose loads are given: every given value exact, power flow on all."""
    net, real = grid()
    synthesizer = grid_synthesizer(seed)
    buses = sorted(set(net.load.bus) - set(net.gen.bus) - set(net.ext_grid.bus))
    names = [f'{quantity}_{bus}' for quantity in ('p_mw', 'q_mvar') for bus in buses]
    rng = np.random.default_rng(seed)
    given = real[names].sample(1000, random_state=seed).reset_index(drop=True) * rng.uniform(0.97, 1.03, (1000, 1))
    seconds, rows = cpu_seconds(lambda: synthesizer.sample_remaining_columns(given))
    rows = rows[TABLE] if isinstance(rows, dict) else rows
    _, mismatch = violations([PowerFlow.from_pandapower(net)], rows)
    record(
        'constraints',
        case='1,000 rows with given loads, and power flow',
        rows=len(rows),
        largest_change_of_a_given_value=float((rows[names].to_numpy() - given.to_numpy()).__abs__().max()),
        largest_mismatch_pu=float(mismatch.max() / net.sn_mva),
        cpu_seconds=round(seconds, 1),
        seed=seed,
    )


def rates(seed: int) -> None:
    """Rows per second with guidance and projection against plain rows, in turns."""
    synthesizer, seconds = grid_synthesizer(seed), {True: [], False: []}
    for turn in range(10):
        constrained = turn % 2 == 0
        synthesizer.guidance, synthesizer.projection = ('gauss_newton' if constrained else 'none'), constrained
        synthesizer._model.set_random_state(turn)
        seconds[constrained].append(cpu_seconds(lambda: synthesizer.sample(2048))[0])
    synthesizer.guidance, synthesizer.projection = 'gauss_newton', True
    plain, guided = (2048 / float(np.median(seconds[kind])) for kind in (False, True))
    record(
        'constraints',
        case='sampling rate, guided and projected against plain',
        rows_per_second_guided=round(guided),
        rows_per_second_plain=round(plain),
        ratio=guided / plain,
        seed=seed,
    )


def projection(seed: int) -> None:
    """Rows of 118 buses as far from the power flow as a trained denoiser leaves them, projected."""
    net = pandapower.networks.case118()
    real = generate(net, 400, seed=seed, progress=False).table
    flow = PowerFlow.from_pandapower(net)
    system = ConstraintSystem([flow], real)
    values = system.values(real)
    chord = Chord(system, values)
    generator = torch.Generator().manual_seed(seed)
    rows = values.repeat(10, 1)
    # A hundredth of a standard deviation; constant columns stay.
    rows = rows + 0.01 * chord.scale * torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    fixed = torch.zeros_like(rows, dtype=torch.bool)
    project(chord, rows[:10], fixed[:10])
    seconds = [cpu_seconds(lambda: project(chord, rows, fixed)) for _ in range(5)]
    before = system.violation(system.residual(rows)) / net.sn_mva
    projected = seconds[0][1]
    after = system.violation(system.residual(projected.values)) / net.sn_mva
    record(
        'constraints',
        case='projection alone, 118 buses',
        rows_per_second=round(len(rows) / float(np.median([each for each, _ in seconds]))),
        mean_mismatch_before_pu=float(before.mean()),
        largest_mismatch_after_pu=float(after.max()),
        share_converged=float((projected.codes == ResultCode.CONVERGED).double().mean()),
        displacement_median=float(projected.displacement.median()),
        seed=seed,
    )


def batches(seed: int) -> None:
    """The same rows, bit by bit, in batches of any size, with a steering constraint, too."""
    synthesizer = grid_synthesizer(seed)
    _, real = grid()
    law = Bounds('vm_pu_13', lower=float(real['vm_pu_13'].quantile(0.95)))
    equal = {}
    for label, laws in {'learned': [], 'steered': [law]}.items():
        synthesizer.add_constraints(laws)
        tables = []
        for size in (1000, 7, 333):
            synthesizer.reset_sampling()
            tables.append(synthesizer.sample(1000, batch_size=size)[TABLE].to_numpy())
        equal[f'bit_equal_{label}'] = all(np.array_equal(tables[0], other) for other in tables[1:])
        synthesizer.remove_constraints(laws)
    record('constraints', case='row independence', batch_sizes=[1000, 7, 333], **equal, seed=seed)


CASES = {each.__name__: each for each in (steering, accounting, shares, conditions, rates, projection, batches)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', nargs='*', choices=CASES, default=list(CASES))
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter('ignore')
    for name in arguments.only:
        CASES[name](arguments.seed)


if __name__ == '__main__':
    main()
