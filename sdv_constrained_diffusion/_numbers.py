"""Columns as float64 numbers, or an error that says which value is none."""

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.errors import DataError


def finite_numbers(column: pd.Series, who: str, allow_missing: bool = False) -> np.ndarray:
    """The column's values as float64, shape (row,).

    Args:
        column: any dtype.
        who: what needs the numbers, for the error message.
        allow_missing: whether missing values may stand, as NaN.

    Raises:
        DataError: a value is not a number, is infinite, or is missing where that is not allowed.
    """
    try:
        numbers = column.to_numpy(dtype='float64', na_value=np.nan)
    except (TypeError, ValueError) as error:
        none = pd.to_numeric(column, errors='coerce').isna() & column.notna()
        first = int(none.to_numpy().argmax())
        raise DataError(
            f'{who} needs numbers in column {column.name!r}; it is {column.dtype}, and row {column.index[first]} holds '
            f'{column.iloc[first]!r}. Convert the column, or leave it out.'
        ) from error
    bad = np.isinf(numbers) if allow_missing else ~np.isfinite(numbers)
    if bad.any():
        first = int(bad.argmax())
        kinds = 'inf' if allow_missing else 'NaN or inf'
        raise DataError(
            f'{who} needs finite numbers in column {column.name!r}; {int(bad.sum())} of {len(column)} rows hold '
            f'{kinds}, the first is row {column.index[first]} with {numbers[first]}. Drop or repair these rows.'
        )
    return numbers
