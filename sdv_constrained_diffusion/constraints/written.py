"""Constraints as plain data and back: `{'class_name': 'package.module:Class', 'parameters': {...}}`."""

from collections.abc import Mapping
from typing import Any

from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.paths import find, path_of
from sdv_constrained_diffusion.errors import ConstraintError, PluginError


def to_dict(constraint: Constraint) -> dict[str, Any]:
    """A constraint as what JSON can hold.

    Raises:
        ConstraintError: its class does not say what it is made of, or something in it cannot be imported elsewhere.
    """
    return {'class_name': path_of(type(constraint), constraint.name), 'parameters': constraint.parameters()}


def from_dict(description: Mapping[str, Any]) -> Constraint:
    """The constraint that `to_dict` described; imports the module that its class stands in.

    Raises:
        ConstraintError: the description lacks a part, or the class does not take these parameters.
        PluginError: the class cannot be imported, or is no constraint.
    """
    try:
        path, parameters = description['class_name'], description['parameters']
    except KeyError:
        raise ConstraintError(
            f"A written constraint needs 'class_name' and 'parameters'; got {description!r}."
        ) from None
    cls = find(path)
    if not (isinstance(cls, type) and issubclass(cls, Constraint)):
        raise PluginError(f'A written constraint must name a subclass of Constraint; {path!r} is {cls!r}.')
    try:
        return cls.from_parameters(parameters)
    except (TypeError, KeyError) as error:
        raise ConstraintError(f'{path} does not take the parameters {parameters!r}: {error}.') from error
