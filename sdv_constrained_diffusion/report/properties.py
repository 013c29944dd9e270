"""What a fidelity report is made of: properties with a score, a floor and details; here those that SDMetrics lacks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.feasibility import feasibility, share_feasible
from sdv_constrained_diffusion.report.classifier import auc_score, column_aucs, real_or_synthetic_auc
from sdv_constrained_diffusion.report.comparison import Comparison

SHAPES, PAIRS, ALL_PAIRS = 'Column Shapes', 'Column Pair Trends', 'Column Pair Trends (all pairs)'
VALIDITY, STRUCTURE = 'Data Validity', 'Data Structure'
CLASSIFIER, CONSTRAINTS = 'Real or Synthetic', 'Constraint Satisfaction'


class Beside(NamedTuple):
    """A number of the synthetic table beside the same number of two real tables."""

    score: float
    floor: float


@dataclass(frozen=True)
class Property:
    """One property of a report.

    Attributes:
        score: from 0 to 1, with its floor; NaN when it does not apply to the table.
        details: the lines the score is made of.
    """

    score: Beside
    details: pd.DataFrame


def real_or_synthetic(tables: Comparison, seed: int) -> Property:
    """The classifier's AUC on all columns, in the first line of the details, and on each column by itself.

    Args:
        tables: the tables to compare.
        seed: of the folds and of the trees.

    Raises:
        DataError: no column can be looked at.
    """
    pairs = [(tables.reference, other, tables.modelled, seed) for other in (tables.synthetic, tables.other_real)]
    together = Beside(*(real_or_synthetic_auc(*pair) for pair in pairs))
    alone, alone_floor = (column_aucs(*pair) for pair in pairs)
    lines = [('all columns', *together), *((name, alone[name], alone_floor[name]) for name in alone)]
    details = pd.DataFrame(lines, columns=['Column', 'AUC', 'Floor'])
    return Property(Beside(*map(auc_score, together)), details)


def constraint_satisfaction(constraints: Iterable[Constraint], real: pd.DataFrame, synthetic: pd.DataFrame) -> Property:
    """Share of rows within every tolerance, and the violations of each equation.

    Args:
        constraints: the constraints, at least one.
        real: all real rows; their own violations are the floor.
        synthetic: all synthetic rows: a largest violation is one only if no row was left out.

    Raises:
        ColumnMissingError: a table lacks a column of a constraint.
    """
    constraints = tuple(constraints)
    details = feasibility(constraints, synthetic)
    of_real = feasibility(constraints, real)
    for name in ('max', 'p99', 'mean', 'share_within_tolerance'):
        details[f'real_{name}'] = of_real[name]
    return Property(Beside(share_feasible(constraints, synthetic), share_feasible(constraints, real)), details)


def largest_excess(details: pd.DataFrame) -> Beside:
    """The largest violation of any row and equation in units of its tolerance; at most 1 when every row is feasible.

    Args:
        details: of `constraint_satisfaction`.
    """
    largest = [(details[name] / details['tolerance']).max(skipna=False) for name in ('max', 'real_max')]
    return Beside(*map(float, largest))
