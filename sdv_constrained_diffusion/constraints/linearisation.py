"""A system's Jacobians at typical rows: the mean row, one for each combination of labels."""

import numpy as np
import torch
from torch import Tensor

from sdv_constrained_diffusion._types import PerEquation, Table
from sdv_constrained_diffusion.constraints.system import ConstraintSystem

MOST_COMBINATIONS = 64
"""Combinations of labels whose own mean row is kept; rarer ones are linearised at the mean of all rows."""


class Linearisation:
    """Jacobians in standardised columns (`u_i = v_i / s_i`), so that volts and megawatts weigh the same.

    Attributes:
        system: the constraints.
        scale: standard deviation of each column, 0 of labels, shape (column,).
        equation_scale: norm of each equation's gradient by standardised columns, the largest of all combinations of
            labels, in the equation's unit; 1 for an equation that is flat at every typical row.
    """

    def __init__(self, system: ConstraintSystem, values: Table) -> None:
        """Takes the mean rows.

        Args:
            system: the constraints.
            values: constrained columns of typical rows, such as the training rows, shape (row, column).
        """
        self.system = system
        self.scale = values.std(0, correction=int(len(values) > 1)).masked_fill(system.discrete, 0)
        self._mean = values.mean(0)
        labels = values[:, system.discrete]
        common = sorted(alike(labels), key=len, reverse=True)[:MOST_COMBINATIONS]
        self._jacobians = {self.key(labels[rows[0]]): self._standardised(values[rows].mean(0)) for rows in common}
        length = torch.stack([each.norm(dim=1) for each in self._jacobians.values()]).amax(0)
        self._equation_scale = torch.where(length > 0, length, 1.0)

    @property
    def equation_scale(self) -> PerEquation:
        """See the class."""
        return self._equation_scale

    @property
    def jacobians(self) -> list[Tensor]:
        """Of the common combinations of labels, in each equation's unit, each shape (equation, column)."""
        return list(self._jacobians.values())

    def key(self, labels: Tensor) -> bytes:
        """A combination of labels, shape (label,), as what the Jacobians are filed under."""
        return labels.numpy().tobytes()

    def jacobian(self, labels: Tensor) -> Tensor:
        """For rows with these labels, shape (label,), in each equation's unit, shape (equation, column)."""
        key = self.key(labels)
        if key in self._jacobians:
            return self._jacobians[key]
        mean = self._mean.clone()
        mean[self.system.discrete] = labels
        return self._standardised(mean)

    def _standardised(self, row: Tensor) -> Tensor:
        # Where a derivative is not finite the equation counts as flat: rows get Jacobians of their own then.
        return (self.system.jacobian(row[None])[0] * self.scale).nan_to_num(0.0, 0.0, 0.0)


def alike(*parts: Tensor) -> list[Tensor]:
    """Groups rows that are equal bit by bit in every part, each shape (row, any): the row numbers of each group."""
    if not len(parts[0]):
        return []
    columns = [part.contiguous().numpy().view(np.uint8).reshape(len(part), -1) for part in parts]
    packed = np.concatenate([np.zeros((len(parts[0]), 1), dtype=np.uint8), *columns], axis=1)
    _, group = np.unique(packed.view(np.dtype((np.void, packed.shape[1]))).ravel(), return_inverse=True)
    order = torch.from_numpy(np.argsort(group, kind='stable'))
    return list(order.split(np.bincount(group).tolist()))
