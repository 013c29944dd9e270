"""The part of the SDV face that draws rows with fixed values: they are imposed, not waited for."""

import abc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sdv.single_table.base import FIXED_RNG_SEED

from sdv_constrained_diffusion._numbers import finite_numbers
from sdv_constrained_diffusion.conditions import complete, rewritten
from sdv_constrained_diffusion.constrained import ConstrainedSynthesizer
from sdv_constrained_diffusion.constraints.diagnosis import refuse_contradictions
from sdv_constrained_diffusion.enforcement import MODELLED
from sdv_constrained_diffusion.errors import ConstraintError, DataError
from sdv_constrained_diffusion.frames import in_nanoseconds, read_moments
from sdv_constrained_diffusion.guidance.record import FinishingRecord

FIRST_AND_FURTHER = (8, 56)
"""Candidates drawn for fixed values before they are called impossible; the others only if the first are in vain."""

MOST_SUSPECTS = 4
"""Rows of fixed values of which one call finds out whether they are impossible."""


class ConditionalSynthesizer(ConstrainedSynthesizer, abc.ABC):
    """A synthesizer of SDV whose model completes rows of which some columns are given."""

    def _sample_with_conditions(
        self,
        conditions: pd.DataFrame,
        max_tries_per_batch: int,
        batch_size: int | None,
        progress_bar: Any = None,
        output_file_path: str | None = None,
        keep_extra_columns: bool = False,
    ) -> pd.DataFrame:
        """All rows of the call together; the fixed values are imposed while sampling, so none is drawn in vain.

        What an SDV constraint or transformer hides from the model is matched, as in SDV, by drawing again.
        """
        if self._model is None or keep_extra_columns:
            return super()._sample_with_conditions(
                conditions, max_tries_per_batch, batch_size, progress_bar, output_file_path, keep_extra_columns
            )
        if not self._random_state_set:
            self._set_random_state(FIXED_RNG_SEED)
        modelled = [name for name in conditions.columns if self._sdtype(name) in MODELLED]

        try:
            completed = complete(
                conditions.reset_index(drop=True),
                # An SDV constraint computes columns from others: what was imposed may come out otherwise.
                modelled if self._sdv_constraints() else (),
                not self._known(conditions).empty,
                self._draw_given,
                [*self._chained_constraints, *self._reject_sampling_constraints],
                max_tries_per_batch,
                lambda number: progress_bar is not None and progress_bar.update(number),
                self._refuse_impossible,
            )
        finally:
            self._enforcement.refusing = True
        if output_file_path is not None and len(completed):
            path = Path(output_file_path)
            completed.to_csv(path, mode='a', index=False, header=not (path.exists() and path.stat().st_size))
        completed.index = conditions.index[completed.index]
        return completed.sort_index(kind='stable')

    def _draw_given(self, given: pd.DataFrame) -> pd.DataFrame:
        """One row for each of the given ones, less those that could not be made feasible, by the same index."""
        known = self._known(given)
        if known.empty:
            drawn = self._sample(len(given))
        else:
            drawn = self._fitted_model('Sampling').complete(known, self._guidance())
        self._given = given
        try:
            return self.reverse_transform_constraints(self._data_processor.reverse_transform(drawn))
        finally:
            self._given = pd.DataFrame()

    def _refuse_impossible(self, given: pd.DataFrame) -> None:
        """Refuses fixed values with which no row can obey the constraints, as far as many candidates tell.

        Raises:
            ConstraintError: names the first row of them, and the equation that could not be obeyed.
        """
        if self._enforcement.finisher is None or not self.projection:
            return
        # What is met by drawing again may be out of luck's reach with these values: from now on rows are moved there.
        self._enforcement.refusing = False
        record = self._enforcement.record
        for index in given.index[:MOST_SUSPECTS]:
            self._enforcement.record = FinishingRecord()
            possible = any(
                len(self._draw_given(given.loc[[index] * number].reset_index(drop=True)))
                for number in FIRST_AND_FURTHER
            )
            missed, self._enforcement.record = self._enforcement.record.nearest_miss, record
            if missed and not possible:
                raise ConstraintError(
                    # SDV's error handling leaves errors alone that begin so.
                    f'Unable to sample any rows for the given conditions: with those of row {index}, of '
                    f'{sum(FIRST_AND_FURTHER)} candidates the nearest misses {missed}. Change the values, leave a '
                    f'column open, or remove the constraint.{self._enforcement.beyond_training(given.loc[index])}'
                )

    def _known(self, given: pd.DataFrame) -> pd.DataFrame:
        """The columns of the processed table that given values determine."""
        transformed = self._transform_conditions(rewritten(in_nanoseconds(given), self._chained_constraints))
        columns = self._fitted_model('Sampling').encoder.columns
        return transformed[[name for name in columns if name in transformed.columns]].reset_index(drop=True)

    def _validate_conditions_unseen_columns(self, conditions: pd.DataFrame) -> None:
        """Refuses fixed values that no row can have, in words that SDV's own error handling leaves alone."""
        self._validate_fit_before_sample()
        super()._validate_conditions_unseen_columns(conditions)
        self._begin()
        for name in conditions.columns:
            if self._sdtype(name) == 'numerical':
                numbers = finite_numbers(conditions[name], 'A fixed value', allow_missing=True)
                broken = numbers[np.isfinite(numbers) & (numbers != np.round(numbers))]
                if len(broken) and pd.api.types.is_integer_dtype(self._dtypes.get(name)):
                    raise DataError(f'Column {name!r} holds whole numbers and cannot be {broken[0]}. Round the value.')
        if self.projection:
            given = read_moments(conditions.reset_index(drop=True), self._moments())
            refuse_contradictions(self._enforcement.all, given)
        if self._model is not None:
            known = self._known(conditions.reset_index(drop=True))
            self._model.encoder.select(list(known.columns)).values(known)
        self._enforcement.warn_beyond_training(read_moments(conditions.reset_index(drop=True), self._moments()))

    def _sdtype(self, name: str) -> str:
        return self._described()[name]['sdtype']
