"""Column names and units of power-flow tables: one operating point per row, four columns per bus.

Signs: `p_mw` and `q_mvar` are net injections, generation minus load, positive into the network. Shunts belong to the
network, not to the injection. (pandapower's `net.res_bus` has the opposite sign and includes shunts.)
"""

from collections.abc import Iterable

QUANTITIES = ('p_mw', 'q_mvar', 'vm_pu', 'va_degree')
"""The four quantities of a bus, in the order of the wide table; the unit is in the name."""

SIGN_CONVENTION = 'p_mw and q_mvar are net injections at the bus: generation minus load, generation positive'


def column(quantity: str, bus: int) -> str:
    """Name of a quantity's column, e.g. `column('p_mw', 3) == 'p_mw_3'`."""
    return f'{quantity}_{bus}'


def columns(buses: Iterable[int]) -> list[str]:
    """All columns of the wide table: every bus's `p_mw`, then every `q_mvar`, `vm_pu`, `va_degree`."""
    buses = list(buses)
    return [column(quantity, bus) for quantity in QUANTITIES for bus in buses]
