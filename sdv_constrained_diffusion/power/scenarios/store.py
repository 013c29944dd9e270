"""Scenarios in a folder, part by part, so that a run that was killed can go on where it was.

    rows-000000.parquet, rows-000001.parquet, ...     solved rows, one row group each
    _unsolved/rows-000000.parquet, ...                the draws of the same part without a solution
    _manifest.json                                    what the rows depend on

A file appears under its name when it is complete and on the disk. The rows of a part are its last file: a part counts
if they are there, and a part that does not count is written anew. Names that begin with an underscore or a dot are
passed over by readers of Parquet folders, so that `pandas.read_parquet(folder)` gives the solved rows.
"""

import itertools
import json
import os
import reprlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power.scenarios.rows import REASON

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingExtraError.of('Scenario storage', error.name or 'pyarrow', 'power') from error

MANIFEST = '_manifest.json'
UNSOLVED = '_unsolved'


@dataclass(frozen=True)
class ScenarioStore:
    """A folder of parts.

    Attributes:
        directory: the folder; made on first use.
    """

    directory: Path

    def open(self, facts: dict[str, Any]) -> None:
        """Begins a run, or goes on with one.

        Args:
            facts: what the rows depend on, values that JSON can hold.

        Raises:
            GridError: the folder holds other files, or a run whose facts differ; the message names which.
        """
        wanted = json.loads(json.dumps(facts))
        if not (self.directory / MANIFEST).exists():
            self._begin(wanted)
        elif differences := _differences(self.facts(), wanted):
            raise GridError(
                f'generate_to needs the arguments that {str(self.directory)!r} was begun with, but these differ: '
                f'{"; ".join(differences)}. Pass the same arguments to go on, or another folder to begin anew.'
            )
        for leftover in [*self.directory.glob('.*.tmp'), *(self.directory / UNSOLVED).glob('.*.tmp')]:
            leftover.unlink(missing_ok=True)

    def facts(self) -> dict[str, Any]:
        """What the rows depend on.

        Raises:
            GridError: the folder is not one of scenarios.
        """
        if not (self.directory / MANIFEST).is_file():
            raise GridError(
                f'Scenarios.load needs a folder that generate_to wrote, but {str(self.directory)!r} has no {MANIFEST}. '
                'Pass such a folder, or read Parquet files of other origin with pandas.read_parquet.'
            )
        return json.loads((self.directory / MANIFEST).read_text(encoding='utf-8'))

    def num_parts(self) -> int:
        """Number of parts that count: all up to the first that is missing."""
        parts = itertools.count()
        return next(each for each in parts if not (self._rows(each).exists() and self._unsolved(each).exists()))

    def write(self, number: int, rows: pd.DataFrame, unsolved: pd.DataFrame) -> None:
        """Adds a part; the rows come last, since they make it count."""
        write_parquet(unsolved, self._unsolved(number))
        write_parquet(rows, self._rows(number))

    def num_rows(self) -> int:
        """Number of solved rows in all parts."""
        return sum(pq.read_metadata(self._rows(number)).num_rows for number in range(self.num_parts()))

    def read_rows(self) -> pd.DataFrame:
        """The solved rows of all parts; at least one part must count."""
        return pa.concat_tables([pq.read_table(self._rows(number)) for number in range(self.num_parts())]).to_pandas()

    def read_unsolved(self) -> pd.DataFrame:
        """The draws without a solution of all parts; at least one part must count."""
        paths = [self._unsolved(number) for number in range(self.num_parts())]
        return pa.concat_tables([pq.read_table(path) for path in paths]).to_pandas()

    def read_reasons(self) -> list[str]:
        """Why the draws without a solution have none, of all parts."""
        paths = [self._unsolved(number) for number in range(self.num_parts())]
        return [reason for path in paths for reason in pq.read_table(path, columns=[REASON])[REASON].to_pylist()]

    def _begin(self, facts: dict[str, Any]) -> None:
        if self.directory.exists() and any(not each.name.startswith('.') for each in self.directory.iterdir()):
            raise GridError(
                f'generate_to needs a new or empty folder, but {str(self.directory)!r} holds files of other origin. '
                'Pass another folder.'
            )
        text = json.dumps(facts, indent=1)
        _write(self.directory / MANIFEST, lambda path: path.write_text(text, encoding='utf-8'))

    def _rows(self, number: int) -> Path:
        return self.directory / f'rows-{number:06d}.parquet'

    def _unsolved(self, number: int) -> Path:
        return self.directory / UNSOLVED / f'rows-{number:06d}.parquet'


def write_parquet(frame: pd.DataFrame, path: Path, metadata: dict[bytes, bytes] | None = None) -> None:
    """Writes a table as one row group, at once and for good.

    Args:
        frame: columns of numbers or text; that an empty one holds text is kept.
        path: of the file, replaced if there.
        metadata: added to the file's own.
    """
    kinds = [
        (name, pa.string() if kind == np.dtype(object) else pa.from_numpy_dtype(kind))
        for name, kind in frame.dtypes.items()
    ]
    table = pa.Table.from_pandas(frame, schema=pa.schema(kinds), preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    _write(path, lambda temporary: pq.write_table(table, temporary, row_group_size=max(len(frame), 1)))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside the file and renames, so that the file is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.tmp')
    write(temporary)
    with temporary.open('r+b') as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    if hasattr(os, 'O_DIRECTORY'):
        folder = os.open(path.parent, os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)


def _differences(there: dict[str, Any], here: dict[str, Any], of: str = '') -> list[str]:
    """Names of the facts that differ, with their values."""
    found = []
    for name in dict.fromkeys([*there, *here]):
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f'{of}{name}.')
        elif old != new:
            found.append(f'{of}{name} was {reprlib.repr(old)} and is now {reprlib.repr(new)}')
    return found
