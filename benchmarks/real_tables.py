"""The real tables that synthesizers are compared on: where each lies, what its columns are, what is predicted from it.

`adult` is read from a file. The others lie inside packages that this project already installs, so that the benchmark
needs no package of its own: `placements` in sdmetrics, `titanic` among the tests of scikit-learn, which its wheels
carry. All are mixed and have missing values.
"""

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import sdmetrics
import sklearn
from sdv.metadata import Metadata

ADULT = Path(__file__).parents[2] / 'shared' / 'data' / 'adult.csv'
PLACEMENTS = Path(sdmetrics.__file__).parent / 'demos' / 'single_table' / 'student_placements_real.csv'
TITANIC = Path(sklearn.__file__).parent.joinpath(
    'datasets', 'tests', 'data', 'openml', 'id_40945', 'data-v1-dl-16826755.arff.gz'
)


@dataclass(frozen=True)
class Task:
    """What is predicted: whether `target` equals `positive`, from the columns that are not known only afterwards."""

    target: str
    positive: object
    leaks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where a table comes from.

    Attributes:
        read: reads it.
        task: what is predicted from it.
        sdtypes: columns whose kind SDV's detection gets wrong.
        primary_key: its key, if it has one.
    """

    read: Callable[[], pd.DataFrame]
    task: Task
    sdtypes: dict[str, str] = field(default_factory=dict)
    primary_key: str | None = None


@dataclass(frozen=True)
class Halves:
    """A table split at random: one half to train on, the other to judge by.

    The metadata are detected on the training half alone: they hold ranges, and the judge's rows must not leak.
    """

    name: str
    train: pd.DataFrame
    held_out: pd.DataFrame
    metadata: Metadata
    metadata_changes: dict[str, str]
    task: Task


def _adult(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, skipinitialspace=True, na_values='?')


def _titanic() -> pd.DataFrame:
    """Reads the ARFF file by hand: SciPy's reader refuses columns of text."""
    with gzip.open(TITANIC, 'rt', encoding='utf-8') as file:
        head, _, rows = file.read().partition('@data\n')
    names = [line.split("'")[1] for line in head.splitlines() if line.startswith('@attribute')]
    return pd.read_csv(io.StringIO(rows), header=None, names=names, na_values='?', escapechar='\\')


def sources(adult: Path = ADULT) -> dict[str, Source]:
    """The tables by name.

    Args:
        adult: where UCI Adult lies, as the UCI repository has it but with a header.
    """
    return {
        'adult': Source(
            lambda: _adult(adult),
            Task('income', '>50K'),
            # As detected on thousands of rows; on a few hundred, a weight that differs in every row looks like a key.
            sdtypes=dict.fromkeys(('fnlwgt', 'capital-gain', 'capital-loss'), 'numerical'),
        ),
        'placements': Source(
            lambda: pd.read_csv(PLACEMENTS),
            Task('placed', True, leaks=('salary', 'start_date', 'end_date', 'duration')),
            # Detection takes booleans for categories; the metadata that sdmetrics ships says boolean.
            sdtypes={'placed': 'boolean', 'work_experience': 'boolean'},
            primary_key='student_id',
        ),
        'titanic': Source(
            _titanic,
            Task('survived', 1, leaks=('boat', 'body')),
            # Nearly every row has a name and a ticket of its own.
            sdtypes={'name': 'name', 'ticket': 'id', 'body': 'numerical'},
        ),
    }


def split(name: str, source: Source, seed: int, max_rows: int | None = None) -> Halves:
    """Reads a table and splits its rows at random.

    Args:
        name: the table's name in the metadata.
        source: where it comes from.
        seed: of the split.
        max_rows: keep so many rows, drawn at random; all when None.
    """
    data = source.read()
    order = np.random.default_rng(seed).permutation(len(data))[:max_rows]
    half = len(order) // 2
    train, held_out = (data.iloc[rows].reset_index(drop=True) for rows in (order[:half], order[half:]))
    metadata, changes = _describe(name, train, source)
    return Halves(name, train, held_out, metadata, changes, source.task)


def _describe(name: str, train: pd.DataFrame, source: Source) -> tuple[Metadata, dict[str, str]]:
    """SDV's own detection, corrected; and what was corrected."""
    metadata = Metadata.detect_from_dataframes({name: train})
    table = metadata.to_dict()['tables'][name]
    changes = {}
    if (key := table.get('primary_key')) != source.primary_key:
        changes['primary key'] = f'{key} -> {source.primary_key}'
        if source.primary_key is None:
            metadata.remove_primary_key(name)
        else:
            metadata.set_primary_key(source.primary_key, name)
    for column, sdtype in source.sdtypes.items():
        if (detected := table['columns'][column]['sdtype']) != sdtype:
            changes[column] = f'{detected} -> {sdtype}'
            metadata.update_column(column, name, sdtype=sdtype)
    return metadata, changes
