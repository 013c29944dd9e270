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
        ConstraintError: one cannot be written down; the message says what it lacks. Nothing is written then.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"Cannot save constraints to file because '{path}' already exists. Choose another name.")
    described = [to_dict(each) if isinstance(each, Constraint) else each.get_constraint_dict() for each in constraints]
    path.write_text(json.dumps(described, indent=4))


def load_constraints(path: str | Path) -> list[Any]:
    """Reads what `get_constraints(path)` wrote. The classes of our constraints are imported: read files you trust.

    Args:
        path: the JSON file; files of SDV's own constraints can be read, too.

    Returns:
        constraints for `add_constraints`.

    Raises:
        ConstraintError: an entry is no written constraint.
        PluginError: a class cannot be imported.
    """
    return [_read(each) for each in json.loads(Path(path).read_text())]


def _read(description: Any) -> Any:
    name = description.get('class_name') if isinstance(description, dict) else None
    if ':' in str(name):
        return from_dict(description)
    cls = getattr(sdv.cag, str(name), None)
    if cls is None:
        raise ConstraintError(
            f'{description!r} is no written constraint: its class_name must be a constraint in sdv.cag or an import '
            'path package.module:Class.'
        )
    return cls.load_constraint_from_dict(description['parameters'])
