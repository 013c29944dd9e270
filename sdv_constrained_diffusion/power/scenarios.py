"""Operating points of a network under random loads: each load draw is solved as an AC optimal power flow.

Draws come in chunks of fixed size, each with a random stream of its own (`numpy.random.SeedSequence.spawn`), and are
counted in the chunks' order. The rows therefore depend on the seed alone, not on the number of workers.
"""

import functools
import json
import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power import tables
from sdv_constrained_diffusion.power.opf import FlowLimit, OperatingPoint, OptimalPowerFlow

try:
    import joblib
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingExtraError.of('Scenario generation', error.name or 'pyarrow', 'power') from error

PowerFactor = Literal['independent', 'constant']
"""Whether a bus's active and reactive demand are drawn apart, or scaled by one factor."""

CHUNK_DRAWS = 32
"""Draws that share a random stream and a worker's turn; another number means other rows for the same seed."""

HOPELESS_SHARE = 0.1
"""Generation stops with an error when, after the first chunk, fewer than this share of the draws were solved."""

METADATA_KEY = b'sdv_constrained_diffusion.scenarios'
"""Key of the metadata, as JSON, in a Parquet file's schema."""


@dataclass(frozen=True, eq=False)
class Scenarios:
    """Solved operating points, the draws that have none, and how both came about.

    Attributes:
        table: the solved rows: float64, columns `tables.columns(buses)`, in MW, Mvar, p.u. and degrees.
        unsolved: the draws without a solution: `draw` (position in the sequence of draws), `demand_p_mw_<bus>` and
            `demand_q_mvar_<bus>` (consumption positive), `reason` (the solver's own word).
        metadata: network, seed, ranges, flow limit, sign convention, units and counts; plain JSON values.
    """

    table: pd.DataFrame
    unsolved: pd.DataFrame
    metadata: dict[str, Any] = field(default_factory=dict)

    def save_parquet(self, path: str | Path) -> None:
        """Writes the table with its metadata, and the unsolved draws beside it as `<stem>.unsolved.parquet`.

        Args:
            path: the Parquet file of the solved rows; existing files are replaced.
        """
        path = Path(path)
        text = json.dumps(self.metadata).encode()
        for frame, to in ((self.table, path), (self.unsolved, _unsolved_path(path))):
            arrow = pa.Table.from_pandas(frame, preserve_index=False)
            pq.write_table(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), METADATA_KEY: text}), to)

    @classmethod
    def load(cls, path: str | Path) -> 'Scenarios':
        """Reads what `save_parquet` wrote.

        Args:
            path: the Parquet file of the solved rows.

        Raises:
            GridError: the file was not written by `save_parquet`, or the file of its unsolved draws is missing.
        """
        path = Path(path)
        arrow = pq.read_table(path)
        if METADATA_KEY not in (arrow.schema.metadata or {}):
            raise GridError(
                f'Scenarios.load needs a file with the metadata key {METADATA_KEY.decode()!r}, which {str(path)!r} '
                'lacks. Pass a file that Scenarios.save_parquet wrote, or read this one with pandas.read_parquet.'
            )
        if not _unsolved_path(path).exists():
            raise GridError(
                f'Scenarios.load needs the unsolved draws of {str(path)!r} in {str(_unsolved_path(path))!r}, which '
                'does not exist. Move both files together, or read the rows alone with pandas.read_parquet.'
            )
        metadata = json.loads(arrow.schema.metadata[METADATA_KEY])
        return cls(arrow.to_pandas(), pq.read_table(_unsolved_path(path)).to_pandas(), metadata)


def generate(
    net: Any,
    num_rows: int,
    seed: int = 0,
    low: float = 0.8,
    high: float = 1.2,
    power_factor: PowerFactor = 'independent',
    flow_limit: FlowLimit = 'apparent',
    workers: int = 1,
    progress: bool = True,
) -> Scenarios:
    """Draws loads and solves them until there are `num_rows` operating points.

    Per draw and bus with loads, the demand is `factor x nominal` with the factor uniform in `[low, high]`.

    Args:
        net: pandapower network with costs and limits; it is not changed. The external grid's voltage is fixed unless
            `net.ext_grid['controllable']` is True.
        num_rows: number of solved rows.
        seed: the only source of randomness.
        low: least demand as a share of the nominal one.
        high: largest demand as a share of the nominal one.
        power_factor: 'independent' draws one factor for p and one for q; 'constant' scales both by one.
        flow_limit: what a branch's rating limits: 'apparent' power (as MATPOWER) or 'current' (as `runopp`).
        workers: number of processes; it does not change the rows.
        progress: whether to show a progress bar, which only appears on a terminal.

    Returns:
        exactly `num_rows` solved rows, and the draws in between that have no solution.

    Raises:
        GridError: an argument is out of range, the network cannot be carried or has no load, its nominal case has no
            solution, or almost no draw has one.
    """
    _check(num_rows, seed, low, high, power_factor, workers)
    opf = OptimalPowerFlow(net, flow_limit)
    if not opf.nominal.solved:
        raise GridError(
            f'Scenario generation needs a network whose nominal load has a solution, but for {net.name!r} with '
            f'flow_limit={flow_limit!r} the solver says {opf.nominal.reason!r}. Widen the limits of voltages, branches '
            "or generators, or free the external grid's voltage with net.ext_grid['controllable'] = True."
        )
    draws = _Draws(pickle.dumps(net), flow_limit, low, high, power_factor)
    solved: list[OperatingPoint] = []
    unsolved: list[tuple[int, np.ndarray, str]] = []
    with tqdm(total=num_rows, unit='row', disable=None if progress else True) as bar:
        for number, (demand, point) in enumerate(_in_order(draws, seed, workers, lambda: num_rows - len(solved))):
            if point.solved:
                solved.append(point)
                bar.update()
            else:
                unsolved.append((number, demand, point.reason))
            _refuse_if_hopeless(len(solved), unsolved, opf, low, high)
            if len(solved) == num_rows:
                break
    table = pd.DataFrame(np.stack([point.values for point in solved]), columns=opf.columns)
    frame = _unsolved_frame(unsolved, opf.load_buses)
    metadata = {
        'network': net.name or '',
        'num_rows': num_rows,
        'seed': seed,
        'low': float(low),
        'high': float(high),
        'power_factor': power_factor,
        'flow_limit': flow_limit,
        'sn_mva': float(net.sn_mva),
        'buses': opf.buses.tolist(),
        'load_buses': opf.load_buses.tolist(),
        'units': {'p_mw': 'MW', 'q_mvar': 'Mvar', 'vm_pu': 'p.u.', 'va_degree': 'degree'},
        'sign_convention': tables.SIGN_CONVENTION,
        'draws': num_rows + len(frame),
        'unsolved': len(frame),
        'unsolved_reasons': dict(Counter(frame['reason'].tolist())),
    }
    return Scenarios(table, frame, metadata)


@dataclass(frozen=True)
class _Draws:
    """What a worker needs to draw and solve a chunk; the network travels as bytes, as a compiled problem cannot."""

    net: bytes
    flow_limit: FlowLimit
    low: float
    high: float
    power_factor: PowerFactor

    def chunk(self, seeds: np.random.SeedSequence) -> list[tuple[np.ndarray, OperatingPoint]]:
        """Demand, shape (2, load_bus) in MW and Mvar, and operating point of each draw."""
        opf = _compiled(self.net, self.flow_limit)
        nominal = np.stack([opf.nominal_p_mw, opf.nominal_q_mvar])
        factors = np.random.default_rng(seeds).uniform(self.low, self.high, (CHUNK_DRAWS, *nominal.shape))
        if self.power_factor == 'constant':
            factors[:, 1] = factors[:, 0]
        return [(demand, opf.solve(*demand)) for demand in factors * nominal]


@functools.lru_cache(maxsize=1)
def _compiled(net: bytes, flow_limit: FlowLimit) -> OptimalPowerFlow:
    """The problem, compiled once per process."""
    return OptimalPowerFlow(pickle.loads(net), flow_limit)


def _in_order(
    draws: _Draws, seed: int, workers: int, missing: Callable[[], int]
) -> Iterator[tuple[np.ndarray, OperatingPoint]]:
    """Endless draws in the chunks' order; workers get as many chunks at a time as the missing rows ask for."""
    root = np.random.SeedSequence(seed)
    while True:
        wave = root.spawn(math.ceil(missing() / CHUNK_DRAWS))
        chunks = joblib.Parallel(n_jobs=workers, return_as='generator')(joblib.delayed(draws.chunk)(s) for s in wave)
        for chunk in chunks:
            yield from chunk


def _refuse_if_hopeless(
    solved: int, unsolved: list[tuple[int, np.ndarray, str]], opf: OptimalPowerFlow, low: float, high: float
) -> None:
    draws = solved + len(unsolved)
    if draws >= CHUNK_DRAWS and solved < HOPELESS_SHARE * draws:
        reasons = ', '.join(f'{reason} ({count})' for reason, count in Counter(r for *_, r in unsolved).most_common())
        raise GridError(
            f'Scenario generation needs loads that have a solution, but of the first {draws} draws from '
            f'[{low:g}, {high:g}] x nominal ({opf.nominal_p_mw.sum():g} MW in all) only {solved} have one. The solver '
            f'says: {reasons}. Narrow the range, or widen the limits of voltages, branches or generators.'
        )


def _unsolved_frame(unsolved: list[tuple[int, np.ndarray, str]], load_buses: np.ndarray) -> pd.DataFrame:
    names = [f'demand_{tables.column(quantity, bus)}' for quantity in ('p_mw', 'q_mvar') for bus in load_buses]
    demands = np.array([demand.ravel() for _, demand, _ in unsolved], dtype=float).reshape(len(unsolved), len(names))
    frame = pd.DataFrame(demands, columns=names)
    frame.insert(0, 'draw', np.array([number for number, *_ in unsolved], dtype=np.int64))
    frame['reason'] = pd.Series([reason for *_, reason in unsolved], dtype=object)
    return frame


def _unsolved_path(path: Path) -> Path:
    return path.with_name(f'{path.stem}.unsolved.parquet')


def _check(num_rows: int, seed: int, low: float, high: float, power_factor: PowerFactor, workers: int) -> None:
    if not isinstance(num_rows, int | np.integer) or num_rows < 1:
        raise GridError(
            f'Scenario generation needs num_rows of at least 1, but got {num_rows}. Pass a positive whole number.'
        )
    if seed < 0:
        raise GridError(f'Scenario generation needs a seed of at least 0, but got {seed}. Pass another seed.')
    if not 0 <= low <= high < math.inf:
        raise GridError(
            f'Scenario generation needs a load range with 0 <= low <= high, but got low={low:g}, high={high:g}. '
            'Both are shares of the nominal load, for example low=0.8, high=1.2.'
        )
    if power_factor not in get_args(PowerFactor):
        raise GridError(
            f"Scenario generation needs power_factor='independent' or 'constant', but got {power_factor!r}. "
            "Pass 'independent' to draw p and q apart, 'constant' to scale both by one factor."
        )
    if workers < 1:
        raise GridError(
            f'Scenario generation needs at least one worker, but got workers={workers}. '
            'Pass the number of processes, 1 for none besides this one.'
        )
