"""Results of pandapower's time series, as `pandapower.timeseries.OutputWriter` writes them, read as a table."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power import nets
from sdv_constrained_diffusion.power.tables import FLOWS, column

WHO = 'read_time_series'

READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    '.json': lambda path: pd.read_json(path, convert_dates=False, precise_float=True),
    '.csv': lambda path: pd.read_csv(path, sep=None, engine='python', index_col=0),
    '.p': pd.read_pickle,
    '.xlsx': lambda path: pd.read_excel(path, index_col=0),
}
"""Kinds of files that an `OutputWriter` writes, by how the name goes on after the variable; '.csv.gz' is a '.csv'."""

BATCH = {
    'res_bus': ('vm_pu', 'va_degree'),
    'res_line': ('loading_percent',),
    'res_trafo': ('loading_percent',),
}
"""Of what is read here, the variables that pandapower's batch mode can log (`pandapower.timeseries`)."""

RATED = ('line', 'trafo')
"""Branches whose `loading_percent` pandapower calculates as this package does: each on its own rating and current."""


def read_time_series(folder: str | Path, net: Any) -> pd.DataFrame:
    """Reads the files of an `OutputWriter` as a table, one time step per row.

    Every variable that was logged and has a column in `power.tables` is read, in this package's names, signs and units:
    `res_bus.vm_pu`, `va_degree`, `p_mw`, `q_mvar`; `p_mw` and `q_mvar` of loads, external grids, generators and static
    generators; powers at the ends of lines, transformers and impedances; `loading_percent` of lines and transformers.
    Variables or elements without one, such as currents, are left out.

    Of a time step that failed, `run_timeseries(..., continue_on_divergence=True)` logs zeros, and its files do not say
    that it failed. Such a step is known by its voltages: it is left out if `res_bus.vm_pu` was logged and is 0 or NaN
    at every bus. Without that variable all steps are kept, with a warning if one is 0 throughout.

    pandapower's bus powers count load as positive and contain shunts and wards. They become injections exactly:
    `p_mw = -(res_bus.p_mw - shunts - wards' pz_mw vm_pu^2)`, where shunts draw what they do in the network's own power
    flow, times `(vm_pu / vm_pu there)^2`. Switches, taps and steps must stay as they are in the network.

    Args:
        folder: the writer's `output_path`, with files such as `res_bus/vm_pu.json` in it (.json, .csv, .p, .xlsx). A
            `.p` is a pickle, which can run any code: read your own only. A `.json` has ten decimals.
        net: the `pandapowerNet` of the time series, left as it is.

    Returns:
        float64 columns in the order of `tables.KINDS`; the index is the time step.

    Raises:
        GridError: nothing in the folder can be read as a column, files differ in their time steps, a file's columns may
            be elements' indices as well as their positions, bus powers were logged without what their conversion needs,
            or as in `Grid.from_pandapower`.
        MissingExtraError: pandapower is not installed, or openpyxl for an `.xlsx`.
    """
    solved = nets.solve(net, WHO)
    logged = _Logged(Path(folder), solved)
    found = {name: values for name, values in _columns(logged, solved) if values is not None}
    if not found:
        files = ', '.join(sorted(str(path.relative_to(folder)) for path in Path(folder).glob('*/*'))[:8]) or 'none'
        raise GridError(
            f"{WHO} needs a folder with an OutputWriter's files, such as res_bus/vm_pu.json, for elements of "
            f'{nets.title(net)} in service, but {str(folder)!r} has of files: {files}. Pass the output_path of the '
            'OutputWriter, and log variables such as ("res_bus", "vm_pu").'
        )
    first = next(iter(found.values()))
    for name, values in found.items():
        if not values.index.equals(first.index):
            raise GridError(
                f'{WHO} needs the same time steps in every file of {str(folder)!r}, but {name!r} has {len(values)}, '
                f'{next(iter(found))!r} {len(first)}, or other ones. Remove the files of another run.'
            )
    table = pd.DataFrame(found).astype('float64').rename_axis(index='time_step')
    return table[~_failed(table, solved)]


def _failed(table: pd.DataFrame, solved: Any) -> pd.Series:
    """Which time steps have no power flow: a solved one has a voltage somewhere."""
    magnitudes = [name for bus in nets.energised(solved) if (name := column('vm_pu', bus)) in table]
    if magnitudes:
        return table[magnitudes].fillna(0.0).eq(0).all(axis=1)
    zero = table.eq(0).all(axis=1)
    if zero.any():
        warnings.warn(
            f'{WHO} cannot tell whether the {int(zero.sum())} time steps that are 0 in every column have failed, the '
            f"first of them {table.index[zero][0]}, and keeps them. Log ('res_bus', 'vm_pu') as well.",
            stacklevel=3,
        )
    return pd.Series(False, index=table.index)


class _Logged:
    """The logged variables, each read when it is first asked for."""

    def __init__(self, folder: Path, net: Any) -> None:
        self.folder, self._net = folder, net
        self._read: dict[tuple[str, str], pd.DataFrame] = {}

    def values(self, table: str, variable: str, index: int) -> pd.Series | None:
        """An element's values by time step; None if they were not logged."""
        if (table, variable) not in self._read:
            self._read[table, variable] = self._frame(table, variable)
        return self._read[table, variable].get(index)

    def _frame(self, table: str, variable: str) -> pd.DataFrame:
        for suffix, reader in READERS.items():
            for path in sorted((self.folder / table).glob(f'{variable}{suffix}*')):
                try:
                    frame = reader(path)
                except ImportError as error:
                    raise MissingExtraError(
                        f"{WHO} needs the library 'openpyxl' to read {str(path)!r}, which is not installed. Install it "
                        'with: pip install openpyxl'
                    ) from error
                # A column of an evaluated function, such as the largest of all elements, is no element's.
                frame = frame[[name for name in frame if str(name).isdecimal()]].rename(columns=int)
                return self._by_index(frame, table, variable)
        return pd.DataFrame()

    def _by_index(self, frame: pd.DataFrame, table: str, variable: str) -> pd.DataFrame:
        """The frame by the elements' indices: pandapower's batch mode counts all elements 0, 1, ... instead.

        Raises:
            GridError: the columns may be either.
        """
        indices, numbers = self._net[table.removeprefix('res_')].index.tolist(), frame.columns.tolist()
        if variable not in BATCH.get(table, ()) or numbers == indices or numbers != list(range(len(indices))):
            return frame
        if set(numbers) == set(indices):
            raise GridError(
                f'{WHO} needs to know which element each column of {table}.{variable} belongs to, but the columns '
                f'{_some(numbers)} of {str(self.folder)!r} may be the indices of {nets.title(self._net)} or, from '
                f"pandapower's batch mode, positions among its {_some(indices)}. Log without batch mode, "
                'run_timeseries(..., recycle=False), and the elements in the order of the network, without index=.'
            )
        return frame.set_axis(indices, axis=1)


def _columns(logged: _Logged, solved: Any) -> Iterator[tuple[str, pd.Series | None]]:
    """Names and values of all columns that the network can have; None where they were not logged."""
    buses = nets.energised(solved)
    for power in ('p_mw', 'q_mvar'):
        for bus in buses:
            yield column(power, bus), _injection(logged, solved, power, bus)
    for quantity in ('vm_pu', 'va_degree'):
        for bus in buses:
            yield column(quantity, bus), logged.values('res_bus', quantity, bus)
    for quantity, elements in (
        *((name, nets.loads(solved)) for name in ('pd_mw', 'qd_mvar')),
        *((name, nets.generators(solved)) for name in ('pg_mw', 'qg_mvar')),
    ):
        for each in elements:
            variable = f'{quantity[0]}{quantity[2:]}'
            yield column(quantity, each.label), logged.values(f'res_{each.table}', variable, each.index)
    ends = nets.branch_ends(solved)
    for quantity in FLOWS:
        for end in ends:
            side = ('from', 'to')[end.side]
            if f'_{side}_' in quantity:
                variable = quantity.replace(side, end.name)
                yield column(quantity, end.label), logged.values(f'res_{end.table}', variable, end.index)
            elif quantity == 'loading_percent' and end.table in RATED:
                yield column(quantity, end.label), logged.values(f'res_{end.table}', quantity, end.index)


def _injection(logged: _Logged, solved: Any, power: str, bus: int) -> pd.Series | None:
    """Generation minus load at a bus, from pandapower's bus power."""
    total = logged.values('res_bus', power, bus)
    if total is None:
        return None
    shunts, wards = (
        each[(each['bus'] == bus) & each['in_service'].astype(bool)] for each in (solved.shunt, solved.ward)
    )
    drawn_at_1_pu = (
        solved.res_shunt.loc[shunts.index, power].sum() / solved.res_bus.at[bus, 'vm_pu'] ** 2
        + wards[power.replace('_', 'z_')].sum()
    )
    injected = -total
    if drawn_at_1_pu != 0:
        injected = injected + drawn_at_1_pu * _needed(logged, 'res_bus', 'vm_pu', bus, f'res_bus.{power}') ** 2
    for line in solved.dcline[solved.dcline['in_service'].astype(bool)].itertuples():
        for side, at in (('from', line.from_bus), ('to', line.to_bus)):
            if at == bus:
                variable = power.replace('_', f'_{side}_')
                injected = injected - _needed(logged, 'res_dcline', variable, int(line.Index), f'res_bus.{power}')
    return injected


def _needed(logged: _Logged, table: str, variable: str, index: int, power: str) -> pd.Series:
    """A logged variable that the conversion of bus powers needs.

    Raises:
        GridError: it was not logged.
    """
    values = logged.values(table, variable, index)
    if values is None:
        raise GridError(
            f'{WHO} needs {table}.{variable} of {index} to turn {power} into an injection, since shunts, wards and DC '
            f'lines are no injections of loads and generators, but {str(logged.folder)!r} lacks it. Log it with '
            f'OutputWriter(..., log_variables=[({table!r}, {variable!r}), ...]), or remove the file of {power}.'
        )
    return values


def _some(numbers: list[int]) -> str:
    """The first few numbers, for messages."""
    return ', '.join(map(str, numbers[:8])) + (', ...' if len(numbers) > 8 else '')
