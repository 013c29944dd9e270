"""What is kept of a training table so that constraints can be bound to it later: steps, ranges, labels; no rows."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from sdv_constrained_diffusion._categories import Categories
from sdv_constrained_diffusion.constraints.reading import Reading
from sdv_constrained_diffusion.guidance.finishing import observed_steps
from sdv_constrained_diffusion.guidance.rounding import rounded


@dataclass(frozen=True)
class TableFacts:
    """What is kept of a training table so that constraints can be bound later.

    Attributes:
        steps: on which columns of numbers and moments stand, where that is to be kept.
        ranges: smallest and largest value of these columns, moments in seconds.
        categories: the labels of the columns that hold such.
        clipping: whether columns stay within their ranges.
        raw: columns that SDV neither rounds nor clips, since a constraint read them as numbers when they were learned.
    """

    steps: Mapping[str, float | None] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    categories: Mapping[str, Categories] = field(default_factory=dict)
    clipping: bool = False
    raw: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        table: pd.DataFrame,
        rounded: Collection[str],
        discrete: Collection[str],
        clipping: bool,
        raw: Collection[str],
    ) -> 'TableFacts':
        """Looks at a training table.

        Args:
            table: the training rows.
            rounded: columns whose steps are to be kept.
            discrete: columns of numbers that are categories.
            clipping: whether columns stay within their ranges.
            raw: columns that SDV neither rounds nor clips.
        """
        readings = {name: Reading.of(table[name], name in discrete) for name in table.columns}
        moving = [name for name, reading in readings.items() if not reading.discrete]
        numbers = {name: readings[name].values(table[name].dropna()) for name in moving}
        return cls(
            steps=observed_steps(table[[name for name in moving if name in rounded]]),
            ranges={name: (float(each.min()), float(each.max())) for name, each in numbers.items() if len(each)},
            categories={name: Categories.fit(table[name]) for name, reading in readings.items() if reading.discrete},
            clipping=clipping,
            raw=frozenset(raw),
        )

    def outside(self, values: pd.Series) -> list[str]:
        """Names of the numbers of one row that lie outside what the training table has."""
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float | np.number)}
        return [
            str(name)
            for name, value in numbers.items()
            if name in self.ranges and not self.ranges[name][0] <= float(value) <= self.ranges[name][1]
        ]

    def rows_outside(self, table: pd.DataFrame, slack: float) -> dict[str, int]:
        """In how many rows each number lies outside what the training table has, for those where it does.

        Args:
            table: rows of some columns; moments and labels are not looked at.
            slack: how far outside still counts as inside, as a share of the training table's range.
        """
        counts = {}
        for name in table.select_dtypes('number').columns.intersection(list(self.ranges)):
            low, high = self.ranges[name]
            middle, reach = (low + high) / 2, (0.5 + slack) * (high - low)
            counts[str(name)] = int(((table[name] - middle).abs() > reach).sum())
        return {name: count for name, count in counts.items() if count}

    def restored(self, rows: pd.DataFrame, constrained: Collection[str]) -> pd.DataFrame:
        """Rounds and clips the raw columns that no constraint reads any more, as SDV would have done."""
        for name in self.raw.difference(constrained):
            values = rows[name].to_numpy(dtype='float64')
            values = np.clip(values, *self.ranges[name]) if self.clipping else values
            step = self.steps.get(name)
            values = values if step is None else rounded(values, step)
            rows = rows.assign(**{name: pd.Series(values, rows.index).astype(rows[name].dtype)})
        return rows
