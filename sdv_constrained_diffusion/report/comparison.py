"""Which rows are compared with which: a reference, the synthetic table, and a second real table for the floor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.errors import DataError
from sdv_constrained_diffusion.report.classifier import CLASSIFIED

MIN_ROWS = 10
"""Fewest rows a comparison is worth: five folds of two."""


@dataclass(frozen=True)
class Comparison:
    """Three tables of the same columns and the same number of rows.

    Attributes:
        reference: real rows that everything is compared with.
        synthetic: synthetic rows.
        other_real: other real rows; compared with `reference` they give the floor, what perfect synthetic data reach.
        table: the metadata of the table, its columns and keys.
    """

    reference: pd.DataFrame
    synthetic: pd.DataFrame
    other_real: pd.DataFrame
    table: dict[str, Any]

    @property
    def num_rows(self) -> int:
        """Rows in each of the three tables."""
        return len(self.reference)

    @property
    def columns(self) -> dict[str, dict[str, Any]]:
        """The metadata's description of each column."""
        return self.table['columns']

    @property
    def modelled(self) -> dict[str, dict[str, Any]]:
        """The columns that have a distribution to compare: no keys, ids or personal data."""
        keys = [self.table.get('primary_key'), self.table.get('sequence_key'), *self.table.get('alternate_keys', [])]
        # A key of several columns is a list of names.
        names = {name for key in keys for name in (key if isinstance(key, list) else [key])}
        return {
            name: column
            for name, column in self.columns.items()
            if name not in names and column.get('sdtype') in CLASSIFIED
        }


def compare(
    real: pd.DataFrame, synthetic: pd.DataFrame, table: dict[str, Any], held_out: pd.DataFrame | None, seed: int
) -> Comparison:
    """Chooses the rows.

    With held-out rows, the reference is the held-out table and the floor compares the real table with it. Without, the
    real table is split at random in two halves. All three tables are cut at random to the rows of the smallest:
    distances between tables shrink with their size, and a floor of another size would be no floor.

    Args:
        real: real rows, those the synthesizer was fitted to.
        synthetic: synthetic rows.
        table: the metadata of the table.
        held_out: real rows that the synthesizer did not see, or None.
        seed: of the split and of the cuts.

    Raises:
        DataError: a table has other columns than the metadata, or too few rows.
    """
    tables = {'real_data': real, 'synthetic_data': synthetic}
    if held_out is not None:
        tables['held_out_data'] = held_out
    for who, data in tables.items():
        _check(who, data, list(table['columns']), MIN_ROWS * (1 + (who == 'real_data' and held_out is None)))
    rng = np.random.default_rng(seed)
    if held_out is None:
        real = real.iloc[rng.permutation(len(real))]
        held_out, real = real[: len(real) // 2], real[len(real) // 2 :]
    num_rows = min(len(held_out), len(synthetic), len(real))
    reference, synthetic, other_real = (
        data.iloc[np.sort(rng.permutation(len(data))[:num_rows])][list(table['columns'])].reset_index(drop=True)
        for data in (held_out, synthetic, real)
    )
    return Comparison(reference, synthetic, other_real, table)


def one_table(who: str, data: Any, table_name: str | None = None) -> pd.DataFrame:
    """The table in what SDV hands around: a DataFrame, or one DataFrame by its name.

    Args:
        who: the argument's name, for error messages.
        data: a DataFrame or a mapping from a table's name to a DataFrame.
        table_name: the table's name in the metadata; None when it has none.

    Raises:
        DataError: the data are something else, hold several tables, or one of another name.
    """
    if isinstance(data, Mapping):
        if len(data) != 1:
            raise DataError(f'FidelityReport compares one table; {who} holds {len(data)}: {list(data)}. Pass one.')
        name, data = next(iter(data.items()))
        if table_name is not None and name != table_name:
            raise DataError(f'The metadata describe the table {table_name!r}, but {who} holds the table {name!r}.')
    if not isinstance(data, pd.DataFrame):
        raise DataError(
            f'FidelityReport needs {who} as a pandas.DataFrame or as {{table name: DataFrame}}; '
            f'it got {type(data).__name__}.'
        )
    return data


def one_table_metadata(metadata: Any) -> tuple[str | None, dict[str, Any]]:
    """The name of the table, if it has one, and its metadata.

    Args:
        metadata: an SDV `Metadata` or `SingleTableMetadata`, or what its `to_dict` returns.

    Raises:
        DataError: there is no table or more than one, or the metadata are of another form.
    """
    content = metadata if isinstance(metadata, Mapping) else getattr(metadata, 'to_dict', dict)()
    if 'tables' in content:
        if len(content['tables']) != 1:
            raise DataError(
                f'FidelityReport compares one table; the metadata describe {len(content["tables"])}: '
                f'{list(content["tables"])}. Pass the metadata of one, metadata.to_dict()["tables"][name].'
            )
        name, table = next(iter(content['tables'].items()))
        return name, dict(table)
    if 'columns' not in content:
        raise DataError(
            'FidelityReport needs metadata as an SDV Metadata object or as its dictionary with the key "tables" or '
            f'"columns"; it got {type(metadata).__name__} with the keys {list(content)}.'
        )
    return None, dict(content)


def _check(who: str, data: pd.DataFrame, columns: list[str], min_rows: int) -> None:
    lacking = [name for name in columns if name not in data.columns]
    unknown = [name for name in data.columns if name not in columns]
    if lacking or unknown:
        raise DataError(
            f'FidelityReport needs the same columns in {who} as in the metadata; {who} lacks {lacking} and has '
            f'{unknown} besides. Rename or drop columns, or update the metadata.'
        )
    if len(data) < min_rows:
        raise DataError(f'FidelityReport needs at least {min_rows} rows in {who}; it got {len(data)}.')
