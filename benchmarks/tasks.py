"""The tables that methods are compared on in `fidelity.py`: halves of one draw, and what is known of them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from power import CASES, FORMS, operating_points, spreads
from real_tables import ADULT, sources, split
from sdv_constrained_diffusion import OperatingLimits, PowerFlow
from sdv_constrained_diffusion.constraints.base import Constraint

NUM_ROWS = 5000
"""Rows of a task that is drawn, both halves together."""

SMALL = 1000
"""Rows of each half of a small table."""

MIXTURE_PLACES = 3
"""Modes of the multimodal toy along each of its first two columns."""

MIXTURE_SPREAD = 0.15

HEAVY_FREEDOM = 2.5
"""Degrees of freedom of the heavy-tailed toy: a variance, but no fourth moment."""

WIDE_COLUMNS, WIDE_FACTORS = 200, 10

Density = Callable[[np.ndarray], np.ndarray]
"""Rows, shape (row, column) -> log densities, shape (row,)."""


@dataclass(frozen=True)
class Task:
    """A table to learn and one to be judged by.

    Attributes:
        name: its name.
        train: rows to learn.
        held_out: rows of the same distribution.
        sdtypes: of each column.
        target: column that is predicted from the others (train on synthetic, test on real).
        laws: constraints that ours obeys; peers do not know of them.
        log_density: the true one, where it is known.
    """

    name: str
    train: pd.DataFrame
    held_out: pd.DataFrame
    sdtypes: dict[str, str]
    target: str
    laws: list[Constraint] = field(default_factory=list)
    log_density: Density | None = None


def _halves(name: str, rows: pd.DataFrame, seed: int, target: str, **more: object) -> Task:
    order = np.random.default_rng(seed).permutation(len(rows))
    train, held_out = (rows.iloc[part].reset_index(drop=True) for part in np.split(order, 2))
    return Task(name, train, held_out, dict.fromkeys(rows.columns, 'numerical'), target, **more)  # type: ignore[arg-type]


def power_task(network: str, form: str, seed: int) -> Task:
    """Operating points of a network, with its laws and limits; the target is the first generator's, or bus's, power."""
    case = CASES[network]
    net, rows = operating_points(network, case, NUM_ROWS, seed)
    rows = rows[[column for column in rows if column.startswith(FORMS[form])]]
    laws = [
        PowerFlow.from_pandapower(net, table=rows.columns),
        OperatingLimits.from_pandapower(net, table=rows.columns, flow_limit=case.flow_limit),
    ]
    target = next(name for name in rows if name.startswith(('pg_mw', 'p_mw')) and spreads(rows[name]))
    return _halves(f'{network}-{form}', rows, seed, target, laws=laws)


def adult_task(seed: int, path: Path = ADULT) -> Task:
    """UCI Adult: who earns more than 50,000."""
    halves = split('adult', sources(path)['adult'], seed)
    described = halves.metadata.to_dict()['tables']['adult']['columns']
    sdtypes = {name: column['sdtype'] for name, column in described.items()}
    return Task('adult', halves.train, halves.held_out, sdtypes, halves.task.target)


def small_adult_task(seed: int, path: Path = ADULT) -> Task:
    """A thousand rows of each half of Adult, which a network could learn by heart."""
    whole = adult_task(seed, path)
    train, held_out = (each.head(SMALL).reset_index(drop=True) for each in (whole.train, whole.held_out))
    return replace(whole, name=f'adult-{SMALL}', train=train, held_out=held_out)


def heavy_tailed_task(seed: int) -> Task:
    """Eight columns of a multivariate t distribution of `HEAVY_FREEDOM` degrees of freedom, correlated 0.5^|i - j|."""
    places = np.arange(8)
    shape = 0.5 ** np.abs(places[:, None] - places)
    law = stats.multivariate_t(np.zeros(8), shape, df=HEAVY_FREEDOM)
    rows = pd.DataFrame(law.rvs(NUM_ROWS, random_state=seed), columns=[f'x{place}' for place in places])
    return _halves('heavy-tailed', rows, seed, 'x7', log_density=law.logpdf)


def multimodal_task(seed: int) -> Task:
    """Four columns: nine modes on a grid in the first two; the others lie on a bent sheet over them, with noise."""
    random = np.random.default_rng(seed)
    place = random.integers(MIXTURE_PLACES, size=(NUM_ROWS, 2)) - (MIXTURE_PLACES - 1) / 2
    plane = place + MIXTURE_SPREAD * random.normal(size=place.shape)
    rows = np.c_[plane, _sheet(plane) + MIXTURE_SPREAD * random.normal(size=place.shape)]
    return _halves(
        'multimodal',
        pd.DataFrame(rows, columns=['x', 'y', 'u', 'w']),
        seed,
        'w',
        log_density=_multimodal_log_density,
    )


def _sheet(plane: np.ndarray) -> np.ndarray:
    return np.c_[np.sin(2 * plane[:, 0]) + plane[:, 1] ** 2, plane[:, 0] * plane[:, 1]]


def _multimodal_log_density(rows: np.ndarray) -> np.ndarray:
    plane, above = rows[:, :2], rows[:, 2:] - _sheet(rows[:, :2])
    axis = np.arange(MIXTURE_PLACES) - (MIXTURE_PLACES - 1) / 2
    modes = stats.norm.pdf(plane[:, :, None], axis, MIXTURE_SPREAD).mean(2)
    return np.log(modes.clip(1e-300)).sum(1) + stats.norm.logpdf(above, scale=MIXTURE_SPREAD).sum(1)


def wide_task(seed: int) -> Task:
    """200 columns that bend after ten factors: softened steps, squares and plain sums, with noise of a tenth."""
    random = np.random.default_rng(seed)
    factors = random.normal(size=(NUM_ROWS, WIDE_FACTORS))
    mixed = factors @ random.normal(size=(WIDE_FACTORS, WIDE_COLUMNS)) / WIDE_FACTORS**0.5
    bends = [np.tanh(3 * mixed), mixed**2, mixed]
    rows = np.choose(np.arange(WIDE_COLUMNS) % 3, bends) + 0.1 * random.normal(size=mixed.shape)
    return _halves('wide', pd.DataFrame(rows, columns=[f'x{place}' for place in range(WIDE_COLUMNS)]), seed, 'x0')


TASKS: dict[str, Callable[[int], Task]] = {
    'adult': adult_task,
    f'adult-{SMALL}': small_adult_task,
    'case5': partial(power_task, 'case5', 'wide'),
    'case24': partial(power_task, 'case24_ieee_rts', 'apart'),
    'case118': partial(power_task, 'case118', 'wide'),
    'heavy-tailed': heavy_tailed_task,
    'multimodal': multimodal_task,
    'wide': wide_task,
}
"""Tasks by name, each drawn from a seed."""
