"""Rows of a power-flow table as operating points: what each bus injects, its voltage, and which branch is out."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from sdv_constrained_diffusion.errors import ColumnMissingError, close_names
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.tables import APART, BASE, FLOWS, TOPOLOGY, WIDE

MAY_LACK = ('va_degree',)
"""What a power flow can do without: of angles it is given none but the slacks'."""


@dataclass(frozen=True, eq=False)
class OperatingPoints:
    """The rows of a table, whichever of the two forms it has.

    Attributes:
        quantities: those that the table has, of `tables.WIDE` or `tables.APART`.
        p_mw: shape (row, bus), net injection in MW, generation positive, shunts left out.
        q_mvar: the same in Mvar; NaN at buses where the table does not say it (see `said`).
        vm_pu: shape (row, bus), voltage magnitude, p.u.
        va_degree: shape (row, bus), voltage angle, degrees; that of the network's own power flow if the table has none.
        topology: of each row, `BASE` or the labels of the branches that are out of service, with `JOIN` between them.
        flows: the table's columns of `tables.FLOWS`, by their standard names, in MW, Mvar and percent.
        said: shape (bus,), whether the table says the bus's reactive injection: loads and generators do not, where a
            DC line ends.
    """

    quantities: tuple[str, ...]
    p_mw: Float[np.ndarray, 'row bus']
    q_mvar: Float[np.ndarray, 'row bus']
    vm_pu: Float[np.ndarray, 'row bus']
    va_degree: Float[np.ndarray, 'row bus']
    topology: np.ndarray
    flows: pd.DataFrame
    said: Bool[np.ndarray, ' bus']

    @classmethod
    def read(
        cls, table: pd.DataFrame, grid: Grid, who: str, columns: Mapping[str, str] | None = None
    ) -> 'OperatingPoints':
        """Reads a table of one of the two forms, `tables.WIDE` or `tables.APART`, with or without angles.

        Args:
            table: one operating point per row, in MW, Mvar, p.u. and degrees.
            grid: the network's data.
            who: the caller, for messages.
            columns: from the standard name of a column to the table's own, e.g. `{'va_degree_3': 'va_deg_3'}`.

        Raises:
            ColumnMissingError: the table has neither all columns of the one form nor all of the other.
        """
        columns = columns or {}
        quantities = form(table.columns, grid, who, columns, MAY_LACK)
        values = {
            quantity: table[[columns.get(name, name) for name in grid.columns([quantity])]].to_numpy(dtype='float64')
            for quantity in quantities
        }
        if 'p_mw' in values:
            p_mw, q_mvar = values['p_mw'], values['q_mvar']
            said = np.ones(len(grid.buses), dtype=bool)
        else:
            p_mw, q_mvar = (
                sums_per_bus(values[generation], grid.generator_at, grid)
                - sums_per_bus(values[demand], grid.load_at, grid)
                + rest
                for generation, demand, rest in (
                    ('pg_mw', 'pd_mw', grid.rest_mw),
                    ('qg_mvar', 'qd_mvar', grid.rest_mvar),
                )
            )
            said = np.isfinite(grid.rest_mvar)
        out = table[TOPOLOGY].astype(str).to_numpy() if TOPOLOGY in table else np.full(len(table), BASE)
        flows = {name: columns.get(name, name) for name in grid.columns(FLOWS) if columns.get(name, name) in table}
        found = table[list(flows.values())].set_axis(list(flows), axis=1).astype('float64')
        own_degree = np.tile(grid.va_degree[grid.node], (len(table), 1))
        va_degree = values.get('va_degree', own_degree)
        return cls(quantities, p_mw, q_mvar, values['vm_pu'], va_degree, out, found, said)

    @property
    def complete(self) -> Bool[np.ndarray, ' row']:
        """Shape (row,): whether all injections and voltages that the table says are finite numbers."""
        parts = [self.p_mw, self.q_mvar[:, self.said], self.vm_pu, self.va_degree]
        return np.isfinite(np.concatenate(parts, axis=1)).all(axis=1)


def form(
    available: Iterable[object],
    grid: Grid,
    who: str,
    columns: Mapping[str, str] | None = None,
    may_lack: Collection[str] = (),
) -> tuple[str, ...]:
    """Which of the two forms a table has: `tables.APART` where all its columns are there, else `tables.WIDE`.

    Args:
        available: the table's column names.
        grid: the network's data.
        who: the caller, for messages.
        columns: from the standard name of a column to the table's own.
        may_lack: quantities that may be missing, with all their columns: a few that are missing are a mistake.

    Returns:
        the quantities of the form, but for those that are missing.

    Raises:
        ColumnMissingError: columns of both forms are missing; the message names one of the form that lacks fewer.
    """
    own_names = columns or {}
    present = {str(name) for name in available}
    without = {
        quantity
        for quantity in may_lack
        if present.isdisjoint(own_names.get(name, name) for name in grid.columns([quantity]))
    }
    forms = [tuple(name for name in quantities if name not in without) for quantities in (APART, WIDE)]
    missing = {
        quantities: [name for name in grid.columns(quantities) if own_names.get(name, name) not in present]
        for quantities in forms
    }
    for quantities, lacking in missing.items():
        if not lacking:
            return quantities
    fewest = min(reversed(forms), key=lambda quantities: len(missing[quantities]))
    standard = missing[fewest][0]
    used = {own_names.get(name, name) for name in grid.columns(fewest)}
    close = close_names(own_names.get(standard, standard), sorted(present - used), most=1)
    raise ColumnMissingError.of(
        who,
        own_names.get(standard, standard),
        sorted(present),
        f'Pass columns={{{standard!r}: {(close or ["..."])[0]!r}}} or rename the column. A table has {", ".join(WIDE)} '
        f'of every bus, or {", ".join(APART[:4])} of every load and generator with {", ".join(APART[4:])}.',
    )


def sums_per_bus(values: np.ndarray, at: np.ndarray, grid: Grid) -> Float[np.ndarray, 'row bus']:
    """Sums per bus of what belongs to loads or generators.

    Args:
        values: shape (row, element).
        at: shape (element,), the position in `grid.buses` of each element.
        grid: the network's data.
    """
    summed = np.zeros((len(values), len(grid.buses)))
    np.add.at(summed.T, at, values.T)
    return summed
