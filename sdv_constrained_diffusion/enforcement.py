"""What one synthesizer does about constraints: those it was given, and the laws that it found in its table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from sdv_constrained_diffusion._types import ColumnMask
from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.diagnosis import LEARNED, STEERING, diagnose
from sdv_constrained_diffusion.constraints.discovery import discover, independent
from sdv_constrained_diffusion.constraints.feasibility import by_constraint
from sdv_constrained_diffusion.errors import DataError
from sdv_constrained_diffusion.guidance.columns import GuidedColumns
from sdv_constrained_diffusion.guidance.finishing import Finisher, observed_steps
from sdv_constrained_diffusion.guidance.record import FinishingRecord
from sdv_constrained_diffusion.guidance.steering import ErrorCovariance
from sdv_constrained_diffusion.model import TYPICAL_ROWS, DiffusionModel, Guidance

MODELLED = ('numerical', 'datetime', 'categorical', 'ordinal', 'boolean')
"""Sdtypes that are learned at all; SDV invents the values of the others."""

DISCOVERED = 'discovered'
"""Kind of a law that was found in the training table."""


class Enforcement:
    """Constraints from the day they are given to the report on the rows they were imposed on.

    Every table here has numbers as numbers, moments as datetime64 and labels as they are.

    Attributes:
        given: the constraints of the user.
        discovered: exact affine relations of the training table.
        diagnosis: what the training rows do with the given constraints, see `diagnose`.
        record: what finishing did to rows since it was last begun anew.
    """

    def __init__(self) -> None:
        """Knows no constraint and no table."""
        self.given: list[Constraint] = []
        self.discovered: list[Constraint] = []
        self.diagnosis = diagnose([], pd.DataFrame())
        self.record = FinishingRecord()
        self._at_fit: list[Constraint] = []
        self._steps: dict[str, float | None] = {}
        self._finisher: Finisher | None = None
        self._covariance: ErrorCovariance | None = None

    @property
    def all(self) -> list[Constraint]:
        """Given and discovered ones."""
        return [*self.given, *self.discovered]

    @property
    def finisher(self) -> Finisher | None:
        """The constraints bound to the table; None where there are none."""
        return self._finisher

    def learn(self, table: pd.DataFrame, rounding: bool, discovering: bool) -> None:
        """Binds the constraints to a training table.

        Args:
            table: the training rows.
            rounding: whether columns keep their decimals, where the constraints allow it.
            discovering: whether to look for exact affine relations.
        """
        self.record = FinishingRecord()
        self._steps = observed_steps(table) if rounding else {}
        self.discovered = [*independent(discover(table), self.given, table)] if discovering else []
        self._bind(table)
        self._at_fit = [each for each, kind in zip(self.all, self._kinds(), strict=True) if kind != STEERING]

    def measure(self, model: DiffusionModel, processed: pd.DataFrame) -> None:
        """Measures the denoiser's errors on typical rows of the processed table, if any constraint is steered to."""
        if self._finisher is not None and len(self._finisher.plan.steered):
            self._covariance = model.measure_errors(processed)

    def relearn(self, model: DiffusionModel, processed: pd.DataFrame, table: pd.DataFrame) -> None:
        """Binds a changed list of constraints, without the training table.

        Args:
            model: the trained model.
            processed: typical rows, as the model draws them.
            table: the same rows, as they are delivered.
        """
        if self._at_fit:
            table, _, _ = Finisher.fit(self._at_fit, table, self._steps).finish(table)
        self.diagnosis, self.record = diagnose(self.given, table), FinishingRecord()
        self._bind(table)
        self.measure(model, processed)

    def guidance(self, method: str, scale: float) -> Guidance | None:
        """What corrects the steps of sampling; None for nothing."""
        if self._finisher is None or method == 'none':
            return None
        return Guidance(method, scale, self._finisher.chord, self._finisher.plan, self._covariance)

    def finish(self, rows: pd.DataFrame, model: DiffusionModel, given: Sequence[str] = ()) -> pd.DataFrame:
        """Brings delivered rows onto the constraints; those that cannot be are left out.

        Args:
            rows: the rows.
            model: tells which values are exact by nature.
            given: columns whose values were asked for and must not move.
        """
        if self._finisher is None:
            return rows
        system, columns = self._finisher.chord.system, self._finisher.columns
        values = system.values(rows)
        fixed = torch.zeros_like(values, dtype=torch.bool)
        fixed[:, [columns.index(name) for name in given if name in columns]] = True
        finished, before, projected = self._finisher.finish(rows, fixed, self._pinned(model, values))
        self.record.add(self._finisher.chord, before, projected)
        return finished

    def report(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One row per constraint: what it asks, what the rows do with it, and what was done to them.

        Args:
            rows: the synthetic table.
        """
        statistics = by_constraint(self.all, rows)
        statistics.insert(1, 'kind', self._kinds())
        return pd.concat([statistics, self.record.by_constraint(len(self.all))], axis=1)

    def _bind(self, table: pd.DataFrame) -> None:
        self._finisher = Finisher.fit(self.all, table, self._steps) if self.all else None
        self._covariance = None

    def _kinds(self) -> list[str]:
        """Of each constraint; one of several equations is steering if any of them is."""
        if self._finisher is None:
            return []
        owners = self._finisher.chord.system.owners[self._finisher.plan.steering].tolist()
        own = [STEERING if place in owners else LEARNED for place in range(len(self.given))]
        return own + [DISCOVERED] * len(self.discovered)

    def _pinned(self, model: DiffusionModel, values: torch.Tensor) -> ColumnMask:
        assert self._finisher is not None
        return GuidedColumns(model.encoder, self._finisher.chord.system).fixed(values)


def typical_rows(model: DiffusionModel) -> pd.DataFrame:
    """Rows of the processed table that stand for the training rows: drawn without guidance, always the same."""
    return model.draw_apart(TYPICAL_ROWS)


def check_columns(constraints: Iterable[Constraint], described: Mapping[str, Any], available: Iterable[str]) -> None:
    """Refuses constraints on columns that are not there, or that SDV would invent rather than learn.

    Args:
        constraints: the constraints.
        described: the metadata's description of each column.
        available: the columns that are there.

    Raises:
        DataError: the metadata give a column an sdtype that is not learned.
        ColumnMissingError: a column is not there.
    """
    available = list(available)
    for constraint in constraints:
        for name in constraint.columns:
            sdtype = described.get(name, {}).get('sdtype', 'numerical')
            if sdtype not in MODELLED:
                raise DataError(
                    f'{constraint.name} needs the values of column {name!r}, but the metadata call it {sdtype!r}, and '
                    f"SDV invents it. Call metadata.update_column(column_name={name!r}, sdtype='numerical') before "
                    'making the synthesizer, or leave the column out of the constraint.'
                )
        constraint.require(available)
