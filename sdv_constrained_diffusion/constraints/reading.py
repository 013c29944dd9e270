"""How a residual reads the columns of a DataFrame: numbers as they are, moments in seconds, the rest as labels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sdv_constrained_diffusion._categories import Categories
from sdv_constrained_diffusion.constraints.moments import in_seconds, moments, naive, seconds
from sdv_constrained_diffusion.errors import ConstraintError, LabelsError


@dataclass(frozen=True)
class Reading:
    """How one column becomes float64.

    Attributes:
        moment: whether it holds moments (datetime64), which are read in seconds since 1970-01-01.
        discrete: whether it is read as labels, which have no derivative and never move.
        categories: of labels that are no numbers: what their codes stand for.
    """

    moment: bool = False
    discrete: bool = False
    categories: Categories | None = None

    @classmethod
    def of(cls, column: pd.Series, discrete: bool = False, categories: Categories | None = None) -> 'Reading':
        """Judges a column by its dtype.

        Args:
            column: some values.
            discrete: read numbers as labels, too.
            categories: of labels: all that can occur; those of the column when None.
        """
        column = column.infer_objects()
        if pd.api.types.is_datetime64_any_dtype(column.dtype):
            return cls(moment=True, discrete=discrete)
        if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
            return cls(discrete=discrete)
        return cls(discrete=True, categories=Categories.fit(column) if categories is None else categories)

    def values(self, column: pd.Series) -> np.ndarray:
        """A column as float64, shape (row,): NaN where missing, -1 for a label that did not occur."""
        if self.categories is not None:
            return self.categories.find(column).astype('float64')
        if self.moment:
            return in_seconds(column)
        return column.to_numpy(dtype='float64', na_value=np.nan)

    def written(self, values: np.ndarray, like: pd.Series) -> pd.Series:
        """The opposite, for columns that can move: float64; moments in nanoseconds, in the time zone of the column.

        Args:
            values: shape (row,).
            like: the column as it was read; moments that have not moved keep digits that float64 cannot hold.
        """
        if not self.moment:
            return pd.Series(values, like.index, name=like.name)
        before = naive(like)
        moved = pd.Series(moments(values), like.index, name=like.name)
        written = before.where(in_seconds(before) == values, moved)
        zone = getattr(like.dt, 'tz', None)
        return written if zone is None else written.dt.tz_localize('UTC').dt.tz_convert(zone)


class Labels:
    """A discrete column as a residual reads it: which label each row holds.

    It answers `==`, `!=` and `isin` with True or False per row, and `map` with a number per row. Labels have no
    derivative and no arithmetic.

    Attributes:
        codes: the labels by number, shape (row,); of a column of numbers these numbers themselves.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str, codes: Tensor, reading: Reading) -> None:
        """Keeps the codes and what they stand for; numbers stand for themselves."""
        self._name, self.codes, self._reading = name, codes, reading

    def __eq__(self, label: object) -> Tensor:  # type: ignore[override]
        """True in rows that hold the label, shape (row,)."""
        return self.codes == self._code(label)

    def __ne__(self, label: object) -> Tensor:  # type: ignore[override]
        """True in rows that hold another label, shape (row,)."""
        return ~(self == label)

    def isin(self, labels: Iterable[Any]) -> Tensor:
        """True in rows that hold one of the labels, shape (row,)."""
        nowhere = torch.zeros_like(self.codes, dtype=torch.bool)
        return torch.stack([nowhere, *(self == label for label in labels)]).any(0)

    def map(self, numbers: Mapping[Any, float], default: float = float('nan')) -> Tensor:
        """The number that each row's label stands for, shape (row,), float64.

        Args:
            numbers: label -> number.
            default: for labels that are not among them; NaN makes a residual say so.
        """
        mapped = torch.full_like(self.codes, default, dtype=torch.float64)
        for label, number in numbers.items():
            mapped = torch.where(self == label, number, mapped)
        return mapped

    def _code(self, label: Any) -> float:
        if isinstance(label, Labels):
            self._refuse()
        categories = self._reading.categories
        if categories is not None:
            code = int(categories.find(pd.Series([label], dtype=object))[0])
            return float(code) if code >= 0 else float('nan')
        try:
            return float(seconds(label) if self._reading.moment else label)
        except (TypeError, ValueError) as error:
            what = 'moments' if self._reading.moment else 'numbers'
            raise ConstraintError(
                f'Column {self._name!r} holds {what}, and none of them is {label!r}. Compare it with one of its values.'
            ) from error

    def _example(self) -> str:
        categories = self._reading.categories
        return '' if categories is None or not len(categories.levels) else f' such as {categories.levels[0]!r}'

    def _refuse(self, *_: Any) -> NoReturn:
        raise LabelsError(
            f'Column {self._name!r} is read as labels{self._example()}, which have no arithmetic. Compare them with a '
            "label (==, !=, isin), or turn them into numbers: table.tariff.map({'day': 0.31, 'night': 0.24}). If the "
            'column should hold numbers, convert it with pandas.to_numeric.',
            self._name,
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __neg__ = __pow__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
