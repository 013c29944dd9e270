"""How the costs of generation vary from draw to draw."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power.scenarios.models.profiles import Chunk


@dataclass(frozen=True)
class CostPerturbation:
    """Each element's cost is multiplied by a factor of its own, uniform in `[1 - spread, 1 + spread]`.

    Attributes:
        spread: largest change as a share of the cost, above 0 and below 1.
    """

    spread: float

    def __post_init__(self) -> None:
        """Refuses what is out of range.

        Raises:
            GridError: not 0 < spread < 1.
        """
        if not 0 < self.spread < 1:
            raise GridError(
                f'CostPerturbation needs a spread between 0 and 1, but got {self.spread:g}. Pass a share of the '
                'cost, for example 0.2.'
            )

    def factors(
        self, generator: np.random.Generator, priced: Sequence[str], chunk: Chunk
    ) -> Float[np.ndarray, 'draw priced']:
        """Draws what each cost is multiplied by, shape (draw, priced)."""
        return generator.uniform(1 - self.spread, 1 + self.spread, (len(chunk.numbers), len(priced)))
