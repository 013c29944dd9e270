"""An SDV synthesizer: diffusion models for tables whose rows obey constraints to solver precision."""

import sdv  # noqa: F401, I001  First, so that SDV's plug-in discovery never meets this module half-built.

from typing import Any

from sdv_constrained_diffusion.constraint_files import load_constraints
from sdv_constrained_diffusion.constraints import registry
from sdv_constrained_diffusion.constraints.algebraic import Bounds, ConditionalOn, Linear, Ordered, Ratio, SumTo
from sdv_constrained_diffusion.constraints.base import Constraint, constraint
from sdv_constrained_diffusion.constraints.formula import Formula
from sdv_constrained_diffusion.metadata import operating_point_metadata
from sdv_constrained_diffusion.sdv_constraint import as_sdv_constraint
from sdv_constrained_diffusion.synthesizer import ConstrainedDiffusionSynthesizer
from sdv_constrained_diffusion.testing import check_constraint

__version__ = '0.1.0.dev0'

POWER = {'PowerFlow': 'power_flow', 'OperatingLimits': 'operating_limits', 'ByTopology': 'by_topology'}
"""Constraints of the extra `power`, by their names in the registry."""

__all__ = [
    'Bounds',
    'ByTopology',
    'ConditionalOn',
    'ConstrainedDiffusionSynthesizer',
    'Constraint',
    'FidelityReport',
    'Formula',
    'Linear',
    'OperatingLimits',
    'Ordered',
    'PowerFlow',
    'Ratio',
    'SumTo',
    'as_sdv_constraint',
    'check_constraint',
    'constraint',
    'load_constraints',
    'operating_point_metadata',
]


def __getattr__(name: str) -> Any:
    """Loads what needs further libraries on first use: `PowerFlow` through its entry point, `FidelityReport`."""
    if name in POWER:
        return registry.load(POWER[name])
    if name == 'FidelityReport':
        from sdv_constrained_diffusion.report.fidelity import FidelityReport

        return FidelityReport
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
