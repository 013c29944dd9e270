"""Values of a discrete column <-> codes 0, 1, ...; a missing value is a level of its own."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.errors import DataError


class Categories:
    """The levels of one discrete column, as they were observed: none is ever invented.

    Attributes:
        name: the column's name.
        has_missing: whether missing is a level.
        levels: the observed values, NaN for the missing one, which is last, shape (level,).
    """

    def __init__(self, name: Any, present: Sequence[Any], has_missing: bool) -> None:
        """Keeps the levels; use `fit`."""
        self.name, self.has_missing = name, has_missing
        self.levels = np.empty(len(present) + has_missing, dtype=object)
        self.levels[:] = [*present, np.nan][: len(self.levels)]
        self._index = pd.Index(self.levels[: len(present)])

    @classmethod
    def fit(cls, column: pd.Series) -> 'Categories':
        """Collects the observed values; in order where they can be ordered, else as they appear."""
        observed = column.dropna().astype(object).drop_duplicates()
        with contextlib.suppress(TypeError):  # text beside numbers: any order serves
            observed = observed.sort_values()
        return cls(column.name, observed.tolist(), bool(column.isna().any()))

    def find(self, column: pd.Series) -> np.ndarray:
        """The code of each value, -1 for values that were not observed at fit, shape (row,), int64."""
        missing = column.isna().to_numpy()
        codes = self._index.get_indexer(column.astype(object).to_numpy())
        return np.where(missing, len(self._index) if self.has_missing else -1, codes).astype('int64')

    def codes(self, column: pd.Series) -> np.ndarray:
        """The code of each value, shape (row,), int64.

        Raises:
            DataError: a value was not observed at fit.
        """
        codes = self.find(column)
        if (codes < 0).any():
            value = column.astype(object).iloc[int((codes < 0).argmax())]
            value = value.item() if isinstance(value, np.generic) else value
            shown = ', '.join(map(repr, self._index[:10].tolist())) + (', ...' if len(self._index) > 10 else '')
            raise DataError(
                f'Column {self.name!r} cannot be {value!r}: no training row has this value, and categories are drawn, '
                f'never invented. Take one of {shown}.'
            )
        return codes

    def values(self, codes: np.ndarray) -> np.ndarray:
        """The values of codes, shape (row,), dtype object."""
        return self.levels[codes]
