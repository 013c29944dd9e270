"""Column names and units of power-flow tables: one operating point per row.

A name is a quantity with its unit, and what it belongs to: a bus (`vm_pu_3`), a load (`pd_mw_0`), a generator
(`pg_mw_gen_1`), a branch (`p_from_mw_line_7`); numbers are pandapower's. Signs: `p_mw` and `q_mvar` are net injections
of a bus, generation minus load, positive into the network; `pd_mw` is consumption, `pg_mw` generation, both positive in
their own sense; `p_from_mw` is what enters a branch at that end. Shunts belong to the network, not to the injection.
(pandapower's `net.res_bus` has the opposite sign and includes shunts.)
"""

from collections.abc import Iterable
from typing import Literal

FlowLimit = Literal['apparent', 'current']
"""What a branch's rating limits at both of its ends: apparent power (MATPOWER) or current (`pandapower.runopp`)."""

WIDE = ('p_mw', 'q_mvar', 'vm_pu', 'va_degree')
"""The four quantities of a bus, in the order of the wide table."""

APART = ('pd_mw', 'qd_mvar', 'pg_mw', 'qg_mvar', 'vm_pu', 'va_degree')
"""Demand of every load and generation of every generator instead of the buses' injections."""

FLOWS = ('p_from_mw', 'q_from_mvar', 'p_to_mw', 'q_to_mvar', 'loading_percent')
"""Quantities of a branch: what enters it at its two ends, and the larger current in percent of its rating."""

KINDS = {
    **dict.fromkeys(WIDE, 'bus'),
    **dict.fromkeys(('pd_mw', 'qd_mvar'), 'load'),
    **dict.fromkeys(('pg_mw', 'qg_mvar'), 'generator'),
    **dict.fromkeys(FLOWS, 'branch'),
}
"""What each quantity belongs to."""

TOPOLOGY, BASE, JOIN = 'topology', 'base', '+'
"""The column that names which branches are out of service; the name of none; and what joins the labels of several."""

SIGN_CONVENTION = (
    'p_mw and q_mvar are net injections at the bus: generation minus load, generation positive; '
    'pd_mw and qd_mvar are consumption, pg_mw and qg_mvar generation'
)


def column(quantity: str, element: object) -> str:
    """Name of a quantity's column, e.g. `column('p_mw', 3) == 'p_mw_3'`."""
    return f'{quantity}_{element}'


def columns(buses: Iterable[int]) -> list[str]:
    """All columns of the wide table: every bus's `p_mw`, then every `q_mvar`, `vm_pu`, `va_degree`."""
    buses = list(buses)
    return [column(quantity, bus) for quantity in WIDE for bus in buses]
