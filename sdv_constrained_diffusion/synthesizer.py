"""The SDV face: `ConstrainedDiffusionSynthesizer`."""

import dataclasses
import sys
from typing import Any, ClassVar

import pandas as pd
from rdt.transformers import FloatFormatter, UnixTimestampEncoder
from sdv.errors import SamplingError

from sdv_constrained_diffusion._numbers import finite_numbers
from sdv_constrained_diffusion.arguments import (
    check_choice,
    check_epochs,
    check_gpu,
    check_guidance,
    check_num_rows,
    check_positive,
    check_seconds,
    check_seed,
    check_switch,
    device_of,
)
from sdv_constrained_diffusion.conditional import ConditionalSynthesizer
from sdv_constrained_diffusion.constraints.diagnosis import diagnose
from sdv_constrained_diffusion.constraints.reading import Reading
from sdv_constrained_diffusion.diffusion.presets import PRESETS, Preset
from sdv_constrained_diffusion.diffusion.training import TrainingRecord
from sdv_constrained_diffusion.enforcement import Enforcement, check_columns
from sdv_constrained_diffusion.errors import ConstraintError, DataError
from sdv_constrained_diffusion.facts import TableFacts
from sdv_constrained_diffusion.frames import (
    DISCRETE,
    as_delivered,
    discrete_columns,
    dtypes_of,
    in_order,
    owned,
    read_moments,
)
from sdv_constrained_diffusion.model import DiffusionModel


class ConstrainedDiffusionSynthesizer(ConditionalSynthesizer):
    """Learns a table with a diffusion model and returns rows that obey constraints.

    It is used as any synthesizer of SDV, takes every table that these take, and imposes fixed values while it samples.
    Constraints of this package (`Constraint`, `PowerFlow`) guide sampling and are met exactly by a projection of the
    finished rows; constraints of SDV are handed to SDV.

    Args:
        metadata: SDV metadata of one table.
        enforce_min_max_values: keep each column that no constraint of the user reads within the range of the training
            data.
        enforce_rounding: round each column as the training data are rounded; constrained ones only where rounded rows
            can obey their constraints.
        locales: locales of personal data that SDV invents.
        preset: 'default' (minutes on two cores), 'paper' (the network and schedule of Hoseinpour and Dvorkin 2025,
            hours), or a `Preset` of your own, such as `paper_preset(decay_factor=0.5)`.
        epochs: passes over the training rows. 'auto' holds a tenth of the rows out, at most 2,000, and stops once the
            loss on them does not fall any more, at the latest at `max_time` or, without it, after the preset's number
            of passes or steps. Tables of less than 100 rows, tables of 2,000 to 5,000 rows with many columns (rows
            times columns 40,000 for numbers alone, 100,000 otherwise) and the preset 'paper' hold none out. A number,
            or None for as many as `max_time` allows (without that, the preset's), learns from all rows.
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
        enable_gpu: train and sample on a CUDA device if there is one; 'mps' asks for Apple's GPU.

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
        epochs: int | str | None = 'auto',
        batch_size: int | None = None,
        max_time: float | None = None,
        guidance: str = 'gauss_newton',
        guidance_scale: float = 1.0,
        projection: bool = True,
        discover_laws: bool = True,
        seed: int | None = None,
        verbose: bool = False,
        enable_gpu: bool | str = True,
    ) -> None:
        super().__init__(metadata, enforce_min_max_values, enforce_rounding, locales)
        if not isinstance(preset, Preset):
            check_choice('preset', preset, PRESETS)
        check_epochs(epochs)
        check_positive('batch_size', batch_size)
        check_seconds('max_time', max_time)
        check_guidance(guidance, guidance_scale)
        check_seed(seed)
        for switch, value in {'projection': projection, 'discover_laws': discover_laws, 'verbose': verbose}.items():
            check_switch(switch, value)
        check_gpu(enable_gpu)
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

    def get_loss_values(self) -> pd.DataFrame:
        """Mean training loss of each epoch, and that of held-out rows where it was measured (else NaN); epochs from 0.

        Columns 'Epoch', 'Loss' and 'Held-out Loss'.

        Raises:
            NotFittedError: the synthesizer has not been fitted.
        """
        if self._fitted and self._model is None:
            # A table of keys: nothing was to be learned.
            return pd.DataFrame({'Epoch': [], 'Loss': [], 'Held-out Loss': []})
        return self._fitted_model('Loss values').loss_values

    def get_loss_values_plot(self, title: str = 'Loss per epoch') -> Any:
        """A line plot of `get_loss_values`.

        Args:
            title: the figure's title.

        Raises:
            NotFittedError: the synthesizer has not been fitted.
        """
        import plotly.express as px

        losses = self.get_loss_values()
        drawn = [name for name in ('Loss', 'Held-out Loss') if losses[name].notna().any()]
        figure = px.line(losses, x='Epoch', y=drawn, title=title, labels={'value': 'Loss', 'variable': ''})
        return figure.update_traces(connectgaps=True)

    def _validate(self, table_data: pd.DataFrame) -> list[str]:
        """Refuses tables that cannot be learned from, before any training; SDV calls it from `fit` and `validate`."""
        if table_data.empty:
            raise DataError(f'fit needs rows to learn from; the table has {len(table_data)} rows. Pass more rows.')
        for name in table_data.select_dtypes('number').columns:
            finite_numbers(table_data[name], 'fit', allow_missing=True)
        check_columns(self._enforcement.given, self._described(), table_data.columns)
        self._enforcement.diagnosis = diagnose(self._enforcement.given, read_moments(table_data, self._moments()))
        self._announce(self._enforcement)
        return []

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

    def _labels(self) -> set[str]:
        """Columns of numbers that given constraints read as labels: they are learned as categories."""
        return {name for each in self._enforcement.given for name in each.discrete if name not in self._moments()}

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
        device = device_of(self.enable_gpu)
        preset = self.preset if isinstance(self.preset, Preset) else PRESETS[self.preset]()
        plan = dataclasses.replace(preset.plan, batch_size=self.batch_size or preset.plan.batch_size)
        if self.epochs != 'auto':
            plan = dataclasses.replace(plan, patience=None)
        if self.epochs not in ('auto', None) or self.max_time is not None:
            epochs = None if isinstance(self.epochs, str) else self.epochs
            plan = dataclasses.replace(plan, epochs=epochs, max_steps=None, max_time=self.max_time)
        described = self._get_table_metadata().columns
        processed_data = in_order(processed_data.reset_index(drop=True), list(described))
        self._learn_constraints(processed_data)
        guided = self._constrained_numbers(processed_data)
        discrete = discrete_columns(processed_data, self._sdtypes_as_they_are(), guided)
        self._model = DiffusionModel.fit(
            processed_data,
            preset,
            plan,
            discrete=discrete | self._labels(),
            continuous=guided,
            seed=self.seed,
            device=device,
            verbose=self.verbose,
        )
        self._report_training(self._model.record)
        self._enforcement.complete(self._model, processed_data)

    def _report_training(self, record: TrainingRecord) -> None:
        """Says how training ended, where rows were held out for that."""
        if not record.num_held_out:
            return
        lowest = min(record.held_out_losses, key=lambda epoch: record.held_out_losses[epoch])
        last = record.held_out_losses[max(record.held_out_losses)]
        ended = 'stopped, as it did not fall any more,' if record.stalled_at is not None else 'ended'
        self._tell(
            f'{record.num_held_out} rows were held out: their loss was lowest, '
            f'{record.held_out_losses[lowest]:.4f}, after {lowest + 1} epochs; training {ended} '
            f'after {len(record.losses)} with {last:.4f}.'
        )

    def _sdtypes_as_they_are(self) -> dict[str, str]:
        """The sdtypes of the columns that no transformer rewrites."""
        transformers = self._data_processor._hyper_transformer.field_transformers
        described = self._get_table_metadata().columns
        return {name: each['sdtype'] for name, each in described.items() if transformers.get(name) is None}

    def _learn_constraints(self, processed_data: pd.DataFrame) -> None:
        """Binds the constraints to the training rows, and looks for laws in them."""
        delivered = [name for name in processed_data.columns if name in self._described()]
        # What an SDV constraint has rewritten is no column of the caller's.
        discovering = self.discover_laws and not self._sdv_constraints()
        table = as_delivered(processed_data[delivered], self._moments())
        guided = self._constrained_numbers(processed_data)
        # Text cannot be written finer than its format, whatever the user wants.
        texts = [name for name in self._moments() if self._dtypes.get(name) == 'object']
        facts = TableFacts.of(
            table,
            rounded=delivered if self.enforce_rounding else texts,
            discrete=discrete_columns(processed_data[delivered], self._sdtypes_as_they_are(), guided),
            clipping=self.enforce_min_max_values,
            raw=guided,
        )
        self._enforcement.learn(table, facts, discovering)
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

    def _sample_with_progress_bar(
        self,
        num_rows: int,
        max_tries_per_batch: int = 100,
        batch_size: int | None = None,
        output_file_path: str | None = None,
        show_progress_bar: bool = True,
    ) -> pd.DataFrame:
        check_num_rows(num_rows)
        self._begin()
        if self._enforcement.all and not (self.verbose and sys.stderr.isatty()):
            show_progress_bar = False
        if num_rows == 0:
            return pd.DataFrame(columns=list(self._described()))
        if self._enforcement.finisher is not None and self.projection:
            # A row too many in one batch would be lost to the next: rows would depend on the size of batches.
            batch_size = num_rows
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
