"""The SDV face: `ConstrainedDiffusionSynthesizer`."""

import copy
import dataclasses
import logging
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from rdt.transformers import FloatFormatter, UnixTimestampEncoder
from sdv.errors import NotFittedError, SamplingError, SynthesizerInputError
from sdv.single_table.base import FIXED_RNG_SEED, BaseSingleTableSynthesizer
from tqdm import tqdm

from sdv_constrained_diffusion._numbers import finite_numbers
from sdv_constrained_diffusion.arguments import (
    check_choice,
    check_guidance,
    check_positive,
    check_seconds,
    check_seed,
    check_switch,
)
from sdv_constrained_diffusion.conditions import complete, rewritten
from sdv_constrained_diffusion.constraint_files import save_constraints
from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.diagnosis import diagnose, refuse_contradictions, sentence
from sdv_constrained_diffusion.constraints.reading import Reading
from sdv_constrained_diffusion.constraints.system import check_form
from sdv_constrained_diffusion.diffusion.presets import PRESETS, Preset
from sdv_constrained_diffusion.enforcement import Enforcement, typical_rows
from sdv_constrained_diffusion.errors import ConstraintError, DataError
from sdv_constrained_diffusion.frames import (
    DISCRETE,
    as_delivered,
    discrete_columns,
    dtypes_of,
    held_by,
    in_nanoseconds,
    in_order,
    in_units,
    moments_of,
    owned,
    read_moments,
    written_moments,
)
from sdv_constrained_diffusion.guidance.record import FinishingRecord
from sdv_constrained_diffusion.model import DiffusionModel, Guidance

LOGGER = logging.getLogger(__name__)

CANDIDATES_FOR_ONE = 64
MOST_SUSPECTS = 4
"""Rows of fixed values for which `CANDIDATES_FOR_ONE` are drawn before they are called impossible."""

MODELLED = ('numerical', 'datetime', *DISCRETE)
"""Sdtypes that are learned at all; SDV invents the values of the others."""


class ConstrainedDiffusionSynthesizer(BaseSingleTableSynthesizer):
    """Learns a table with a diffusion model and returns rows that obey constraints.

    It is used as any synthesizer of SDV, takes every table that these take, and imposes fixed values while it samples.
    Constraints of this package (`Constraint`, `PowerFlow`) guide sampling and are met exactly by a projection of the
    finished rows; constraints of SDV are handed to SDV.

    Args:
        metadata: SDV metadata of one table.
        enforce_min_max_values: keep each unconstrained column within the range of the training data.
        enforce_rounding: round each column as the training data are rounded; constrained ones only where rounded rows
            can obey their constraints.
        locales: locales of personal data that SDV invents.
        preset: 'default' (minutes on two cores), 'paper' (the network and schedule of Hoseinpour and Dvorkin 2025,
            hours), or a `Preset` of your own, such as `paper_preset(decay_factor=0.5)`.
        epochs: passes over the training rows. When None, as many as `max_time` allows; without that, the preset's
            number, for large tables fewer.
        batch_size: rows per training step; the preset's number when None.
        max_time: processor seconds after which training ends, whatever `epochs` says; no limit when None. With it, a
            run on another machine gives another model.
        guidance: how constraints correct each step of sampling: 'gauss_newton', 'gradient' (the paper's) or 'none'. May
            be changed after `fit`.
        guidance_scale: strength of the guidance, 1 for the natural step. May be changed after `fit`.
        projection: whether finished rows are moved onto the constraints, and replaced where that fails. May be changed
            after `fit`.
        discover_laws: whether `fit` looks for exact affine relations between columns (constant sums, fixed ratios,
            totals), which synthetic rows then obey, too.
        seed: makes `fit` repeatable.
        verbose: show progress of training on a terminal, and what was found about constraints.
        enable_gpu: train and sample on a CUDA device if there is one.

    Raises:
        SynthesizerInputError: an argument is out of its range.
    """

    _model_sdtype_transformers: ClassVar[dict[str, Any]] = dict.fromkeys(DISCRETE)

    def __init__(
        self,
        metadata: Any,
        enforce_min_max_values: bool = True,
        enforce_rounding: bool = True,
        locales: list[str] | None = ['en_US'],  # noqa: B006  SDV's own default, read back by get_parameters
        preset: str | Preset = 'default',
        epochs: int | None = None,
        batch_size: int | None = None,
        max_time: float | None = None,
        guidance: str = 'gauss_newton',
        guidance_scale: float = 1.0,
        projection: bool = True,
        discover_laws: bool = True,
        seed: int | None = None,
        verbose: bool = False,
        enable_gpu: bool = True,
    ) -> None:
        super().__init__(metadata, enforce_min_max_values, enforce_rounding, locales)
        if not isinstance(preset, Preset):
            check_choice('preset', preset, PRESETS)
        check_positive('epochs', epochs)
        check_positive('batch_size', batch_size)
        check_seconds('max_time', max_time)
        check_guidance(guidance, guidance_scale)
        check_seed(seed)
        switches = {'projection': projection, 'discover_laws': discover_laws}
        for switch, value in {**switches, 'verbose': verbose, 'enable_gpu': enable_gpu}.items():
            check_switch(switch, value)
        self.preset = preset
        self.epochs = epochs
        self.batch_size = batch_size
        self.max_time = max_time
        self.guidance = guidance
        self.guidance_scale = guidance_scale
        self.projection = projection
        self.discover_laws = discover_laws
        self.seed = seed
        self.verbose = verbose
        self.enable_gpu = enable_gpu
        self._model: DiffusionModel | None = None
        self._enforcement = Enforcement()
        self._given = pd.DataFrame()
        self._dtypes: dict[str, Any] = {}

    def fit(self, data: Any) -> None:
        """Learns a table; the caller's is not touched, even when fitting fails.

        Args:
            data: the table, as SDV of the installed version takes it: `{name: DataFrame}` from 2.0 on, a `DataFrame`
                before.
        """
        super().fit(owned(data))
        self._dtypes = dtypes_of(data)

    def preprocess(self, data: Any) -> Any:
        """What SDV's transformers make of a table, in the form that `fit_processed_data` takes; data as in `fit`."""
        processed = super().preprocess(owned(data))
        self._dtypes = dtypes_of(data)
        return processed

    def add_constraints(self, constraints: list[Any]) -> None:
        """Adds constraints, before or after `fit`.

        After `fit` nothing is trained again: what the constraints ask is measured on rows that the model draws.

        Args:
            constraints: constraints of this package, which guide and project, and, before `fit` only, constraints of
                SDV, in any mix.

        Raises:
            SynthesizerInputError: `constraints` is no list, or holds constraints of SDV after `fit`.
            ConstraintError: a constraint of this package is ill formed, such as a class instead of an instance.
            ConstraintMismatchError: after `fit`, rows come nowhere near a constraint.
        """
        if not isinstance(constraints, list | tuple):
            raise SynthesizerInputError(f'add_constraints needs a list of constraints; got {constraints!r}.')
        ours: list[Constraint] = []
        others: list[Any] = []
        for each in constraints:
            own = isinstance(each, Constraint) or (isinstance(each, type) and issubclass(each, Constraint))
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
            self._check_columns(constraints, self._model.encoder.columns)
            processed = typical_rows(self._model)
            changed.relearn(self._model, processed, as_delivered(processed, self._moments()))
            self._announce(changed)
        self._enforcement = changed

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
            DataError: the table has no row.
            ColumnMissingError: it lacks a column of a constraint.
        """
        table = next(iter(rows.values())) if isinstance(rows, dict) else rows
        return self._enforcement.report(read_moments(table, self._moments()))

    def get_constraints(self, filepath: str | None = None) -> list[Any] | None:
        """All constraints, SDV's first; with a `filepath`, writes them there as JSON, for `load_constraints`.

        Raises:
            ValueError: the file exists.
            ConstraintError: a constraint cannot be written down, such as a function that cannot be imported.
        """
        constraints = [*super().get_constraints(), *self._enforcement.given]
        if filepath is None:
            return constraints
        save_constraints(constraints, filepath)
        return None

    def get_loss_values(self) -> pd.DataFrame:
        """Mean training loss of each epoch; columns 'Epoch' (from 0) and 'Loss'.

        Raises:
            NotFittedError: the synthesizer has not been fitted.
        """
        if self._fitted and self._model is None:
            return pd.DataFrame({'Epoch': [], 'Loss': []})  # a table of keys: nothing was to be learned
        return self._fitted_model('Loss values').loss_values

    def get_loss_values_plot(self, title: str = 'Loss per epoch') -> Any:
        """A line plot of `get_loss_values`.

        Args:
            title: the figure's title.

        Raises:
            NotFittedError: the synthesizer has not been fitted.
        """
        import plotly.express as px

        return px.line(self.get_loss_values(), x='Epoch', y='Loss', title=title)

    def get_constraint_diagnosis(self) -> pd.DataFrame:
        """What the training rows do with each guided constraint, as of the last `fit` or `validate`.

        After constraints were added or removed, what rows do that the model draws without guidance.

        Returns:
            one row per constraint: `constraint`, `kind` ('learned' or 'steering'), `unit`, `tolerance`,
            `share_feasible`, `violation_median`, `violation_max`, in that unit, and `worst_rows`.
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

    def _validate(self, table_data: pd.DataFrame) -> list[str]:
        """Refuses tables that cannot be learned from, before any training; SDV calls it from `fit` and `validate`."""
        if table_data.empty:
            raise DataError(f'fit needs rows to learn from; the table has {len(table_data)} rows. Pass more rows.')
        for name in table_data.select_dtypes('number').columns:
            finite_numbers(table_data[name], 'fit', allow_missing=True)
        self._check_columns(self._enforcement.given, table_data.columns)
        self._enforcement.diagnosis = diagnose(self._enforcement.given, read_moments(table_data, self._moments()))
        self._announce(self._enforcement)
        return []

    def _announce(self, enforcement: Enforcement) -> None:
        """Says what rows do with the constraints, and warns where they do not obey them."""
        lines: Any = enforcement.diagnosis.itertuples()
        for found in lines:
            said = sentence(found)
            self._tell(said)
            if found.share_feasible < 1:
                warnings.warn(f'{said} Synthetic rows will obey it all the same.', stacklevel=2)

    def _preprocess(self, table_data: pd.DataFrame) -> pd.DataFrame:
        """SDV's preprocessing, except that constrained numbers pass as they are: rounding would undo feasibility."""
        constrained = {name for each in self._enforcement.given for name in each.columns}
        passing = [name for name in sorted(constrained & set(table_data.columns)) if name not in self._moments()]
        if rewritten := sorted(constrained - set(table_data.columns)):
            raise ConstraintError(
                f'The columns {rewritten} are guided by a constraint, but a constraint of SDV rewrites them. '
                'Leave them to one of the two.'
            )
        if not passing:
            return super()._preprocess(table_data)
        self._data_processor.prepare_for_fitting(table_data)
        self._data_processor.update_transformers(dict.fromkeys(passing))
        processed = super()._preprocess(table_data)
        numbers = self._constrained_numbers(processed)
        for name in numbers:
            self._data_processor.formatters.pop(name, None)
        if self.enforce_min_max_values and numbers:
            self._tell(f'{len(numbers)} constrained columns are delivered unclipped.')
        return processed

    def _constrained_numbers(self, processed: pd.DataFrame) -> set[str]:
        """The columns that given constraints read as numbers."""
        labels = {name for each in self._enforcement.given for name in each.discrete}
        constrained = {name for each in self._enforcement.given for name in each.columns}
        return {
            name
            for name in constrained
            if not (name in self._moments() or Reading.of(processed[name], name in labels).discrete)
        }

    def _update_default_transformers(self) -> None:
        """SDV's defaults, but missing values reach the model as they are, to be learned with the other columns."""
        super()._update_default_transformers()
        as_they_are = {'missing_value_replacement': None, 'missing_value_generation': None}
        numerical = FloatFormatter(
            learn_rounding_scheme=self.enforce_rounding,
            enforce_min_max_values=self.enforce_min_max_values,
            **as_they_are,
        )
        datetime = UnixTimestampEncoder(enforce_min_max_values=self.enforce_min_max_values, **as_they_are)
        for sdtype, transformer in {'numerical': numerical, 'datetime': datetime}.items():
            self._data_processor._update_transformers_by_sdtypes(sdtype, transformer)

    def _fit(self, processed_data: pd.DataFrame) -> None:
        preset = self.preset if isinstance(self.preset, Preset) else PRESETS[self.preset]()
        plan = dataclasses.replace(preset.plan, batch_size=self.batch_size or preset.plan.batch_size)
        if self.epochs is not None or self.max_time is not None:
            plan = dataclasses.replace(plan, epochs=self.epochs, max_steps=None, max_time=self.max_time)
        described = self._get_table_metadata().columns
        processed_data = in_order(processed_data.reset_index(drop=True), list(described))
        self._learn_constraints(processed_data)
        guided = self._constrained_numbers(processed_data)
        self._model = DiffusionModel.fit(
            processed_data,
            preset,
            plan,
            discrete=discrete_columns(processed_data, self._sdtypes_as_they_are(), guided),
            continuous=guided,
            seed=self.seed,
            device='cuda' if self.enable_gpu and torch.cuda.is_available() else 'cpu',
            verbose=self.verbose,
        )
        self._enforcement.measure(self._model, processed_data)

    def _sdtypes_as_they_are(self) -> dict[str, str]:
        """The sdtypes of the columns that no transformer rewrites."""
        transformers = self._data_processor._hyper_transformer.field_transformers
        described = self._get_table_metadata().columns
        return {name: each['sdtype'] for name, each in described.items() if transformers.get(name) is None}

    def _learn_constraints(self, processed_data: pd.DataFrame) -> None:
        """Binds the constraints to the training rows, and looks for laws in them."""
        delivered = [name for name in processed_data.columns if name in self._described()]
        # What an SDV constraint has rewritten is no column of the caller's.
        discovering = self.discover_laws and not super().get_constraints()
        table = as_delivered(processed_data[delivered], self._moments())
        self._enforcement.learn(table, self.enforce_rounding, discovering)
        for law in self._enforcement.discovered:
            self._tell(f'Found in all training rows, and imposed: {law.name}.')
        if finisher := self._enforcement.finisher:
            if finisher.unrounded:
                self._tell(f'{len(finisher.unrounded)} constrained columns are delivered unrounded.')
            if redundant := finisher.chord.redundant():
                self._tell(f'Equations that the others imply, and that cost nothing: {", ".join(redundant)}.')

    def _sample(self, num_rows: int, conditions: dict[str, Any] | None = None) -> pd.DataFrame:
        model = self._fitted_model('Sampling')
        if conditions is None:
            return model.sample(num_rows, self._guidance())
        return model.complete(pd.DataFrame(conditions, index=range(num_rows)), self._guidance())

    def _guidance(self) -> Guidance | None:
        return self._enforcement.guidance(self.guidance, self.guidance_scale)

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

        completed = complete(
            conditions.reset_index(drop=True),
            # An SDV constraint computes columns from others: what was imposed may come out otherwise.
            modelled if super().get_constraints() else (),
            not self._known(conditions).empty,
            self._draw_given,
            [*self._chained_constraints, *self._reject_sampling_constraints],
            max_tries_per_batch,
            lambda number: progress_bar is not None and progress_bar.update(number),
            self._refuse_impossible,
        )
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
        record = self._enforcement.record
        for index in given.index[:MOST_SUSPECTS]:
            self._enforcement.record = FinishingRecord()
            asked = given.loc[[index] * CANDIDATES_FOR_ONE].reset_index(drop=True)
            completed = self._draw_given(asked)
            missed, self._enforcement.record = self._enforcement.record.nearest_miss, record
            if completed.empty and missed:
                raise ConstraintError(
                    # SDV's error handling leaves errors alone that begin so.
                    f'Unable to sample any rows for the given conditions: with those of row {index}, of '
                    f'{CANDIDATES_FOR_ONE} candidates the nearest misses {missed}. Change the values, leave a column '
                    'open, or remove the constraint.'
                )

    def _known(self, given: pd.DataFrame) -> pd.DataFrame:
        """The columns of the processed table that given values determine."""
        transformed = self._transform_conditions(rewritten(in_nanoseconds(given), self._chained_constraints))
        columns = self._fitted_model('Sampling').encoder.columns
        return transformed[[name for name in columns if name in transformed.columns]].reset_index(drop=True)

    def _described(self) -> dict[str, dict[str, Any]]:
        """The metadata's description of each column of the caller's table."""
        metadata = self._original_metadata  # of one table: 1.38 may keep it without the table's name
        (table,) = getattr(metadata, 'tables', {None: metadata}).values()
        return table.columns

    def _sdtype(self, name: str) -> str:
        return self._described()[name]['sdtype']

    def _validate_conditions_unseen_columns(self, conditions: pd.DataFrame) -> None:
        """Refuses fixed values that no row can have, in words that SDV's own error handling leaves alone."""
        self._validate_fit_before_sample()
        super()._validate_conditions_unseen_columns(conditions)
        self._enforcement.record = FinishingRecord()
        check_guidance(self.guidance, self.guidance_scale)
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

    def _sample_with_progress_bar(
        self,
        num_rows: int,
        max_tries_per_batch: int = 100,
        batch_size: int | None = None,
        output_file_path: str | None = None,
        show_progress_bar: bool = True,
    ) -> pd.DataFrame:
        self._enforcement.record = FinishingRecord()
        check_guidance(self.guidance, self.guidance_scale)
        if self._enforcement.all and not (self.verbose and sys.stderr.isatty()):
            show_progress_bar = False
        if num_rows == 0:
            return pd.DataFrame(columns=list(self._described()))
        sampled = super()._sample_with_progress_bar(
            num_rows, max_tries_per_batch, batch_size, output_file_path, show_progress_bar
        )
        if output_file_path is not None:
            # SDV has written every whole batch, more than `num_rows` when the batches do not divide it.
            sampled.to_csv(output_file_path, index=False)
        if len(sampled) < num_rows and (failed := self._enforcement.record.failures()):
            raise SamplingError(
                f'sample was asked for {num_rows} rows and found {len(sampled)} feasible ones; of '
                f'{self._enforcement.record.num_rows} rows drawn the projection failed on {failed}. Check the '
                'constraints against the training rows, train longer, or raise max_tries_per_batch.'
            )
        return sampled

    def reverse_transform_constraints(self, sampled: pd.DataFrame) -> pd.DataFrame:
        """Finishes rows: SDV's constraints, then the projection of the delivered columns; rows that fail are dropped.

        SDV calls it on every batch after RDT and draws replacements for dropped rows.
        """
        sampled = super().reverse_transform_constraints(sampled)
        sampled = in_units(sampled, self._dtypes)
        finisher = self._enforcement.finisher
        if finisher is None or not self.projection:
            return sampled
        given = [name for name in finisher.columns if name in self._given.columns]
        sampled = sampled.assign(**{name: self._given.loc[sampled.index, name] for name in given})
        table = read_moments(sampled, self._moments())
        finished = self._enforcement.finish(table, self._fitted_model('Sampling'), given)
        finished = in_units(written_moments(finished, sampled, self._moments()), self._dtypes)
        return held_by(finished, {name: self._dtypes[name] for name in finisher.whole if name in self._dtypes})

    def _moments(self) -> dict[str, str | None]:
        """The columns of moments, and how they are written where they are text."""
        return moments_of(self._described())

    def _check_columns(self, constraints: Sequence[Constraint], available: Iterable[str]) -> None:
        """Refuses constraints on columns that are not there, or that SDV would invent rather than learn."""
        described = self._described()
        for constraint in constraints:
            for name in constraint.columns:
                sdtype = described.get(name, {}).get('sdtype', 'numerical')
                if sdtype not in MODELLED:
                    raise DataError(
                        f'{constraint.name} needs the values of column {name!r}, but the metadata call it {sdtype!r}, '
                        f'and SDV invents it. Call metadata.update_column(column_name={name!r}, '
                        "sdtype='numerical') before making the synthesizer, or leave the column out of the constraint."
                    )
            constraint.require(available)

    def _fitted_model(self, what: str) -> DiffusionModel:
        if self._model is None:
            raise NotFittedError(f'{what} are not available before fit. Please fit your synthesizer first.')
        return self._model

    def _tell(self, sentence: str) -> None:
        LOGGER.info(sentence)
        if self.verbose:
            tqdm.write(sentence)
