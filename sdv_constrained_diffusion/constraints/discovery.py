"""Exact affine relations between a table's columns: constant sums, fixed ratios, totals.

They are the null space of the standardised columns, found by a singular value decomposition in float64, brought to
reduced row echelon form so that each names few columns, and kept where every row obeys them.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.linalg import qr

from sdv_constrained_diffusion.constraints.algebraic import Linear
from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.reading import Reading
from sdv_constrained_diffusion.constraints.system import ConstraintSystem

RANK = 1e-8
"""Singular values below this share of the largest are tried as zero."""

TOLERANCE = 1e-10
"""A relation is exact where no row misses it by more than this share of the spread of its terms. Sums of rounded
numbers hold to 1e-15; a curved law over a narrow range may be affine to 1e-8, and is none."""

ROUNDING = 1e-13
"""Relations may also be missed by this share of the size of their terms, by which float64 rounds. Those that hold so
exactly with weights of nine digits are told with these."""

CONSTANT = 1e-9
"""Relative spread of a column that a solver left constant."""

NEGLIGIBLE = 1e-7
"""Weights below this, in standardised columns, are rounding."""

ROWS_PER_COLUMN = 2
FEWEST_ROWS = 30
"""Fewer rows obey some relation by chance."""

FEWEST_OFF = 10
"""Rows in which each column of a relation must leave its most frequent value: two columns that leave zero in one row,
the same, are in a fixed ratio by chance."""

SAME_ON = 20
"""Rows on which derivatives are compared to see whether a given constraint is affine."""

SAMPLE = 20_000
"""Rows that are decomposed; all are asked whether they obey."""


def discover(data: pd.DataFrame) -> list[Linear]:
    """The exact affine relations of a table.

    Args:
        data: the table; columns of numbers and moments (in seconds) without missing values count. Constant columns take
            no part: each is a law of its own already.

    Returns:
        equalities, none of which the others imply.
    """
    numbers = _numbers(data)
    if len(data) < max(ROWS_PER_COLUMN * len(numbers), FEWEST_ROWS) or len(numbers) < 2:
        return []
    names, values = list(numbers), np.stack(list(numbers.values()), axis=1)
    scale = values.std(0)
    sample = values[:: max(len(values) // SAMPLE, 1)]
    triangle = np.linalg.qr((sample - sample.mean(0)) / scale, mode='r')
    _, singular, directions = np.linalg.svd(triangle)
    weights = directions[singular <= RANK * singular.max()]
    supported = np.array([_off_mode(column) for column in values.T]) >= FEWEST_OFF
    found = [_law(names, values, scale, row, supported) for row in _echelon(weights)] if len(weights) else []
    return [law for law in found if law is not None]


def independent(laws: Sequence[Linear], given: Sequence[Constraint], data: pd.DataFrame) -> list[Linear]:
    """The laws that add something to given constraints; of these, those count whose derivative is the same everywhere.

    Args:
        laws: relations, none of which the others imply.
        given: constraints that hold anyway.
        data: the table.
    """
    if not laws:
        return []
    system = ConstraintSystem([*given, *laws], data)
    few = system.values(data)[:: max(len(data) // SAME_ON, 1)]
    scale = system.values(data).std(0)
    directions = torch.nn.functional.normalize(system.jacobian(few) * scale, dim=2)
    affine = (directions - directions[:1]).abs().amax(dim=(0, 2)) <= NEGLIGIBLE
    equalities = system.lower == system.upper
    basis = directions[0, : -len(laws)][(affine & equalities)[: -len(laws)]]
    kept = []
    for law, direction in zip(laws, directions[0, -len(laws) :], strict=True):
        rest = direction
        if len(basis):
            rest = direction - basis.T @ torch.linalg.lstsq(basis.T, direction[:, None], driver='gelsd').solution[:, 0]
        if rest.norm() > NEGLIGIBLE:
            kept.append(law)
            basis = torch.cat([basis, direction[None]])
    return kept


def _numbers(data: pd.DataFrame) -> dict[str, np.ndarray]:
    """Columns of numbers that vary and are never missing, shape (row,) each."""
    found = {}
    for name in data.columns:
        reading = Reading.of(data[name])
        if reading.discrete:
            continue
        values = reading.values(data[name])
        if np.isfinite(values).all() and np.ptp(values) > CONSTANT * np.abs(values).max(initial=0.0):
            found[str(name)] = values
    return found


def _echelon(weights: np.ndarray) -> np.ndarray:
    """Reduced row echelon form of full row rank, shape (law, column): each law alone has its pivot column."""
    _, _, order = qr(weights, mode='economic', pivoting=True)
    pivots = order[: len(weights)]
    return np.linalg.solve(weights[:, pivots], weights)


def _off_mode(column: np.ndarray) -> int:
    """How many rows have another value than the most frequent one."""
    return len(column) - int(np.unique(column, return_counts=True)[1].max())


def _law(
    names: list[str], values: np.ndarray, scale: np.ndarray, row: np.ndarray, supported: np.ndarray
) -> Linear | None:
    """One relation by its standardised weights; None where some row of the table misses it, or few rows show it."""
    support = np.flatnonzero(np.abs(row) > NEGLIGIBLE)
    if not supported[support].all():
        return None
    pivot = support[np.argmax(scale[support])]
    others = support[support != pivot]
    terms = values[:, others] - values[:, others].mean(0)
    exact, *_ = np.linalg.lstsq(terms / scale[others], values[:, pivot] - values[:, pivot].mean(), rcond=None)
    solved = exact / scale[others]
    size = np.abs(values[:, pivot]).max() + np.abs(values[:, others]).max(0) @ np.abs(solved)
    plain = np.array([float(f'{each:.9g}') for each in solved])
    spread = scale[pivot] + scale[others] @ np.abs(solved)
    tolerance = float(TOLERANCE * spread + ROUNDING * size)
    for coefficients, allowed in ((plain, ROUNDING * size), (solved, tolerance)):
        rest = values[:, pivot] - values[:, others] @ coefficients
        offset = float(f'{np.median(rest):.12g}')
        offset = 0.0 if abs(offset) <= ROUNDING * size else offset
        if np.abs(rest - offset).max() <= allowed:
            found = {names[pivot]: 1.0} | {
                names[other]: -float(each) for other, each in zip(others, coefficients, strict=True)
            }
            return Linear(found, offset, offset, tolerance=tolerance)
    return None
