"""What a GPU gives: rows a second of training and of sampling, with it and without, in one process.

    python benchmarks/gpu.py [--tasks adult case5] [--epochs 60] [--rows 20480]

One JSON line for each table and device in `results/gpu.jsonl`; without a GPU there is one line for each table. Both
devices get the same number of epochs. Rates are per second of wall time: `fit_rows_per_s` counts a trained row anew in
every epoch and includes all that `fit` does, `sample_rows_per_s` counts delivered rows, under the table's laws. Threads
are torch's own choice unless `OMP_NUM_THREADS` says otherwise.
"""

import argparse
import time

import torch

from contestant import TABLE, metadata_of
from record import record
from sdv_constrained_diffusion import ConstrainedDiffusionSynthesizer
from tasks import TASKS, Task


def measured(task: Task, gpu: bool, epochs: int, num_rows: int, seed: int) -> dict[str, object]:
    """Rates of one fit and of one sample."""
    synthesizer = ConstrainedDiffusionSynthesizer(
        metadata_of(task.train, task.sdtypes), epochs=epochs, seed=seed, verbose=False, enable_gpu=gpu
    )
    if task.laws:
        synthesizer.add_constraints(task.laws)
    before = time.perf_counter()
    synthesizer.fit({TABLE: task.train})
    fitted = time.perf_counter() - before
    model = synthesizer._model
    synthesizer.sample(100)  # warms up
    synthesizer.reset_sampling()
    before = time.perf_counter()
    rows = synthesizer.sample(num_rows)[TABLE]
    sampled = time.perf_counter() - before
    epochs, learned = len(model.record.losses), len(task.train) - model.record.num_held_out
    device = next(model.denoiser.parameters()).device
    return {
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type,
        'epochs': epochs,
        'fit_wall_s': fitted,
        'fit_rows_per_s': epochs * learned / fitted,
        'sample_rows_per_s': len(rows) / sampled,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=['adult', 'case5'])
    parser.add_argument('--epochs', type=int, default=60)
    parser.add_argument('--rows', type=int, default=20_480, help='rows to sample')
    parser.add_argument('--seed', type=int, default=1)
    options = parser.parse_args()
    gpus = [True, False] if torch.cuda.is_available() else [False]
    for name in options.tasks:
        task = TASKS[name](options.seed)
        for gpu in gpus:
            figures = measured(task, gpu, options.epochs, options.rows, options.seed)
            record('gpu', task=name, threads=torch.get_num_threads(), **figures)


if __name__ == '__main__':
    main()
