"""Sparse matrices in compressed rows."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class CompressedRows:
    """A matrix; torch's own layout of that kind can be neither copied nor moved as other tensors.

    Attributes:
        first: number of the first entry of each row, and the number of all entries.
        column: of each entry.
        entries: row by row.
        shape: (row, column).
    """

    first: Tensor
    column: Tensor
    entries: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, matrix: Any) -> 'CompressedRows':
        """Scipy's `csr_matrix`."""
        first, column, entries = map(torch.from_numpy, (matrix.indptr, matrix.indices, matrix.data))
        return cls(first, column, entries, matrix.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of the entries."""
        return self.entries.dtype

    @property
    def device(self) -> torch.device:
        """Where the entries are."""
        return self.entries.device

    def to(self, like: Tensor) -> 'CompressedRows':
        """The same in the dtype and on the device of a tensor."""
        if (like.dtype, like.device) == (self.dtype, self.device):
            return self
        first, column = self.first.to(like.device), self.column.to(like.device)
        return CompressedRows(first, column, self.entries.to(like), self.shape)

    def to_dense(self) -> Tensor:
        """With its zeros, shape (row, column)."""
        return self._tensor().to_dense()

    def __matmul__(self, columns: Tensor) -> Tensor:
        """The product with a matrix that is not sparse."""
        return self._tensor() @ columns

    def applied_to(self, rows: Tensor) -> Tensor:
        """`rows @ matrix.T`: of each row, shape (row, column), what the matrix makes of it."""
        return (self @ rows.T.contiguous()).T

    def _tensor(self) -> Tensor:
        return torch.sparse_csr_tensor(self.first, self.column, self.entries, self.shape, check_invariants=False)


def _provoke_warning() -> None:
    """Torch warns once in a process that the layout is a beta; filters of warnings are no matter for threads."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        CompressedRows(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1)).to_dense()


_provoke_warning()
