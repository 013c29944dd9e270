"""Rows in batches: neither their size nor the number of threads leaves a trace in the last bits of a result."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar('Item')
Result = TypeVar('Result')

SIZE = 16
"""Matrix products treat the last few rows of a batch by other instructions than the others, which round otherwise; in
batches of a multiple of this they do not. Kernels work on 4 to 12 rows at a time."""


def filled(rows: Tensor) -> Tensor:
    """The rows, and copies of the last one, so that their number is a multiple of `SIZE`; none stay none."""
    missing = -len(rows) % SIZE
    return rows if not missing else torch.cat([rows, rows[-1:].expand(min(missing, missing * len(rows)), -1)])


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], most: int | None = None) -> list[Result]:
    """Results of the work on each item, in their order: on as many items at once as torch has threads, or `most`.

    Each is done by one thread, so that the results are the same bits with any number of threads. Gradients are off.
    """

    def alone(item: Item) -> Result:
        with torch.no_grad():  # which is a thread's own
            return work(item)

    threads = torch.get_num_threads()
    if threads == 1:
        return [alone(item) for item in items]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(threads, most or threads)) as pool:
            return list(pool.map(alone, items))
    finally:
        torch.set_num_threads(threads)
