"""PJM 5-bus from operating points to report, and the cost of the paper's recipe on the same rows.

Prints and keeps one JSON line per measurement. Usage: python benchmarks/pjm5.py [number of rows] [seed ...]
"""

import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from record import record
from sdv_constrained_diffusion.demo import run_pjm5
from sdv_constrained_diffusion.diffusion.presets import paper_preset
from sdv_constrained_diffusion.diffusion.training import train
from sdv_constrained_diffusion.tabular.encoder import TableEncoder

PAPER_EPOCHS_MEASURED = 10


def measure_demo(folder: Path, num_rows: int, seed: int) -> None:
    started = time.process_time()
    results = run_pjm5(num_rows, folder, seed=seed, verbose=False)
    for each in results:
        record(
            'pjm5',
            figure=each.name,
            value=float(each.value),
            target=f'{each.target[0]} {each.target[1]:g}',
            reached=each.met,
            floor=each.floor,
            num_rows=num_rows,
            seed=seed,
        )
    record(
        'pjm5', figure='CPU seconds in all, without worker processes', value=time.process_time() - started, seed=seed
    )


def measure_paper_preset(real: pd.DataFrame) -> None:
    """CPU seconds per epoch on one thread, and what 15,000 epochs and a sample would take."""
    torch.set_num_threads(1)
    preset = paper_preset()
    encoder = TableEncoder.fit(real, preset.scaling)
    rows = encoder.encode(encoder.values(real))
    torch.manual_seed(0)
    denoiser = preset.denoiser(encoder.layout, len(rows))
    plan = dataclasses.replace(preset.plan, epochs=PAPER_EPOCHS_MEASURED)
    training = train(denoiser, lambda generator: rows, plan, torch.Generator().manual_seed(0))
    per_epoch = sorted(training.cpu_seconds)[len(training.cpu_seconds) // 2]
    record(
        'paper_preset',
        cpu_seconds_per_epoch=per_epoch,
        hours_for_15000_epochs=per_epoch * 15_000 / 3600,
        losses=training.losses,
        num_rows=len(real),
        threads=1,
    )


def main() -> None:
    num_rows, *seeds = [int(each) for each in sys.argv[1:]] or [5000, 0]
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds or [0]:
            measure_demo(Path(folder), num_rows, seed)
        measure_paper_preset(pd.read_parquet(Path(folder) / 'real.parquet'))


if __name__ == '__main__':
    main()
