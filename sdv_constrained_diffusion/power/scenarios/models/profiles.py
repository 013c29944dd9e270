"""Profiles: factors by hour, a row for each hour, a column for each load or static generator."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from sdv_constrained_diffusion.errors import GridError, close_names

Order = Literal['drawn', 'in_turn']
"""Whether each draw takes an hour at random, or the draws run through the hours again and again."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """The draws of one chunk.

    Attributes:
        numbers: shape (draw,), their places in the sequence of all draws.
        moments: shape (draw,), uniform in [0, 1): where in a profile each of them is. All profiles of one length are so
            read at the same hour.
    """

    numbers: Int[np.ndarray, ' draw']
    moments: Float[np.ndarray, ' draw']


def check_profile(table: pd.DataFrame, order: Order, who: str) -> None:
    """Checks that a profile can be read.

    Raises:
        GridError: the order is unknown, or the table is empty or has values that are no factors.
    """
    if order not in get_args(Order):
        raise GridError(
            f"{who} needs order='drawn' or order='in_turn', but got {order!r}. Pass 'drawn' to take hours at random, "
            "'in_turn' to run through them."
        )
    if table.empty:
        raise GridError(
            f'{who} needs a table with a row for each hour and a column for each element, but got one of shape '
            f'{table.shape}. Pass factors such as pd.DataFrame({{"0": [0.7, 1.0]}}).'
        )
    numbers = table.apply(pd.to_numeric, errors='coerce').to_numpy(dtype='float64')
    wrong = np.argwhere(~(np.isfinite(numbers) & (numbers >= 0)))
    if len(wrong):
        row, place = wrong[0]
        raise GridError(
            f'{who} needs finite factors of at least 0, but hour {table.index[row]} of column '
            f'{table.columns[place]!r} is {table.iat[row, place]} ({len(wrong)} such values). Fill or correct them.'
        )


def hourly(
    table: pd.DataFrame, order: Order, labels: Sequence[str], chunk: Chunk, who: str
) -> Float[np.ndarray, 'draw element']:
    """Factors of some elements at each draw's hour.

    Raises:
        GridError: an element has no column.
    """
    names = [str(name) for name in table.columns]
    missing = [label for label in labels if label not in names]
    if missing:
        close = close_names(missing[0], names) or names[:3]
        raise GridError(
            f'{who} needs a column for each of {len(labels)} elements, but the table lacks {missing[0]!r}'
            f'{f" and {len(missing) - 1} more" if len(missing) > 1 else ""}. It has {", ".join(map(repr, close))}. '
            'Name the columns as the power columns end: 3 for pd_mw_3, sgen_0 for pg_mw_sgen_0.'
        )
    values = table.iloc[:, [names.index(label) for label in labels]].to_numpy(dtype='float64')
    hours = chunk.numbers % len(values) if order == 'in_turn' else (chunk.moments * len(values)).astype(np.int64)
    return values[hours]


def read_profile(path: str | Path) -> pd.DataFrame:
    """Reads a profile from a CSV or Parquet file; a column named `hour` only numbers the rows.

    Raises:
        GridError: the file is missing or of another kind.
    """
    path = Path(path)
    readers = {'.csv': pd.read_csv, '.parquet': pd.read_parquet}
    if path.suffix not in readers or not path.is_file():
        raise GridError(
            f'read_profile needs an existing file that ends with .csv or .parquet, but got {str(path)!r}. Write the '
            'table with DataFrame.to_csv(path, index=False) and pass that path.'
        )
    return readers[path.suffix](path).drop(columns='hour', errors='ignore')
