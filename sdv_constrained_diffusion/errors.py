"""Exceptions. Each message states who complains, what was wanted, what came, and what to do next."""

import difflib
from collections.abc import Iterable


def close_names(name: str, available: Iterable[str], most: int = 3) -> list[str]:
    """Names that look like another, whatever their case, the closest first."""
    by_lower: dict[str, list[str]] = {}
    for each in available:
        by_lower.setdefault(each.lower(), []).append(each)
    close = difflib.get_close_matches(name.lower(), by_lower, n=most)
    return [each for lower in close for each in by_lower[lower]][:most]


class ConstrainedDiffusionError(Exception):
    """Base class of every error this package raises on its own account."""


class ConstraintError(ConstrainedDiffusionError, ValueError):
    """A constraint is ill defined: wrong columns, wrong shape, a residual that is not finite."""


class ColumnMissingError(ConstraintError):
    """A constraint names a column that the table lacks."""

    @classmethod
    def of(cls, who: str, missing: str, available: Iterable[str], hint: str = '') -> 'ColumnMissingError':
        """Words the error.

        Args:
            who: the constraint that asked for the column.
            missing: the column it asked for.
            available: the columns the table has.
            hint: what the caller can pass instead; a general sentence when empty.
        """
        close = close_names(str(missing), map(str, available))
        looks = f' Columns that look close: {", ".join(map(repr, close))}.' if close else ''
        hint = hint or 'Rename the column, or name an existing one in the constraint.'
        return cls(f'{who} needs column {missing!r}, which the table lacks.{looks} {hint}')


class LabelsError(ConstraintError):
    """A residual computes with a column that is read as labels.

    Attributes:
        column: the column's name.
    """

    def __init__(self, message: str, column: str) -> None:
        """Keeps the column beside the message."""
        super().__init__(message, column)
        self.column = column

    def __str__(self) -> str:
        """The message."""
        return str(self.args[0])


class ConstraintMismatchError(ConstrainedDiffusionError, ValueError):
    """The training rows miss a constraint grossly and systematically: a unit or a sign is wrong."""


class DataError(ConstrainedDiffusionError, ValueError):
    """The training table cannot be learned from: too few rows, inf or NaN where a number is needed."""


class GridError(ConstrainedDiffusionError, ValueError):
    """A power network cannot be turned into equations: isolated buses, a power flow that fails."""


class PluginError(ConstrainedDiffusionError, ImportError):
    """A constraint plug-in is unknown or cannot be imported."""


class MissingExtraError(ConstrainedDiffusionError, ImportError):
    """An optional library is needed that is not installed."""

    @classmethod
    def of(cls, who: str, library: str, extra: str) -> 'MissingExtraError':
        """Words the error.

        Args:
            who: the feature that needs the library.
            library: the library's import name.
            extra: the extra of this distribution that installs it.
        """
        return cls(
            f'{who} needs the library {library!r}, which is not installed. '
            f"Install it with: pip install 'sdv-constrained-diffusion[{extra}]'"
        )
