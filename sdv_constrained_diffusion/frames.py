"""Tables as SDV and RDT hand them around: names, order, dtypes, units of time, and which columns are categories."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

DISCRETE = ('categorical', 'ordinal', 'boolean')
"""Sdtypes whose values are learned as categories."""


def owned(data: Any) -> Any:
    """The caller's table in a frame whose column names SDV may change; moments in nanoseconds, the only unit of RDT."""
    if isinstance(data, dict):
        return {name: owned(each) for name, each in data.items()}
    return in_nanoseconds(data) if isinstance(data, pd.DataFrame) else data


def dtypes_of(data: Any) -> dict[str, Any]:
    """The dtypes of the caller's table, by the names that SDV gives its columns."""
    (table,) = data.values() if isinstance(data, dict) else (data,)
    return {str(name): dtype for name, dtype in table.dtypes.items()}


def in_nanoseconds(data: pd.DataFrame) -> pd.DataFrame:
    """A shallow copy whose moments are in nanoseconds."""
    return data.astype({name: 'datetime64[ns]' for name, dtype in data.dtypes.items() if _is_coarse(dtype)}, copy=False)


def in_units(data: pd.DataFrame, dtypes: Mapping[str, Any]) -> pd.DataFrame:
    """The opposite: moments in the units of `dtypes`."""
    return data.astype({name: dtypes[name] for name in data.columns if _is_coarse(dtypes.get(name))})


def moments_of(described: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """The columns of moments of metadata's columns, and how they are written where they are text."""
    return {name: each.get('datetime_format') for name, each in described.items() if each.get('sdtype') == 'datetime'}


def read_moments(data: pd.DataFrame, formats: Mapping[str, str | None]) -> pd.DataFrame:
    """A shallow copy whose moments that are written as text are datetime64.

    Args:
        data: any table.
        formats: of the columns of moments, how they are written as text; None where pandas finds out.
    """
    texts = [name for name in formats if name in data.columns and not _is_moment(data[name])]
    return data.assign(**{name: pd.to_datetime(data[name], format=formats[name]) for name in texts})


def written_moments(data: pd.DataFrame, like: pd.DataFrame, formats: Mapping[str, str | None]) -> pd.DataFrame:
    """The opposite: moments as text in those columns in which another table has text."""
    texts = [name for name in formats if name in like.columns and not _is_moment(like[name])]
    written = {}
    for name in texts:
        written[name] = data[name].dt.strftime(formats[name]) if formats[name] else data[name].astype(str)
    return data.assign(**written)


def as_delivered(processed: pd.DataFrame, moments: Collection[str]) -> pd.DataFrame:
    """Processed columns as constraints read them: moments, which are nanoseconds since 1970 there, as datetime64."""
    columns = [name for name in moments if name in processed.columns]
    return processed.assign(**{name: pd.to_datetime(processed[name].round(), unit='ns') for name in columns})


def held_by(data: pd.DataFrame, dtypes: Mapping[str, Any]) -> pd.DataFrame:
    """Float64 columns in the given dtypes of numbers, without the rows that these cannot hold exactly."""
    for name, dtype in dtypes.items():
        values = data[name].to_numpy()
        with np.errstate(invalid='ignore', over='ignore'):
            cast = values.astype(getattr(dtype, 'numpy_dtype', dtype))
        data = data[cast.astype('float64') == values]
    return data.astype(dict(dtypes))


def in_order(processed: pd.DataFrame, described: Sequence[str]) -> pd.DataFrame:
    """The columns in the metadata's order, others after them: RDT's own order changes from one process to the next."""
    known = [name for name in described if name in processed.columns]
    return processed[known + sorted(set(processed.columns) - set(known))]


def discrete_columns(processed: pd.DataFrame, sdtypes: Mapping[str, str], guided: Collection[str]) -> set[str]:
    """The processed columns whose values are categories: discrete by their sdtype, or no numbers.

    Args:
        processed: the processed table.
        sdtypes: of the columns that no transformer rewrites.
        guided: columns that a constraint reads as numbers, whatever SDV calls them.
    """
    discrete = set()
    for name, dtype in processed.dtypes.items():
        number = pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)
        if name not in guided and (sdtypes.get(name) in DISCRETE or not number):
            discrete.add(name)
    return discrete


def _is_moment(column: pd.Series) -> bool:
    return pd.api.types.is_datetime64_any_dtype(column.dtype)


def _is_coarse(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind == 'M' and dtype != np.dtype('datetime64[ns]')
