"""Results of pandapower's time series, as `pandapower.timeseries.OutputWriter` writes them, read as a table."""

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

RATED = ('line', 'trafo')
"""Branches whose `loading_percent` pandapower calculates as this package does: each on its own rating and current."""


def read_time_series(folder: str | Path, net: Any) -> pd.DataFrame:
    """Reads the files of an `OutputWriter` as a table, one time step per row.

    Every variable that was logged and has a column in `power.tables` is read, in this package's names, signs and units:
    `res_bus.vm_pu`, `va_degree`, `p_mw`, `q_mvar`; `p_mw` and `q_mvar` of loads, external grids, generators and static
    generators; powers at the ends of lines, transformers and impedances; `loading_percent` of lines and transformers.
    Variables or elements without one, such as currents, are left out. So are time steps whose power flow failed:
    pandapower logs zeros for them.

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
        GridError: nothing in the folder can be read as a column, files differ in their time steps, bus powers were
            logged without what their conversion needs, or as in `Grid.from_pandapower`.
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
    return table[(table != 0).any(axis=1)]


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
                return self._by_index(frame, table.removeprefix('res_'))
        return pd.DataFrame()

    def _by_index(self, frame: pd.DataFrame, element: str) -> pd.DataFrame:
        """The frame by the elements' indices: pandapower's batch mode counts all elements 0, 1, ... instead."""
        indices = self._net[element].index
        return frame.set_axis(indices, axis=1) if frame.columns.tolist() == list(range(len(indices))) else frame


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
