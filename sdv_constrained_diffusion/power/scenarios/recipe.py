"""How scenarios are made: what is drawn, and how a draw is solved; the same in every process.

Draws come in chunks of fixed size. A chunk has random streams of its own (`numpy.random.SeedSequence`), which depend on
the seed and the chunk's number only, so that chunks can be made in any order and anywhere.
"""

import copy
import dataclasses
import functools
import hashlib
import pickle
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power.nets import MODEL_OPTIONS, require_net, title
from sdv_constrained_diffusion.power.scenarios.draws import Draw, OperatingPoint, Solver
from sdv_constrained_diffusion.power.scenarios.models.costs import CostPerturbation
from sdv_constrained_diffusion.power.scenarios.models.infeed import InfeedModel
from sdv_constrained_diffusion.power.scenarios.models.loads import LoadModel
from sdv_constrained_diffusion.power.scenarios.models.outages import Outages
from sdv_constrained_diffusion.power.scenarios.models.profiles import Chunk
from sdv_constrained_diffusion.power.scenarios.solvers.opf import OptimalPowerFlow
from sdv_constrained_diffusion.power.scenarios.solvers.plain_flow import PlainPowerFlow
from sdv_constrained_diffusion.power.tables import BASE, FlowLimit

SolverName = Literal['opf', 'pf']
"""AC optimal power flow with the network's costs and limits, or plain power flow at its set-points."""

CHUNK_DRAWS = 32
"""Draws that share random streams and a worker's turn; another number means other rows for the same seed."""

_DECIDING = ('sdv-constrained-diffusion', 'numpy', 'scipy', 'pandapower', 'casadi')
"""Distributions whose versions decide about the last bits of a row."""

_BESIDE_LOADS = ('moments', 'infeed', 'costs', 'outages')
"""What has random streams of its own besides the loads, in their order."""

_ONE_AT_A_TIME = threading.Lock()
"""Threads of a process share its solvers, which cannot solve two draws at once."""


@dataclass(frozen=True)
class Recipe:
    """What is drawn of which network, and how it is solved.

    Attributes:
        net: the network, as bytes: a compiled problem cannot travel to another process.
        seed: the only source of randomness.
        loads: distribution of demand.
        infeed: distribution of the static generators' power; None for that of the network.
        costs: distribution of costs; None for those of the network.
        outages: distribution of outages; None for none.
        candidates: labels of the branches that may be out.
        islanding: labels of those that may not, since a bus would lose its supply.
        solver: 'opf' or 'pf'.
        flow_limit: what a branch's rating limits in 'opf'.
        quantities: names in `tables.KINDS`.
    """

    net: bytes = field(repr=False)
    seed: int
    loads: LoadModel
    infeed: InfeedModel | None
    costs: CostPerturbation | None
    outages: Outages | None
    candidates: tuple[str, ...]
    islanding: tuple[str, ...]
    solver: SolverName
    flow_limit: FlowLimit
    quantities: tuple[str, ...]

    @property
    def problem(self) -> Solver:
        """The network, ready to be solved; made once per process."""
        outages = bool(self.candidates)
        return _problem(self.net, self.solver, self.flow_limit, self.quantities, self.costs is not None, outages)

    def draws(self, number: int) -> list[Draw]:
        """The draws of the chunk with a number.

        Raises:
            GridError: a load or infeed model gives factors of another shape, or some that are not finite.
        """
        drawable, count = self.problem.drawable, CHUNK_DRAWS
        nominal, streams = drawable.nominal, self._streams(number)
        chunk = Chunk(np.arange(number * count, (number + 1) * count), streams['moments'].random(count))
        demand = self.loads.factors(streams['loads'], drawable.loads, chunk)
        infeed, costs = np.ones((count, len(drawable.infeeds))), np.ones((count, len(drawable.priced)))
        topologies = [BASE] * count
        if self.infeed:
            infeed = self.infeed.factors(streams['infeed'], drawable.infeeds, chunk)
        if self.costs:
            costs = self.costs.factors(streams['costs'], drawable.priced, chunk)
        if self.outages:
            topologies = self.outages.topologies(streams['outages'], self.candidates, chunk)
        _check_factors(demand, (count, 2, len(drawable.loads)), self.loads)
        _check_factors(infeed, (count, len(drawable.infeeds)), self.infeed)
        pd_mw, qd_mvar = demand[:, 0] * nominal.pd_mw, demand[:, 1] * nominal.qd_mvar
        infeed_mw, infeed_mvar = infeed * nominal.infeed_mw, infeed * nominal.infeed_mvar
        return [Draw(*each) for each in zip(pd_mw, qd_mvar, infeed_mw, infeed_mvar, costs, topologies, strict=True)]

    def solve(self, number: int) -> list[tuple[Draw, OperatingPoint]]:
        """The draws of the chunk with a number, and what the solver says of each."""
        with _ONE_AT_A_TIME:
            problem = self.problem
            return [(draw, problem.solve(draw)) for draw in self.draws(number)]

    def facts(self) -> dict[str, Any]:
        """What the rows depend on besides the network, plain JSON values."""
        outages = self.outages and {**_fields(self.outages), 'candidates': self.candidates, 'islanding': self.islanding}
        return {
            'seed': int(self.seed),
            'loads': _fields(self.loads),
            'infeed': self.infeed and _fields(self.infeed),
            'costs': self.costs and _fields(self.costs),
            'outages': outages,
            'solver': self.solver,
            'flow_limit': self.flow_limit if self.solver == 'opf' else None,
            'quantities': self.quantities,
            'chunk_draws': CHUNK_DRAWS,
            'versions': {name: version(name) for name in _DECIDING},
        }

    def _streams(self, number: int) -> dict[str, np.random.Generator]:
        """The random streams of a chunk: one for each thing that varies, so that another does not change the rest."""
        keys = {'loads': (number,), **{name: (number, place) for place, name in enumerate(_BESIDE_LOADS)}}
        seeds = {name: np.random.SeedSequence(self.seed, spawn_key=key) for name, key in keys.items()}
        return {name: np.random.default_rng(each) for name, each in seeds.items()}


def recipe_of(
    net: Any,
    seed: int,
    loads: LoadModel,
    infeed: InfeedModel | None,
    costs: CostPerturbation | None,
    outages: Outages | None,
    solver: SolverName,
    flow_limit: FlowLimit,
    quantities: Sequence[str],
) -> Recipe:
    """Reads the network, finds what can be out of service, and tries the first draws; arguments as in `Recipe`.

    Raises:
        GridError: an argument is out of range or does not fit the network, or the network cannot be carried.
    """
    require_net(net, 'Scenario generation')
    if seed < 0:
        raise GridError(f'Scenario generation needs a seed of at least 0, but got {seed}. Pass another seed.')
    if solver not in get_args(SolverName):
        raise GridError(
            f"Scenario generation needs solver='opf' or solver='pf', but got {solver!r}. Pass 'opf' for AC optimal "
            "power flow, 'pf' for the power flow at the network's set-points."
        )
    candidates, islanding = outages.candidates(net) if outages else ((), ())
    packed, quantities = zlib.compress(pickle.dumps(_without_results(net))), tuple(quantities)
    recipe = Recipe(packed, seed, loads, infeed, costs, outages, candidates, islanding, solver, flow_limit, quantities)
    _check_problem(recipe, title(net))
    recipe.facts()
    recipe.draws(0)
    return recipe


def network_digest(net: Any) -> str:
    """SHA-256 of what describes a network: its elements, base power, frequency and options, but no results."""
    options = sorted((key, net.user_pf_options[key]) for key in MODEL_OPTIONS if key in net.user_pf_options)
    digest = hashlib.sha256(repr((float(net.sn_mva), float(net.f_hz), *options)).encode())
    for name in sorted(net):
        table = net[name]
        if isinstance(table, pd.DataFrame) and len(table) and not name.startswith(('_', 'res_')):
            # A controller's column `object` prints where it lies in memory.
            digest.update(f'{name}\n{table.drop(columns="object", errors="ignore").to_csv()}'.encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=2)
def _problem(
    net: bytes,
    solver: SolverName,
    flow_limit: FlowLimit,
    quantities: tuple[str, ...],
    costs_vary: bool,
    topology_varies: bool,
) -> Solver:
    read = pickle.loads(zlib.decompress(net))
    if solver == 'pf':
        return PlainPowerFlow(read, quantities)
    return OptimalPowerFlow(read, flow_limit, quantities, costs_vary, topology_varies)


def _check_problem(recipe: Recipe, name: str) -> None:
    problem = recipe.problem
    if isinstance(problem, OptimalPowerFlow) and not problem.nominal.solved:
        raise GridError(
            f'Scenario generation needs a network whose nominal load has a solution, but for {name} with '
            f'flow_limit={recipe.flow_limit!r} the solver says {problem.nominal.reason!r}. Widen the limits of '
            "voltages, branches or generators, or free the external grid's voltage with net.ext_grid['controllable'] "
            '= True.'
        )
    if recipe.infeed and not problem.drawable.infeeds:
        raise GridError(
            f'Scenario generation needs static generators whose infeed can be drawn, but {name} has none that is in '
            "service and not controllable. Add rows to net.sgen, or set net.sgen['controllable'] to False."
        )
    if recipe.costs and not problem.drawable.priced:
        raise GridError(
            f'Scenario generation needs costs to change, but solver={recipe.solver!r} has none for {name}. '
            "Pass solver='opf' and add rows to net.poly_cost, or leave the cost perturbation out."
        )


def _without_results(net: Any) -> Any:
    slim = copy.copy(net)
    for name in [name for name in net if name.startswith('_ppc')]:
        slim[name] = None
    return slim


def _fields(model: Any) -> dict[str, Any]:
    """A dataclass as JSON values."""
    if not dataclasses.is_dataclass(model):
        raise GridError(
            f'Scenario generation needs models that are dataclasses, whose fields it can write down, but got a '
            f'{type(model).__name__}. Put @dataclass(frozen=True) before the class.'
        )
    values = {each.name: _plain(getattr(model, each.name)) for each in dataclasses.fields(model)}
    return {'model': type(model).__name__, **values}


def _plain(value: Any) -> Any:
    """A value that JSON holds; of a table or array its shape and digest, of other objects what they print."""
    if isinstance(value, pd.DataFrame | pd.Series | np.ndarray):
        text = pd.DataFrame(value).to_csv()
        return {'shape': value.shape, 'sha256': hashlib.sha256(text.encode()).hexdigest()}
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str | list | tuple | dict) else repr(value)


def _check_factors(factors: np.ndarray, shape: tuple[int, ...], model: object) -> None:
    if factors.shape != shape or not np.isfinite(factors).all():
        raise GridError(
            f'Scenario generation needs finite factors of shape {shape} from {type(model).__name__}.factors, but got '
            f'{"some that are not finite" if factors.shape == shape else f"shape {factors.shape}"}. Correct the model.'
        )
