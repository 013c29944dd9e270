"""The kit that the author of a constraint runs on it: does it differentiate, mix rows, hold on real data, project?"""

from dataclasses import dataclass

import pandas as pd
import torch

from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.diagnosis import LEARNED, STEERING, steering
from sdv_constrained_diffusion.constraints.linearisation import Linearisation
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.errors import ConstraintError
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.projection import project

GRADIENT_TOLERANCE = 1e-5
"""Largest accepted gap between the Jacobian and central differences, as a share of the equation's largest derivative.

Central differences in float64 are good to about the cube root of the rounding error squared, 4e-11, times the third
derivative; 1e-5 leaves room for strongly curved laws and still catches a wrong factor or sign."""

SHAKEN = 0.1
"""Rows are shaken by this many column standard deviations before they are tried."""

ENOUGH = 0.5
"""Share of shaken rows that projection must bring onto the constraint."""


@dataclass(frozen=True)
class ConstraintCheck:
    """What `check_constraint` found.

    Attributes:
        constraint: the constraint's name.
        num_rows: rows of real data it was tried on.
        num_equations: equations of its residual.
        num_inequalities: those of them whose limits differ.
        labels: columns that are read as labels.
        kind: 'learned' if the real rows obey it, 'steering' if synthetic rows would have to be steered there.
        gradient_error: largest gap between Jacobian and central differences, as a share of the equation's derivative.
        rows_independent: whether every row's residual stays the same when it is alone in the batch.
        rank: number of independent equations at typical rows: the mean row of each combination of labels.
        share_feasible: share of the real rows within tolerance.
        median_violation: median over rows of the largest violation, in units of the tolerance.
        share_projected: share of shaken real rows that projection brings onto the constraint.
    """

    constraint: str
    num_rows: int
    num_equations: int
    num_inequalities: int
    labels: tuple[str, ...]
    kind: str
    gradient_error: float
    rows_independent: bool
    rank: int
    share_feasible: float
    median_violation: float
    share_projected: float

    @property
    def passed(self) -> bool:
        """Whether the constraint can be guided and projected: right gradient, independent rows, rows that get there."""
        return self.gradient_error <= GRADIENT_TOLERANCE and self.rows_independent and self.share_projected >= ENOUGH

    def __str__(self) -> str:
        """One line per finding."""
        mark = {True: 'ok  ', False: 'FAIL'}
        redundant = self.num_equations - self.rank
        unequal = f', {self.num_inequalities} of them inequalities' if self.num_inequalities else ''
        labels = f'; labels: {", ".join(self.labels)}' if self.labels else ''
        return '\n'.join(
            [
                f'{self.constraint}: {self.num_equations} equations{unequal} on {self.num_rows} rows{labels}',
                f'{mark[self.gradient_error <= GRADIENT_TOLERANCE]} gradient against central differences: '
                f'relative gap {self.gradient_error:.1e} (at most {GRADIENT_TOLERANCE:.0e})',
                f'{mark[self.rows_independent]} rows are independent of each other',
                f'{mark[self.share_projected >= ENOUGH]} projection of shaken rows: {self.share_projected:.1%} obey '
                f'afterwards (at least {ENOUGH:.0%})',
                f'info rank {self.rank} of {self.num_equations}' + (f': {redundant} redundant' if redundant else ''),
                f'info {self.kind}: {self.share_feasible:.1%} of the real rows within tolerance; '
                f'median violation {self.median_violation:.2g} tolerances',
            ]
        )


def check_constraint(constraint: Constraint, real_data: pd.DataFrame, num_rows: int = 20) -> ConstraintCheck:
    """Tries a constraint on real rows.

    Args:
        constraint: the constraint.
        real_data: rows of the table it is meant for, at least one. Those that it is to steer away from may break it.
        num_rows: how many rows to differentiate at; all rows count for the share that is feasible.

    Returns:
        the findings; `print` it to read them, and assert on `passed`.

    Raises:
        ColumnMissingError: the data lack a column of the constraint.
        ConstraintError: the residual has a wrong shape or is not finite on real rows.
    """
    if real_data.empty:
        raise ConstraintError(f'check_constraint needs at least one row to try {constraint.name} on; it got none.')
    system = ConstraintSystem([constraint], real_data)
    values, residual = system.values(real_data), system.finite_residual(real_data)
    few, scale = values[:num_rows], _steps(values).masked_fill(system.discrete, 0)
    jacobian, excess = system.jacobian(few), system.excess(values)
    typical = torch.cat(Linearisation(system, values).jacobians, dim=1)
    unequal = system.lower < system.upper
    chord = Chord(system, values)
    steered = steering(system, values, chord.equation_scale)
    return ConstraintCheck(
        constraint=constraint.name,
        num_rows=len(real_data),
        num_equations=residual.shape[1],
        num_inequalities=int(unequal.sum()),
        labels=tuple(name for name in system.columns if system.readings[name].discrete),
        kind=STEERING if steered.any() else LEARNED,
        gradient_error=_gradient_error(system, few, jacobian, scale),
        rows_independent=_rows_independent(system, few, scale),
        rank=int(torch.linalg.matrix_rank(torch.nn.functional.normalize(typical, dim=1), rtol=1e-9)),
        share_feasible=float((excess <= 1).double().mean()),
        median_violation=float(excess.median()),
        share_projected=_share_projected(chord, few),
    )


def _steps(values: torch.Tensor) -> torch.Tensor:
    """A column's own scale: its standard deviation, or its magnitude when it is constant."""
    spread = values.std(0, correction=0)
    return torch.where(spread > 0, spread, values.abs().amax(0).clamp(min=1.0))


def _gradient_error(
    system: ConstraintSystem, values: torch.Tensor, jacobian: torch.Tensor, scale: torch.Tensor
) -> float:
    """Largest gap between the Jacobian and central differences, as a share of the equation's largest derivative."""
    columns = []
    for column, width in enumerate(scale):
        step = torch.zeros_like(scale)
        step[column] = 1e-5 * width
        columns.append((system.residual(values + step) - system.residual(values - step)) / 2e-5)
    differences = torch.stack(columns, dim=2)
    largest = differences.abs().amax(dim=(0, 2), keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    return float(((jacobian * scale - differences) / largest).abs().max())


def _rows_independent(system: ConstraintSystem, values: torch.Tensor, scale: torch.Tensor) -> bool:
    """Whether residuals stay the same, up to rounding, when each row is alone in its batch.

    Every row is shaken twice: on rows that obey the law, a law that mixes rows may vanish too, and a single row has no
    other to meet. Where a shaken row leaves the law's domain, NaN alone must be NaN together.
    """
    shaken = _shaken(values.repeat(2, 1), scale)
    together = system.residual(shaken)
    alone = torch.cat([system.residual(row[None]) for row in shaken])
    rounding = 1e-9 * alone.nan_to_num(0.0, 0.0, 0.0).abs().amax(0)
    same = torch.isclose(together, alone, rtol=1e-9, atol=0.0, equal_nan=True)
    return bool((same | ((together - alone).abs() <= rounding)).all())


def _share_projected(chord: Chord, values: torch.Tensor) -> float:
    """How many of the rows obey the constraint after they were shaken and projected."""
    shaken = _shaken(values, chord.scale)
    projected = project(chord, shaken, torch.zeros_like(shaken, dtype=torch.bool))
    return float(chord.system.feasible(projected.values).double().mean())


def _shaken(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).double()
    return values + SHAKEN * scale * noise
