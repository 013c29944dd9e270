"""A processed table <-> rows in model space."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from sdv_constrained_diffusion._numbers import finite_numbers
from sdv_constrained_diffusion._types import ColumnMask, Rows, Table
from sdv_constrained_diffusion.tabular.columns import AffineCodec, ColumnCodec, ConstantCodec
from sdv_constrained_diffusion.tabular.quantiles import QuantileCodec

SCALINGS: dict[str, type[AffineCodec] | type[QuantileCodec]] = {'minmax': AffineCodec, 'quantile': QuantileCodec}
"""Codecs of columns that vary, by the name that presets use."""


@dataclass(frozen=True)
class _Part:
    """The columns of one kind: their codec, their places in the table, their places in a row of model space."""

    codec: ColumnCodec
    columns: list[int]
    features: list[int]


class TableEncoder:
    """The codecs of a table.

    Attributes:
        columns: the columns' names.
        num_features: width of a row in model space.
    """

    def __init__(self, columns: Sequence[str], parts: Sequence[_Part], num_features: int) -> None:
        """Keeps the parts."""
        self.columns, self._parts, self.num_features = tuple(columns), tuple(parts), num_features

    @classmethod
    def fit(cls, data: pd.DataFrame, scaling: str = 'quantile') -> 'TableEncoder':
        """Fits the codecs; columns of one value get no feature.

        Args:
            data: a processed table, every column numeric and finite.
            scaling: 'quantile' (normal scores) or 'minmax' ([-1, 1]).

        Raises:
            DataError: a column is not numeric, or holds NaN or inf.
        """
        values = np.stack([finite_numbers(data[name], 'The encoder') for name in data.columns], axis=1)
        constant = np.ptp(values, axis=0) <= 1e-9 * abs(values).max(0)
        same, varied = np.flatnonzero(constant).tolist(), np.flatnonzero(~constant).tolist()
        parts = [_Part(ConstantCodec.fit(values[:, same]), same, [])] if same else []
        if varied:
            parts.append(_Part(SCALINGS[scaling].fit(values[:, varied]), varied, list(range(len(varied)))))
        return cls(list(data.columns), parts, len(varied))

    def select(self, columns: Sequence[str]) -> 'TableEncoder':
        """The part of this encoder that reads and writes the named columns of the same model space."""
        wanted = [self.columns.index(name) for name in columns]
        parts = []
        for part in self._parts:
            chosen = [part.columns.index(column) for column in wanted if column in part.columns]
            if chosen:
                places = [wanted.index(part.columns[i]) for i in chosen]
                features = [part.features[i] for i in chosen] if part.features else []
                parts.append(_Part(part.codec.select(chosen), places, features))
        return TableEncoder(columns, parts, self.num_features)

    def encode(self, values: Table, generator: torch.Generator | None = None) -> Rows:
        """Values in the columns' units -> features.

        Args:
            values: shape (row, column) in the order of `columns`, float64.
            generator: draws the place inside point masses; their median without one.
        """
        rows = values.new_zeros(values.shape[0], self.num_features)
        for part in self._parts:
            rows[:, part.features] = part.codec.encode(values[:, part.columns], generator)
        return rows

    def decode(self, rows: Rows) -> Table:
        """Features -> values in the columns' units, shape (row, column); differentiable."""
        decoded = torch.cat([part.codec.decode(rows[:, part.features]) for part in self._parts], dim=1)
        order = np.argsort([column for part in self._parts for column in part.columns])
        return decoded[:, order]

    def point_masses(self, values: Table) -> ColumnMask:
        """True where a value is exact by nature: constant columns and limits that many rows sit on."""
        mask = torch.zeros_like(values, dtype=torch.bool)
        for part in self._parts:
            mask[:, part.columns] = part.codec.point_masses(values[:, part.columns])
        return mask

    def replace(self, rows: Rows, values: Table, where: ColumnMask) -> Rows:
        """Rows whose columns have been set to new values where asked, all other features kept.

        Args:
            rows: shape (row, feature) of the whole model space.
            values: shape (row, column), new values in the columns' units.
            where: shape (row, column), True where the new value counts.
        """
        replaced = rows.clone()
        for part in self._parts:
            if part.features:
                encoded = part.codec.encode(values[:, part.columns])
                replaced[:, part.features] = torch.where(where[:, part.columns], encoded, rows[:, part.features])
        return replaced
