"""Which values of a column are exact by nature: spikes that stand out, the few values of a short scale, constants."""

import numpy as np

NORMAL_WIDTH = 4.652695748081682
"""Width of a standard normal's central 98 %."""

SMALLEST_SHARE = 0.01
"""Share of the rows above which a value can be exact by nature."""

RESOLUTION = 1e-6
"""Values closer than this count as one, in standard deviations; see `resolution_of`."""

STANDS_OUT = 3.0
"""How many times as often as its neighbours a value must be taken to be a spike and not a step of a fine scale."""

NUM_NEIGHBOURS = 3
"""Distinct values on each side with which a value is compared."""

FEW_LEVELS = 16
"""A column of at most this many values is a short scale: each of its values is exact."""

MOST_LEVELS = 200
"""A column of more values than this is not taken for a scale at all."""


SOLVER_DIGITS = 1e-9
"""Relative spread of a column that a solver left constant."""

ROUNDING = 1e-15
"""Relative spread that rounding alone makes; ten-digit numbers, and moments in nanoseconds, vary by little more."""


def is_constant(values: np.ndarray, spread: float) -> bool:
    """Whether a column is one value up to a relative spread, or missing in every row."""
    missing = np.isnan(values)
    if missing.any():
        return bool(missing.all())
    return bool(np.ptp(values) <= spread * np.abs(values).max())


def resolution_of(values: np.ndarray, share: float = RESOLUTION) -> np.ndarray:
    """Distance within which values count as one, in their own unit.

    Args:
        values: shape (row,) or (row, column).
        share: of the standard deviation of a normal as wide as the column's central 98 %.
    """
    # Not the standard deviation: one far outlier would make it so large that the rest becomes one point mass.
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    return np.asarray(share * (high / NORMAL_WIDTH - low / NORMAL_WIDTH))


def exact_values(values: np.ndarray) -> tuple[list[float], float]:
    """The values that deserve a state of their own, and how near to one a number counts as it.

    Every value of a short scale does, and every spike: a value with more than 1 % of the rows that is taken three times
    as often as the values beside it. The steps of a fine scale, such as ages, are no spikes.

    Args:
        values: one column without missing values, shape (row,).
    """
    if not len(values):
        return [], 0.0
    resolution, (levels, counts) = float(resolution_of(values)), np.unique(values, return_counts=True)
    if is_short_scale(len(levels), len(values)):
        return levels.tolist(), resolution
    ordered, spikes = np.sort(values), []
    for start, end in mass_windows(ordered, resolution, max(SMALLEST_SHARE * len(values), 1.0)):
        first, last = np.searchsorted(levels, [ordered[start], ordered[end - 1]])
        beside = np.r_[counts[max(first - NUM_NEIGHBOURS, 0) : first], counts[last + 1 : last + 1 + NUM_NEIGHBOURS]]
        if not len(beside) or end - start > STANDS_OUT * beside.mean():
            spikes.append(float(ordered[(start + end) // 2]))
    return spikes, resolution


def is_short_scale(num_levels: int, num_rows: int) -> bool:
    """Whether a column takes so few values, each so often, that every one is exact."""
    return num_levels <= FEW_LEVELS and num_rows > 2 * num_levels


def observed_levels(values: np.ndarray) -> np.ndarray:
    """The distinct values of a column that takes few of them, each often; empty for any other; NaN aside."""
    levels = np.unique(values[~np.isnan(values)])
    return levels if 2 <= len(levels) <= min(MOST_LEVELS, len(values) / 10) else levels[:0]


def mass_windows(ordered: np.ndarray, resolution: float, fewest: float) -> list[tuple[int, int]]:
    """Where more than `fewest` sorted values lie within the resolution, as (start, end), the fullest first to be found.

    Two masses are farther than the resolution from each other, so that no value belongs to both.
    """
    starts = np.arange(len(ordered))
    ends = np.searchsorted(ordered, ordered + resolution, side='right')
    masses = []
    while (ends - starts).max() > fewest:
        start = int((ends - starts).argmax())
        end = int(ends[start])
        masses.append((start, end))
        before = np.searchsorted(ordered, ordered[start] - resolution)
        # Past equal values too: with a resolution of 0 the mass itself would otherwise be found again for ever.
        after = np.searchsorted(ordered, ordered[end - 1] + resolution, side='right')
        ends[:start] = np.minimum(ends[:start], before)
        ends[start:after] = starts[start:after]
    return sorted(masses)
