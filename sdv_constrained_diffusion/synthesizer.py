"""The SDV face: `ConstrainedDiffusionSynthesizer`."""

import dataclasses
import logging
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from sdv.errors import NotFittedError, SamplingError, SynthesizerInputError
from sdv.single_table.base import BaseSingleTableSynthesizer
from tqdm import tqdm

from sdv_constrained_diffusion._numbers import finite_numbers
from sdv_constrained_diffusion._types import PerRow, RowCodes
from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.diagnosis import diagnose
from sdv_constrained_diffusion.constraints.system import ConstraintSystem, check_form
from sdv_constrained_diffusion.diffusion.presets import PRESETS, Preset
from sdv_constrained_diffusion.errors import ConstraintError, DataError
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.projection import ResultCode, project
from sdv_constrained_diffusion.model import GUIDANCE, DiffusionModel

LOGGER = logging.getLogger(__name__)

NUMBERS = ('numerical', 'ordinal', 'categorical')
"""Sdtypes under which SDV's detection files columns of numbers that can be learned as such."""


class ConstrainedDiffusionSynthesizer(BaseSingleTableSynthesizer):
    """Learns a table with a diffusion model and returns rows that obey constraints.

    It is used as any synthesizer of SDV. Constraints of this package (`Constraint`, `PowerFlow`) guide sampling and are
    met exactly by a projection of the finished rows; constraints of SDV are handed to SDV.

    Args:
        metadata: SDV metadata of one table.
        enforce_min_max_values: keep each unconstrained column within the range of the training data.
        enforce_rounding: round each unconstrained column as the training data are rounded.
        locales: locales of personal data that SDV invents.
        preset: 'default' (minutes on two cores), 'paper' (the network and schedule of Hoseinpour and Dvorkin 2025,
            hours), or a `Preset` of your own, such as `paper_preset(decay_factor=0.5)`.
        epochs: passes over the training rows; the preset's number when None.
        batch_size: rows per training step; the preset's number when None.
        guidance: how constraints correct each step of sampling: 'gauss_newton', 'gradient' (the paper's) or 'none'. May
            be changed after `fit`.
        guidance_scale: strength of the guidance, 1 for the natural step. May be changed after `fit`.
        projection: whether finished rows are moved onto the constraints, and replaced where that fails. May be changed
            after `fit`.
        seed: makes `fit` repeatable.
        verbose: show progress of training on a terminal, and what was found about constraints.
        enable_gpu: train and sample on a CUDA device if there is one.

    Raises:
        SynthesizerInputError: an argument is out of its range.
    """

    def __init__(
        self,
        metadata: Any,
        enforce_min_max_values: bool = True,
        enforce_rounding: bool = True,
        locales: list[str] | None = ['en_US'],  # noqa: B006  SDV's own default, read back by get_parameters
        preset: str | Preset = 'default',
        epochs: int | None = None,
        batch_size: int | None = None,
        guidance: str = 'gauss_newton',
        guidance_scale: float = 1.0,
        projection: bool = True,
        seed: int | None = None,
        verbose: bool = False,
        enable_gpu: bool = True,
    ) -> None:
        super().__init__(metadata, enforce_min_max_values, enforce_rounding, locales)
        if not isinstance(preset, Preset):
            _check_choice('preset', preset, PRESETS)
        _check_positive('epochs', epochs)
        _check_positive('batch_size', batch_size)
        _check_guidance(guidance, guidance_scale)
        _check_seed(seed)
        for switch, value in {'projection': projection, 'verbose': verbose, 'enable_gpu': enable_gpu}.items():
            if not isinstance(value, bool | np.bool_):
                raise SynthesizerInputError(f'{switch!r} must be True or False; got {value!r}.')
        self.preset = preset
        self.epochs = epochs
        self.batch_size = batch_size
        self.guidance = guidance
        self.guidance_scale = guidance_scale
        self.projection = projection
        self.seed = seed
        self.verbose = verbose
        self.enable_gpu = enable_gpu
        self._model: DiffusionModel | None = None
        self._guided: list[Constraint] = []
        self._chord: Chord | None = None
        self._constraint_diagnosis = pd.DataFrame()
        self._projections: list[tuple[RowCodes, PerRow]] = []

    def add_constraints(self, constraints: list[Any]) -> None:
        """Adds constraints, before `fit`.

        Args:
            constraints: constraints of this package, which guide and project, and constraints of SDV, in any mix.

        Raises:
            SynthesizerInputError: the synthesizer is fitted already, or `constraints` is no list.
            ConstraintError: a constraint of this package is ill formed, such as a class instead of an instance.
        """
        if not isinstance(constraints, list | tuple):
            raise SynthesizerInputError(f'add_constraints needs a list of constraints; got {constraints!r}.')
        guided: list[Constraint] = []
        others: list[Any] = []
        for each in constraints:
            ours = isinstance(each, Constraint) or (isinstance(each, type) and issubclass(each, Constraint))
            (guided if ours else others).append(each)
        for each in guided:
            check_form(each)
        if guided and self._fitted:
            raise SynthesizerInputError(
                'add_constraints needs to be called before fit: this synthesizer has been fitted. '
                'Make a new synthesizer, add the constraints, then fit it.'
            )
        if others:
            super().add_constraints(others)
        self._guided += guided

    def get_constraints(self, filepath: str | None = None) -> list[Any] | None:
        """All constraints, SDV's first; with a `filepath`, writes SDV's own constraints there as JSON.

        Raises:
            SynthesizerInputError: a `filepath` is given and some constraints are not SDV's.
        """
        if filepath is not None and self._guided:
            names = ', '.join(constraint.name for constraint in self._guided)
            raise SynthesizerInputError(
                f'get_constraints writes SDV constraints only, but this synthesizer also has {names}. '
                'Call it without a path, or save the whole synthesizer.'
            )
        others = super().get_constraints(filepath)
        return None if others is None else others + self._guided

    def get_loss_values(self) -> pd.DataFrame:
        """Mean training loss of each epoch; columns 'Epoch' (from 0) and 'Loss'.

        Raises:
            NotFittedError: the synthesizer has not been fitted.
        """
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

        Returns:
            one row per constraint: `constraint`, `unit`, `tolerance`, `share_feasible`, `violation_median`,
            `violation_max`, in that unit.
        """
        return self._constraint_diagnosis.copy()

    def get_projection_summary(self) -> pd.DataFrame:
        """What the projection did to the rows drawn since the last `sample`, `fit`, or call with fixed values began.

        Returns:
            one row, with the number of rows drawn (`num_rows`), of rows that were replaced since they could not be made
            feasible (`num_replaced`), and the median, 99 % quantile and maximum of the `displacement`: how far rows
            were moved, root mean square over columns, in column standard deviations.
        """
        codes = torch.cat([torch.zeros(0, dtype=torch.int64), *(codes for codes, _ in self._projections)])
        moves = torch.cat([torch.zeros(0, dtype=torch.float64), *(moves for _, moves in self._projections)])
        kept = moves[codes == ResultCode.CONVERGED].numpy()
        quantiles = np.quantile(kept, [0.5, 0.99, 1.0]) if len(kept) else [np.nan] * 3
        return pd.DataFrame(
            [
                {
                    'num_rows': len(codes),
                    'num_replaced': int((codes != ResultCode.CONVERGED).sum()),
                    'displacement_median': quantiles[0],
                    'displacement_p99': quantiles[1],
                    'displacement_max': quantiles[2],
                }
            ]
        )

    def _validate(self, table_data: pd.DataFrame) -> list[str]:
        """Refuses tables that cannot be learned from, before any training; SDV calls it from `fit` and `validate`."""
        if len(table_data) < 2:
            raise DataError(f'fit needs at least 2 rows to learn from; it got {len(table_data)}. Pass more rows.')
        for name in table_data.select_dtypes('number').columns:
            finite_numbers(table_data[name], 'fit', allow_missing=True)
        self._check_sdtypes()
        self._constraint_diagnosis = diagnose(self._guided, table_data)
        lines: Any = self._constraint_diagnosis.itertuples()
        for found in lines:
            said = _say(found)
            self._tell(said)
            if found.share_feasible < 1:
                warnings.warn(f'{said} Synthetic rows will obey it all the same.', stacklevel=2)
        return []

    def _preprocess(self, table_data: pd.DataFrame) -> pd.DataFrame:
        """SDV's preprocessing, except that constrained columns pass as they are: rounding would undo feasibility."""
        constrained = {name for constraint in self._guided for name in constraint.columns}
        if not constrained:
            return super()._preprocess(table_data)
        if rewritten := sorted(constrained - set(table_data.columns)):
            raise ConstraintError(
                f'The columns {rewritten} are guided by a constraint, but a constraint of SDV rewrites them. '
                'Leave them to one of the two.'
            )
        self._data_processor.prepare_for_fitting(table_data)
        self._data_processor.update_transformers(dict.fromkeys(sorted(constrained)))
        processed = super()._preprocess(table_data)
        for name in constrained:
            self._data_processor.formatters.pop(name, None)
        if self.enforce_rounding or self.enforce_min_max_values:
            self._tell(f'{len(constrained)} constrained columns are delivered unrounded and unclipped.')
        return processed

    def _fit(self, processed_data: pd.DataFrame) -> None:
        preset = self.preset if isinstance(self.preset, Preset) else PRESETS[self.preset]()
        plan = dataclasses.replace(
            preset.plan,
            epochs=self.epochs or preset.plan.epochs,
            batch_size=self.batch_size or preset.plan.batch_size,
        )
        processed_data = processed_data.reset_index(drop=True)
        self._projections = []
        self._chord = self._linearise(processed_data)
        device = 'cuda' if self.enable_gpu and torch.cuda.is_available() else 'cpu'
        self._model = DiffusionModel.fit(processed_data, preset, plan, self.seed, device, self.verbose)

    def _linearise(self, processed_data: pd.DataFrame) -> Chord | None:
        """Binds the constraints to the training rows."""
        if not self._guided:
            return None
        system = ConstraintSystem(self._guided, processed_data)
        chord = Chord(system, system.values(processed_data))
        if redundant := chord.redundant():
            self._tell(f'Equations that the others imply, and that cost nothing: {", ".join(redundant)}.')
        return chord

    def _sample(self, num_rows: int, conditions: dict[str, Any] | None = None) -> pd.DataFrame:
        if conditions is not None:
            raise NotImplementedError  # SDV's word for: reject rows that do not match
        return self._fitted_model('Sampling').sample(num_rows, self._chord, self.guidance, self.guidance_scale)

    def _validate_conditions_unseen_columns(self, conditions: pd.DataFrame) -> None:
        super()._validate_conditions_unseen_columns(conditions)
        self._projections = []
        _check_guidance(self.guidance, self.guidance_scale)
        clash = sorted(set(conditions.columns) & set(self._chord.system.columns if self._chord else ()))
        if clash:
            raise SynthesizerInputError(
                f'Sampling with fixed values is not supported for columns under a guided constraint; got {clash}. '
                'Fix other columns, or sample without conditions and select rows.'
            )

    def _sample_with_progress_bar(self, num_rows: int, *args: Any, **kwargs: Any) -> pd.DataFrame:
        self._projections = []
        _check_guidance(self.guidance, self.guidance_scale)
        if self._guided and not (self.verbose and sys.stderr.isatty()):
            kwargs['show_progress_bar'] = False
        sampled = super()._sample_with_progress_bar(num_rows, *args, **kwargs)
        if self._projections and len(sampled) < num_rows:
            codes = torch.cat([codes for codes, _ in self._projections])
            failed = {ResultCode(code).name: int((codes == code).sum()) for code in codes.unique().tolist() if code}
            raise SamplingError(
                f'sample was asked for {num_rows} rows and found {len(sampled)} feasible ones; of {len(codes)} rows '
                f'drawn the projection failed on {failed}. Check the constraints against the training rows, train '
                'longer, or raise max_tries_per_batch.'
            )
        return sampled

    def reverse_transform_constraints(self, sampled: pd.DataFrame) -> pd.DataFrame:
        """Finishes rows: SDV's constraints, then the projection of the delivered columns; rows that fail are dropped.

        SDV calls it on every batch after RDT and draws replacements for dropped rows.
        """
        sampled = super().reverse_transform_constraints(sampled)
        if self._chord is None or not self.projection:
            return sampled
        columns = list(self._chord.system.columns)
        values = self._chord.system.values(sampled)
        fixed = self._fitted_model('Sampling').encoder.select(columns).point_masses(values)
        projected = project(self._chord, values, fixed)
        self._projections.append((projected.codes, projected.displacement))
        finished = sampled.astype(dict.fromkeys(columns, 'float64'))
        finished[columns] = projected.values.numpy()
        return finished[(projected.codes == ResultCode.CONVERGED).numpy()]

    def _check_sdtypes(self) -> None:
        """Refuses constrained columns that SDV would invent rather than learn."""
        described = self._get_table_metadata().columns
        for constraint in self._guided:
            for name in constraint.columns:
                sdtype = described.get(name, {}).get('sdtype', 'numerical')
                if sdtype not in NUMBERS:
                    raise DataError(
                        f'{constraint.name} needs column {name!r} as numbers, but the metadata call it {sdtype!r}. '
                        f"Call metadata.update_column(column_name={name!r}, sdtype='numerical') before making the "
                        'synthesizer, or leave the column out of the constraint.'
                    )

    def _fitted_model(self, what: str) -> DiffusionModel:
        if self._model is None:
            raise NotFittedError(f'{what} are not available before fit. Please fit your synthesizer first.')
        return self._model

    def _tell(self, sentence: str) -> None:
        LOGGER.info(sentence)
        if self.verbose:
            tqdm.write(sentence)


def _say(found: Any) -> str:
    """A line of the diagnosis as a sentence."""
    return (
        f'{found.constraint}: {found.share_feasible:.1%} of the training rows within {found.tolerance:.3g} {found.unit}'
        f'; violation median {found.violation_median:.3g}, largest {found.violation_max:.3g} {found.unit}.'
    )


def _check_guidance(guidance: Any, guidance_scale: Any) -> None:
    _check_choice('guidance', guidance, GUIDANCE)
    number = isinstance(guidance_scale, int | float | np.number)
    if not (number and 0 <= guidance_scale < float('inf')):
        raise SynthesizerInputError(f"'guidance_scale' must be a finite number of at least 0; got {guidance_scale!r}.")


def _check_seed(seed: Any) -> None:
    if seed is not None and not (isinstance(seed, int | np.integer) and seed >= 0):
        raise SynthesizerInputError(f"'seed' must be a whole number of at least 0, or None; got {seed!r}.")


def _check_choice(argument: str, value: Any, choices: Any) -> None:
    if not isinstance(value, str) or value not in choices:
        raise SynthesizerInputError(f'{argument!r} must be one of {sorted(choices)}; got {value!r}.')


def _check_positive(argument: str, value: Any) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if value is not None and not (whole and value > 0):
        raise SynthesizerInputError(f'{argument!r} must be a whole number above 0, or None; got {value!r}.')
