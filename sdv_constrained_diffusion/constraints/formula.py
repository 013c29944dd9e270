"""Laws written as text. The text is parsed and walked, never executed: it can name columns and a few functions only."""

import ast
import functools
import math
import operator
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdv_constrained_diffusion.constraints.base import Constraint, TableView
from sdv_constrained_diffusion.errors import ConstraintError

LONGEST = 5000
"""Most characters of a formula."""

QUOTED = r'`([^`]+)`'
"""A column's name in backticks."""

DEEPEST = 300
"""Most terms, signs and brackets inside each other: `a + b + c` has two levels."""

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    'abs': torch.abs,
    'cos': torch.cos,
    'exp': torch.exp,
    'log': torch.log,
    'maximum': torch.maximum,
    'minimum': torch.minimum,
    'sin': torch.sin,
    'sqrt': torch.sqrt,
    'tan': torch.tan,
}
"""What a formula may call, on one argument or, for 'maximum' and 'minimum', on two."""

_BINARY: dict[type[ast.operator], Callable[[Tensor, Tensor], Tensor]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Tensor], Tensor]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_COMPARISONS = (ast.Eq, ast.LtE, ast.GtE)


@dataclass(eq=False)
class Formula(Constraint):
    """An equation or a chain of inequalities: 'total == price * quantity', '0 <= loss_mw <= 0.1 * load_mw'.

    It may hold numbers, columns, `+ - * / **`, brackets, the functions in `FUNCTIONS`, and `==`, `<=` or `>=` between
    the sides. A column whose name is no identifier stands in backticks: '`net amount` >= 0'.

    Attributes:
        text: the law.
        tolerance: largest violation that counts as feasible, in `unit`.
        unit: the unit of both sides.

    Raises:
        ConstraintError: the text is something else; the message shows the part that is not understood.
    """

    text: str
    tolerance: float = 1e-6
    unit: str = ''

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not 0 < len(self.text) <= LONGEST:
            raise ConstraintError(f'Formula needs a text of 1 to {LONGEST} characters; it got {self.text!r:.100}.')
        law = _parse(self.text)
        self.columns = law.columns
        self.upper = [0.0 if isinstance(each, ast.Eq) else math.inf for each in law.comparisons]

    @property
    def name(self) -> str:
        """The text."""
        return self.text

    def residual(self, table: TableView) -> Tensor:
        """Left less right side of each comparison, right less left of '<=', shape (row, comparison)."""
        law = _parse(self.text)
        sides = [_value(side, law.names, table) for side in law.sides]
        differences = [
            right - left if isinstance(each, ast.LtE) else left - right
            for each, left, right in zip(law.comparisons, sides, sides[1:], strict=False)
        ]
        return torch.stack([each.expand(len(table.values)) for each in differences], dim=1)


@dataclass(frozen=True)
class _Law:
    """A parsed formula: sides, the comparisons between them, and which column each identifier in them stands for."""

    sides: Sequence[ast.expr]
    comparisons: Sequence[ast.cmpop]
    names: dict[str, str]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.names.values()))


@functools.lru_cache(maxsize=256)
def _parse(text: str) -> _Law:
    if not unicodedata.is_normalized('NFKC', re.sub(QUOTED, '', text)):
        # Python reads other spellings of a letter as that letter: the column would be sought under another name.
        raise ConstraintError(
            f'Formula reads plain letters only: put the unusual column names of {text!r} in backticks.'
        )
    quoted: dict[str, str] = {}
    alias = 'quoted'
    while alias in text:
        alias += '_'

    def identifier(match: re.Match[str]) -> str:
        return f' {quoted.setdefault(match[1], f"{alias}{len(quoted)}")} '

    readable = re.sub(QUOTED, identifier, text).strip()
    try:
        tree = ast.parse(readable, mode='eval').body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        hint = 'Column names that are no identifiers go in backticks.'
        if re.search('=[<>]', readable):
            hint = "The limits are written '<=' and '>='."
        elif re.search('(?<![<>=!:])=(?!=)', readable):
            hint = "An equation is written with '=='."
        raise ConstraintError(f'Formula cannot read {text!r}: {error}. {hint}') from None
    if not isinstance(tree, ast.Compare) or not all(isinstance(each, _COMPARISONS) for each in tree.ops):
        raise ConstraintError(f"Formula needs '==', '<=' or '>=' between its sides, and no other; it got {text!r}.")
    sides = [tree.left, *tree.comparators]
    named = {alias: column for column, alias in quoted.items()}
    names: dict[str, str] = {}
    try:
        for side in sides:
            for found in _identifiers(side, text, DEEPEST):
                names[found] = named.get(found, found)
    except RecursionError:  # in the words for what it does not know
        raise ConstraintError(f'Formula does not know a part of {text!r}, which is nested very deep.') from None
    if not names:
        raise ConstraintError(f'Formula needs a column; {text!r} names none.')
    return _Law(sides, tree.ops, names)


def _identifiers(node: ast.expr, text: str, levels: int) -> list[str]:
    """The columns' identifiers in an expression, in the order of the text; refuses what the grammar does not know."""
    if not levels:
        raise ConstraintError(f'Formula takes at most {DEEPEST} terms, signs and brackets inside each other: {text!r}.')
    match node:
        case ast.Name(id=name):
            return [name]
        case ast.Constant(value=int() | float() as value) if _is_number(value):
            return []
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _identifiers(left, text, levels - 1) + _identifiers(right, text, levels - 1)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _identifiers(operand, text, levels - 1)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            wanted = 2 if name in {'maximum', 'minimum'} else 1
            if len(arguments) != wanted:
                raise ConstraintError(f'{name} takes {wanted} in a formula; {text!r} gives it {len(arguments)}.')
            return [found for argument in arguments for found in _identifiers(argument, text, levels - 1)]
    raise ConstraintError(
        f'Formula does not know {ast.unparse(node)!r} in {text!r}. It knows numbers, columns, + - * / **, brackets and '
        f'the functions {", ".join(FUNCTIONS)}.'
    )


def _is_number(value: float) -> bool:
    return not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _value(node: ast.expr, names: dict[str, str], table: TableView) -> Tensor:
    """An expression's value, shape (row,), or () without a column."""
    match node:
        case ast.Name(id=name):
            return table[names[name]]
        case ast.Constant(value=int() | float() as value):
            return table.values.new_tensor(float(value))
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_value(left, names, table), _value(right, names, table))
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_value(operand, names, table))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return FUNCTIONS[name](*(_value(argument, names, table) for argument in arguments))
    raise AssertionError(f'{node!r} passed the check of the grammar.')
