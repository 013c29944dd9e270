"""A table with a column of every kind that SDV knows, and a synthesizer for it."""

import numpy as np
import pandas as pd

from sdv_constrained_diffusion import ConstrainedDiffusionSynthesizer
from sdv_version import metadata_of

CATEGORIES = ['colour', 'size', 'town', 'level', 'flag', 'consent']
"""Columns whose delivered values must be among those observed."""

DESCRIBED = {
    'id': {'sdtype': 'id'},
    'town': {'sdtype': 'city', 'pii': False},
    'day': {'sdtype': 'datetime'},
    'when': {'sdtype': 'datetime', 'datetime_format': '%d/%m/%Y'},
    'ref': {'sdtype': 'id', 'regex_format': 'R[0-9]{4}'},
    'name': {'sdtype': 'name', 'pii': True},
    'email': {'sdtype': 'email', 'pii': True},
    'note': {'sdtype': 'unknown', 'pii': True},
}
"""What detection gets wrong, or differently in SDV 1.38 and 2.x."""


def mixed_table(num_rows=400, seed=0):
    rng = np.random.default_rng(seed)

    def sometimes(values, share):
        """The values with `share` of them missing."""
        values = pd.Series(values)
        return values.mask(rng.uniform(size=num_rows) < share)

    x = rng.normal(size=num_rows)
    away = rng.uniform(size=num_rows) < 0.3
    days = pd.Timestamp('2020-01-01') + pd.to_timedelta(rng.integers(0, 700, num_rows), 'D')
    number = [f'{each:04d}' for each in range(num_rows)]
    return pd.DataFrame(
        {
            'id': np.arange(num_rows) + 10_000,
            'x': x,
            'price': np.round(rng.gamma(4.0, 8.0, num_rows), 2),
            'count': rng.poisson(1000 * np.exp(0.3 * x)),
            'visits': sometimes(rng.integers(0, 5000, num_rows), 0.2).astype('Int64'),
            'weight': sometimes(rng.normal(70, 9, num_rows), 0.1).astype('Float32'),
            'gain': np.where(rng.uniform(size=num_rows) < 0.9, 0.0, rng.lognormal(8, 1, num_rows).round(2)),
            'height': np.where(away, np.nan, rng.normal(1.7, 0.1, num_rows)),
            'width': np.where(away, np.nan, rng.normal(0.4, 0.05, num_rows)),
            'level': rng.integers(1, 6, num_rows),
            'flag': x + rng.normal(size=num_rows) > 0.5,
            'consent': sometimes(rng.uniform(size=num_rows) < 0.6, 0.2).astype('boolean'),
            'colour': rng.choice(np.array(['red', 'green', 'blue', None], object), num_rows, p=[0.5, 0.2, 0.1, 0.2]),
            'size': pd.Categorical(rng.choice(['S', 'M', 'L'], num_rows)),
            'town': rng.choice(['Oslo', 'Rome', 'Lyon'], num_rows),
            'day': sometimes(days, 0.2),
            'when': sometimes(days.strftime('%d/%m/%Y'), 0.2).astype(object),
            'ref': [f'R{each}' for each in number],
            'name': [f'Person {each}' for each in number],
            'email': [f'person{each}@nowhere.local' for each in number],
            'note': [f'note {each}' for each in number],
            'void': np.full(num_rows, np.nan),
            'blank': np.full(num_rows, None, object),
            'fixed': np.full(num_rows, 2.5),
            'same': np.full(num_rows, 'always', object),
        }
    )


def mixed_metadata(table):
    described = {name: DESCRIBED[name] for name in table.columns if name in DESCRIBED}
    return metadata_of(table, described, 'id' if 'id' in table else None)


def make_synthesizer(table, metadata=None, constraints=(), **arguments):
    if metadata is None:
        metadata = mixed_metadata(table)
    synthesizer = ConstrainedDiffusionSynthesizer(metadata, **({'epochs': 3, 'seed': 0} | arguments))
    if constraints:
        synthesizer.add_constraints(list(constraints))
    return synthesizer
