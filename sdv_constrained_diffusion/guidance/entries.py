"""Matrices of one sparse pattern, one for each row of a table, with rows side by side in memory: they never meet."""

import functools

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdv_constrained_diffusion._batches import SIZE, filled
from sdv_constrained_diffusion._sparse import CompressedRows

SPARSE = 0.1
"""Share of the products of a normal matrix up to which they are made one by one."""

Entry = Float[Tensor, 'entry row']


class Pattern:
    """Where matrices are not zero.

    Attributes:
        equation: of each entry, column by column.
        column: of each entry.
        shape: number of equations, number of columns.
    """

    def __init__(self, where: Bool[Tensor, 'equation column']) -> None:
        """Finds the entries."""
        self.column, self.equation = where.T.nonzero().unbind(1)
        self.shape = (len(where), where.shape[1])
        self._where = where.double()

    @functools.cached_property
    def by_equation(self) -> '_Sums':
        """Sums over the entries of each equation."""
        return _Sums(self.equation, self.shape[0])

    @functools.cached_property
    def by_column(self) -> '_Sums':
        """Sums over the entries of each column."""
        return _Sums(self.column, self.shape[1])

    def without(self, first: 'Pattern') -> 'Pattern':
        """The pattern that `Matrices.without` fills."""
        return Pattern(self._where + self._where @ first._where.T @ first._where > 0)

    def place(self, equation: Tensor, column: Tensor) -> Int[Tensor, ' entry']:
        """Numbers of entries that are in the pattern."""
        height = self.shape[0]
        return torch.searchsorted(self.column * height + self.equation, column * height + equation)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Entries of one column, each with itself and those before it."""
        column = self.column.numpy()
        entry = np.arange(len(column))
        before = entry - np.searchsorted(column, column)
        one = np.repeat(entry, before + 1)
        back = np.arange(len(one)) - np.repeat(np.cumsum(before + 1) - (before + 1), before + 1)
        return torch.from_numpy(one), torch.from_numpy(one - back)


class Matrices:
    """One matrix G for each row.

    Attributes:
        pattern: where they are not zero.
        values: of each entry in each row.
    """

    def __init__(self, pattern: Pattern, values: Entry) -> None:
        """Keeps the parts."""
        self.pattern, self.values = pattern, values

    def of_rows(self, rows: Tensor | slice) -> 'Matrices':
        """Those of some rows."""
        return Matrices(self.pattern, self.values[:, rows])

    def times(self, vector: Float[Tensor, 'column row']) -> Float[Tensor, 'equation row']:
        """`G x`."""
        return self.pattern.by_equation(self.values * vector[self.pattern.column])

    def transposed_times(self, vector: Float[Tensor, 'equation row']) -> Float[Tensor, 'column row']:
        """`G^T y`."""
        return self.pattern.by_column(self.values * vector[self.pattern.equation])

    def squares(self) -> Float[Tensor, 'equation row']:
        """The diagonal of `G G^T`."""
        return self.pattern.by_equation(self.values.square())

    def normal(self, sparse: bool) -> Float[Tensor, 'row whole whole']:
        """`G G^T`, or of a sparse one the lower triangle; a whole size, filled up with zeros.

        Matrices of whole sizes lie in memory alike, row by row, and round alike.
        """
        (height, width), num_rows = self.pattern.shape, self.values.shape[1]
        size = height + -height % SIZE
        if not sparse:
            full = self.values.new_zeros(num_rows, size, width + -width % SIZE)
            full[:, self.pattern.equation, self.pattern.column] = self.values.T
            return full @ full.mT
        one, other = self.pattern.pairs()
        cell = self.pattern.equation[one] * size + self.pattern.equation[other]
        cells, place = cell.unique(return_inverse=True)
        normal = self.values.new_zeros(num_rows, size * size)
        normal[:, cells] = _Sums(place, len(cells))(self.values[one] * self.values[other]).T
        return normal.view(num_rows, size, size)

    def without(self, first: 'Matrices', inverse: Float[Tensor, 'equation row']) -> 'Matrices':
        """What is left of these once others are met: `G - (G A^T) (A A^T)^{-1} A`.

        Args:
            first: A, whose equations share no column with one another.
            inverse: of the diagonal of `A A^T`; 0 where that is 0.
        """
        own, its = self.pattern, first.pattern
        pattern = own.without(its)
        values = self.values.new_zeros(len(pattern.column), self.values.shape[1])
        values[pattern.place(own.equation, own.column)] = self.values
        entry_of, law_of = (torch.full((own.shape[1],), -1) for _ in range(2))
        entry_of[its.column], law_of[its.column] = torch.arange(len(its.column)), its.equation

        def shared(chosen: Pattern) -> tuple[Tensor, Tensor, Tensor]:
            """Entries in columns of A, the entries of A there, and which equations of both meet."""
            entry = (entry_of[chosen.column] >= 0).nonzero()[:, 0]
            column = chosen.column[entry]
            return entry, entry_of[column], chosen.equation[entry] * its.shape[0] + law_of[column]

        entry, other, meeting = shared(own)
        cells, place = meeting.unique(return_inverse=True)
        product = _Sums(place, len(cells))(self.values[entry] * first.values[other])
        product = product * inverse[cells % max(its.shape[0], 1)]
        entry, other, meeting = shared(pattern)
        values[entry] -= product[torch.searchsorted(cells, meeting)] * first.values[other]
        return Matrices(pattern, values)


def num_products(where: Bool[Tensor, 'equation column']) -> float:
    """Products that a normal matrix needs, as a share of those with zeros."""
    in_column = where.sum(0).double()
    return float(in_column.square().sum() / max(len(where) ** 2 * where.shape[1], 1))


class _Sums:
    """Adds up terms that have one place, in their order."""

    def __init__(self, place: Int[Tensor, ' term'], number: int) -> None:
        first = torch.nn.functional.pad(place.bincount(minlength=number).cumsum(0), (1, 0))
        order = place.argsort(stable=True)
        self._matrix = CompressedRows(first, order, torch.ones(len(order), dtype=torch.float32), (number, len(order)))

    def __call__(self, terms: Float[Tensor, 'term row']) -> Float[Tensor, 'place row']:
        return (self._matrix @ filled(terms.T).T.contiguous())[:, : terms.shape[1]]
