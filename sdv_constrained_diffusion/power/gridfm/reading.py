"""Reads GridFM's files: those of `write_gridfm`, and those of other programs."""

import importlib
import itertools
import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power import nets
from sdv_constrained_diffusion.power.grid import SLACK, Grid
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
    Layout,
)
from sdv_constrained_diffusion.power.tables import APART, BASE, JOIN, TOPOLOGY, WIDE, column

WHO = 'read_gridfm'

_STATUS = ('from_bus', 'to_bus', 'br_status')

Elements = Float[np.ndarray, 'scenario _']
"""One number per operating point and bus, generator, load or branch."""


def is_gridfm(path: str | Path) -> bool:
    """Whether a path is a folder with GridFM's files."""
    return (Path(path) / BUS).exists()


def read_gridfm(folder: str | Path, grid: Grid, quantities: Sequence[str] | None = None) -> pd.DataFrame:
    """Reads GridFM's files as a table, one operating point per row.

    What `write_gridfm` wrote comes back as it was. Files of other programs, such as gridfm-datakit, become a table of
    `tables.APART` if `gen_data.parquet` is there and every bus has at most one load, else of `tables.WIDE`; there the
    index is GridFM's number of the scenario. Their generators at one bus are taken in the order of `idx`, the grid's in
    the order of `grid.generators`; and branches between the same two buses likewise. Branches out of service
    (`br_status`) become a column `topology`, several of them joined as in 'line_3+trafo_0'. Flows (`pf`, `qf`, `pt`,
    `qt`) are read where `quantities` ask for them, at the ends that the grid calls 'from' and 'to'.

    Args:
        folder: with `bus_data.parquet` in it, a data set or a single file.
        grid: the network of the files.
        quantities: where the files are of another program, names of `tables.APART`, `tables.WIDE` and `tables.FLOWS`,
            `loading_percent` excepted; None for the first of `APART` and `WIDE` that they can fill.

    Raises:
        GridError: a file, a column or a scenario is missing, a file cannot be read, the files are of another network
            than the grid, or they do not say what the quantities need.
        MissingExtraError: pyarrow is not installed.
    """
    folder, layout = Path(folder), Layout.of(grid)
    if not is_gridfm(folder):
        killed = ' A run of write_gridfm was killed there: write the table anew.' if _unfinished(folder) else ''
        raise GridError(
            f'{WHO} needs a folder with {BUS!r}, which {str(folder)!r} lacks.{killed} Pass the folder `raw` that '
            'gridfm-datakit wrote, or one of write_gridfm.'
        )
    if not (folder / NAMES).exists() and ((folder / LOAD).exists() or (folder / ROW).exists()):
        raise GridError(
            f'{WHO} needs all files of write_gridfm, but {str(folder)!r} lacks {NAMES!r}: the table is not complete. '
            'Write it anew.'
        )
    return _ours(folder, layout) if (folder / NAMES).exists() else _others(folder, layout, quantities)


def _ours(folder: Path, layout: Layout) -> pd.DataFrame:
    names, grid = json.loads((folder / NAMES).read_text()), layout.grid
    expected = {
        'buses': grid.buses,
        'loads': grid.loads,
        'generators': grid.generators,
        'branches': layout.branch_labels,
    }
    for kind, labels in expected.items():
        if names[kind] != list(labels):
            raise GridError(
                f'{WHO} needs the grid that the files were written with, but {str(folder)!r} has the {kind} '
                f'{_some(names[kind])}, the grid {_some(labels)}. Pass the Grid of the same network.'
            )
    rows = _read(folder / ROW, lambda: pd.read_parquet(folder / ROW))
    if names.get('freq') is not None:
        rows.index.freq = names['freq']
    values = {name: rows[name] for name in rows}
    scenarios, bus = _elements(folder / BUS, 'bus', ['Pd', 'Qd', 'Pg', 'Qg', 'Vm', 'Va'], rows[SCENARIO].to_numpy())
    _check_number(folder, len(scenarios))
    bus = {name: each[:, layout.number] for name, each in bus.items()}
    generates = np.isin(np.arange(len(grid.buses)), grid.generator_at)
    parts = {
        'vm_pu': bus['Vm'],
        'va_degree': bus['Va'],
        'p_mw': np.where(generates, bus['Pg'], -bus['Pd']),
        'q_mvar': np.where(generates, bus['Qg'], -bus['Qd']),
    }
    if (folder / GEN).exists():
        gen, load = (_elements(folder / name, 'idx', ['p_mw', 'q_mvar'], scenarios)[1] for name in (GEN, LOAD))
        parts |= {'pg_mw': gen['p_mw'], 'qg_mvar': gen['q_mvar'], 'pd_mw': load['p_mw'], 'qd_mvar': load['q_mvar']}
    for quantity, each in parts.items():
        values = dict(zip(grid.columns([quantity]), each.T, strict=True)) | values
    flows = _elements(folder / BRANCH, 'idx', list(FLOW_NAMES.values()), scenarios)[1]
    for quantity, name in FLOW_NAMES.items():
        values = {
            column(quantity, label): flow for label, flow in zip(layout.branch_labels, flows[name].T, strict=True)
        } | values
    return pd.DataFrame({name: values[name] for name in names['columns']}, index=rows.index)


def _others(folder: Path, layout: Layout, quantities: Sequence[str] | None) -> pd.DataFrame:
    grid = layout.grid
    scenarios, bus = _elements(folder / BUS, 'bus', ['Pd', 'Qd', 'Pg', 'Qg', 'Vm', 'Va', 'REF'])
    _check_number(folder, len(scenarios))
    if bus['REF'].shape[1] != len(grid.buses):
        raise GridError(
            f'{WHO} needs the files of the grid, but {str(folder / BUS)!r} has {bus["REF"].shape[1]} buses, the grid '
            f'{len(grid.buses)}. Pass the Grid of the network that the files were made from.'
        )
    bus = {name: each[:, layout.number] for name, each in bus.items()}
    if not np.array_equal(bus['REF'][0] == 1, grid.kind[grid.node] == SLACK):
        where = [str(number) for number in np.array(grid.buses)[bus['REF'][0] == 1]]
        slack = [str(number) for number in np.array(grid.buses)[grid.kind[grid.node] == SLACK]]
        raise GridError(
            f'{WHO} needs files whose bus k is the k-th smallest of the buses of the grid, but there the reference is '
            f'bus {", ".join(where)}, in the grid bus {", ".join(slack)}. Pass the Grid of the network that the files '
            'were made from.'
        )
    parts = {
        'p_mw': bus['Pg'] - bus['Pd'],
        'q_mvar': bus['Qg'] - bus['Qd'],
        'vm_pu': bus['Vm'],
        'va_degree': bus['Va'],
    }
    elements, why_not = _by_element(folder, layout, bus, scenarios)
    if quantities is None:
        quantities = WIDE if why_not else APART
    parts |= elements
    reasons = dict.fromkeys(APART, why_not)
    if set(nets.check_quantities(quantities, WHO)) & FLOW_NAMES.keys():
        flows, no_flows = _flows(folder / BRANCH, layout, scenarios)
        parts |= flows
        reasons |= dict.fromkeys(FLOW_NAMES, no_flows)
    unknown = [name for name in quantities if name not in parts]
    if unknown:
        why = reasons.get(unknown[0], 'GridFM has no such quantity.')
        raise GridError(
            f'{WHO} cannot read {unknown[0]!r} from {str(folder)!r}: {why} Leave it out, as in quantities=tables.WIDE.'
        )
    values = {
        name: value
        for quantity in quantities
        for name, value in zip(grid.columns([quantity]), parts[quantity].T, strict=True)
    }
    table = pd.DataFrame(values, index=pd.Index(scenarios, name='scenario'))
    if (folder / BRANCH).exists() and (topology := _topology(folder / BRANCH, layout, scenarios)) is not None:
        table[TOPOLOGY] = topology
    return table


def _by_element(
    folder: Path, layout: Layout, bus: dict[str, Elements], scenarios: Int[np.ndarray, ' scenario']
) -> tuple[dict[str, Elements], str]:
    """Demand by load and generation by generator; or nothing, and why."""
    grid = layout.grid
    if not (folder / GEN).exists():
        return {}, f'there is no {GEN!r}.'
    shared = np.flatnonzero(np.bincount(grid.load_at, minlength=len(grid.buses)) > 1)
    if len(shared):
        return {}, f'the demand of bus {grid.buses[shared[0]]} is that of several loads.'
    without = np.isin(np.arange(len(grid.buses)), grid.load_at, invert=True)
    rest_mw, rest_mvar = bus['Pd'] + grid.rest_mw, bus['Qd'] + grid.rest_mvar
    unheard = np.flatnonzero(((rest_mw != 0) | (rest_mvar != 0)).any(axis=0) & without)
    if len(unheard):
        return {}, f'bus {grid.buses[unheard[0]]} has demand, but no load in the grid.'
    _, gen = _elements(folder / GEN, 'idx', ['bus', 'p_mw', 'q_mvar', 'in_service'], scenarios)
    place = _matched(gen['bus'][0].tolist(), layout.number[grid.generator_at].tolist(), gen['in_service'])
    if place is None:
        return {}, f'{GEN!r} does not have as many generators at every bus as the grid.'
    return {
        'pd_mw': rest_mw[:, grid.load_at],
        'qd_mvar': rest_mvar[:, grid.load_at],
        'pg_mw': gen['p_mw'][:, place],
        'qg_mvar': gen['q_mvar'][:, place],
    }, ''


def _flows(path: Path, layout: Layout, scenarios: Int[np.ndarray, ' scenario']) -> tuple[dict[str, Elements], str]:
    """What enters the grid's branches at either end, by quantity; or nothing, and why."""
    if not path.exists():
        return {}, f'there is no {BRANCH!r}.'
    absent = [name for name in FLOW_NAMES.values() if name not in _read(path, lambda: _dataset(path)).schema.names]
    if absent:
        return {}, f'{BRANCH!r} has no column {absent[0]!r}.'
    unheard = set(layout.grid.branches) - set(layout.branch_labels)
    if unheard:
        return {}, f'{min(unheard)!r} has no bus at one of its ends, and so is no branch of GridFM.'
    _, branch = _elements(path, 'idx', [*_STATUS, *FLOW_NAMES.values()], scenarios)
    place = _places(branch, layout)
    if place is None:
        return {}, f'{BRANCH!r} does not have as many branches between any two buses as the grid.'
    turned = branch['from_bus'][0, place] != layout.ends_at[0]
    opposite = {'pf': 'pt', 'qf': 'qt', 'pt': 'pf', 'qt': 'qf'}
    ordered = {name: np.where(turned, branch[opposite[name]][:, place], branch[name][:, place]) for name in opposite}
    # The grid's columns are in the order of its ends.
    return {
        quantity: ordered[name][:, [layout.branch_labels.index(label) for label in layout.grid.labels(quantity)]]
        for quantity, name in FLOW_NAMES.items()
    }, ''


def _topology(path: Path, layout: Layout, scenarios: Int[np.ndarray, ' scenario']) -> list[str] | None:
    """Which branches are out of service in each scenario; None where none of the grid's ever is."""
    _, branch = _elements(path, 'idx', _STATUS, scenarios)
    place = _places(branch, layout)
    if place is None:
        if (branch['br_status'] == branch['br_status'][0]).all():
            return None
        raise GridError(
            f'{WHO} needs files with as many branches between any two buses as the grid, to name those out of service, '
            f'but {str(path)!r} has others. Pass the Grid of the network that the files were made from.'
        )
    out, labels = branch['br_status'][:, place] == 0, layout.branch_labels
    return [JOIN.join(itertools.compress(labels, row)) or BASE for row in out] if out.any() else None


def _places(branch: dict[str, Elements], layout: Layout) -> Int[np.ndarray, ' branch'] | None:
    """Where each of GridFM's branches of the layout is in the files, by the buses at its ends; None if they differ."""
    pairs = [frozenset(ends) for ends in zip(branch['from_bus'][0], branch['to_bus'][0], strict=True)]
    return _matched(pairs, [frozenset(ends) for ends in layout.ends_at.T.tolist()], branch['br_status'])


def _matched(
    theirs: Sequence[Hashable], ours: Sequence[Hashable], in_service: Elements
) -> Int[np.ndarray, ' element'] | None:
    """Where each of our elements is among theirs: those at one place in their order.

    Args:
        theirs: where their elements are.
        ours: where ours are.
        in_service: of theirs, 1 or 0, shape (scenario, element). One that never is may be missing among ours.

    Returns:
        positions; None if there are not as many at every place.
    """
    for candidates in (list(range(len(theirs))), np.flatnonzero(in_service.any(axis=0)).tolist()):
        if Counter(theirs[each] for each in candidates) == Counter(ours):
            queues: defaultdict[Hashable, deque[int]] = defaultdict(deque)
            for each in candidates:
                queues[theirs[each]].append(each)
            return np.array([queues[where].popleft() for where in ours], dtype=np.int64)
    return None


def _elements(
    path: Path, key: str, names: Sequence[str], scenarios: Int[np.ndarray, ' scenario'] | None = None
) -> tuple[Int[np.ndarray, ' scenario'], dict[str, Elements]]:
    """Columns of one of GridFM's files: the numbers of the scenarios, and values by name.

    Args:
        path: of the file or data set.
        key: the column that numbers the elements.
        names: the columns.
        scenarios: those that the file must have; None for any.
    """
    dataset = _read(path, lambda: _dataset(path))
    wanted = ['scenario', key, *names]
    missing = [name for name in wanted if name not in dataset.schema.names]
    if missing:
        raise GridError(
            f'{WHO} needs the column {missing[0]!r} in {str(path)!r}, which has {_some(dataset.schema.names)}. Write '
            'the files anew with gridfm-datakit or write_gridfm.'
        )
    frame = _read(path, lambda: dataset.to_table(columns=wanted)).to_pandas()
    frame = frame.sort_values(['scenario', key], kind='stable')
    found, keys = frame['scenario'].unique(), frame[key].unique()
    numbers = frame[key].to_numpy()
    if len(numbers) != len(found) * len(keys) or (numbers.reshape(len(found), -1) != keys).any():
        raise GridError(
            f'{WHO} needs every {key} once in every scenario, but {str(path)!r} has {len(numbers)} rows for '
            f'{len(found)} scenarios and {len(keys)} numbers of {key}. Remove incomplete scenarios from the files.'
        )
    if scenarios is not None and not np.array_equal(found, scenarios):
        raise GridError(
            f'{WHO} needs the same scenarios in every file, but {str(path)!r} has {len(found)}, where others have '
            f'{len(scenarios)}, or other ones. Write the files anew, or remove what is incomplete from all of them.'
        )
    values = {name: frame[name].to_numpy(dtype='float64').reshape(len(found), -1) for name in names}
    return found, values


def _check_number(folder: Path, found: int) -> None:
    """Compares the number of scenarios with the one that the writer noted, if it did."""
    if not (folder / NUM_SCENARIOS).exists():
        return
    noted = (folder / NUM_SCENARIOS).read_text().strip()
    if noted != str(found):
        raise GridError(
            f'{WHO} needs as many scenarios as {NUM_SCENARIOS!r} says, {noted!r}, but {str(folder / BUS)!r} has '
            f'{found}. Get the files anew, since some may be missing; if you removed scenarios yourself, write '
            f'{found} into {NUM_SCENARIOS!r}.'
        )


def _unfinished(folder: Path) -> bool:
    return any(folder.glob(f'{UNFINISHED}*'))


def _dataset(path: Path) -> Any:
    return importlib.import_module('pyarrow.dataset').dataset(path, partitioning='hive')


def _read(path: Path, read: Callable[[], Any]) -> Any:
    """What a function gives that reads a Parquet file.

    Raises:
        GridError: the file is missing or corrupt.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        return read()
    except ImportError as error:
        raise MissingExtraError.of(WHO, 'pyarrow', 'power') from error
    except (OSError, ValueError) as error:
        raise GridError(
            f'{WHO} needs Parquet files, but {str(path)!r} cannot be read as one: {error} Get the files anew.'
        ) from error


def _some(names: Iterable[object]) -> str:
    """The first few names, for messages."""
    listed = [str(name) for name in names]
    return ', '.join(listed[:8]) + (', ...' if len(listed) > 8 else '')
