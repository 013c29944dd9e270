"""What enters the branches at the voltages of a power flow, by pandapower's own branch admittances."""

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Complex

from sdv_constrained_diffusion.power.nets import branch_ends, loading_per_pu
from sdv_constrained_diffusion.power.tables import column


class PeerFlows:
    """The branches of a solved network, in its own numbering of nodes.

    Attributes:
        y_ends: shape (end, inner), what enters at the ends of the branches: `I = Y V`, per unit.
    """

    def __init__(self, net: Any) -> None:
        """Takes the admittances from the results.

        Args:
            net: a `pandapowerNet` with results of its power flow.
        """
        internal, self._ends = net._ppc['internal'], branch_ends(net)
        # The model's matrices leave out the branches that are out of service.
        row_of = np.cumsum(internal['branch_is']) - 1
        rows = row_of[np.array([end.row for end in self._ends], dtype=np.int64)]
        side = np.array([end.side for end in self._ends], dtype=np.int64)
        self.y_ends = sp.vstack([internal['Yf'], internal['Yt']]).tocsr()[rows + side * internal['Yf'].shape[0]]
        self._at = np.array([int(net._ppc['branch'][end.row, end.side].real) for end in self._ends], dtype=np.int64)
        self._percent_per_pu = loading_per_pu(net, self._ends)
        self._base_mva = float(internal['baseMVA'])

    def at(self, v: Complex[np.ndarray, 'row inner']) -> pd.DataFrame:
        """The flows of `tables.FLOWS` at complex voltages, by the names of their columns, in MW, Mvar and percent."""
        current = (self.y_ends @ v.T).T
        power = self._base_mva * v[:, self._at] * np.conj(current)
        percent = np.abs(current) * self._percent_per_pu
        flows: dict[str, np.ndarray] = {}
        for place, end in enumerate(self._ends):
            side = ('from', 'to')[end.side]
            flows[column(f'p_{side}_mw', end.label)] = power[:, place].real
            flows[column(f'q_{side}_mvar', end.label)] = power[:, place].imag
            loading = column('loading_percent', end.label)
            flows[loading] = np.fmax(percent[:, place], flows.get(loading, np.nan))
        return pd.DataFrame(flows)
