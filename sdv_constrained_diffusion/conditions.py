"""Rows with given values: what SDV's constraints make of the values, and the loop that draws until rows have them."""

import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sdv.cag._errors import ConstraintNotMetError

LOGGER = logging.getLogger(__name__)

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
    imposed: bool,
    draw: Draw,
    constraints: Sequence[Any],
    max_tries: int,
    found: Callable[[pd.DataFrame], None],
) -> pd.DataFrame:
    """Draws rows until each of the given ones has been completed, or the tries are spent.

    Args:
        given: the values that are asked for, any columns, index 0, 1, ...
        matched: those columns in which a candidate may still differ and is drawn again then; the others are imposed by
            whoever draws, up to their last digits.
        imposed: whether any column is; if none is, every candidate may serve every row.
        draw: draws candidates.
        constraints: SDV's, which a candidate must obey once it has the given values.
        max_tries: most calls of `draw`.
        found: is told the rows that each call completed.

    Returns:
        the completed rows, by the index of `given`; rows for which no candidate was found are missing.
    """
    pending, completed = np.arange(len(given)), [pd.DataFrame()]
    for _ in range(max_tries):
        if imposed or not matched:
            copies = max(CANDIDATES // len(pending), 1) if matched else 1
            asked = given.iloc[np.tile(pending, copies)]
            candidates = draw(asked.reset_index(drop=True))
            candidates.index = asked.index[candidates.index]
        else:
            candidates = _allotted(
                draw(pd.DataFrame(index=range(CANDIDATES))), given.iloc[pending[:CANDIDATES]], matched
            )
        wanted = _as_delivered(given.loc[candidates.index], candidates)
        fits = np.ones(len(candidates), dtype=bool)
        for name in matched:
            fits &= _same(candidates[name], wanted[name])
        rows = candidates[fits].assign(**{name: wanted.loc[fits, name] for name in wanted.columns})
        for constraint in constraints:
            if len(rows):  # SDV's Inequality cannot judge an empty batch of dates
                rows = rows[np.asarray(constraint.is_valid(rows), dtype=bool)]
        accepted = rows[~rows.index.duplicated()]
        completed.append(accepted)
        found(accepted)
        pending = np.setdiff1d(pending, accepted.index)
        if not len(pending):
            break
    return pd.concat([each for each in completed if len(each)] or completed[:1]).sort_index()


def rewritten(given: pd.DataFrame, constraints: Sequence[Any]) -> pd.DataFrame:
    """Given values as SDV's constraints rewrite the table; a constraint that needs further columns changes nothing.

    Raises:
        ConstraintNotMetError: the values contradict a constraint.
    """
    for name in given.select_dtypes('object').columns:
        given = given.assign(**{name: given[name].where(given[name].notna(), np.nan)})
    for constraint in constraints:
        try:
            given = constraint.transform(given)
        except ConstraintNotMetError as error:
            raise ConstraintNotMetError('Provided conditions are not valid for the given constraints.') from error
        except Exception:  # It needs columns that are not given; SDV's constraints say so in many ways.
            LOGGER.debug('%s leaves the given columns as they are.', type(constraint).__name__)
    return given


def _allotted(candidates: pd.DataFrame, given: pd.DataFrame, matched: Collection[str]) -> pd.DataFrame:
    """Candidates that fit, each for one row and under its index; a row gets at most one."""
    row, candidate = (places.ravel() for places in np.indices((len(given), len(candidates))))
    pairs = candidates.iloc[candidate].set_axis(given.index[row], axis='index')
    wanted = _as_delivered(given.iloc[row], pairs)
    fits = np.all([_same(pairs[name], wanted[name]) for name in matched], axis=0).reshape(len(given), len(candidates))
    taken: dict[int, int] = {}
    for place, fitting in enumerate(fits):
        fitting[list(taken)] = False
        if fitting.any():
            taken[int(fitting.argmax())] = place
    return candidates.iloc[list(taken)].set_axis(given.index[list(taken.values())], axis='index')


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
