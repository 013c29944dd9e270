"""How close synthetic rows are to real ones, every measure beside the floor that two real tables reach."""

import pickle
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import sdmetrics
from sdmetrics.reports import DiagnosticReport, QualityReport

from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.feasibility import by_constraint
from sdv_constrained_diffusion.errors import DataError
from sdv_constrained_diffusion.frames import moments_of, read_moments
from sdv_constrained_diffusion.report.classifier import auc_standard_error
from sdv_constrained_diffusion.report.comparison import Comparison, compare, one_table, one_table_metadata
from sdv_constrained_diffusion.report.document import Document, Section, records, write_json
from sdv_constrained_diffusion.report.figures import marginals
from sdv_constrained_diffusion.report.properties import (
    ALL_PAIRS,
    CLASSIFIER,
    CONSTRAINTS,
    PAIRS,
    SHAPES,
    STRUCTURE,
    VALIDITY,
    Beside,
    Property,
    constraint_satisfaction,
    largest_excess,
    real_or_synthetic,
)
from sdv_constrained_diffusion.report.sections import (
    comparison_section,
    constraint_section,
    property_figure,
    property_section,
)

NUM_MARGINALS = 12
"""Histograms on the page: the columns that score lowest beside their floor."""


class FidelityReport:
    """A report in the manner of SDMetrics', with a floor beside every score.

    A score of 0.97 says little: finite tables differ by chance. The floor is the score of a second real table of the
    same size against the same reference: what a perfect synthesizer would reach.

    The properties are SDMetrics' `Column Shapes`, `Column Pair Trends` (which averages only over pairs above a
    correlation of 0.5 or an association of 0.3), `Data Validity` and `Data Structure`; `Column Pair Trends (all
    pairs)`, the mean over all pairs, as papers give it; `Real or Synthetic`, `1 - 2 |AUC - 0.5|` of a classifier; and,
    with constraints, `Constraint Satisfaction`, the share of rows within every tolerance.

    The report keeps scores and histograms, but no row of any table.
    """

    def __init__(self) -> None:
        """An empty report; `generate` fills it."""
        self._properties: dict[str, Property] = {}
        self._info: dict[str, Any] = {}
        self._marginals: go.Figure | None = None
        self._by_constraint = pd.DataFrame()

    def generate(
        self,
        real_data: pd.DataFrame | Mapping[str, pd.DataFrame],
        synthetic_data: pd.DataFrame | Mapping[str, pd.DataFrame],
        metadata: Any,
        constraints: Iterable[Constraint] = (),
        held_out_data: pd.DataFrame | Mapping[str, pd.DataFrame] | None = None,
        verbose: bool = True,
        seed: int = 0,
        constraint_report: pd.DataFrame | None = None,
    ) -> None:
        """Compares the tables.

        Pairs of columns dominate the time: about 3 ms each and table on one core, 30 s for a table of 100 numeric
        columns, twice that where some columns are categories.

        Args:
            real_data: the rows the synthesizer was fitted to, a DataFrame or one DataFrame by its name; physical units.
            synthetic_data: the rows it returned, likewise.
            metadata: an SDV `Metadata`, or its dictionary, of one table.
            constraints: laws that the rows should obey; every row of `synthetic_data` is judged, and for the floor
                every row of `real_data`.
            held_out_data: real rows that the synthesizer did not see. Synthetic rows are compared with them, and the
                floor compares `real_data` with them. Without them, the two halves of `real_data`, split at random,
                play the two parts; a synthesizer that copies its rows is then not found out.
            verbose: whether to print the number of rows and the scores.
            seed: of the split, of the cuts to equal size and of the classifier.
            constraint_report: what the synthesizer's `constraint_report(synthetic_data)` returned, to be shown: it
                knows the kind of each constraint, how far rows were moved and how many were drawn again. Without it
                the page has the violations only.

        Raises:
            DataError: a table is empty or has other columns than the metadata, or there are several tables.
            ColumnMissingError: a table lacks a column of a constraint.
        """
        constraints = tuple(constraints)
        name, table = one_table_metadata(metadata)
        real, synthetic = one_table('real_data', real_data, name), one_table('synthetic_data', synthetic_data, name)
        held_out = None if held_out_data is None else one_table('held_out_data', held_out_data, name)
        tables = compare(real, synthetic, table, held_out, seed)

        say = sys.stdout.write if verbose else lambda text: 0
        say(f'Comparing {tables.num_rows} rows of each kind ...\n')
        found = _quality(tables) | _diagnostic(tables)
        found[CLASSIFIER] = real_or_synthetic(tables, seed)
        by_law = constraint_report
        if constraints:
            moments = moments_of(table['columns'])
            real, synthetic = read_moments(real, moments), read_moments(synthetic, moments)
            found[CONSTRAINTS] = constraint_satisfaction(constraints, real, synthetic)
            by_law = by_constraint(constraints, synthetic) if by_law is None else by_law
        for property_name, each in found.items():
            say(f'{property_name}: {each.score.score:.2%} (floor {each.score.floor:.2%})\n')
        # Nothing is kept until everything is there: a failed run leaves the report as it was.
        self._properties, self._marginals = found, _marginals(tables, found[SHAPES].details)
        self._by_constraint = pd.DataFrame() if by_law is None else by_law.copy()
        self._info = {
            'report_type': type(self).__name__,
            'sdmetrics_version': sdmetrics.__version__,
            'num_rows_real_data': len(real),
            'num_rows_synthetic_data': len(synthetic),
            'num_rows_held_out_data': None if held_out is None else len(held_out),
            'num_rows_compared': tables.num_rows,
            'auc_standard_error': auc_standard_error(tables.num_rows),
            'constraints': [constraint.name for constraint in constraints],
            'seed': seed,
        }

    def get_score(self) -> float:
        """The mean of the properties' scores, from 0 to 1; properties without a score are left out."""
        return float(np.nanmean([each.score.score for each in self._generated().values()]))

    def get_properties(self) -> pd.DataFrame:
        """The scores: columns Property, Score and Floor."""
        lines = [(name, *each.score) for name, each in self._generated().items()]
        return pd.DataFrame(lines, columns=['Property', 'Score', 'Floor'])

    def get_details(self, property_name: str) -> pd.DataFrame:
        """What a property's score is made of, synthetic beside floor.

        Args:
            property_name: one of `get_properties()['Property']`.

        Raises:
            ValueError: the report has no such property, or was not generated.
        """
        return self._property(property_name).details.copy()

    def get_visualization(self, property_name: str) -> go.Figure:
        """The details as a figure, synthetic beside floor.

        Args:
            property_name: one of `get_properties()['Property']`.

        Raises:
            ValueError: the report has no such property, or was not generated.
        """
        return property_figure(property_name, self._property(property_name))

    def get_constraint_report(self) -> pd.DataFrame:
        """One row per constraint: the `constraint_report` that `generate` was given, or the violations only."""
        self._generated()
        return self._by_constraint.copy()

    @property
    def mean_ks_complement(self) -> Beside:
        """Mean over the numeric columns of 1 - KS distance, beside its floor; NaN without numeric columns."""
        details = self._property(SHAPES).details
        kept = details.loc[details['Metric'] == 'KSComplement', ['Score', 'Floor']].mean()
        return Beside(float(kept['Score']), float(kept['Floor']))

    @property
    def auc(self) -> Beside:
        """AUC of the real-or-synthetic classifier beside that of two real tables; 0.5 is perfect."""
        score, floor = self._property(CLASSIFIER).details[['AUC', 'Floor']].iloc[0]
        return Beside(float(score), float(floor))

    def get_summary(self) -> pd.DataFrame:
        """The numbers to quote: columns Measure, Synthetic, Floor and Target."""
        lines = [(name, *each.score, 1.0) for name, each in self._generated().items()]
        lines.append(('Mean KS complement of numeric columns', *self.mean_ks_complement, 1.0))
        lines.append(('AUC of the real-or-synthetic classifier', *self.auc, 0.5))
        if CONSTRAINTS in self._properties:
            excess = largest_excess(self._properties[CONSTRAINTS].details)
            lines.append(('Largest violation, in tolerances', *excess, 0.0))
        return pd.DataFrame(lines, columns=['Measure', 'Synthetic', 'Floor', 'Target'])

    def get_info(self) -> dict[str, Any]:
        """What was compared: numbers of rows, versions, the seed."""
        self._generated()
        return dict(self._info)

    def sections(self) -> list[Section]:
        """The report as sections of a page, for pages that hold more than the report."""
        return [
            comparison_section(self.get_info()),
            *(
                property_section(name, each, property_figure(name, each), self._marginals if name == SHAPES else None)
                for name, each in self._generated().items()
            ),
            *([] if self._by_constraint.empty else [constraint_section(self._by_constraint)]),
        ]

    def to_dict(self) -> dict[str, Any]:
        """All numbers of the report as JSON values."""
        return {
            'score': self.get_score(),
            'info': self.get_info(),
            'summary': records(self.get_summary()),
            'properties': records(self.get_properties()),
            'constraints': records(self.get_constraint_report()),
            'details': {name: records(each.details) for name, each in self._generated().items()},
        }

    def to_json(self, path: str | Path) -> None:
        """Writes `to_dict` as JSON."""
        write_json(self.to_dict(), path)

    def to_html(self, path: str | Path, title: str = 'Fidelity report') -> None:
        """Writes the report as one standalone page."""
        subtitle = 'Synthetic rows beside real ones. The floor is what a second real table of the same size reaches.'
        Document(title, subtitle, self.get_summary(), self.sections()).to_html(path)

    def save(self, filepath: str | Path) -> None:
        """Pickles the report.

        Args:
            filepath: where to.
        """
        self._generated()
        with Path(filepath).open('wb') as output:
            pickle.dump(self, output)

    @classmethod
    def load(cls, filepath: str | Path) -> 'FidelityReport':
        """Reads a report that `save` wrote. Unpickling runs code: load only files you trust.

        Args:
            filepath: where from.

        Raises:
            DataError: the file holds something else.
        """
        with Path(filepath).open('rb') as content:
            report = pickle.load(content)
        if not isinstance(report, cls):
            raise DataError(f'{filepath} must hold a FidelityReport; it holds a {type(report).__name__}.')
        if report._info['sdmetrics_version'] != sdmetrics.__version__:
            warnings.warn(
                f'The report was made with SDMetrics {report._info["sdmetrics_version"]}; '
                f'{sdmetrics.__version__} is installed, and its scores may differ.',
                stacklevel=2,
            )
        return report

    def _generated(self) -> dict[str, Property]:
        if not self._properties:
            raise ValueError('The report has not been generated. Please call `generate` first.')
        return self._properties

    def _property(self, name: str) -> Property:
        if name not in self._generated():
            raise ValueError(f'Invalid property name {name!r}. Valid property names are {list(self._properties)}.')
        return self._properties[name]


def _quality(tables: Comparison) -> dict[str, Property]:
    """Column shapes, pair trends above SDMetrics' thresholds, and pair trends of all pairs."""
    thresholds = QualityReport()
    every = _beside(tables, lambda: _without_thresholds(QualityReport()), [SHAPES, PAIRS])
    pairs = every[PAIRS].details
    if (pairs['Metric'] == 'CorrelationSimilarity').all():
        # The correlation says which pairs count, so the thousands of pairs need not be gone through again.
        counts = pairs['Real Correlation'].abs() > thresholds.real_correlation_threshold
        details = pairs.assign(**{'Meets Threshold?': counts})
        details.loc[~counts, ['Score', 'Floor']] = np.nan
        score = Beside(float(details['Score'].mean()), float(details['Floor'].mean()))
        chosen = Property(score, details)
    else:
        chosen = _beside(tables, QualityReport, [PAIRS])[PAIRS]
    # Without thresholds SDMetrics computes no association, and every pair meets the threshold.
    details = pairs.drop(columns=['Meets Threshold?', 'Real Association'])
    return {SHAPES: every[SHAPES], PAIRS: chosen, ALL_PAIRS: Property(every[PAIRS].score, details)}


def _without_thresholds(report: QualityReport) -> QualityReport:
    report.real_correlation_threshold = report.real_association_threshold = 0
    return report


def _diagnostic(tables: Comparison) -> dict[str, Property]:
    return _beside(tables, DiagnosticReport, [VALIDITY, STRUCTURE])


def _beside(tables: Comparison, report: Callable[[], Any], names: Sequence[str]) -> dict[str, Property]:
    """Properties of an SDMetrics report on the synthetic table, with those on the other real table as the floor."""
    name = 'table'
    metadata = {'tables': {name: tables.table}}
    found = []
    for data in (tables.synthetic, tables.other_real):
        each = report()
        with warnings.catch_warnings():
            # SDMetrics lets SciPy warn of every constant column; such pairs are NaN in the details.
            warnings.simplefilter('ignore')
            each.generate({name: tables.reference}, {name: data}, metadata, verbose=False)
        found.append((each.get_properties().set_index('Property')['Score'], each.get_details))
    (scores, details_of), (floors, floor_details_of) = found
    properties = {}
    for each_name in names:
        details = details_of(each_name).drop(columns='Table')
        # Both reports go through the same metadata, so their lines are in the same order.
        details.insert(details.columns.get_loc('Score') + 1, 'Floor', floor_details_of(each_name)['Score'].to_numpy())
        properties[each_name] = Property(Beside(float(scores[each_name]), float(floors[each_name])), details)
    return properties


def _marginals(tables: Comparison, shapes: pd.DataFrame) -> go.Figure | None:
    """Histograms of the columns that score lowest beside their floor."""
    gap = (shapes['Score'] - shapes['Floor']).to_numpy(dtype='float64')
    chosen = shapes['Column'].iloc[np.argsort(gap, kind='stable')[:NUM_MARGINALS]]
    return marginals({'real': tables.reference, 'synthetic': tables.synthetic}, list(chosen)) if len(chosen) else None
