"""Rows with given values: which candidates have them, and the loop that draws until every row is found."""

import contextlib
from collections.abc import Callable, Collection

import numpy as np
import pandas as pd

CLOSE = 0.01
"""Relative distance at which SDV takes a number for the one asked for, where it can only be matched, not imposed."""

ONE_MOMENT = pd.Timedelta(milliseconds=1)

CANDIDATES = 1024
"""Candidates drawn at once where rows have to be matched."""

Draw = Callable[[pd.DataFrame], pd.DataFrame]
"""Given values, index 0, 1, ... -> candidate rows, one or none for each, by the same index."""


def complete(
    given: pd.DataFrame,
    matched: Collection[str],
    draw: Draw,
    valid: Callable[[pd.DataFrame], np.ndarray],
    max_tries: int,
    found: Callable[[pd.DataFrame], None],
) -> pd.DataFrame:
    """Draws rows until each of the given ones has been completed, or the tries are spent.

    Args:
        given: the values that are asked for, any columns, index 0, 1, ...
        matched: those columns in which a candidate may still differ and is drawn again then; the others are imposed by
            whoever draws, up to their last digits.
        draw: draws candidates.
        valid: tells which candidates are valid once they have the given values, shape (row,).
        max_tries: most calls of `draw`.
        found: is told the rows that each call completed.

    Returns:
        the completed rows, by the index of `given`; rows for which no candidate was found are missing.
    """
    pending, completed = np.arange(len(given)), [pd.DataFrame()]
    for _ in range(max_tries):
        copies = max(CANDIDATES // len(pending), 1) if matched else 1
        asked = given.iloc[np.tile(pending, copies)]
        candidates = draw(asked.reset_index(drop=True))
        candidates.index = asked.index[candidates.index]
        wanted = _as_delivered(given.loc[candidates.index], candidates)
        fits = np.ones(len(candidates), dtype=bool)
        for name in matched:
            fits &= _same(candidates[name], wanted[name])
        rows = candidates[fits].assign(**{name: wanted.loc[fits, name] for name in wanted.columns})
        rows = rows[valid(rows)]
        accepted = rows[~rows.index.duplicated()]
        completed.append(accepted)
        found(accepted)
        pending = np.setdiff1d(pending, accepted.index)
        if not len(pending):
            break
    return pd.concat([each for each in completed if len(each)] or completed[:1]).sort_index()


def _as_delivered(wanted: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """The given values in the dtypes in which their columns are delivered, where they can be cast."""
    columns = {}
    for name in wanted.columns:
        column = wanted[name]
        delivered = candidates[name].dtype if name in candidates.columns else column.dtype
        with contextlib.suppress(TypeError, ValueError):
            if not (pd.api.types.is_object_dtype(delivered) and pd.api.types.is_datetime64_any_dtype(column.dtype)):
                column = column.astype(delivered)
        columns[name] = column
    return pd.DataFrame(columns, index=wanted.index)


def _same(drawn: pd.Series, wanted: pd.Series) -> np.ndarray:
    """SDV's rule: numbers with a fraction within one percent, everything else equal, missing only if asked for.

    Moments that went through float64 differ by some hundred nanoseconds.
    """
    drawn, wanted = drawn.reset_index(drop=True), wanted.reset_index(drop=True)
    if pd.api.types.is_float_dtype(drawn.dtype):
        numbers = pd.to_numeric(wanted, errors='coerce')
        equal = (drawn - numbers).abs() <= CLOSE * numbers.abs()
    elif pd.api.types.is_datetime64_any_dtype(drawn.dtype):
        equal = (drawn - wanted).abs() <= ONE_MOMENT
    else:
        equal = drawn.astype(object) == wanted.astype(object)
    return (equal.fillna(False) | (drawn.isna() & wanted.isna())).to_numpy(dtype=bool)
