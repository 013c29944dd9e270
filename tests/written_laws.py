"""Laws that a file can name: they stand at the top level of a module."""

from dataclasses import dataclass
from typing import Any

from sdv_constrained_diffusion import Constraint, constraint


@constraint(columns=['gen_mw', 'load_mw'], upper=float('inf'), tolerance=1e-6, unit='MW')
def enough(table):
    return table.gen_mw - table.load_mw


class Wordless(Constraint):
    columns = ('a',)

    def residual(self, table):
        return table.a


@dataclass(eq=False)
class Below(Constraint):
    columns: Any
    upper: Any
    lower = -float('inf')

    def residual(self, table):
        return table[list(self.columns)]
