"""The part of the SDV face that takes constraints, changes them, reports on them, and finishes rows."""

import abc
import copy
import logging
import warnings
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import pandas as pd
from sdv.errors import NotFittedError, SynthesizerInputError
from sdv.single_table.base import BaseSingleTableSynthesizer
from tqdm import tqdm

from sdv_constrained_diffusion.arguments import check_guidance, check_switch
from sdv_constrained_diffusion.constraint_files import save_constraints
from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.diagnosis import TRAINING_ROWS, sentence
from sdv_constrained_diffusion.constraints.system import check_form
from sdv_constrained_diffusion.enforcement import TYPICAL, Enforcement, check_columns, typical_rows
from sdv_constrained_diffusion.frames import as_delivered, held_by, in_units, moments_of, read_moments, written_moments
from sdv_constrained_diffusion.guidance.record import FinishingRecord
from sdv_constrained_diffusion.model import DiffusionModel, Guidance

LOGGER = logging.getLogger(__name__)


class ConstrainedSynthesizer(BaseSingleTableSynthesizer, abc.ABC):
    """A synthesizer of SDV whose rows obey constraints of this package beside SDV's own.

    Whoever fits it binds the constraints by `_enforcement.learn`.
    """

    _model: DiffusionModel | None
    _enforcement: Enforcement
    _given: pd.DataFrame
    _dtypes: Mapping[str, Any]
    guidance: str
    guidance_scale: float
    projection: bool
    verbose: bool

    def _sdv_constraints(self) -> list[Any]:
        """The constraints that are SDV's."""
        return super().get_constraints()

    def add_constraints(self, constraints: list[Any]) -> None:
        """Adds constraints, before or after `fit`.

        After `fit` nothing is trained again: what the constraints ask is measured on rows that the model draws.

        Args:
            constraints: constraints of this package, which guide and project, and, before `fit` only, constraints of
                SDV, in any mix.

        Raises:
            SynthesizerInputError: `constraints` is no list, or holds constraints of SDV after `fit`.
            ConstraintError: a constraint of this package is ill formed, or a mere class or function.
            ConstraintMismatchError: after `fit`, rows come nowhere near a constraint.
        """
        if not isinstance(constraints, list | tuple):
            raise SynthesizerInputError(f'add_constraints needs a list of constraints; got {constraints!r}.')
        ours: list[Constraint] = []
        others: list[Any] = []
        for each in constraints:
            own = isinstance(each, Constraint | FunctionType) or (
                isinstance(each, type) and issubclass(each, Constraint)
            )
            (ours if own else others).append(each)
        for each in ours:
            check_form(each)
        if others and self._fitted:
            raise SynthesizerInputError(
                'add_constraints takes constraints of SDV before fit only: this synthesizer has been fitted, and they '
                'rewrite its table. Make a new synthesizer, add the constraints, then fit it.'
            )
        if others:
            super().add_constraints(others)
            self._update_default_transformers()  # SDV has made a new data processor
        self._change_constraints([*self._enforcement.given, *ours])

    def remove_constraints(self, constraints: list[Any]) -> None:
        """Removes constraints of this package, before or after `fit`; what was learned stays as it is.

        Args:
            constraints: the constraints themselves, or their names as in `constraint_report`.

        Raises:
            SynthesizerInputError: one is not there.
        """
        kept = list(self._enforcement.given)
        for each in constraints:
            found = [one for one in kept if one is each or one.name == each]
            if not found:
                raise SynthesizerInputError(
                    f'remove_constraints knows no constraint {getattr(each, "name", each)!r}; there are '
                    f'{[one.name for one in kept]}.'
                )
            kept.remove(found[0])
        self._change_constraints(kept)

    def _change_constraints(self, constraints: list[Constraint]) -> None:
        """Replaces the constraints of this package; on a fitted synthesizer, binds them or leaves all as it was."""
        changed = copy.copy(self._enforcement)
        changed.given = constraints
        if self._model is not None:
            check_columns(constraints, self._described(), self._model.encoder.columns)
            processed = typical_rows(self._model)
            changed.relearn(self._model, processed, as_delivered(processed, self._moments()))
            self._announce(changed, TYPICAL)
        self._enforcement = changed

    def get_constraints(self, filepath: str | None = None) -> list[Any] | None:
        """All constraints, SDV's first; with a `filepath`, writes them there as JSON, for `load_constraints`.

        Raises:
            ValueError: the file exists.
            ConstraintError: a constraint cannot be written down, such as a function that cannot be imported.
        """
        constraints = [*self._sdv_constraints(), *self._enforcement.given]
        if filepath is None:
            return constraints
        save_constraints(constraints, filepath)
        return None

    def constraint_report(self, rows: Any) -> pd.DataFrame:
        """What synthetic rows do with each constraint, and what was done to them.

        Args:
            rows: what `sample` returned, `{name: DataFrame}` or a `DataFrame`.

        Returns:
            one row per constraint, discovered laws last: `constraint`; `kind`: 'learned' (the training rows obey it),
            'steering' (they do not) or 'discovered'; `unit` and `tolerance` of the equation that is missed most;
            `share_within_tolerance`; the violations' `max`, `p99` and `mean` in that unit; `worst_rows`, up to three
            index labels of rows outside the tolerance; and, for all rows drawn since the last call of a sampling method
            began, `displacement_median` and `displacement_p99` of the constraint's columns (root mean square, in column
            standard deviations) and `num_redrawn`, rows that were replaced and broke this constraint.

        Raises:
            NotFittedError: the synthesizer has not been fitted.
            DataError: the table has no row.
            ColumnMissingError: it lacks a column of a constraint.
        """
        self._fitted_model('Constraint reports')
        table = next(iter(rows.values())) if isinstance(rows, dict) else rows
        return self._enforcement.report(read_moments(table, self._moments()))

    def get_constraint_diagnosis(self) -> pd.DataFrame:
        """What the training rows do with each guided constraint, as of the last `fit` or `validate`.

        After constraints were added or removed, what rows do that the model draws without guidance.

        Returns:
            one row per constraint: `constraint`, `kind` ('learned' or 'steering'), `unit`, `tolerance`,
            `share_feasible`, `violation_median`, `violation_max`, in that unit, `worst_rows`, and `share_bound`, of
            rows that it asks anything of.
        """
        return self._enforcement.diagnosis.copy()

    def get_discovered_laws(self) -> list[Constraint]:
        """The exact affine relations that `fit` found in the table: constraints, which can be read and written."""
        return list(self._enforcement.discovered)

    def get_projection_summary(self) -> pd.DataFrame:
        """What the projection did to the rows drawn since the last `sample`, `fit`, or call with fixed values began.

        Returns:
            one row, with the number of rows drawn (`num_rows`), of rows that were replaced since they could not be made
            feasible (`num_replaced`), and the median, 99 % quantile and maximum of the `displacement`: how far rows
            were moved, root mean square over columns, in column standard deviations.
        """
        return self._enforcement.record.summary()

    def reverse_transform_constraints(self, sampled: pd.DataFrame) -> pd.DataFrame:
        """Finishes rows: SDV's constraints, then the projection of the delivered columns; rows that fail are dropped.

        SDV calls it on every batch after RDT and draws replacements for dropped rows.
        """
        sampled = super().reverse_transform_constraints(sampled)
        sampled = in_units(sampled, self._dtypes)
        finisher = self._enforcement.finisher
        if not self.projection:
            return sampled
        columns = finisher.columns if finisher else []
        given = [name for name in columns if name in self._given.columns]
        sampled = sampled.assign(**{name: self._given.loc[sampled.index, name] for name in given})
        table = read_moments(sampled, self._moments())
        finished = self._enforcement.finish(table, self._fitted_model('Sampling'), given)
        finished = in_units(written_moments(finished, sampled, self._moments()), self._dtypes)
        whole = finisher.whole if finisher else []
        return held_by(finished, {name: self._dtypes[name] for name in whole if name in self._dtypes})

    def _announce(self, enforcement: Enforcement, rows: str = TRAINING_ROWS) -> None:
        """Says what rows do with the constraints, and warns where they do not obey them."""
        lines: Any = enforcement.diagnosis.itertuples()
        for found in lines:
            said = sentence(found, rows)
            self._tell(said)
            if found.share_bound == 0:
                warnings.warn(said, stacklevel=2)
            elif found.share_feasible < 1:
                warnings.warn(f'{said} Synthetic rows will obey it all the same.', stacklevel=2)

    def _described(self) -> dict[str, dict[str, Any]]:
        """The metadata's description of each column of the caller's table."""
        metadata = self._original_metadata  # of one table: 1.38 may keep it without the table's name
        (table,) = getattr(metadata, 'tables', {None: metadata}).values()
        return table.columns

    def _moments(self) -> dict[str, str | None]:
        """The columns of moments, and how they are written where they are text."""
        return moments_of(self._described())

    def _begin(self) -> None:
        """A call that draws rows begins: checks what may be set after `fit`, and counts its rows anew."""
        check_guidance(self.guidance, self.guidance_scale)
        check_switch('projection', self.projection)
        self._enforcement.record = FinishingRecord()

    def _guidance(self) -> Guidance | None:
        """What corrects the steps of sampling."""
        return self._enforcement.guidance(self.guidance, self.guidance_scale, self.projection)

    def _fitted_model(self, what: str) -> DiffusionModel:
        if self._model is None:
            raise NotFittedError(f'{what} are not available before fit. Please fit your synthesizer first.')
        return self._model

    def _tell(self, sentence: str) -> None:
        LOGGER.info(sentence)
        if self.verbose:
            tqdm.write(sentence)
