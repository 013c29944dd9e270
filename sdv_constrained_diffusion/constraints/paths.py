"""Import paths, 'package.module:Name': how a written constraint names classes and functions."""

import importlib
from collections.abc import Callable
from typing import Any

from sdv_constrained_diffusion.errors import ConstraintError, PluginError


def path_of(what: Callable[..., Any], who: str) -> str:
    """The import path of a class or a function.

    Args:
        what: the class or function.
        who: the constraint that is to be written down, for the error message.

    Raises:
        ConstraintError: other processes could not import it.
    """
    module, name = what.__module__, what.__qualname__
    if module == '__main__' or '<' in name:
        raise ConstraintError(
            f'{who} cannot be written down: {module}:{name} cannot be imported from elsewhere. Move it to the top '
            'level of a module.'
        )
    return f'{module}:{name}'


def find(path: str) -> Any:
    """What stands at an import path.

    Raises:
        PluginError: there is no such module, or no such name in it.
    """
    module, _, names = str(path).partition(':')
    try:
        found: Any = importlib.import_module(module)
        for name in names.split('.'):
            found = getattr(found, name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise PluginError(
            f'{path!r} cannot be imported: {error}. Install what brings it, or mend the path, package.module:Name.'
        ) from error
    return found
