"""Sparse matrices in compressed rows."""

import warnings

import torch
from torch import Tensor


def compressed(first: Tensor, column: Tensor, entries: Tensor, shape: tuple[int, int]) -> Tensor:
    """A matrix of torch's CSR layout, without torch's warning that the layout is a beta.

    Args:
        first: number of the first entry of each row, and the number of all entries.
        column: of each entry.
        entries: row by row.
        shape: (row, column).
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # once in a process
        return torch.sparse_csr_tensor(first, column, entries, shape, check_invariants=False)
