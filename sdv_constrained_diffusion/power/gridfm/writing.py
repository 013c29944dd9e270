"""Writes a table as GridFM's files."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power.grid import PQ, PV, SLACK, Grid
from sdv_constrained_diffusion.power.gridfm.layout import (
    BRANCH,
    BUS,
    FLOW_NAMES,
    GEN,
    LOAD,
    NAMES,
    NUM_SCENARIOS,
    ROW,
    SCENARIO,
    UNFINISHED,
    Y_BUS,
    Layout,
)
from sdv_constrained_diffusion.power.gridfm.network import Parameters, branch_constants, y_bus_entries
from sdv_constrained_diffusion.power.operating_points import form, sums_per_bus
from sdv_constrained_diffusion.power.tables import APART, BASE, JOIN, TOPOLOGY, column

WHO = 'write_gridfm'


def write_gridfm(
    table: pd.DataFrame,
    grid: Grid,
    folder: str | Path,
    net: Any = None,
    scenarios_per_partition: int = 200,
) -> None:
    """Writes a table as GridFM's files, so that `read_gridfm` gives the same table again: values, dtypes and index.

    A table with loads and generators (`tables.APART`) has all of GridFM's files. The wide table knows the net injection
    of a bus alone: it stands in `Pg` where there is a generator, else in `Pd`, and there is no `gen_data.parquet`.
    What other elements inject, such as wards and storage units, counts as demand. GridFM has no switches: each bus is
    written, and branches, shunts and `y_bus_data.parquet` refer to the first of the buses that closed switches join.
    Branches without two buses at their ends, such as the windings of a three-winding transformer, are in
    `y_bus_data.parquet` only.

    The files appear when all of them are complete, `bus_data.parquet` last: without it, the folder is none of GridFM's.
    What a killed run leaves, the next one removes.

    Args:
        table: one operating point per row, with the columns of one of the two forms, in MW, Mvar, p.u. and degrees; the
            flows of `tables.FLOWS`, where they are missing, are calculated; any other columns are kept.
        grid: the network's data.
        folder: where the files go; it must not exist, or be empty but for what a killed run left.
        net: the `pandapowerNet` of the grid. With it the files have the columns that a `Grid` does not know (limits,
            costs, nominal voltages, shunts, branch parameters), which gridfm-graphkit needs.
        scenarios_per_partition: operating points of a partition; gridfm-datakit reads back 200.

    Raises:
        ColumnMissingError: the table has neither all columns of the one form nor all of the other.
        GridError: the table has no row, or a column twice; the folder is not empty; a topology names no branch of
            GridFM's; the table does not say the reactive power of a DC line; or the network is another than the grid's.
        MissingExtraError: pyarrow is not installed.
    """
    folder, layout = Path(folder), Layout.of(grid)
    _check_columns(table)
    quantities = form(table.columns, grid, WHO)
    if folder.exists() and not (folder.is_dir() and all(each.name.startswith(UNFINISHED) for each in folder.iterdir())):
        raise GridError(
            f'{WHO} needs an empty folder, since partitions of two tables would mix, but {str(folder)!r} is not. Pass '
            'another folder, or remove this one.'
        )
    if table.empty:
        raise GridError(f'{WHO} needs at least one row, but the table has none. Pass a table with operating points.')
    if tuple(quantities) == APART and np.isnan(grid.rest_mvar).any():
        at = ', '.join(str(bus) for bus, rest in zip(grid.buses, grid.rest_mvar, strict=True) if np.isnan(rest))
        raise GridError(
            f"{WHO} needs the reactive demand of every bus, but that of DC lines at the buses {at} is in no load's or "
            "generator's column. Pass a table of tables.WIDE."
        )
    scenes = _Scenes(layout, Parameters() if net is None else Parameters.of(net, layout, WHO), quantities)
    outages = _outages(table, layout)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.iterdir():
        shutil.rmtree(leftover)
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder))
    try:
        for partition, first in enumerate(range(0, len(table), scenarios_per_partition)):
            some = slice(first, first + scenarios_per_partition)
            for name, frame in scenes.frames(table.iloc[some], outages[some], first).items():
                _save(frame, unfinished / name / f'scenario_partition={partition}' / 'part-0.parquet')
        _save_names(table, layout, unfinished, {*grid.columns(quantities), *_flow_columns(table, layout, outages)})
        for each in sorted(unfinished.iterdir(), key=lambda path: path.name == BUS):
            each.rename(folder / each.name)
    finally:
        shutil.rmtree(unfinished)


def _save_names(table: pd.DataFrame, layout: Layout, folder: Path, written: set[str]) -> None:
    """Writes our own files, and the number of scenarios.

    Args:
        table: all of it.
        layout: of its grid.
        folder: where the files go.
        written: the columns whose numbers GridFM's files hold.
    """
    # GridFM's numbers are float64: columns of another kind keep it in a file of ours.
    kept = [name for name in table.columns if name not in written or table[name].dtype != np.float64]
    # A file without columns would forget the number of rows.
    _save(table[kept].assign(**{SCENARIO: np.arange(len(table))}), folder / ROW, index=None)
    # Parquet keeps the dates of an index, but not the distance between them.
    freq = table.index.freqstr if isinstance(table.index, pd.DatetimeIndex | pd.TimedeltaIndex) else None
    names = {'columns': table.columns.tolist(), 'freq': freq, **layout.names}
    (folder / NAMES).write_text(json.dumps(names, indent=1))
    (folder / NUM_SCENARIOS).write_text(str(len(table)))


def _check_columns(table: pd.DataFrame) -> None:
    """Refuses a column that is there twice."""
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise GridError(
            f'{WHO} needs every column once, but the table has {twice[0]!r} {list(table.columns).count(twice[0])} '
            'times. Drop or rename the others; table.loc[:, ~table.columns.duplicated()] keeps the first of each.'
        )


@dataclass(frozen=True)
class _Scenes:
    """Turns rows into the frames of GridFM's files."""

    layout: Layout
    parameters: Parameters
    quantities: tuple[str, ...]

    def frames(self, rows: pd.DataFrame, out: Bool[np.ndarray, 'row branch'], first: int) -> dict[str, pd.DataFrame]:
        """The rows' part of each file, by its name.

        Args:
            rows: of the table.
            out: which branches are out of service.
            first: the number of the first row's scenario.
        """
        scenarios = np.arange(first, first + len(rows))
        values = {
            quantity: rows[self.layout.grid.columns([quantity])].to_numpy(dtype='float64')
            for quantity in self.quantities
        }
        long = {BUS: self._buses(values), BRANCH: self._branches(rows, values, out)}
        if tuple(self.quantities) == APART:
            long |= {GEN: self._generators(values), LOAD: self._loads(values)}
        frames = {name: _long(scenarios, columns) for name, columns in long.items()}
        return {**frames, Y_BUS: self._y_bus(scenarios, out)}

    def _buses(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        grid = self.layout.grid
        if 'pd_mw' in values:
            pd_mw = sums_per_bus(values['pd_mw'], grid.load_at, grid) - grid.rest_mw
            qd_mvar = sums_per_bus(values['qd_mvar'], grid.load_at, grid) - grid.rest_mvar
            pg_mw, qg_mvar = (sums_per_bus(values[name], grid.generator_at, grid) for name in ('pg_mw', 'qg_mvar'))
        else:
            generates = np.isin(np.arange(len(grid.buses)), grid.generator_at)
            (pd_mw, pg_mw), (qd_mvar, qg_mvar) = (
                (np.where(generates, 0.0, -values[name]), np.where(generates, values[name], 0.0))
                for name in ('p_mw', 'q_mvar')
            )
        kind = grid.kind[grid.node]
        columns = {
            'Pd': pd_mw,
            'Qd': qd_mvar,
            'Pg': pg_mw,
            'Qg': qg_mvar,
            'Vm': values['vm_pu'],
            'Va': values['va_degree'],
            **{name: (kind == each).astype('float64') for name, each in (('PQ', PQ), ('PV', PV), ('REF', SLACK))},
        }
        ordered = {name: each[..., self.layout.buses] for name, each in columns.items()}
        return {'bus': np.arange(len(grid.buses)), **ordered, **self.parameters.bus}

    def _generators(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        grid, at = self.layout.grid, self.layout.grid.generator_at
        return {
            'idx': np.arange(len(at), dtype='float64'),
            'bus': self.layout.number[at],
            'p_mw': values['pg_mw'],
            'q_mvar': values['qg_mvar'],
            **self.parameters.gen,
            'in_service': np.ones(len(at)),
            'is_slack_gen': (grid.kind[grid.node[at]] == SLACK).astype('float64'),
        }

    def _loads(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        at = self.layout.grid.load_at
        return {
            'idx': np.arange(len(at), dtype='float64'),
            'bus': self.layout.number[at],
            'p_mw': values['pd_mw'],
            'q_mvar': values['qd_mvar'],
        }

    def _branches(
        self, rows: pd.DataFrame, values: Mapping[str, np.ndarray], out: Bool[np.ndarray, 'row branch']
    ) -> dict[str, np.ndarray]:
        flows = self.layout.flows(values['vm_pu'], values['va_degree'])
        for quantity, name in FLOW_NAMES.items():
            for place, label in enumerate(self.layout.branch_labels):
                if column(quantity, label) in rows:
                    flows[name][:, place] = rows[column(quantity, label)]
        flows = {name: np.where(out, 0.0, flow) for name, flow in flows.items()}
        constants = branch_constants(self.layout)
        admittances = {name: np.where(out, 0.0, y) for name, y in constants.items() if name.startswith('Y')}
        return {**constants, **flows, **self.parameters.branch, **admittances, 'br_status': (~out).astype('float64')}

    def _y_bus(self, scenarios: np.ndarray, out: Bool[np.ndarray, 'row branch']) -> pd.DataFrame:
        topologies, which = np.unique(out, axis=0, return_inverse=True)
        entries = [y_bus_entries(self.layout, np.flatnonzero(each)) for each in topologies]
        frames = [_long(scenarios[which.ravel() == topology], columns) for topology, columns in enumerate(entries)]
        return pd.concat(frames).sort_values('scenario', kind='stable')


def _flow_columns(table: pd.DataFrame, layout: Layout, out: Bool[np.ndarray, 'row branch']) -> list[str]:
    """Columns of flows that GridFM's files hold as they are: those that are 0 wherever the branch is out of service."""
    return [
        name
        for quantity in FLOW_NAMES
        for place, label in enumerate(layout.branch_labels)
        if (name := column(quantity, label)) in table and _is_zero(table[name].to_numpy('float64')[out[:, place]])
    ]


def _is_zero(values: np.ndarray) -> bool:
    """Whether all are 0, and none -0."""
    return not (values.any() or np.signbit(values).any())


def _outages(table: pd.DataFrame, layout: Layout) -> Bool[np.ndarray, 'row branch']:
    out = np.zeros((len(table), len(layout.branches)), dtype=bool)
    if TOPOLOGY not in table:
        return out
    for topology, rows in table.groupby(table[TOPOLOGY].astype(str)).indices.items():
        branches = layout.out_of_service(topology)
        if branches is None:
            raise GridError(
                f'{WHO} needs topologies that name branches with a bus at both ends, but got {topology!r}. Write '
                f'{BASE!r} where nothing is out of service, else labels such as {layout.branch_labels[0]!r}, joined by '
                f'{JOIN!r}.'
            )
        out[np.ix_(rows, branches)] = True
    return out


def _long(scenarios: np.ndarray, columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row per scenario and element; columns of shape (element,), or (scenario, element)."""
    width = max(each.shape[-1] for each in columns.values())
    repeated = np.repeat(scenarios, width)
    values = {name: np.broadcast_to(each, (len(scenarios), width)).ravel() for name, each in columns.items()}
    return pd.DataFrame({'scenario': repeated, 'load_scenario_idx': repeated.astype('float64'), **values})


def _save(frame: pd.DataFrame, path: Path, index: bool | None = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        frame.to_parquet(path, engine='pyarrow', index=index)
    except ImportError as error:
        raise MissingExtraError.of(WHO, 'pyarrow', 'power') from error
