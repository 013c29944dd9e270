"""Which columns of a table hold which quantities of a grid, and in which units and signs."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError, close_names
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.tables import KINDS, WIDE, column

DEGREES_PER_RADIAN = 180 / math.pi

Power = Literal['p', 'q']
"""Active or reactive."""

INJECTED: dict[Power, str] = {'p': 'p_mw', 'q': 'q_mvar'}
UNIT: dict[Power, str] = {'p': 'MW', 'q': 'Mvar'}
"""Quantity of a bus's injection, and how its unit is written."""


@dataclass(frozen=True)
class Units:
    """How a table writes powers and angles; the names of its columns do not change the meaning of these.

    Attributes:
        power: 'MW' (and Mvar), or 'p.u.' of the grid's `sn_mva`.
        angle: 'degree' or 'radian'.
        sign: of the buses' net injections: 'generation' counts as positive, or 'load'. Demand, generation and flows are
            positive in their own sense either way.
    """

    power: Literal['MW', 'p.u.'] = 'MW'
    angle: Literal['degree', 'radian'] = 'degree'
    sign: Literal['generation', 'load'] = 'generation'

    def __post_init__(self) -> None:
        """Refuses unknown words.

        Raises:
            ConstraintError: one is not among those above.
        """
        for name, kind in type(self).__annotations__.items():
            if getattr(self, name) not in get_args(kind):
                raise ConstraintError(
                    f'Units needs {name} of {list(get_args(kind))}, but got {getattr(self, name)!r}. Pass one of them.'
                )

    @classmethod
    def of(cls, units: 'Units | Mapping[str, Any] | None') -> 'Units':
        """Units as they are, of their names and words, or by default.

        Raises:
            ConstraintError: a name or a word is unknown.
        """
        if isinstance(units, cls):
            return units
        known = list(cls.__annotations__)
        if units is not None and not isinstance(units, Mapping):
            raise ConstraintError(f'units needs Units(...) or a dictionary with keys of {known}, but got {units!r}.')
        unknown = [name for name in units or () if name not in known]
        if unknown:
            raise ConstraintError(f'Units has {known}, but got {unknown[0]!r}. Pass units=Units(power=..., angle=...).')
        return cls(**(units or {}))

    def factor(self, quantity: str, sn_mva: float) -> float:
        """What a column's numbers are multiplied by to be in MW, Mvar or degrees, generation positive."""
        if quantity == 'va_degree':
            return 1.0 if self.angle == 'degree' else DEGREES_PER_RADIAN
        if quantity in ('vm_pu', 'loading_percent'):
            return 1.0
        sign = -1.0 if self.sign == 'load' and quantity in ('p_mw', 'q_mvar') else 1.0
        return sign * (1.0 if self.power == 'MW' else sn_mva)


class PowerColumns:
    """The columns of a table that hold quantities of a grid.

    Attributes:
        grid: the grid.
        names: the table's own names, quantity by quantity.
        factors: what each column is multiplied by to be in MW, Mvar, p.u., degrees or percent, generation positive.
    """

    def __init__(
        self,
        grid: Grid,
        own_names: Mapping[str, str] | None = None,
        table: Iterable[str] | None = None,
        units: Units | Mapping[str, Any] | None = None,
        who: str = 'PowerFlow',
    ) -> None:
        """Finds the columns.

        Args:
            grid: the grid.
            own_names: from the standard name of a column to the table's own.
            table: the table's columns, of which those with a meaning are taken; None for the wide table, p, q, vm and
                va of every bus.
            units: how the table writes powers and angles; MW, degrees and generation positive when None.
            who: the constraint, for messages.

        Raises:
            ConstraintError: `own_names` names a standard column that the grid does not have, or one column twice, or
                `table` is one name.
            ColumnMissingError: `own_names` names a column that is not in `table`.
        """
        units = Units.of(units)
        self.grid, self.units, self._who = grid, units, who
        self._own_names = dict(own_names or {})
        quantities = WIDE if table is None else KINDS
        standard = {
            column(quantity, label): (quantity, place)
            for quantity in quantities
            for place, label in enumerate(grid.labels(quantity))
        }
        self._check_names(standard)
        if isinstance(table, str):
            raise ConstraintError(
                f"{who} needs the table's columns, but got {table!r}. Pass table=data or a list of names."
            )
        if table is not None:
            present = {str(name): None for name in table}
            self._check_present(present)
            standard = {name: each for name, each in standard.items() if self._own_names.get(name, name) in present}
        self._standard = list(standard)
        self.names = tuple(self._own_names.get(name, name) for name in standard)
        self._check_twice()
        self._place = np.array([place for _, place in standard.values()], dtype=np.int64)
        self._quantity = np.array([quantity for quantity, _ in standard.values()], dtype=object)
        self.factors = np.array([units.factor(quantity, grid.sn_mva) for quantity in self._quantity], dtype='float64')

    def of(self, quantity: str) -> tuple[Int[np.ndarray, ' some'], Int[np.ndarray, ' some']]:
        """Places in `names` of a quantity's columns, and of their elements among `grid.labels(quantity)`."""
        places = np.flatnonzero(self._quantity == quantity)
        return places, self._place[places]

    def standard(self, place: int) -> str:
        """The standard name of the column at a place in `names`."""
        return self._standard[place]

    def selection(self, places: Int[np.ndarray, ' some']) -> sp.csr_matrix:
        """Weights that pick columns by their places in `names`, in their quantity's unit, shape (some, column)."""
        each = np.arange(len(places))
        return sp.csr_matrix((self.factors[places], (each, places)), (len(places), len(self.names)))

    def states(self) -> Int[np.ndarray, ' state']:
        """Places in `names` of each node's magnitude, then of each node's angle, by its first bus; -1 where unseen."""
        nodes = len(self.grid.y_bus)
        found = np.full(2 * nodes, -1)
        for turn, quantity in enumerate(('vm_pu', 'va_degree')):
            places, buses = self.of(quantity)
            found[turn * nodes + self.grid.node[buses[::-1]]] = places[::-1]
        return found

    def names_of(self, *quantities: str) -> list[str]:
        """The table's own names of some quantities' columns."""
        return [self.names[place] for quantity in quantities for place in self.of(quantity)[0].tolist()]

    def injection(self, power: Power) -> tuple[Bool[np.ndarray, ' bus'], sp.csr_matrix, Float[np.ndarray, ' bus']]:
        """Each bus's net injection as a sum of columns: of its own column, or of those of its loads and generators.

        Returns:
            which buses' injection the columns tell; the weight of each column in it, shape (bus, column); and what
            comes on top, in MW or Mvar, generation positive.
        """
        missing, weights, rest = self._from_elements(power)
        places, buses = self.of(INJECTED[power])
        summed = np.ones(len(rest))
        summed[buses], rest[buses], missing[buses] = 0.0, 0.0, False
        weights = sp.diags_array(summed) @ weights + self._at(buses, places)
        return ~missing, sp.csr_matrix(weights), np.where(missing, 0.0, rest)

    def balances(self, power: Power) -> tuple[list[int], sp.csr_matrix, Float[np.ndarray, ' some']]:
        """Buses whose injection has a column, and so have all their loads and generators: these must agree.

        Returns:
            the buses' positions; and the weight of each column, shape (some, column), and the constant, of what must be
            zero at each, in MW or Mvar.
        """
        missing, weights, rest = self._from_elements(power)
        places, buses = self.of(INJECTED[power])
        both = ~missing[buses] & (weights[buses].getnnz(axis=1) > 0)
        difference = self.selection(places[both]) - weights[buses[both]]
        return buses[both].tolist(), difference, -rest[buses[both]]

    def require(self, available: Iterable[str]) -> None:
        """Checks that a table has the columns.

        Raises:
            ColumnMissingError: one is missing; the message names it, what looks close, and how to pass that.
        """
        available = [str(name) for name in available]
        present = set(available)
        for standard, own in zip(self._standard, self.names, strict=True):
            if own not in present:
                close = close_names(own, [name for name in available if name not in self.names], most=1)
                hint = f'Pass columns={{{standard!r}: {(close or ["..."])[0]!r}}} or rename the column.'
                raise ColumnMissingError.of(self._who, own, available, hint)

    def parameters(self) -> dict[str, Any]:
        """What makes the same columns again, values that JSON can hold; the grid aside."""
        return {'columns': self._own_names, 'table': list(self.names), 'units': asdict(self.units)}

    def _from_elements(self, power: Power) -> tuple[Bool[np.ndarray, ' bus'], sp.csr_matrix, Float[np.ndarray, ' bus']]:
        """Injection by the columns of loads and generators: where one is missing, the weights, what comes on top."""
        grid, unit = self.grid, UNIT[power].lower()
        weights, rest = self._at(np.zeros(0, int), np.zeros(0, int)), getattr(grid, f'rest_{unit}').copy()
        missing = np.isnan(rest)
        for quantity, at, sign in (
            (f'{power}d_{unit}', grid.load_at, -1.0),
            (f'{power}g_{unit}', grid.generator_at, 1.0),
        ):
            places, elements = self.of(quantity)
            weights = weights + sign * self._at(at[elements], places)
            missing[np.delete(at, elements)] = True
        return missing, weights, rest

    def _at(self, buses: Int[np.ndarray, ' some'], places: Int[np.ndarray, ' some']) -> sp.csr_matrix:
        """Weights of columns, by their places in `names`, at buses, shape (bus, column)."""
        return sp.csr_matrix((self.factors[places], (buses, places)), (len(self.grid.buses), len(self.names)))

    def _check_names(self, standard: Iterable[str]) -> None:
        unknown = [name for name in self._own_names if name not in standard]
        if unknown:
            close = close_names(unknown[0], standard)
            looks = f' Standard names that look close: {", ".join(map(repr, close))}.' if close else ''
            raise ConstraintError(
                f'{self._who} needs columns={{standard name: own name}}, but {unknown[0]!r} is no standard name of '
                f'this grid.{looks} Standard names are p_mw_<bus>, q_mvar_<bus>, vm_pu_<bus>, va_degree_<bus>, and '
                "with table= those of loads, generators and branches (power.tables), such as 'pd_mw_0'."
            )

    def _check_present(self, table: Iterable[str]) -> None:
        for standard, own in self._own_names.items():
            if own not in table:
                hint = f'Mend columns={{{standard!r}: ...}}, or leave it out if the table lacks it.'
                raise ColumnMissingError.of(self._who, own, table, hint)

    def _check_twice(self) -> None:
        twice = sorted(name for name, times in Counter(self.names).items() if times > 1)
        if twice:
            raise ConstraintError(
                f'{self._who} needs a column of its own for every quantity, but {twice[0]!r} is used for several. '
                'Give each standard name another column in columns={...}.'
            )
