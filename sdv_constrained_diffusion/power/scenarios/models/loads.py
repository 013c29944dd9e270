"""How the demand of a network's loads varies from draw to draw."""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import ndtr, ndtri

from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power.scenarios.models.profiles import Chunk, Order, check_profile, hourly

PowerFactor = Literal['independent', 'constant']
"""Whether a load's active and reactive demand are drawn apart, or scaled by one factor."""

Factors = Float[np.ndarray, 'draw power load']
"""Demand as a share of the nominal one; power is active, then reactive."""


class LoadModel(abc.ABC):
    """A distribution of demand; a frozen dataclass, whose fields are written into the tables' metadata."""

    @abc.abstractmethod
    def factors(self, generator: np.random.Generator, loads: Sequence[str], chunk: Chunk) -> Factors:
        """Draws demand as a share of the nominal one.

        Args:
            generator: the chunk's own random stream.
            loads: labels of the loads.
            chunk: the draws of the chunk.

        Returns:
            shape (draw, 2, load), factors of active and of reactive demand.
        """


@dataclass(frozen=True)
class UniformLoads(LoadModel):
    """Each load's factor is uniform in `[low, high]`, independent of the other loads'.

    Attributes:
        low: least demand as a share of the nominal one.
        high: largest demand as a share of the nominal one.
        power_factor: 'independent' draws one factor for p and one for q; 'constant' scales both by one.
    """

    low: float = 0.8
    high: float = 1.2
    power_factor: PowerFactor = 'independent'

    def __post_init__(self) -> None:
        """Refuses what is out of range.

        Raises:
            GridError: not 0 <= low <= high, or the power factor is unknown.
        """
        if not 0 <= self.low <= self.high < math.inf:
            raise GridError(
                f'UniformLoads needs a load range with 0 <= low <= high, but got low={self.low:g}, high={self.high:g}. '
                'Both are shares of the nominal load, for example low=0.8, high=1.2.'
            )
        _check_power_factor(self.power_factor, 'UniformLoads')

    def factors(self, generator: np.random.Generator, loads: Sequence[str], chunk: Chunk) -> Factors:
        """Draws demand; as in `LoadModel`."""
        drawn = generator.uniform(self.low, self.high, (len(chunk.numbers), 2, len(loads)))
        return _shared(drawn) if self.power_factor == 'constant' else drawn


@dataclass(frozen=True)
class NormalLoads(LoadModel):
    r"""Factors are normal, equally correlated between loads, and cut at zero.

    With independent standard normal c (common) and e_i (a load's own), $z_i = \sqrt{\rho} c + \sqrt{1 - \rho} e_i$, and
    the factor is the quantile of the normal distribution truncated to $[0, \infty)$ at which z_i is of the standard
    one: $f_i = \mu + s \Phi^{-1}(1 - (1 - \Phi(z_i)) \Phi(\mu / s))$. Where $\mu / s$ is large that is $\mu + s z_i$.

    Attributes:
        std: standard deviation s of the factor before the cut, as a share of the nominal demand.
        correlation: rho, the correlation between any two loads before the cut, from 0 to 1.
        mean: mu, the factor's mean before the cut.
        power_factor: 'constant' scales p and q by one factor; 'independent' draws q apart from p.
    """

    std: float = 0.1
    correlation: float = 0.5
    mean: float = 1.0
    power_factor: PowerFactor = 'constant'

    def __post_init__(self) -> None:
        """Refuses what is out of range.

        Raises:
            GridError: std is not positive, the correlation is not in [0, 1], the mean is negative, or the power factor
                is unknown.
        """
        if not (0 < self.std < math.inf and 0 <= self.correlation <= 1 and 0 <= self.mean < math.inf):
            raise GridError(
                'NormalLoads needs std > 0, a correlation from 0 to 1 and mean >= 0, but got '
                f'std={self.std:g}, correlation={self.correlation:g}, mean={self.mean:g}. Mean and std are shares of '
                'the nominal load, for example mean=1, std=0.1.'
            )
        _check_power_factor(self.power_factor, 'NormalLoads')

    def factors(self, generator: np.random.Generator, loads: Sequence[str], chunk: Chunk) -> Factors:
        """Draws demand; as in `LoadModel`."""
        common = generator.standard_normal((len(chunk.numbers), 2, 1))
        own = generator.standard_normal((len(chunk.numbers), 2, len(loads)))
        z = math.sqrt(self.correlation) * common + math.sqrt(1 - self.correlation) * own
        # 1 - Phi(z) = Phi(-z); written with upper tails, since those of large factors would round to 1.
        drawn = self.mean - self.std * ndtri(ndtr(-z) * ndtr(self.mean / self.std))
        drawn = np.maximum(drawn, 0.0)
        return _shared(drawn) if self.power_factor == 'constant' else drawn


@dataclass(frozen=True, eq=False)
class ProfileLoads(LoadModel):
    """Factors are read from a table, all loads at one hour. The factor of a load scales p and q.

    Attributes:
        table: a row for each hour, a column for each load, named by the load's index.
        order: 'drawn' takes hours at random, 'in_turn' runs through them, again and again.
    """

    table: pd.DataFrame
    order: Order = 'drawn'

    def __post_init__(self) -> None:
        """Refuses a table that is no profile.

        Raises:
            GridError: the order is unknown, or the table is empty or has values that are no factors.
        """
        check_profile(self.table, self.order, 'ProfileLoads')

    def factors(self, generator: np.random.Generator, loads: Sequence[str], chunk: Chunk) -> Factors:
        """Reads demand; as in `LoadModel`."""
        values = hourly(self.table, self.order, loads, chunk, 'ProfileLoads')
        return np.stack([values, values], axis=1)


def _shared(factors: Factors) -> Factors:
    """The factors of p for q, too."""
    return np.stack([factors[:, 0], factors[:, 0]], axis=1)


def _check_power_factor(power_factor: str, who: str) -> None:
    if power_factor not in get_args(PowerFactor):
        raise GridError(
            f"{who} needs power_factor='independent' or 'constant', but got {power_factor!r}. Pass 'independent' to "
            "draw p and q apart, 'constant' to scale both by one factor."
        )
