"""Sparse matrices in compressed rows."""

import warnings

import torch
from torch import Tensor


def compressed(first: Tensor, column: Tensor, entries: Tensor, shape: tuple[int, int]) -> Tensor:
    """A matrix of torch's CSR layout.

    Args:
        first: number of the first entry of each row, and the number of all entries.
        column: of each entry.
        entries: row by row.
        shape: (row, column).
    """
    return torch.sparse_csr_tensor(first, column, entries, shape, check_invariants=False)


def _provoke_warning() -> None:
    """Torch warns once in a process that the layout is a beta; filters of warnings are no matter for threads."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        compressed(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1))


_provoke_warning()
