"""What varies, by name: from the options of a command line to models."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power import tables
from sdv_constrained_diffusion.power.scenarios.models.costs import CostPerturbation
from sdv_constrained_diffusion.power.scenarios.models.infeed import ProfileInfeed, UniformInfeed
from sdv_constrained_diffusion.power.scenarios.models.loads import NormalLoads, ProfileLoads, UniformLoads
from sdv_constrained_diffusion.power.scenarios.models.outages import Outages
from sdv_constrained_diffusion.power.scenarios.models.profiles import read_profile

MODELS: dict[str, dict[str, type]] = {
    'loads': {'uniform': UniformLoads, 'normal': NormalLoads, 'profile': ProfileLoads},
    'infeed': {'uniform': UniformInfeed, 'profile': ProfileInfeed},
}
"""Of what varies, the models by name."""

QUANTITIES = {'wide': tables.WIDE, 'apart': tables.APART}
"""Forms of a table."""


def models(
    loads: Mapping[str, Any], infeed: Mapping[str, Any], cost_spread: float | None, outages: float | None
) -> dict[str, Any]:
    """Makes the models that `generate_to` takes.

    Args:
        loads: `name` of a model, and its fields; those that are None count as not given; `table` is a path.
        infeed: the same; no model if there is no name.
        cost_spread: of `CostPerturbation`, none if None.
        outages: share of `Outages`, none if None.

    Raises:
        GridError: a name is unknown, an option is not one of the model's, or one that it needs is missing.
    """
    return {
        'loads': _made('loads', **loads),
        'infeed': _made('infeed', **infeed),
        'costs': None if cost_spread is None else CostPerturbation(cost_spread),
        'outages': None if outages is None else Outages(outages),
    }


def quantities_of(form: str, flows: bool) -> tuple[str, ...]:
    """Quantities of a form of table, with those of the branches or without.

    Raises:
        GridError: the form is unknown.
    """
    if form not in QUANTITIES:
        raise GridError(f'Option quantities needs one of {list(QUANTITIES)}, but got {form!r}. Pass one of them.')
    return (*QUANTITIES[form], *(tables.FLOWS if flows else ()))


def _made(what: str, name: str | None, **options: Any) -> Any:
    known, given = MODELS[what], {option: value for option, value in options.items() if value is not None}
    if name is None and not given:
        return None
    if name not in known:
        raise GridError(
            f'Option {what} needs one of {list(known)}, but got {name!r}'
            f'{f" with {next(iter(given))!r}" if given else ""}. Pass one of them.'
        )
    fields = {each.name: each for each in dataclasses.fields(known[name])}
    if alien := [option for option in given if option not in fields]:
        raise GridError(
            f'{name} {what} take {", ".join(fields)}, but got {alien[0]!r}. Leave it out, or choose another of '
            f'{list(known)}.'
        )
    required = [option for option, each in fields.items() if each.default is dataclasses.MISSING]
    if lacking := [option for option in required if option not in given]:
        raise GridError(f'{name} {what} need {lacking[0]!r}, which was not given. Pass the file of the profile.')
    if 'table' in given:
        given['table'] = read_profile(given['table'])
    return known[name](**given)
