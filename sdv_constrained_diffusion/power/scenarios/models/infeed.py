"""How the infeed of wind, sun and other static generators varies from draw to draw."""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power.scenarios.models.profiles import Chunk, Order, check_profile, hourly

InfeedFactors = Float[np.ndarray, 'draw infeed']
"""Infeed as a share of the network's `p_mw` and `q_mvar`."""


class InfeedModel(abc.ABC):
    """A distribution of the power of static generators that are not dispatched, such as wind and sun.

    One factor scales a generator's p and q. A subclass is a frozen dataclass, whose fields are written into the tables'
    metadata.
    """

    @abc.abstractmethod
    def factors(self, generator: np.random.Generator, infeeds: Sequence[str], chunk: Chunk) -> InfeedFactors:
        """Draws infeed as a share of the network's own.

        Args:
            generator: a random stream of the chunk.
            infeeds: labels of the static generators, such as 'sgen_0'.
            chunk: the draws of the chunk.

        Returns:
            shape (draw, infeed).
        """


@dataclass(frozen=True)
class UniformInfeed(InfeedModel):
    """Each static generator's factor is uniform in `[low, high]`, independent of the others'.

    Attributes:
        low: least infeed as a share of the network's.
        high: largest infeed as a share of the network's.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Refuses what is out of range.

        Raises:
            GridError: not 0 <= low <= high.
        """
        if not 0 <= self.low <= self.high < math.inf:
            raise GridError(
                f'UniformInfeed needs a range with 0 <= low <= high, but got low={self.low:g}, high={self.high:g}. '
                "Both are shares of the static generators' p_mw, for example low=0, high=1."
            )

    def factors(self, generator: np.random.Generator, infeeds: Sequence[str], chunk: Chunk) -> InfeedFactors:
        """Draws infeed; as in `InfeedModel`."""
        return generator.uniform(self.low, self.high, (len(chunk.numbers), len(infeeds)))


@dataclass(frozen=True, eq=False)
class ProfileInfeed(InfeedModel):
    """Factors are read from a table, all static generators at one hour: the loads' if their profile is as long.

    Attributes:
        table: a row for each hour, a column for each static generator, named as 'sgen_0'.
        order: 'drawn' takes hours at random, 'in_turn' runs through them, again and again.
    """

    table: pd.DataFrame
    order: Order = 'drawn'

    def __post_init__(self) -> None:
        """Refuses a table that is no profile.

        Raises:
            GridError: the order is unknown, or the table is empty or has values that are no factors.
        """
        check_profile(self.table, self.order, 'ProfileInfeed')

    def factors(self, generator: np.random.Generator, infeeds: Sequence[str], chunk: Chunk) -> InfeedFactors:
        """Reads infeed; as in `InfeedModel`."""
        return hourly(self.table, self.order, infeeds, chunk, 'ProfileInfeed')
