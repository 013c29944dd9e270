"""A constraint that anyone can publish: the ideal gas."""

from dataclasses import dataclass

from sdv_constrained_diffusion import Constraint

GAS_CONSTANT = 8.314462618
"""J / (mol K)."""


@dataclass(eq=False)
class IdealGas(Constraint):
    """`p V = n R T` in kPa, litres, moles and kelvins; the residual is in joules."""

    moles: float = 1.0
    tolerance: float = 1e-6

    columns = ('pressure_kpa', 'volume_l', 'temperature_k')
    unit = 'J'

    def residual(self, table):
        return table.pressure_kpa * table.volume_l - self.moles * GAS_CONSTANT * table.temperature_k
