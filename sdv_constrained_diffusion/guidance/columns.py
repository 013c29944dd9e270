"""The constrained columns between model space and a constraint system, which may hold them in other units."""

import math

import pandas as pd
import torch
from jaxtyping import Bool, Float
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from sdv_constrained_diffusion._types import ColumnMask, FeatureMask, Jacobians, PerColumn, Rows, Table
from sdv_constrained_diffusion.constraints.moments import NANOSECONDS
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.tabular.encoder import TableEncoder

NODES = 7
"""Of the quadrature."""

STEP = 0.15
"""Half the width, in model space, over which slopes are measured."""

SMALLEST_ERROR = 1e-6
"""Deviations below this are taken for it, so that slopes stay finite."""


class GuidedColumns:
    """Reads the constrained columns of rows in model space as the system does, and writes those that move.

    The encoder holds moments in nanoseconds and categories by its own codes.
    """

    def __init__(self, encoder: TableEncoder, system: ConstraintSystem) -> None:
        """Selects the system's columns of a whole table's encoder."""
        self._encoder = encoder.select(system.columns)
        readings = [system.readings[name] for name in system.columns]
        self.units: PerColumn = torch.tensor(
            [1 / NANOSECONDS if reading.moment else 1.0 for reading in readings], dtype=torch.float64
        )
        self._discrete = system.discrete
        self._num_numbers = encoder.layout.num_numbers
        self._numbers = self._encoder.numbers_of_columns()
        self._codes: dict[int, Tensor] = {}
        for place, (name, reading) in enumerate(zip(system.columns, readings, strict=True)):
            levels = encoder.levels(name)
            if levels is not None:
                self._codes[place] = torch.from_numpy(reading.values(pd.Series(levels).infer_objects()))

    def read(self, rows: Rows) -> Table:
        """Rows of model space -> constrained columns, shape (row, column), in the system's units."""
        values = self._encoder.decode(rows) * self.units
        for place, codes in self._codes.items():
            values[:, place] = codes[values[:, place].long()]
        return values

    def smoothed(self, rows: Rows, deviation: Float[Tensor, ' number']) -> tuple[Table, Table]:
        """Means of the columns, and of their slopes by their numbers, over normal errors of the numbers.

        Gauss-Hermite quadrature; the slope is `E[v(z + s e) e] / s` (Stein's identity).

        Args:
            rows: estimates in model space.
            deviation: standard deviation of each number's error.

        Returns:
            both of shape (row, column), in the system's units; labels as `read` reads them, with slope 0.
        """
        s = deviation.clamp(min=SMALLEST_ERROR)
        mean, slope = torch.zeros(2, len(rows), len(self.units), dtype=rows.dtype)
        for node, weight in zip(*hermegauss(NODES), strict=True):
            shifted = rows.clone()
            shifted[:, : len(s)] += float(node) * s
            value = self.read(shifted) * float(weight) / math.sqrt(2 * math.pi)
            mean, slope = mean + value, slope + value * float(node)
        moves = self._numbers >= 0
        mean[:, ~moves] = self.read(rows)[:, ~moves]
        return mean, torch.where(moves, slope / s[self._numbers.clamp(min=0)], 0.0)

    def by_numbers(self, jacobian: Jacobians) -> Tensor:
        """Derivatives by columns -> by the numbers of model space, shape (row, equation, number)."""
        result = jacobian.new_zeros(*jacobian.shape[:2], self._num_numbers)
        moves = self._numbers >= 0
        return result.index_add_(2, self._numbers[moves], jacobian[:, :, moves])

    def fixed(self, values: Table, known: FeatureMask | None = None) -> ColumnMask:
        """Columns that must stay where they are: labels, point masses and known ones, shape (row, column).

        Args:
            values: constrained columns in the system's units.
            known: features that are fixed, shape (row, feature).
        """
        own = values / self.units
        if self._codes:
            own[:, list(self._codes)] = 0.0
        fixed = self._encoder.point_masses(own) | self._discrete
        return fixed if known is None else fixed | self.known(known)

    def measure(self, values: Table) -> Table:
        """How far each column goes in each row for one unit of model space, shape (row, column), in the system's units.

        By differences over a third of a unit; 0 where model space is flat, such as at a limit that cuts the column.
        """
        own = values / self.units
        if self._codes:
            own[:, list(self._codes)] = 0.0
        rows = self._encoder.encode(own)
        low, high = rows.clone(), rows.clone()
        low[:, : self._num_numbers] -= STEP
        high[:, : self._num_numbers] += STEP
        return (self._encoder.decode(high) - self._encoder.decode(low)).abs() * self.units / (2 * STEP)

    def known(self, features: FeatureMask) -> ColumnMask:
        """Columns whose features are fixed, shape (row, feature) -> (row, column)."""
        return self._encoder.known_columns(features)

    @property
    def drawn(self) -> Bool[Tensor, ' column']:
        """Columns that are never moved: labels, and numbers that were learned as categories."""
        mask = self._discrete.clone()
        mask[list(self._codes)] = True
        return mask

    @property
    def short(self) -> Bool[Tensor, ' column']:
        """Columns of numbers on a short scale, whose every value is exact."""
        return (self._numbers < 0) & ~self._encoder.constant & ~self.drawn

    def write(self, rows: Rows, values: Table, where: ColumnMask) -> Rows:
        """Rows whose numbers have new values, shape (row, column), where asked."""
        return self._encoder.replace(rows, values / self.units, where)
