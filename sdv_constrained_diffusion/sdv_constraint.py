"""Our constraints for SDV's other synthesizers: their rows are projected, too."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from sdv.cag import SingleTableProgrammableConstraint

from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.diagnosis import diagnose
from sdv_constrained_diffusion.constraints.system import check_form
from sdv_constrained_diffusion.errors import ConstraintError
from sdv_constrained_diffusion.frames import moments_of, read_moments, written_moments
from sdv_constrained_diffusion.guidance.finishing import Finisher


def as_sdv_constraint(constraints: Sequence[Constraint]) -> SingleTableProgrammableConstraint:
    """Makes constraints of this package one constraint of SDV, which any of its synthesizers takes.

    The synthesizer learns the table as it is. After SDV has rounded and clipped its rows, they are moved the shortest
    way onto the constraints, in column standard deviations; rows that cannot be moved there are drawn again by SDV.
    Whole numbers stay whole and decimals as they are where the constraints allow it. With fixed values of constrained
    columns rows may miss the constraints: SDV writes the values asked for into rows that it has already checked.

    Args:
        constraints: at least one. Rows are moved to those that the training rows do not obey, too, or drawn again for
            inequalities that cut through them; the distribution follows by no other means.

    Raises:
        ConstraintError: there is none, or one is ill formed.
    """
    if isinstance(constraints, Constraint) or not constraints:
        raise ConstraintError(f'as_sdv_constraint needs a list of constraints; it got {constraints!r}.')
    for each in constraints:
        check_form(each)
    return _Projecting(list(constraints))


class _Projecting(SingleTableProgrammableConstraint):
    """What `as_sdv_constraint` returns."""

    def __init__(self, constraints: list[Constraint]) -> None:
        self.constraints = constraints
        self._finisher: Finisher | None = None
        self._moments: dict[str, str | None] = {}

    def fit(self, data: pd.DataFrame, metadata: Any) -> None:
        """Refuses rows that miss the constraints grossly, and linearises at the mean row."""
        (table,) = getattr(metadata, 'tables', {None: metadata}).values()
        self._moments = moments_of(table.columns)
        data = read_moments(data, self._moments)
        diagnose(self.constraints, data)
        self._finisher = Finisher.fit(self.constraints, data)

    def transform(self, data: pd.DataFrame) -> pd.DataFrame:
        """Leaves the table as it is."""
        return data

    def get_updated_metadata(self, metadata: Any) -> Any:
        """Leaves the metadata as they are."""
        return metadata

    def reverse_transform(self, transformed_data: pd.DataFrame) -> pd.DataFrame:
        """Projects the rows; those that cannot be moved onto the constraints stay, and `is_valid` refuses them."""
        finished, _, _ = self._fitted().finish(read_moments(transformed_data, self._moments))
        finished = written_moments(finished, transformed_data, self._moments)
        return pd.concat([finished, transformed_data.drop(index=finished.index)]).loc[transformed_data.index]

    def is_valid(self, synthetic_data: pd.DataFrame) -> pd.Series:
        """Which rows obey every constraint within its tolerance."""
        system = self._fitted().chord.system
        values = system.values(read_moments(synthetic_data, self._moments))
        return pd.Series(system.feasible(values).numpy(), index=synthetic_data.index)

    def _fitted(self) -> Finisher:
        if self._finisher is None:
            raise ConstraintError('The constraint knows no table yet. Fit the synthesizer that has it first.')
        return self._finisher
