"""Constraints by name, through entry points: the package's own are found the way a stranger's are."""

from importlib.metadata import EntryPoint, entry_points

from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.errors import MissingExtraError, PluginError

GROUP = 'sdv_constrained_diffusion.constraints'
"""Entry-point group in which a distribution registers its constraint classes."""


def registered() -> dict[str, EntryPoint]:
    """All registered constraints by name; nothing is imported."""
    return {entry_point.name: entry_point for entry_point in entry_points(group=GROUP)}


def load(name: str) -> type[Constraint]:
    """Imports a registered constraint class.

    Args:
        name: the name under which a distribution registered it, e.g. 'power_flow'.

    Raises:
        PluginError: nothing is registered under the name, its import fails, or it is no `Constraint`.
        MissingExtraError: an optional library of this distribution is missing.
    """
    known = registered()
    if name not in known:
        raise PluginError(
            f'No constraint is registered as {name!r}; registered are: {", ".join(sorted(known)) or "none"}. '
            f'Install the distribution that brings it, or check its entry point in the group {GROUP!r}.'
        )
    entry_point = known[name]
    try:
        found = entry_point.load()
    except MissingExtraError:
        raise
    except Exception as error:
        raise PluginError(
            f'The constraint plug-in {name!r} ({entry_point.value}{_origin(entry_point)}) fails to import: '
            f'{type(error).__name__}: {error}. Repair or uninstall that distribution.'
        ) from error
    if not (isinstance(found, type) and issubclass(found, Constraint)):
        raise PluginError(
            f'The constraint plug-in {name!r} ({entry_point.value}{_origin(entry_point)}) must name a subclass of '
            f'Constraint; it names {found!r}. Point its entry point at the class.'
        )
    return found


def _origin(entry_point: EntryPoint) -> str:
    return f', from {entry_point.dist.name} {entry_point.dist.version}' if entry_point.dist else ''
