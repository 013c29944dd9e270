"""Operating points of a network under random demand, infeed, costs and outages: tables of solved and unsolved draws.

The rows depend on the arguments and the seed alone, not on the number of workers, nor on whether the run was
interrupted. Chunks of draws are spread by joblib: `workers` processes, or whatever `joblib.parallel_config` says, such
as a Dask or Ray cluster.
"""

import contextlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power import tables
from sdv_constrained_diffusion.power.scenarios.draws import Draw, OperatingPoint
from sdv_constrained_diffusion.power.scenarios.models.costs import CostPerturbation
from sdv_constrained_diffusion.power.scenarios.models.infeed import InfeedModel
from sdv_constrained_diffusion.power.scenarios.models.loads import LoadModel, PowerFactor, UniformLoads
from sdv_constrained_diffusion.power.scenarios.models.outages import Outages
from sdv_constrained_diffusion.power.scenarios.recipe import CHUNK_DRAWS, Recipe, SolverName, network_digest, recipe_of
from sdv_constrained_diffusion.power.scenarios.rows import REASON, Answer, solved_table, unsolved_table
from sdv_constrained_diffusion.power.scenarios.store import ScenarioStore, write_parquet
from sdv_constrained_diffusion.power.tables import FlowLimit

try:
    import joblib
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingExtraError.of('Scenario generation', error.name or 'pyarrow', 'power') from error

PART_CHUNKS = 8
"""Chunks that `generate_to` writes at a time: what a kill can cost."""

WAVE_CHUNKS = 64
"""Chunks per worker that are handed out at a time."""

HOPELESS_SHARE = 0.1
"""Generation stops with an error when, after the first chunk, fewer than this share of the draws were solved."""

METADATA_KEY = b'sdv_constrained_diffusion.scenarios'
"""Key of the metadata, as JSON, in a Parquet file's schema."""

UNITS = {
    **dict.fromkeys(('p_mw', 'pd_mw', 'pg_mw', 'p_from_mw', 'p_to_mw'), 'MW'),
    **dict.fromkeys(('q_mvar', 'qd_mvar', 'qg_mvar', 'q_from_mvar', 'q_to_mvar'), 'Mvar'),
    **{'vm_pu': 'p.u.', 'va_degree': 'degree', 'loading_percent': 'percent'},
}
"""Of every quantity."""


@dataclass(frozen=True, eq=False)
class Scenarios:
    """Solved operating points, the draws that have none, and how both came about.

    Attributes:
        table: the solved rows: float64, a column for each quantity of each element, in MW, Mvar, p.u., degrees and
            percent; then `cost_factor_<element>` if costs vary, and `topology` (text) if there are outages.
        unsolved: the draws without a solution: `draw` (place in the sequence of draws), `pd_mw_<load>` and
            `qd_mvar_<load>` (consumption positive); what else varies: `pg_mw_<sgen>` and `qg_mvar_<sgen>`,
            `cost_factor_<element>`, `topology`; and `reason` (the solver's own word).
        metadata: network, seed, models, solver, sign convention, units and counts; plain JSON values.
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
        write_parquet(self.unsolved, _unsolved_path(path), {METADATA_KEY: text})
        write_parquet(self.table, path, {METADATA_KEY: text})

    @classmethod
    def load(cls, path: str | Path) -> 'Scenarios':
        """Reads what `save_parquet` or `generate_to` wrote.

        Args:
            path: the Parquet file of the solved rows, or the folder.

        Raises:
            GridError: the file or folder is of other origin, the file of the unsolved draws is missing, or the folder
                is not complete.
        """
        path = Path(path)
        if path.is_dir():
            return cls._from_folder(ScenarioStore(path))
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

    @classmethod
    def _from_folder(cls, store: ScenarioStore) -> 'Scenarios':
        facts, found = store.facts(), store.num_rows()
        if found < facts['num_rows']:
            raise GridError(
                f'Scenarios.load needs a complete folder, but {str(store.directory)!r} holds {found} of '
                f'{facts["num_rows"]} rows. Call generate_to with the same arguments to finish it, or read the rows '
                'there are with pandas.read_parquet.'
            )
        return cls(store.read_rows(), store.read_unsolved(), {**facts, **_counts(found, store.read_reasons())})


def generate(
    net: Any,
    num_rows: int,
    seed: int = 0,
    low: float | None = None,
    high: float | None = None,
    power_factor: PowerFactor | None = None,
    flow_limit: FlowLimit = 'apparent',
    workers: int | None = None,
    progress: bool = True,
    *,
    loads: LoadModel | None = None,
    infeed: InfeedModel | None = None,
    costs: CostPerturbation | None = None,
    outages: Outages | None = None,
    solver: SolverName = 'opf',
    quantities: Sequence[str] = tables.WIDE,
) -> Scenarios:
    """Draws situations and solves them until there are `num_rows` operating points.

    Args:
        net: pandapower network, for 'opf' with costs and limits; it is not changed. With 'opf' the external grid's
            voltage is fixed unless `net.ext_grid['controllable']` is True.
        num_rows: number of solved rows.
        seed: the only source of randomness.
        low: of `UniformLoads`, the default loads: least demand as a share of the nominal one.
        high: of `UniformLoads`: largest demand as a share of the nominal one.
        power_factor: of `UniformLoads`: 'independent' or 'constant'.
        flow_limit: what a branch's rating limits in 'opf': 'apparent' power (as MATPOWER) or 'current' (as `runopp`).
        workers: number of processes; None for what `joblib.parallel_config` says, which is this process alone if it
            says nothing. It does not change the rows.
        progress: whether to show a progress bar, which only appears on a terminal.
        loads: how demand varies: `UniformLoads`, `NormalLoads`, `ProfileLoads`, or a `LoadModel` of your own.
        infeed: how the power of static generators that are not dispatched varies: `UniformInfeed` or `ProfileInfeed`.
        costs: how costs vary.
        outages: which lines and transformers may be out of service, and how often.
        solver: 'opf' for AC optimal power flow, 'pf' for the power flow at the generators' set-points without limits.
        quantities: names in `tables.KINDS`, such as `tables.WIDE`, `tables.APART` or `(*tables.APART, *tables.FLOWS)`.

    Returns:
        exactly `num_rows` solved rows, and the draws in between that have no solution.

    Raises:
        GridError: an argument is out of range or does not fit the network, the network cannot be carried or has no
            load, its nominal case has no solution, or almost no draw has one.
    """
    _check(num_rows, seed, workers, quantities)
    models = _loads(loads, low, high, power_factor), infeed, costs, outages
    recipe = recipe_of(net, seed, *models, solver, flow_limit, quantities)
    tally = _Tally()
    answers = [each for part in _parts(recipe, num_rows, workers, progress, tally, 0) for each in part]
    unsolved = unsolved_table(recipe, answers)
    metadata = {**_facts(net, num_rows, recipe), **_counts(num_rows, unsolved[REASON].tolist())}
    return Scenarios(solved_table(recipe, answers), unsolved, metadata)


def generate_to(
    directory: str | Path,
    net: Any,
    num_rows: int,
    seed: int = 0,
    flow_limit: FlowLimit = 'apparent',
    workers: int | None = None,
    progress: bool = True,
    *,
    loads: LoadModel | None = None,
    infeed: InfeedModel | None = None,
    costs: CostPerturbation | None = None,
    outages: Outages | None = None,
    solver: SolverName = 'opf',
    quantities: Sequence[str] = tables.WIDE,
) -> dict[str, Any]:
    """Does what `generate` does, and writes the rows to a folder as they come.

    A run that was killed at any moment goes on when this is called with the same arguments, and ends with the rows
    that it would have had. `Scenarios.load(directory)` reads a finished folder, `pandas.read_parquet(directory)` the
    rows of any.

    Args:
        directory: new or empty, or that of a run to go on with.
        net: as in `generate`, like all others.
        num_rows: number of solved rows.
        seed: the only source of randomness.
        flow_limit: what a branch's rating limits in 'opf'.
        workers: number of processes; another number may finish what one began.
        progress: whether to show a progress bar, which only appears on a terminal.
        loads: how demand varies; `UniformLoads()` when None.
        infeed: how the power of static generators varies.
        costs: how costs vary.
        outages: which lines and transformers may be out of service.
        solver: 'opf' or 'pf'.
        quantities: names in `tables.KINDS`.

    Returns:
        the metadata of the finished run, as in `Scenarios`.

    Raises:
        GridError: as in `generate`; or the folder holds other files, or a run with other arguments.
    """
    _check(num_rows, seed, workers, quantities)
    recipe = recipe_of(net, seed, loads or UniformLoads(), infeed, costs, outages, solver, flow_limit, quantities)
    facts = {**_facts(net, num_rows, recipe), 'part_chunks': PART_CHUNKS}
    store = ScenarioStore(Path(directory))
    store.open(facts)
    tally, first = _Tally(store.num_rows(), Counter(store.read_reasons())), store.num_parts()
    for number, answers in enumerate(_parts(recipe, num_rows, workers, progress, tally, first * PART_CHUNKS), first):
        store.write(number, solved_table(recipe, answers), unsolved_table(recipe, answers))
    return {**facts, **_counts(num_rows, store.read_reasons())}


@dataclass
class _Tally:
    """What has come of the draws so far."""

    solved: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def draws(self) -> int:
        return self.solved + self.reasons.total()

    def add(self, point: OperatingPoint) -> None:
        if point.solved:
            self.solved += 1
        else:
            self.reasons[point.reason] += 1


def _parts(
    recipe: Recipe, num_rows: int, workers: int | None, progress: bool, tally: _Tally, first_chunk: int
) -> Iterator[list[Answer]]:
    """Draws and their answers, `PART_CHUNKS` chunks at a time, up to the one that completes the rows."""
    chunks = _chunks(recipe, first_chunk, workers, lambda: num_rows - tally.solved)
    bar = tqdm(total=num_rows, initial=tally.solved, unit='row', disable=None if progress else True)
    with bar, contextlib.closing(chunks):
        while tally.solved < num_rows:
            answers: list[Answer] = []
            for number, chunk in itertools.islice(chunks, PART_CHUNKS):
                for place, (draw, point) in enumerate(chunk, number * CHUNK_DRAWS):
                    if tally.solved < num_rows:
                        answers.append((place, draw, point))
                        tally.add(point)
                        bar.update(point.solved)
                _refuse_if_hopeless(tally, recipe)
                if tally.solved == num_rows:
                    break
            yield answers


def _chunks(
    recipe: Recipe, first: int, workers: int | None, missing: Callable[[], int]
) -> Generator[tuple[int, list[tuple[Draw, OperatingPoint]]], None, None]:
    """Endless chunks in order; workers get as many at a time as the missing rows ask for."""
    while True:
        wave = min(math.ceil(missing() / CHUNK_DRAWS), WAVE_CHUNKS * joblib.effective_n_jobs(workers))
        numbers = range(first, first + wave)
        solved = _parallel(workers)(joblib.delayed(recipe.solve)(number) for number in numbers)
        yield from zip(numbers, solved, strict=True)
        first = numbers.stop


def _parallel(workers: int | None) -> joblib.Parallel:
    """With results as they come where joblib's backend can give them so; Ray's cannot."""
    try:
        return joblib.Parallel(n_jobs=workers, return_as='generator')
    except ValueError:
        return joblib.Parallel(n_jobs=workers)


def _refuse_if_hopeless(tally: _Tally, recipe: Recipe) -> None:
    if tally.draws < CHUNK_DRAWS or tally.solved >= HOPELESS_SHARE * tally.draws:
        return
    reasons = ', '.join(f'{reason} ({count})' for reason, count in tally.reasons.most_common())
    raise GridError(
        f'Scenario generation needs draws that have a solution, but of the first {tally.draws} draws of '
        f'{recipe.facts()["loads"]}, whose nominal demand is {recipe.problem.drawable.nominal.pd_mw.sum():g} MW in '
        f'all, only {tally.solved} have one. The solver says: {reasons}. Narrow the range, or widen the limits of '
        'voltages, branches or generators.'
    )


def _facts(net: Any, num_rows: int, recipe: Recipe) -> dict[str, Any]:
    """What the rows depend on, and what they mean; as JSON gives it back."""
    drawable = recipe.problem.drawable
    facts = {
        'network': net.name or '',
        'network_sha256': network_digest(net),
        'num_rows': int(num_rows),
        **recipe.facts(),
        'sn_mva': float(net.sn_mva),
        'drawn': {'loads': drawable.loads, 'infeeds': drawable.infeeds, 'priced': drawable.priced},
        'units': UNITS,
        'sign_convention': tables.SIGN_CONVENTION,
    }
    return json.loads(json.dumps(facts))


def _counts(num_rows: int, reasons: list[str]) -> dict[str, Any]:
    """How many draws the rows took."""
    unsolved = {'unsolved': len(reasons), 'unsolved_reasons': dict(Counter(reasons))}
    return {'draws': num_rows + len(reasons), **unsolved}


def _loads(
    loads: LoadModel | None, low: float | None, high: float | None, power_factor: PowerFactor | None
) -> LoadModel:
    options = (('low', low), ('high', high), ('power_factor', power_factor))
    given = {name: value for name, value in options if value is not None}
    if loads is None:
        return UniformLoads(**given)  # type: ignore[arg-type]
    if given:
        raise GridError(
            f'generate needs either loads or {", ".join(given)}, but got both. Pass {", ".join(given)} to the model, '
            'as in loads=UniformLoads(low=0.8, high=1.2).'
        )
    return loads


def _unsolved_path(path: Path) -> Path:
    return path.with_name(f'{path.stem}.unsolved.parquet')


def _check(num_rows: int, seed: int, workers: int | None, quantities: Sequence[str]) -> None:
    if not isinstance(num_rows, int | np.integer) or num_rows < 1:
        raise GridError(
            f'Scenario generation needs num_rows of at least 1, but got {num_rows}. Pass a positive whole number.'
        )
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise GridError(f'Scenario generation needs a seed of at least 0, but got {seed!r}. Pass a whole number.')
    if isinstance(quantities, str) or not len(quantities):
        raise GridError(
            f'Scenario generation needs a sequence of quantities, but got {quantities!r}. Pass for example '
            "quantities=tables.APART, or ('p_mw', 'vm_pu')."
        )
    if workers is not None and workers < 1:
        raise GridError(
            f'Scenario generation needs at least one worker, but got workers={workers}. Pass the number of '
            'processes, or None for what joblib.parallel_config says.'
        )
