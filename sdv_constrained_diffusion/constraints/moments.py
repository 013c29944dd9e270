"""Moments in seconds since 1970-01-01 UTC, as residuals read them, and back."""

from typing import Any

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.errors import ConstraintError

NANOSECONDS = 1e9
"""In a second; seconds since 1970 are good to a quarter of a microsecond in float64."""


def seconds(value: Any) -> Any:
    """A moment or a span of time in seconds; anything else as it is.

    Args:
        value: a text such as '2024-01-31', a date, a Timestamp or a Timedelta.

    Raises:
        ConstraintError: the text is no moment.
    """
    if isinstance(value, pd.Timedelta | np.timedelta64):
        return pd.Timedelta(value) / pd.Timedelta(seconds=1)
    if not isinstance(value, str | pd.Timestamp | np.datetime64) and not hasattr(value, 'isoformat'):
        return value
    try:
        return float(in_seconds(pd.Series([pd.Timestamp(value)]))[0])
    except ValueError as error:
        raise ConstraintError(
            f'{value!r} is no moment: {error}. Write it as 2024-01-31 or 2024-01-31 12:30.'
        ) from error


def in_seconds(column: pd.Series) -> np.ndarray:
    """datetime64 -> seconds since 1970-01-01 UTC, NaN where missing, shape (row,)."""
    column = naive(column)
    whole, rest = np.divmod(column.to_numpy().astype('int64'), int(NANOSECONDS))
    return np.where(column.isna(), np.nan, whole + rest / NANOSECONDS)


def naive(column: pd.Series) -> pd.Series:
    """A column of moments in nanoseconds and without a time zone, which becomes UTC."""
    if getattr(column.dt, 'tz', None) is not None:
        column = column.dt.tz_convert('UTC').dt.tz_localize(None)
    return column.astype('datetime64[ns]')


def moments(values: np.ndarray) -> np.ndarray:
    """Seconds since 1970-01-01 -> datetime64 in nanoseconds; whole seconds exactly, the rest to a microsecond."""
    missing = ~np.isfinite(values)
    whole = np.floor(np.where(missing, 0.0, values))
    micro = np.where(missing, np.timedelta64('NaT', 'us'), np.round((values - whole) * 1e6).astype('timedelta64[us]'))
    return whole.astype('int64').astype('datetime64[s]').astype('datetime64[ns]') + micro
