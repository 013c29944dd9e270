"""Constraints by name, through entry points: the package's own are found the way a stranger's are."""

import os
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import pandas as pd

from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.errors import MissingExtraError, PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
else:
    EntryPoint = Any  # importlib_metadata, where some library imports it, has a class of its own that does the same

GROUP = 'sdv_constrained_diffusion.constraints'
"""Entry-point group in which a distribution registers its constraint classes."""

SWITCH = 'SDV_CONSTRAINED_DIFFUSION_PLUGINS'
"""Environment variable that switches the constraints of other distributions off when it is '0' or 'off'."""

OWN = 'sdv-constrained-diffusion'


def registered() -> dict[str, EntryPoint]:
    """All registered constraints by name; nothing is imported. Of several under one name it is the first."""
    return {name: each[0] for name, each in _by_name().items()}


def listing() -> pd.DataFrame:
    """The registered constraints, tried out: each is imported, and what fails is named and skipped.

    Returns:
        one row for each: `name`; `origin` and `version` of the distribution that brings it; `problem`, '' if it works.
    """
    rows = []
    for name, each in sorted(_by_name().items()):
        for entry_point in each:
            problem = ''
            try:
                load(name)
            except (PluginError, MissingExtraError) as error:
                problem = str(error)
            dist = entry_point.dist
            rows.append((name, dist.name if dist else '', dist.version if dist else '', problem))
    return pd.DataFrame(rows, columns=['name', 'origin', 'version', 'problem'])


def load(name: str) -> type[Constraint]:
    """Imports a registered constraint class.

    Args:
        name: the name under which a distribution registered it, e.g. 'power_flow'.

    Raises:
        PluginError: nothing or more than one thing is registered under the name, its import fails, or it is no
            `Constraint`.
        MissingExtraError: an optional library of this distribution is missing.
    """
    known = _by_name()
    if name not in known:
        off = f' Those of other distributions are switched off by {SWITCH}.' if _switched_off() else ''
        raise PluginError(
            f'No constraint is registered as {name!r}; registered are: {", ".join(sorted(known)) or "none"}. '
            f'Install the distribution that brings it, or check its entry point in the group {GROUP!r}.{off}'
        )
    if len(known[name]) > 1:
        raise PluginError(
            f'More than one constraint is registered as {name!r}: {", ".join(map(_described, known[name]))}. Uninstall '
            'one of these distributions, or import the class you mean.'
        )
    (entry_point,) = known[name]
    try:
        found = entry_point.load()
    except MissingExtraError:
        raise
    except Exception as error:
        raise PluginError(
            f'The constraint plug-in {name!r} ({_described(entry_point)}) fails to import: '
            f'{type(error).__name__}: {error}. Repair or uninstall that distribution.'
        ) from error
    if not (isinstance(found, type) and issubclass(found, Constraint)):
        raise PluginError(
            f'The constraint plug-in {name!r} ({_described(entry_point)}) must name a subclass of '
            f'Constraint; it names {found!r}. Point its entry point at the class.'
        )
    return found


def _by_name() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry_point in entry_points(group=GROUP):
        if not _switched_off() or (entry_point.dist is not None and entry_point.dist.name == OWN):
            found.setdefault(entry_point.name, []).append(entry_point)
    return found


def _switched_off() -> bool:
    return os.environ.get(SWITCH, '').lower() in {'0', 'off'}


def _described(entry_point: EntryPoint) -> str:
    dist = entry_point.dist
    return f'{entry_point.value}, from {dist.name} {dist.version}' if dist else entry_point.value
