"""A fidelity report in words: one section of the page per property, with its figure and its most telling lines."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sdv_constrained_diffusion.report import score_figures
from sdv_constrained_diffusion.report.document import Figure, Section, Table
from sdv_constrained_diffusion.report.properties import (
    ALL_PAIRS,
    CLASSIFIER,
    CONSTRAINTS,
    PAIRS,
    SHAPES,
    STRUCTURE,
    VALIDITY,
    Property,
)

NUM_LINES = 15
"""Lines of details on the page; the JSON twin has all."""

PROSE = {
    SHAPES: """SDMetrics' Column Shapes: for numbers and times 1 minus the Kolmogorov-Smirnov distance of the two
        columns, for categories 1 minus their total variation distance.""",
    PAIRS: """SDMetrics' Column Pair Trends as its QualityReport gives it: similarity of the correlation of two numbers
        or of the contingency table of two categories, averaged only over pairs whose correlation exceeds 0.5 or whose
        association exceeds 0.3 in the real data. Blank cells are pairs below the threshold or with a constant
        column.""",
    ALL_PAIRS: """The same similarities averaged over all pairs, as papers report them. Unrelated pairs are easy, so
        this score is usually the higher one; the two must not be compared with each other.""",
    VALIDITY: """SDMetrics' Data Validity: the share of numbers and times within the range of the real column, of
        categories that the real column has, of keys that are unique. A real table misses the range of another one
        now and then; the floor tells how often.""",
    STRUCTURE: """SDMetrics' Data Structure: whether the tables have the same columns of the same types.""",
    CLASSIFIER: """Gradient-boosted trees try to tell synthetic rows from real ones. AUC 0.5 means that they cannot, 1
        that every row gives itself away; the score is 1 - 2 |AUC - 0.5|. Unlike shapes and pairs, the trees see all
        columns at once. Numbers are rounded to 1e-3 of their standard deviation first, so that the last digits of a
        solver are not what is classified.

        The points are the AUC of a small tree that sees one column only: they name the columns that give rows away.
        When all are near 0.5 and the AUC of all columns is not, the difference lies in how columns go together.""",
    CONSTRAINTS: """How far the rows miss each equation, in the equation's own unit, and the share of rows within the
        tolerance. Every synthetic row is judged; the floor is the violation of the real rows themselves.""",
    'Constraints': """What became of each constraint. Learned: the training rows obey it. Steering: they do not, and
        rows were drawn towards it. Discovered: found in the training rows. Within: share of rows within the tolerance.
        The largest, 99th percentile and mean violation are in its unit. Moved: how far rows were moved in the end, root
        mean square over its columns, in column standard deviations. Redrawn: rows that broke it and are not in the
        table.""",
}


def comparison_section(info: Mapping[str, Any]) -> Section:
    """What was compared with what.

    Args:
        info: of the report.
    """
    if info['num_rows_held_out_data'] is None:
        how = """Synthetic rows are compared with a random half of the real rows, and for the floor the other half is
            compared with that half."""
    else:
        how = """Synthetic rows are compared with held-out real rows that the synthesizer did not see, and for the floor
            the rows it was fitted to are compared with them."""
    size = f"""All tables were cut at random to {info['num_rows_compared']} rows, because distances shrink with the size
        of the tables. By chance alone the AUC of such tables varies by {info['auc_standard_error']:.3f} (one standard
        error)."""
    kinds = {
        'real': info['num_rows_real_data'],
        'synthetic': info['num_rows_synthetic_data'],
        'held-out': info['num_rows_held_out_data'],
        'compared, of each kind': info['num_rows_compared'],
    }
    lines = [(kind, rows) for kind, rows in kinds.items() if rows is not None]
    return Section(
        'What was compared', f'{how} {size}', tables=[Table('Rows', pd.DataFrame(lines, columns=['Table', 'Rows']))]
    )


def property_section(name: str, each: Property, figure: go.Figure, shapes: go.Figure | None = None) -> Section:
    """The section of one property.

    Args:
        name: the property's name.
        each: its score and details.
        figure: of its details.
        shapes: histograms to show besides, or None.
    """
    figures = [Figure('Synthetic data in blue, the floor that real data reach in grey.', figure)]
    if name == STRUCTURE:
        figures = []  # One number needs no figure.
    if name in (PAIRS, ALL_PAIRS):
        figures = [Figure('Similarity of each pair of columns; both matrices share one scale.', figure)]
    if shapes is not None:
        figures.append(Figure('The columns that score lowest beside their floor. Shares are of all rows.', shapes))
    details = _most_telling_first(name, each.details)
    if name in (PAIRS, ALL_PAIRS):
        # SDMetrics keeps a column for associations where all columns are numbers, and the other way round.
        details = details.dropna(axis=1, how='all')
    if name == CONSTRAINTS:
        details = details.rename(columns=lambda column: column.replace('_', ' '))
    caption = 'Most telling lines first' if len(details) > NUM_LINES else 'Details'
    return Section(name, PROSE[name], figures, [Table(caption, details, NUM_LINES)])


def constraint_section(report: pd.DataFrame) -> Section:
    """Each constraint on one line.

    Args:
        report: of `FidelityReport.get_constraint_report`, at least one row.
    """
    lines = report.assign(worst_rows=[', '.join(map(str, rows)) for rows in report['worst_rows']])
    short = {
        'share_within_tolerance': 'within',
        'displacement_median': 'moved, median',
        'displacement_p99': 'moved, p99',
        'num_redrawn': 'redrawn',
        'worst_rows': 'worst rows',
    }
    lines = lines.rename(columns=short)
    return Section('Constraints', PROSE['Constraints'], tables=[Table('By constraint', lines)])


def property_figure(name: str, each: Property) -> go.Figure:
    """The details of a property, synthetic beside floor.

    Args:
        name: the property's name.
        each: its score and details.
    """
    score, details = each.score, each.details
    title = f'{name}: {score.score:.3f} (floor {score.floor:.3f})'
    if name in (PAIRS, ALL_PAIRS):
        return score_figures.heatmaps(details, title)
    if name == CLASSIFIER:
        title = f'AUC of all columns: {details["AUC"].iloc[0]:.3f} (floor {details["Floor"].iloc[0]:.3f})'
        return score_figures.dots(details.iloc[1:], 'Column', title, 'AUC of one column', 0.5, ('AUC', 'Floor'))
    if name == CONSTRAINTS:
        excess = details.assign(
            Score=details['max'] / details['tolerance'], Floor=details['real_max'] / details['tolerance']
        )
        return score_figures.dots(
            excess, 'equation', title, 'largest violation / tolerance (at least 1e-14)', 1.0, logarithmic=True
        )
    return score_figures.dots(details, 'Metric' if name == STRUCTURE else 'Column', title, 'score', 1.0)


def _most_telling_first(name: str, details: pd.DataFrame) -> pd.DataFrame:
    """Lines furthest from their floor first; the classifier keeps its first line, all columns together."""
    if name == CONSTRAINTS:
        return _ascending(details, -details['max'] / details['tolerance'])
    if name == CLASSIFIER:
        head, rest = details.iloc[:1], details.iloc[1:]
        return pd.concat([head, _ascending(rest, rest['Floor'] - rest['AUC'])])
    return _ascending(details, details['Score'] - details['Floor'])


def _ascending(details: pd.DataFrame, by: pd.Series) -> pd.DataFrame:
    """Lines in ascending order of a number, those without the number last."""
    return details.iloc[np.argsort(by.to_numpy(dtype='float64'), kind='stable')]
