"""What a GPU gives: rows a second of training and of sampling, with it and without, in one process.

    python benchmarks/gpu.py [--tasks adult case5] [--budget 60] [--rows 20000]

One JSON line for each table and device in `results/gpu.jsonl`; without a GPU there is one line for each table. Rates
are per second of wall time: `fit_rows_per_s` counts a row anew in every epoch and includes all that `fit` does,
`sample_rows_per_s` counts delivered rows, under the table's laws. Threads are torch's own choice unless
`OMP_NUM_THREADS` says otherwise.
"""

import argparse
import time

import torch

from contestant import TABLE, metadata_of
from record import record
from sdv_constrained_diffusion import ConstrainedDiffusionSynthesizer
from tasks import TASKS, Task


def measured(task: Task, gpu: bool, budget: float, num_rows: int, seed: int) -> dict[str, object]:
    """Rates of one fit and of one sample."""
    synthesizer = ConstrainedDiffusionSynthesizer(
        metadata_of(task.train, task.sdtypes), max_time=budget, seed=seed, verbose=False, enable_gpu=gpu
    )
    if task.laws:
        synthesizer.add_constraints(task.laws)
    before = time.perf_counter()
    synthesizer.fit({TABLE: task.train})
    fitted = time.perf_counter() - before
    model = synthesizer._model
    synthesizer.sample(100)  # warms up
    before = time.perf_counter()
    rows = synthesizer.sample(num_rows)[TABLE]
    sampled = time.perf_counter() - before
    epochs = len(model.record.losses)
    return {
        'device': next(model.denoiser.parameters()).device.type,
        'epochs': epochs,
        'fit_wall_s': fitted,
        'fit_rows_per_s': epochs * len(task.train) / fitted,
        'sample_rows_per_s': len(rows) / sampled,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=['adult', 'case5'])
    parser.add_argument('--budget', type=float, default=60.0, help='CPU seconds of training')
    parser.add_argument('--rows', type=int, default=20_000, help='rows to sample')
    parser.add_argument('--seed', type=int, default=1)
    options = parser.parse_args()
    gpus = [True, False] if torch.cuda.is_available() else [False]
    for name in options.tasks:
        task = TASKS[name](options.seed)
        for gpu in gpus:
            figures = measured(task, gpu, options.budget, options.rows, options.seed)
            record('gpu', task=name, budget_s=options.budget, threads=torch.get_num_threads(), **figures)


if __name__ == '__main__':
    main()
