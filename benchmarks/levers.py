"""What a change of the default recipe gains at equal CPU time: each lever by itself, beside the recipe as it is.

    OMP_NUM_THREADS=1 python benchmarks/levers.py --tasks adult --seeds 2 --levers as-is batch-256 --budgets 120

One model for each task, seed, budget and lever, of which several tables are drawn; the figures are their means. The
models' seed is apart from the task's, so that two models of one recipe tell what chance does. Where the network has
hinges, as on Adult and 24 buses, `noise` and `rows` change what these see as well: the part of the row that is skipped.
"""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import argparse
import itertools
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor, nn

from contestant import TABLE, metadata_of, our_synthesizer
from fidelity import judged
from record import record
from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.diffusion.axes import PrincipalAxes, Scales
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser, PreconditionedDenoiser
from sdv_constrained_diffusion.diffusion.devices import matching
from sdv_constrained_diffusion.diffusion.presets import Preset, default_preset
from tasks import TASKS, Task

FIGURES = ('c2st_auc', 'c2st_whitened_auc', 'shapes_error_percent', 'trends_error_percent', 'dcr_share', 'usefulness')


class NoiseAxes(PrincipalAxes):
    """The network says the noise: `x0_hat = x - sigma F`. The recipe's own scales are those of v up to the sign."""

    def scales(self, sigma: Tensor) -> Scales:
        scales = super().scales(sigma)
        return Scales(scales.skip.new_ones(scales.skip.shape), scales.inside, -sigma.expand_as(scales.inside))


class CleanAxes(PrincipalAxes):
    """The network says the clean coordinates, in their deviations."""

    def scales(self, sigma: Tensor) -> Scales:
        scales = super().scales(sigma)
        deviations = matching(self.variances, sigma).sqrt()
        return Scales(scales.skip.new_zeros(scales.skip.shape), scales.inside, deviations.expand_as(scales.inside))


def _changed(preset: Preset, change: Callable[[PreconditionedDenoiser], None]) -> Preset:
    def build(layout: Layout, num_rows: int) -> Denoiser:
        denoiser = preset.denoiser(layout, num_rows)
        assert isinstance(denoiser, PreconditionedDenoiser)
        change(denoiser)
        return denoiser

    return replace(preset, denoiser=build)


def with_axes(kind: type[PrincipalAxes], preset: Preset) -> Preset:
    def change(denoiser: PreconditionedDenoiser) -> None:
        denoiser.axes = kind(denoiser.layout.num_numbers)

    return _changed(preset, change)


def with_norm(kind: Callable[[int], nn.Module], preset: Preset) -> Preset:
    def change(denoiser: PreconditionedDenoiser) -> None:
        for part in list(denoiser.backbone.modules()):
            if isinstance(norm := getattr(part, 'norm', None), nn.LayerNorm):
                part.norm = kind(norm.normalized_shape[0])

    return _changed(preset, change)


def with_plan(preset: Preset, **changes: float) -> Preset:
    return replace(preset, plan=replace(preset.plan, **changes))  # type: ignore[arg-type]


LEVERS: dict[str, Callable[[Preset], Preset]] = {
    'as-is': lambda preset: preset,
    'noise': partial(with_axes, NoiseAxes),
    'rows': partial(with_axes, CleanAxes),
    'rms-norm': partial(with_norm, nn.RMSNorm),
    'no-norm': partial(with_norm, lambda width: nn.Identity()),
    **{f'batch-{size}': partial(with_plan, batch_size=size) for size in (256, 1024)},
    **{f'rate-{rate}': partial(with_plan, learning_rate=rate) for rate in (0.001, 0.004)},
    **{f'decay-{decay}': partial(with_plan, weight_decay=decay) for decay in (0.3, 1.0, 2.0)},
}
"""Changes of the default recipe by name."""


def measure(task: Task, lever: str, budget: float, seed: int, draws: int) -> dict[str, object]:
    """Trains one model of the changed recipe and judges its draws."""
    metadata, preset = metadata_of(task.train, task.sdtypes), LEVERS[lever](default_preset())
    synthesizer = our_synthesizer(metadata, preset, budget, seed, task.laws)
    start = time.process_time()
    synthesizer.fit({TABLE: task.train})
    fit_s = time.process_time() - start
    try:
        tables = [judged(synthesizer.sample(len(task.train))[TABLE], task, seed) for _ in range(draws)]
    except ValueError as error:
        return {'fit_cpu_s': round(fit_s, 1), 'error': str(error)}
    means = {name: float(np.mean([each[name] for each in tables])) for name in FIGURES}  # type: ignore[misc]
    losses = synthesizer.get_loss_values()
    held_out = losses['Held-out Loss'].dropna()
    return {
        'fit_cpu_s': round(fit_s, 1),
        'epochs': len(losses),
        'lowest_held_out_loss': float(held_out.min()) if len(held_out) else None,
        **{name: round(value, 4) for name, value in means.items()},
        'c2st_draws': [round(float(each['c2st_auc']), 4) for each in tables],  # type: ignore[arg-type]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=['adult', 'case24'])
    parser.add_argument('--levers', nargs='+', choices=LEVERS, default=list(LEVERS))
    parser.add_argument('--budgets', nargs='+', type=float, default=[120], help='CPU seconds of training')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], help='of the draws and splits of tasks')
    parser.add_argument('--models', nargs='+', type=int, default=[0], help='seeds of the models')
    parser.add_argument('--draws', type=int, default=4)
    parser.add_argument('--rows', type=int, help='learn, and judge by, so many rows of each half')
    options = parser.parse_args()
    warnings.simplefilter('ignore')
    for name, seed in itertools.product(options.tasks, options.seeds):
        task = TASKS[name](seed)
        task = replace(task, train=task.train.head(options.rows), held_out=task.held_out.head(options.rows))
        of_task = {'task': name, 'rows': len(task.train), 'seed': seed}
        for budget, model, lever in itertools.product(options.budgets, options.models, options.levers):
            figures = measure(task, lever, budget, model, options.draws)
            record('levers', **of_task, budget_cpu_s=budget, model=model, lever=lever, **figures)


if __name__ == '__main__':
    main()
