"""What other power-flow programs say of a table, in one report: how many rows agree, and the largest differences."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.errors import MissingExtraError
from sdv_constrained_diffusion.power.columns import Units
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.operating_points import MAY_LACK, form
from sdv_constrained_diffusion.power.tables import FLOWS, KINDS, TOPOLOGY
from sdv_constrained_diffusion.power.validation.checking import (
    ERRORS,
    FLOW_ERRORS,
    verify_with_lightsim2grid,
    verify_with_runpp,
)

UNITS = dict(zip((*ERRORS, *FLOW_ERRORS), ('MW', 'Mvar', 'p.u.', 'degree', 'MW or Mvar', '%'), strict=True))
"""Unit of each difference."""

WORST = 5
"""Rows that a report names at most."""

NAMED = 8
"""Columns that a report's text names at most."""


@dataclass(frozen=True)
class Agreement:
    """What one program says of the rows it was given.

    Attributes:
        solver: the program.
        checked: how many rows it was given.
        converged: how many of them have a solution.
        agreeing: how many of those solutions are the row, within the tolerances.
        largest: the largest difference of each quantity over the rows that converged, in `UNITS`; NaN where
            none did.
        worst: labels of the rows that do not agree, the worst first, `WORST` at most; those without a solution lead.
    """

    solver: str
    checked: int
    converged: int
    agreeing: int
    largest: dict[str, float]
    worst: tuple[Any, ...]

    @classmethod
    def of(cls, solver: str, compared: pd.DataFrame, tolerances: dict[str, float]) -> 'Agreement':
        """Judges what `verify_with_runpp` or `verify_with_lightsim2grid` returned.

        Args:
            solver: the program's name.
            compared: its table.
            tolerances: the largest difference that counts as agreement, in `UNITS`.
        """
        converged, errors = compared['converged'].to_numpy(), compared.drop(columns='converged')
        excess = (errors / pd.Series(tolerances)[errors.columns]).to_numpy(dtype='float64').max(axis=1)
        excess = np.where(np.isnan(excess), np.inf, excess)
        order = np.argsort(-excess, kind='stable')[: min(WORST, int((excess > 1).sum()))]
        return cls(
            solver=solver,
            checked=len(compared),
            converged=int(converged.sum()),
            agreeing=int((excess <= 1).sum()),
            largest={name: float(compared.loc[converged, name].max()) for name in errors},
            worst=tuple(compared.index[order].tolist()),
        )

    def __str__(self) -> str:
        largest = ', '.join(f'{value:.1e} {UNITS[name]}' for name, value in self.largest.items())
        text = f'{self.solver}: {self.agreeing} of {self.checked} rows agree ({self.converged} converged)'
        worst = f'; worst rows: {", ".join(map(str, self.worst))}' if self.worst else ''
        return f'{text}; largest difference {largest}{worst}'


@dataclass(frozen=True)
class ValidationReport:
    """What all programs say of a table.

    Attributes:
        agreements: one for each program that ran.
        tolerances: the largest difference that counts as agreement, in `UNITS`.
        skipped: programs that could not run, and why.
        num_rows: how many rows the table has.
        lacking: quantities that the table lacks, such as angles: nothing is said of them.
        unchecked: columns of the table that no program was given or compared.
    """

    agreements: tuple[Agreement, ...]
    tolerances: dict[str, float]
    skipped: dict[str, str]
    num_rows: int
    lacking: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether there are rows, and every one that was checked agrees with every program; see `complete`."""
        return all(0 < each.checked == each.agreeing for each in self.agreements)

    @property
    def complete(self) -> bool:
        """Whether a program checked every row of the table."""
        return any(each.checked == self.num_rows for each in self.agreements)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON; differences that no row has are None."""
        written = asdict(self)
        for each in written['agreements']:
            each['largest'] = {name: value if np.isfinite(value) else None for name, value in each['largest'].items()}
        return {'agrees': self.agrees, 'complete': self.complete, **written}

    def __str__(self) -> str:
        lines = [*map(str, self.agreements), *(f'{name}: skipped. {why}' for name, why in self.skipped.items())]
        if not self.complete:
            most = max((each.checked for each in self.agreements), default=0)
            lines.append(f'not all rows were checked: {most} of {self.num_rows}; of the others nothing is known')
        if self.lacking:
            lines.append(f'not in the table, so not checked: {", ".join(self.lacking)}')
        if self.unchecked:
            more = ', ...' if len(self.unchecked) > NAMED else ''
            lines.append(f'columns that were not checked: {", ".join(self.unchecked[:NAMED])}{more}')
        return '\n'.join(lines)


def validation_report(
    net: Any,
    rows: pd.DataFrame,
    num_rows: int | None = 50,
    seed: int = 0,
    tolerance_power_pu: float = 1e-6,
    tolerance_vm_pu: float = 1e-6,
    tolerance_va_degree: float = 1e-4,
    tolerance_percent: float = 1e-3,
    units: Units | Mapping[str, Any] | None = None,
) -> ValidationReport:
    """Checks a table with `pandapower.runpp` on a sample of its rows, and with lightsim2grid on all of them.

    Args:
        net: the `pandapowerNet` whose equations the rows should obey, left as it is.
        rows: as in `verify_with_runpp`.
        num_rows: how many rows `runpp` checks, drawn without replacement; all of them when None.
        seed: seed of the draw.
        tolerance_power_pu: largest difference of powers, of a node or of a branch, that counts as agreement, in p.u.
            on `net.sn_mva`.
        tolerance_vm_pu: largest difference of voltage magnitudes, in p.u.
        tolerance_va_degree: largest difference of voltage angles, in degrees.
        tolerance_percent: largest difference of the branches' loading, in percent of the rating.
        units: how `rows` writes powers and angles, `Units(power='p.u.', angle='radian', sign='load')` or such words in
            a dictionary; MW, degrees and generation positive when None. The report is in `UNITS` either way.

    Returns:
        the report; if lightsim2grid is not installed, it says so, holds what `runpp` says, and is not `complete` unless
        that checked all rows.

    Raises:
        ConstraintError: `units` has an unknown name or word.
        ColumnMissingError: `rows` lacks a column.
        GridError: as in `verify_with_runpp` and `verify_with_lightsim2grid`.
        MissingExtraError: pandapower is not installed.
    """
    power = tolerance_power_pu * float(net.sn_mva)
    limits = (power, power, tolerance_vm_pu, tolerance_va_degree, power, tolerance_percent)
    tolerances = dict(zip(UNITS, limits, strict=True))
    grid = Grid.from_pandapower(net)
    quantities = form(rows.columns, grid, 'validation_report', may_lack=MAY_LACK)
    known = {*grid.columns((*quantities, *FLOWS)), TOPOLOGY}
    rows = _converted(rows, grid, Units.of(units))
    agreements = [Agreement.of('runpp', verify_with_runpp(net, rows, num_rows, seed), tolerances)]
    skipped = {}
    try:
        agreements.append(Agreement.of('lightsim2grid', verify_with_lightsim2grid(net, rows), tolerances))
    except MissingExtraError as error:
        skipped['lightsim2grid'] = str(error)
    return ValidationReport(
        agreements=tuple(agreements),
        tolerances=tolerances,
        skipped=skipped,
        num_rows=len(rows),
        lacking=tuple(name for name in MAY_LACK if name not in quantities),
        unchecked=tuple(str(name) for name in rows if name not in known),
    )


def _converted(rows: pd.DataFrame, grid: Grid, units: Units) -> pd.DataFrame:
    """The rows in MW, Mvar, p.u. and degrees, generation positive."""
    factors = {
        name: units.factor(quantity, grid.sn_mva)
        for quantity in KINDS
        for name in grid.columns([quantity])
        if name in rows
    }
    return rows.assign(**{name: factor * rows[name] for name, factor in factors.items() if factor != 1})
