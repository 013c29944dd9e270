"""Draws and what a solver says of them, as tables: the solved rows, and the draws without a solution."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.power.scenarios.draws import Draw, OperatingPoint
from sdv_constrained_diffusion.power.scenarios.recipe import Recipe
from sdv_constrained_diffusion.power.tables import TOPOLOGY, column

COST_FACTOR = 'cost_factor'
"""Quantity of a priced element: what its cost was multiplied by."""

DRAW, REASON = 'draw', 'reason'
"""Columns of the draws without a solution: the place in the sequence of draws, and the solver's own word."""

Answer = tuple[int, Draw, OperatingPoint]
"""A draw with its place in the sequence of draws, and what the solver says of it."""


def solved_table(recipe: Recipe, answers: Sequence[Answer]) -> pd.DataFrame:
    """The rows: the solver's columns, then cost factors and the topology if they vary."""
    names = [*recipe.problem.columns, *_cost_columns(recipe)]
    rows = [np.concatenate([point.values, _cost_factors(recipe, draw)]) for _, draw, point in answers if point.solved]
    frame = pd.DataFrame(np.reshape(rows, (len(rows), len(names))), columns=names)
    return _with_topology(frame, recipe, [draw for _, draw, point in answers if point.solved])


def unsolved_table(recipe: Recipe, answers: Sequence[Answer]) -> pd.DataFrame:
    """The draws without a solution: `draw`, what was drawn, `reason`."""
    drawable = recipe.problem.drawable
    names = [column(quantity, load) for quantity in ('pd_mw', 'qd_mvar') for load in drawable.loads]
    if recipe.infeed:
        names += [column(quantity, label) for quantity in ('pg_mw', 'qg_mvar') for label in drawable.infeeds]
    names += _cost_columns(recipe)
    failed = [answer for answer in answers if not answer[2].solved]
    rows = [
        np.concatenate(
            [
                *(draw.pd_mw, draw.qd_mvar),
                *((draw.infeed_mw, draw.infeed_mvar) if recipe.infeed else ()),
                _cost_factors(recipe, draw),
            ]
        )
        for _, draw, _ in failed
    ]
    frame = pd.DataFrame(np.reshape(rows, (len(rows), len(names))), columns=names)
    frame.insert(0, DRAW, np.array([number for number, *_ in failed], dtype=np.int64))
    frame = _with_topology(frame, recipe, [draw for _, draw, _ in failed])
    return frame.assign(**{REASON: pd.Series([point.reason for *_, point in failed], dtype=object)})


def _cost_columns(recipe: Recipe) -> list[str]:
    return [column(COST_FACTOR, label) for label in recipe.problem.drawable.priced] if recipe.costs else []


def _cost_factors(recipe: Recipe, draw: Draw) -> np.ndarray:
    return draw.cost_factors if recipe.costs else draw.cost_factors[:0]


def _with_topology(frame: pd.DataFrame, recipe: Recipe, draws: Sequence[Draw]) -> pd.DataFrame:
    if not recipe.outages:
        return frame
    return frame.assign(**{TOPOLOGY: pd.Series([draw.topology for draw in draws], dtype=object)})
