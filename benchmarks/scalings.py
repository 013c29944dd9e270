"""How numbers enter the model: quantiles to a normal, an affine map, or whitened principal axes, at equal time.

    OMP_NUM_THREADS=1 python benchmarks/scalings.py [CPU seconds of training] [seed]

On PJM 5-bus operating points (sharp laws between columns), whose generated rows are judged as drawn and as projected
onto the power flow, and on the numbers of a table of sums, products and heavy tails without laws. Half of each table
trains, the other half judges.
"""

import dataclasses
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from pandapower.networks import case5
from scipy.stats import ks_2samp

from record import record
from sdv_constrained_diffusion import PowerFlow
from sdv_constrained_diffusion.constraints.feasibility import violations
from sdv_constrained_diffusion.diffusion.plan import TrainingPlan
from sdv_constrained_diffusion.diffusion.presets import default_preset
from sdv_constrained_diffusion.guidance.finishing import Finisher
from sdv_constrained_diffusion.model import DiffusionModel
from sdv_constrained_diffusion.power import scenarios
from sdv_constrained_diffusion.report.classifier import real_or_synthetic_auc
from sdv_constrained_diffusion.tabular.arrangement import SCALINGS
from sdv_constrained_diffusion.tabular.columns import AffineCodec

NUM_ROWS = 10_000
NULL = 1e-9
"""Principal axes of less than this share of the largest variance are left out: they are laws, not freedom."""

Space = tuple[str, Callable[[pd.DataFrame], pd.DataFrame], Callable[[pd.DataFrame], pd.DataFrame]]
"""The encoder's scaling, and a map of tables into the space that it is applied in, and back."""


class StandardCodec(AffineCodec):
    """Mean 0 and variance 1."""

    @classmethod
    def fit(cls, values: np.ndarray) -> AffineCodec:
        return cls(torch.from_numpy(values.mean(0)), torch.from_numpy(values.std(0)))


SCALINGS['standard'] = lambda values, stepped: StandardCodec.fit(values)


def whitened(train: pd.DataFrame) -> Space:
    """Principal axes of the standardised columns."""
    mean, spread = train.mean(), train.std().replace(0, 1)
    variances, directions = np.linalg.eigh(np.cov(((train - mean) / spread).to_numpy().T))
    axes = directions[:, variances > NULL * variances.max()]
    return (
        'standard',
        lambda data: pd.DataFrame(((data - mean) / spread).to_numpy() @ axes).add_prefix('axis'),
        lambda data: pd.DataFrame(data.to_numpy() @ axes.T, columns=train.columns) * spread + mean,
    )


def spaces(train: pd.DataFrame) -> dict[str, Space]:
    def unchanged(data: pd.DataFrame) -> pd.DataFrame:
        return data

    return {
        'quantile': ('quantile', unchanged, unchanged),
        'affine': ('standard', unchanged, unchanged),
        'whitened': whitened(train),
    }


def heavy_tails(num_rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    a, b, c = rng.lognormal(0, 1.5, num_rows), rng.uniform(-1, 1, num_rows), rng.standard_t(2, num_rows)
    noise = rng.normal(size=(3, num_rows))
    mode = np.where(b > 0, 4.0, -4.0) + noise[0]
    return pd.DataFrame({'a': a, 'b': b, 'c': c, 'sum': a + c + 0.1 * noise[1], 'product': a * b, 'mode': mode})


def ks_complement(real: pd.DataFrame, synthetic: pd.DataFrame) -> float:
    varies = [name for name in real if real[name].std() > 0]
    return float(np.mean([1 - ks_2samp(real[name], synthetic[name]).statistic for name in varies]))


def judged(held_out: pd.DataFrame, synthetic: pd.DataFrame, seed: int) -> dict[str, float]:
    columns = {name: {'sdtype': 'numerical'} for name in held_out}
    auc = real_or_synthetic_auc(held_out, synthetic, columns, seed)
    return {'c2st_auc': round(auc, 4), 'ks_complement': round(ks_complement(held_out, synthetic), 4)}


def measure(table: str, data: pd.DataFrame, law: PowerFlow | None, cpu_seconds: float, seed: int) -> None:
    train = data.iloc[: len(data) // 2].reset_index(drop=True)
    held_out = data.iloc[len(data) // 2 :].reset_index(drop=True)
    record('scalings', table=table, space='floor', seed=seed, **judged(held_out, train, seed))
    for name, (scaling, into, back) in spaces(train).items():
        preset = dataclasses.replace(default_preset(), scaling=scaling)
        plan = TrainingPlan(epochs=None, max_time=cpu_seconds)
        model = DiffusionModel.fit(into(train), preset, plan, continuous=list(into(train).columns), seed=seed)
        drawn = back(model.sample(len(train)))
        figures = {f'drawn_{figure}': value for figure, value in judged(held_out, drawn, seed).items()}
        if law is not None:
            finished, _, _ = Finisher.fit([law], train, {}).finish(drawn)
            figures |= {'drawn_mismatch_mean_mw': float(violations([law], drawn)[1].mean())}
            figures |= {f'projected_{figure}': value for figure, value in judged(held_out, finished, seed).items()}
        record('scalings', table=table, space=name, cpu_seconds=cpu_seconds, seed=seed, **figures)


def main() -> None:
    cpu_seconds, seed = [*sys.argv[1:], *['60', '0'][len(sys.argv) - 1 :]]
    net = case5()
    solved = scenarios.generate(net, NUM_ROWS, int(seed), low=0.8, high=1.2, flow_limit='current', progress=False)
    law = PowerFlow.from_pandapower(net)
    measure('pjm5', solved.table[list(law.columns)], law, float(cpu_seconds), int(seed))
    measure('heavy tails', heavy_tails(NUM_ROWS, int(seed)), None, float(cpu_seconds), int(seed))


if __name__ == '__main__':
    main()
