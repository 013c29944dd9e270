"""How close training and sampling come to the machine: their floating-point rate beside that of bare matrix products.

    OMP_NUM_THREADS=1 python benchmarks/machine.py [--widths 128 256 512] [--tasks case24 adult] [--batch 512]

For each table and width: one training step (loss, gradient, clipping, AdamW, running mean), one sampling step (the
denoiser on a block of rows), and the products of matrices inside them alone, in the same shapes, precisions and order,
by turns in one process; then AdamW's step and the running mean of the weights, in each way that torch has. One
JSON line each in `results/machine.jsonl`.
"""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from record import record
from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.diffusion.backbone import ResidualMLP
from sdv_constrained_diffusion.diffusion.denoiser import PreconditionedDenoiser
from sdv_constrained_diffusion.diffusion.plan import TrainingPlan
from sdv_constrained_diffusion.diffusion.schedule import EDMSchedule
from sdv_constrained_diffusion.diffusion.training import parameter_groups, train
from sdv_constrained_diffusion.tabular.encoder import TableEncoder
from tasks import TASKS

ROUNDS, STEPS = 7, 20
"""Turns of each kind, of which the fastest counts, and steps in one."""

Product = tuple[str, list[Tensor]]


class Products(TorchDispatchMode):
    """Notes every product of matrices that is computed while it is active, with its operands."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Product] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ('mm', 'addmm'):
            self.found.append((name, [each.detach() for each in args[:3] if isinstance(each, Tensor)]))
        return func(*args, **(kwargs or {}))

    @property
    def flop(self) -> int:
        """Multiplications and additions, two for each of the products' inner terms."""
        return sum(2 * one.shape[0] * one.shape[1] * other.shape[1] for _, (*_, one, other) in self.found)

    def again(self) -> None:
        """Computes them once more, and nothing else."""
        for name, operands in self.found:
            getattr(torch, name)(*operands)


def fastest(*works: Callable[[], object]) -> list[float]:
    """Seconds of each work: the fastest of `ROUNDS` turns, taken by turns, so that all meet the same machine."""
    best = [float('inf')] * len(works)
    for _ in range(ROUNDS):
        for number, work in enumerate(works):
            before = time.perf_counter()
            work()
            best[number] = min(best[number], time.perf_counter() - before)
    return best


def denoiser_of(layout: Layout, width: int) -> PreconditionedDenoiser:
    """The default recipe's network of four blocks with another width, without hinges and neighbourhoods."""
    backbone = ResidualMLP(layout.num_features, width=width, num_extra=2 * layout.num_numbers)
    return PreconditionedDenoiser(backbone, EDMSchedule(), layout, known_share=0.5)


def measured(layout: Layout, rows: Tensor, width: int) -> dict[str, object]:
    """Rates of a training step and of a sampling step, of their products alone, and the shares, all on one thread."""
    denoiser, generator = denoiser_of(layout, width), torch.Generator().manual_seed(0)
    denoiser.measure(layout.numbers(rows))
    in_training, in_sampling = Products(), Products()
    t = torch.full((len(rows),), 0.5, dtype=torch.float64)
    with in_training:
        denoiser.loss(rows, generator).mean().backward()
    with torch.no_grad(), in_sampling:
        denoiser(rows, t)
    plan = TrainingPlan(epochs=STEPS, batch_size=len(rows))

    def sampled() -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                denoiser(rows, t)

    def bare(products: Products) -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                products.again()

    seconds = fastest(
        lambda: train(denoiser, lambda _: rows, plan, generator),
        lambda: bare(in_training),
        sampled,
        lambda: bare(in_sampling),
    )
    training, training_products, sampling, sampling_products = (each / STEPS for each in seconds)
    return {
        'training_ms': 1e3 * training,
        'training_gflop_per_s': 1e-9 * in_training.flop / training,
        'training_products_gflop_per_s': 1e-9 * in_training.flop / training_products,
        'training_share': training_products / training,
        'sampling_ms': 1e3 * sampling,
        'sampling_gflop_per_s': 1e-9 * in_sampling.flop / sampling,
        'sampling_products_gflop_per_s': 1e-9 * in_sampling.flop / sampling_products,
        'sampling_share': sampling_products / sampling,
    }


def updates(layout: Layout, width: int) -> dict[str, float]:
    """Milliseconds of AdamW's step and of the running mean of the weights, all at once or weight by weight."""
    denoiser = denoiser_of(layout, width)
    weights = list(denoiser.parameters())
    means = [each.detach().clone() for each in weights]
    for each in weights:
        each.grad = torch.randn_like(each)
    ways = {'fused': {'fused': True}, 'foreach': {'foreach': True}, 'loop': {'foreach': False}}
    optimizers = {name: torch.optim.AdamW(parameter_groups(denoiser, 0.0), lr=0.0, **way) for name, way in ways.items()}

    def looped() -> None:
        for mean, weight in zip(means, weights, strict=True):
            mean.lerp_(weight, 0.001)

    works: dict[str, Callable[[], object]] = {f'adamw_{name}_ms': each.step for name, each in optimizers.items()}
    works |= {'mean_foreach_ms': lambda: torch._foreach_lerp_(means, weights, 0.001), 'mean_loop_ms': looped}

    def repeated(work: Callable[[], object]) -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                work()

    seconds = fastest(*(partial(repeated, work) for work in works.values()))
    return {name: 1e3 * each / STEPS for name, each in zip(works, seconds, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=['case24', 'adult'])
    parser.add_argument('--widths', nargs='+', type=int, default=[128, 256, 512])
    parser.add_argument('--batch', type=int, default=512, help='rows of a step')
    parser.add_argument('--seed', type=int, default=1)
    options = parser.parse_args()
    for name in options.tasks:
        task = TASKS[name](options.seed)
        table = task.train.head(max(options.batch, 2000))
        discrete = [column for column, sdtype in task.sdtypes.items() if sdtype != 'numerical']
        encoder = TableEncoder.fit(table, discrete=discrete)
        rows = encoder.encode(encoder.values(table), torch.Generator().manual_seed(0))[: options.batch]
        for width in options.widths:
            figures = {**measured(encoder.layout, rows, width), **updates(encoder.layout, width)}
            record('machine', task=name, width=width, rows=len(rows), **figures)


if __name__ == '__main__':
    main()
