"""Constraints in a JSON file: ours by the import path of their class, SDV's as SDV writes them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sdv.cag

from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.written import from_dict, to_dict
from sdv_constrained_diffusion.errors import ConstraintError


def save_constraints(constraints: Sequence[Any], path: str | Path) -> None:
    """Writes constraints of this package and of SDV, in any mix.

    Args:
        constraints: the constraints.
        path: a file that does not exist yet.

    Raises:
        ValueError: the file exists.
        ConstraintError: one cannot be written down; the message names it. Nothing is written then.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"Cannot save constraints to file because '{path}' already exists. Choose another name.")
    path.write_text(json.dumps([_plain(each) for each in constraints], indent=4))


def load_constraints(path: str | Path) -> list[Any]:
    """Reads what `get_constraints(path)` wrote. The classes of our constraints are imported: read files you trust.

    Args:
        path: the JSON file; files of SDV's own constraints can be read, too.

    Returns:
        constraints for `add_constraints`.

    Raises:
        ConstraintError: an entry is no written constraint, or its class does not take its parameters.
        PluginError: a class cannot be imported.
    """
    return [_read(each) for each in json.loads(Path(path).read_text())]


def _plain(constraint: Any) -> Any:
    """A constraint as plain lists, texts and numbers."""
    described = to_dict(constraint) if isinstance(constraint, Constraint) else constraint.get_constraint_dict()
    try:
        # NumPy's and torch's numbers and arrays become plain ones.
        return json.loads(json.dumps(described, default=lambda value: value.tolist()))
    except (TypeError, AttributeError) as error:
        name = getattr(constraint, 'name', type(constraint).__name__)
        raise ConstraintError(
            f'{name} cannot be written down: {error}. Its parameters must be texts, numbers, lists or dictionaries.'
        ) from error


def _read(description: Any) -> Any:
    name = description.get('class_name') if isinstance(description, dict) else None
    if ':' in str(name):
        return from_dict(description)
    cls: Any = getattr(sdv.cag, str(name), None)
    if not hasattr(cls, 'load_constraint_from_dict') or 'parameters' not in description:
        raise ConstraintError(
            f"{description!r} is no written constraint: it needs 'parameters', and as class_name a constraint in "
            'sdv.cag or an import path package.module:Class.'
        )
    try:
        return cls.load_constraint_from_dict(description['parameters'])
    except TypeError as error:
        raise ConstraintError(f'{name} does not take the parameters {description["parameters"]!r}: {error}.') from error
