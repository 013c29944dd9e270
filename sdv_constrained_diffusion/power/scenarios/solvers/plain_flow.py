"""Plain power flow of one network for many draws: `pandapower.runpp`, generators at the network's set-points."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power import nets
from sdv_constrained_diffusion.power.scenarios.draws import Draw, Drawable, OperatingPoint, Solver
from sdv_constrained_diffusion.power.scenarios.models.outages import KINDS
from sdv_constrained_diffusion.power.tables import BASE, WIDE

SOLVED = 'Converged'
"""The reason of an operating point that pandapower found."""


class PlainPowerFlow(Solver):
    """The power flow of one network, ready to be solved for any draw.

    Generators keep their `p_mw` and `vm_pu`; the slacks balance the rest. Limits are not enforced. There is no
    objective, so nothing is priced.

    Attributes:
        columns: names of the columns of `OperatingPoint.values`.
        drawable: what of the network can be drawn, and its nominal values.
    """

    def __init__(self, net: Any, quantities: Sequence[str] = WIDE) -> None:
        """Solves the network's own situation; later changes of `net` have no effect.

        Args:
            net: a `pandapowerNet`, left as it is.
            quantities: names in `tables.KINDS`.

        Raises:
            GridError: as in `Grid.from_pandapower`; or a quantity is unknown, or there is no load.
            MissingExtraError: pandapower is not installed.
        """
        who = 'PlainPowerFlow'
        self._pandapower = nets.import_pandapower(who)
        self._quantities = nets.check_quantities(quantities, who)
        self._net = net = nets.solve(net, who)
        self._loads = [each.index for each in nets.loads(net)]
        feeders = [each for each in nets.generators(net) if each.table == 'sgen' and each.index not in _dispatched(net)]
        self._infeeds = [each.index for each in feeders]
        if not self._loads:
            raise GridError(
                f'{who} needs at least one load to draw, but {nets.title(net)} has none in service. Add rows to '
                'net.load.'
            )
        for table in ('load', 'sgen'):
            powers = net[table][['p_mw', 'q_mvar']].mul(net[table]['scaling'], axis=0)
            net[table][['p_mw', 'q_mvar']] = powers.astype('float64')
            net[table]['scaling'] = 1.0
        load, sgen = net.load.loc[self._loads], net.sgen.loc[self._infeeds]
        self.drawable = Drawable(
            loads=tuple(map(str, self._loads)),
            infeeds=tuple(each.label for each in feeders),
            priced=(),
            nominal=Draw(
                pd_mw=load['p_mw'].to_numpy(),
                qd_mvar=load['q_mvar'].to_numpy(),
                infeed_mw=sgen['p_mw'].to_numpy(),
                infeed_mvar=sgen['q_mvar'].to_numpy(),
                cost_factors=np.ones(0),
            ),
        )
        self.columns = [str(name) for name in nets.result_row(net, quantities).columns]

    def solve(self, draw: Draw) -> OperatingPoint:
        """Finds the operating point of one draw, or gives the name of pandapower's exception.

        Args:
            draw: shapes as those of `drawable.nominal`.
        """
        net = self._net
        net.load.loc[self._loads, 'p_mw'], net.load.loc[self._loads, 'q_mvar'] = draw.pd_mw, draw.qd_mvar
        net.sgen.loc[self._infeeds, 'p_mw'], net.sgen.loc[self._infeeds, 'q_mvar'] = draw.infeed_mw, draw.infeed_mvar
        try:
            self._run(draw.topology)
        except self._pandapower.LoadflowNotConverged as error:
            return OperatingPoint(False, type(error).__name__, np.full(len(self.columns), np.nan))
        # A branch that is out of service has no result: nothing flows.
        row = nets.result_row(net, self._quantities).iloc[0].reindex(self.columns, fill_value=0.0)
        return OperatingPoint(True, SOLVED, row.to_numpy(dtype='float64'))

    def _run(self, topology: str) -> None:
        with _out_of_service(self._net, topology):
            self._pandapower.runpp(self._net, calculate_voltage_angles=True, numba=False, lightsim2grid=False)


@contextmanager
def _out_of_service(net: Any, topology: str) -> Iterator[None]:
    """Takes a branch out while a block runs; nothing for `BASE`."""
    kind, _, index = topology.rpartition('_')
    if topology == BASE:
        yield
        return
    if kind not in KINDS or not index.isdigit() or int(index) not in net[kind].index:
        raise GridError(
            f'PlainPowerFlow.solve needs the label of a line or transformer of {nets.title(net)}, but got '
            f'{topology!r}. Pass one such as line_0.'
        )
    net[kind].loc[int(index), 'in_service'] = False
    try:
        yield
    finally:
        net[kind].loc[int(index), 'in_service'] = True


def _dispatched(net: Any) -> pd.Index:
    """The static generators that an optimal power flow would dispatch."""
    if 'controllable' not in net.sgen:
        return net.sgen.index[:0]
    return net.sgen.index[net.sgen['controllable'].astype('boolean').fillna(False).astype(bool)]
