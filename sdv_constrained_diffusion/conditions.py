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

CANDIDATES_AGAIN = 64
"""Candidates drawn at once for the rows that the first draw could not complete, when they are imposed."""

PATIENCE = 2
"""Tries after which values are suspected that no row can complete."""

ROUNDS = 32
"""How often a row may get another candidate of one draw after a constraint has objected."""

Draw = Callable[[pd.DataFrame], pd.DataFrame]
"""Given values, index 0, 1, ... -> candidate rows, one or none for each, by the same index."""


def complete(
    given: pd.DataFrame,
    matched: Collection[str],
    imposed: bool,
    draw: Draw,
    constraints: Sequence[Any],
    max_tries: int,
    found: Callable[[int], Any],
    stuck: Callable[[pd.DataFrame], Any],
) -> pd.DataFrame:
    """Draws rows until each of the given ones has been completed, or the tries are spent.

    Args:
        given: the values that are asked for, any columns, index 0, 1, ...
        matched: those columns in which a candidate may still differ and is drawn again then; the others are imposed by
            whoever draws, up to their last digits.
        imposed: whether any column is; if none is, every candidate may serve every row.
        draw: draws candidates.
        constraints: SDV's, which a candidate must obey once it has the given values.
        max_tries: how often candidates are drawn for the rows that are still missing.
        found: is told how many rows each try completed.
        stuck: is shown the values that are still not completed after `PATIENCE` tries, once; it may refuse them.

    Returns:
        the completed rows, by the index of `given`; rows for which no candidate was found are missing.
    """
    serve = _serve_each if imposed or not matched else _serve_from_all
    pending, completed = np.arange(len(given)), [pd.DataFrame()]
    for number in range(max_tries):
        if number == PATIENCE:
            stuck(given.iloc[pending])
        num_candidates = CANDIDATES if matched else CANDIDATES_AGAIN if number else 1
        accepted = serve(given.iloc[pending], matched, draw, constraints, num_candidates)
        completed.append(accepted)
        found(len(accepted))
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


def _serve_each(
    given: pd.DataFrame, matched: Collection[str], draw: Draw, constraints: Sequence[Any], num_candidates: int
) -> pd.DataFrame:
    """Draws candidates for each row of its own, one at least; completed rows by the index of `given`."""
    copies = max(num_candidates // max(len(given), 1), 1)
    asked = given.iloc[np.tile(np.arange(len(given)), copies)]
    candidates = draw(asked.reset_index(drop=True))
    candidates.index = asked.index[candidates.index]
    rows = _finished(candidates[_fits(candidates, given.loc[candidates.index], matched)], given, constraints)
    return rows[~rows.index.duplicated()]


def _serve_from_all(
    given: pd.DataFrame, matched: Collection[str], draw: Draw, constraints: Sequence[Any], num_candidates: int
) -> pd.DataFrame:
    """Draws candidates of which each may serve every row; completed rows by the index of `given`."""
    served = []
    for start in range(0, len(given), num_candidates):
        candidates = draw(pd.DataFrame(index=range(num_candidates))).reset_index(drop=True)
        served += _allot(candidates, given.iloc[start : start + num_candidates], matched, constraints)
    return pd.concat(served) if served else given.iloc[:0]


def _allot(
    candidates: pd.DataFrame, given: pd.DataFrame, matched: Collection[str], constraints: Sequence[Any]
) -> list[pd.DataFrame]:
    """Gives each row a candidate that fits, and another where a constraint objects; completed rows, some at a time."""
    row, candidate = (places.ravel() for places in np.indices((len(given), len(candidates))))
    names = list(matched)  # a million pairs of whole rows would not fit into memory
    pairs = candidates[names].iloc[candidate].set_axis(given.index[row], axis='index')
    fits = _fits(pairs, given[names].iloc[row], matched).reshape(len(given), len(candidates))
    served: list[pd.DataFrame] = []
    waiting = list(range(len(given)))
    for _ in range(ROUNDS):
        taken: dict[int, int] = {}
        for place in waiting:
            options = fits[place].copy()
            options[list(taken)] = False
            if options.any():
                taken[int(options.argmax())] = place
        if not taken:
            break
        chosen, places = list(taken), list(taken.values())
        rows = _finished(candidates.iloc[chosen].set_axis(given.index[places], axis='index'), given, constraints)
        served.append(rows)
        obeys = given.index[places].isin(rows.index)
        fits[:, np.array(chosen)[obeys]] = False
        fits[places, chosen] = False
        waiting = sorted(set(waiting) - set(np.array(places)[obeys].tolist()))
    return served


def _finished(candidates: pd.DataFrame, given: pd.DataFrame, constraints: Sequence[Any]) -> pd.DataFrame:
    """Candidates that obey the constraints with the given values of the same index in them."""
    wanted = _as_delivered(given.loc[candidates.index], candidates)
    rows = candidates.assign(**{name: wanted[name] for name in wanted.columns})
    for constraint in constraints:
        if len(rows):  # SDV's Inequality cannot judge an empty batch of dates
            rows = rows[np.asarray(constraint.is_valid(rows), dtype=bool)]
    return rows


def _fits(candidates: pd.DataFrame, given: pd.DataFrame, matched: Collection[str]) -> np.ndarray:
    """Which candidates have the matched columns' given values, row by row, shape (row,)."""
    wanted = _as_delivered(given, candidates)
    fits = np.ones(len(candidates), dtype=bool)
    for name in matched:
        fits &= _same(candidates[name], wanted[name])
    return fits


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
