"""What one synthesizer does about constraints: those it was given, and the laws that it found in its table."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.diagnosis import LEARNED, STEERING, diagnose
from sdv_constrained_diffusion.constraints.discovery import discover, independent
from sdv_constrained_diffusion.constraints.feasibility import by_constraint
from sdv_constrained_diffusion.errors import ConstraintError, DataError
from sdv_constrained_diffusion.facts import TableFacts
from sdv_constrained_diffusion.guidance.columns import GuidedColumns
from sdv_constrained_diffusion.guidance.finishing import Finisher
from sdv_constrained_diffusion.guidance.guided import CLEAR
from sdv_constrained_diffusion.guidance.projection import ResultCode
from sdv_constrained_diffusion.guidance.record import FinishingRecord
from sdv_constrained_diffusion.guidance.steering import ErrorCovariance
from sdv_constrained_diffusion.model import TYPICAL_ROWS, DiffusionModel, Guidance

MODELLED = ('numerical', 'datetime', 'categorical', 'ordinal', 'boolean')
"""Sdtypes that are learned at all; SDV invents the values of the others."""

FAR = 0.01
"""Fixed values farther outside the training table's range than this share of it are warned of."""

TRIED = 128
"""Rows on which it is tried whether constraints contradict each other."""

TRUST = 0.3
"""How far a correction may move a number, in model space, as a share of the noise that is left, when the projection
will finish the row: farther away the estimate is known better than the linearisation says, above all near the ends of a
column's range."""

TRUST_STEERED = 1.0
"""The same where rows are steered to what training rows do not obey: they have farther to go, and what is left to the
projection piles up on a limit."""

CLEAR_FINISHED = 40.0
"""Ratio of signal to noise from which on rows are corrected that the projection will finish: what it is left with is
small with fewer corrections, too."""

TYPICAL = 'rows that the model draws'
"""What messages call the rows that stand for the training rows."""

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
        refusing: whether rows are refused that break what is met by drawing again; if not, they are moved.
    """

    def __init__(self) -> None:
        """Knows no constraint and no table."""
        self.given: list[Constraint] = []
        self.discovered: list[Constraint] = []
        self.diagnosis = diagnose([], pd.DataFrame())
        self.record = FinishingRecord()
        self.refusing = True
        self._facts = TableFacts()
        self._at_fit: list[Constraint] = []
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

    def learn(self, table: pd.DataFrame, facts: TableFacts, discovering: bool) -> None:
        """Binds the constraints to a training table.

        Args:
            table: the training rows.
            facts: what is kept of it.
            discovering: whether to look for exact affine relations.

        Raises:
            ConstraintError: no row can be moved to where all constraints hold.
        """
        self.record, self._facts = FinishingRecord(), facts
        self.discovered = [*self._laws_of(table)] if discovering else []
        self._bind(table)
        self._at_fit = [each for each, kind in zip(self.all, self._kinds(), strict=True) if kind != STEERING]

    def complete(self, model: DiffusionModel, processed: pd.DataFrame) -> None:
        """Takes from the trained model what the bound constraints need of it.

        Args:
            model: tells which columns are on a short scale, and, if any constraint is steered to, its errors.
            processed: typical rows of the processed table, on which these are measured.
        """
        if self._finisher is None:
            return
        columns = GuidedColumns(model.encoder, self._finisher.chord.system)
        given = {name for each in self.given for name in each.columns}
        ranges = {
            name: self._facts.ranges[name]
            for name, short in zip(self._finisher.columns, columns.short.tolist(), strict=True)
            if name in self._facts.ranges and (short or (self._facts.clipping and name not in given))
        }
        self._finisher = self._finisher.within(ranges)
        if len(self._finisher.plan.steered):
            self._covariance = model.measure_errors(processed)

    def relearn(self, model: DiffusionModel, processed: pd.DataFrame, table: pd.DataFrame) -> None:
        """Binds a changed list of constraints, without the training table.

        Args:
            model: the trained model.
            processed: typical rows, as the model draws them.
            table: the same rows, as they are delivered.

        Raises:
            ConstraintMismatchError: the rows come nowhere near a constraint.
            ConstraintError: no row can be moved to where all constraints hold.
        """
        if self._at_fit:
            learned, _, _ = self._finisher_of(self._at_fit, table).finish(table)
            table = learned if len(learned) else table
        self.diagnosis, self.record = diagnose(self.given, table, TYPICAL), FinishingRecord()
        self._bind(table, model)
        self.complete(model, processed)

    def guidance(self, method: str, scale: float, finishing: bool) -> Guidance | None:
        """What corrects the steps of sampling; None for nothing.

        Args:
            method: kind of guidance.
            scale: its strength.
            finishing: whether rows will be projected; a correction then stays within what is still open.
        """
        if self._finisher is None or method == 'none':
            return None
        plan = self._finisher.plan
        steered = len(plan.steered) > 0
        trust = (TRUST_STEERED if steered else TRUST) if finishing else math.inf
        clear = CLEAR_FINISHED if finishing and not steered else CLEAR
        return Guidance(method, scale, self._finisher.chord, plan, self._covariance, trust, clear)

    def finish(self, rows: pd.DataFrame, model: DiffusionModel, given: Sequence[str] = ()) -> pd.DataFrame:
        """Brings delivered rows onto the constraints; those that cannot be are left out.

        Args:
            rows: the rows.
            model: tells which values are exact by nature.
            given: columns whose values were asked for and must not move.
        """
        if self._finisher is None:
            return self._facts.restored(rows, ())
        system, columns = self._finisher.chord.system, self._finisher.columns
        values, guided = system.values(rows), GuidedColumns(model.encoder, self._finisher.chord.system)
        fixed = guided.drawn
        fixed[[columns.index(name) for name in given if name in columns]] = True
        finished, before, projected = self._finisher.finish(
            rows, fixed, guided.fixed(values), self.refusing, guided.measure(values)
        )
        self.record.add(self._finisher.chord, self._finisher.plan.redrawn, before, projected)
        return self._facts.restored(finished, columns)

    def beyond_training(self, values: pd.Series) -> str:
        """A sentence that names the values of a row that no training row comes near; '' where there are none."""
        names = self._facts.outside(values)
        if not names:
            return ''
        others = f' and {len(names) - 1} more' if len(names) > 1 else ''
        low, high = self._facts.ranges[names[0]]
        return (
            f' {names[0]!r}{others} lie outside what the training table has (here {low:.6g} to {high:.6g}): rows may '
            'exist that the model knows nothing of, so train on a table that reaches there.'
        )

    def warn_beyond_training(self, given: pd.DataFrame) -> None:
        """Warns of fixed values far outside what the training table has: rows may obey all laws and be absurd."""
        far = self._facts.rows_outside(given, FAR)
        if far:
            name = max(far, key=far.__getitem__)
            low, high = self._facts.ranges[name]
            others = f', and of {len(far) - 1} more columns,' if len(far) > 1 else ''
            warnings.warn(
                f'Fixed values of {name!r} in {far[name]} of {len(given)} rows{others} lie outside what the training '
                f'table has (here {low:.6g} to {high:.6g}). The model has seen nothing like them, and what it draws '
                'beside them may be absurd even where it obeys all constraints: train on a table that reaches there.',
                UserWarning,
                stacklevel=2,
            )

    def report(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One row per constraint: what it asks, what the rows do with it, and what was done to them.

        Args:
            rows: the synthetic table.
        """
        statistics = by_constraint(self.all, rows)
        statistics.insert(1, 'kind', self._kinds())
        return pd.concat([statistics, self.record.by_constraint(len(self.all))], axis=1)

    def _finisher_of(self, constraints: Sequence[Constraint], table: pd.DataFrame) -> Finisher:
        return Finisher.fit(constraints, table, self._facts.steps, self._facts.categories)

    def _bind(self, table: pd.DataFrame, model: DiffusionModel | None = None) -> None:
        self._covariance, self._finisher = None, None
        if self.all:
            finisher = self._finisher_of(self.all, table)
            self._refuse_contradiction(finisher, table.head(TRIED), model)
            self._finisher = finisher

    def _refuse_contradiction(self, finisher: Finisher, rows: pd.DataFrame, model: DiffusionModel | None) -> None:
        """Tries whether rows can be moved to where all constraints hold."""
        system, fixed = finisher.chord.system, None
        if model is not None:
            fixed = GuidedColumns(model.encoder, system).drawn
        _, before, projected = finisher.finish(rows, fixed, refusing=False)
        if (projected.codes != ResultCode.CONVERGED).all():
            record = FinishingRecord()
            record.add(finisher.chord, finisher.plan.redrawn, before, projected)
            raise ConstraintError(
                f'The constraints {[each.name for each in self.all]} cannot be obeyed together: of {len(rows)} rows '
                f'none could be moved to where they hold, the nearest misses {record.nearest_miss}. Columns of labels '
                'and categories are never moved. Remove or mend a constraint.'
            )

    def _laws_of(self, table: pd.DataFrame) -> Iterator[Constraint]:
        """The discovered laws that rows can obey on their steps and that add something to the given constraints."""
        laws = independent(discover(table.drop(columns=self._facts.categories, errors='ignore')), self.given, table)
        if not laws:
            return
        finisher = self._finisher_of(laws, table)
        lost = {name for name in finisher.unrounded if self._facts.steps.get(name) is not None}
        yield from (law for law in laws if not lost.intersection(law.columns))

    def _kinds(self) -> list[str]:
        """Of each constraint; one of several equations is steering if any of them is."""
        if self._finisher is None:
            return []
        owners = self._finisher.chord.system.owners[self._finisher.plan.steering].tolist()
        own = [STEERING if place in owners else LEARNED for place in range(len(self.given))]
        return own + [DISCOVERED] * len(self.discovered)


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
        sdtypes = {name: described.get(name, {}).get('sdtype', 'numerical') for name in constraint.columns}
        invented = [name for name, sdtype in sdtypes.items() if sdtype not in MODELLED]
        if invented:
            name, others = invented[0], len(invented) - 1
            more = f'; {others} more of its columns fare likewise, such as {invented[1]!r}' if others else ''
            raise DataError(
                f'{constraint.name} needs the values of column {name!r}, but the metadata call it {sdtypes[name]!r}, '
                f"and SDV invents it{more}. Call metadata.update_column(column_name={name!r}, sdtype='numerical') "
                'before making the synthesizer, take `operating_point_metadata(table)` for a power-flow table, or '
                'leave the column out of the constraint.'
            )
        constraint.require(available)
