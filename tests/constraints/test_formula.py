"""Formulas against numpy's own arithmetic, and what the grammar must refuse."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdv_constrained_diffusion import Formula, check_constraint
from sdv_constrained_diffusion.constraints.base import TableView, evaluate
from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError

COLUMNS = ['a', 'b', 'c']


def view(values, names=COLUMNS):
    return TableView(names, torch.as_tensor(np.asarray(values, dtype='float64')))


TERMS = st.recursive(
    st.sampled_from(COLUMNS) | st.floats(0.1, 9).map('{:.3f}'.format) | st.integers(1, 9).map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(['+', '-', '*']), inner).map(lambda part: f'({part[0]} {part[1]} {part[2]})'),
        inner.map('(-{})'.format),
        inner.map('abs({})'.format),
        inner.map('sin({})'.format),
        st.tuples(inner, inner).map(lambda part: f'maximum({part[0]}, {part[1]})'),
    ),
    max_leaves=8,
)
FUNCTIONS = {'abs': np.abs, 'sin': np.sin, 'maximum': np.maximum}


@given(left=TERMS, right=TERMS, seed=st.integers(0, 999))
def test_a_formula_is_what_numpy_makes_of_its_text(left, right, seed):
    values = np.random.default_rng(seed).normal(size=(4, 3))
    residual = evaluate(Formula(f'{left} == a + {right}'), view(values))
    # Python's own reading of the same text is the oracle; only text that this test has made is evaluated.
    columns = dict(zip(COLUMNS, values.T, strict=True))
    expected = eval(left, FUNCTIONS | columns) - eval(f'a + {right}', FUNCTIONS | columns)
    # The same operations in the same order: torch's and numpy's sine differ in the last bit, products magnify it.
    np.testing.assert_allclose(residual[:, 0].numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ('text', 'residual', 'upper'),
    [
        ('a == b * c', [[2 - 12.0]], [0.0]),
        ('a <= b', [[1.0]], [np.inf]),
        ('a >= b', [[-1.0]], [np.inf]),
        ('0 <= a <= b / 2', [[2.0, -0.5]], [np.inf, np.inf]),
        ('a ** 2 == b == c', [[1.0, -1.0]], [0.0, 0.0]),
        ('2 ** -1 <= sqrt(a) + exp(0 * b)', [[np.sqrt(2) + 0.5]], [np.inf]),
    ],
)
def test_each_comparison_is_one_equation(text, residual, upper):
    law = Formula(text, tolerance=1e-3, unit='m')
    np.testing.assert_allclose(evaluate(law, view([[2.0, 3.0, 4.0]])).numpy(), residual, rtol=1e-12)
    assert (law.lower, law.upper, law.tolerance, law.unit, law.name) == (0.0, upper, 1e-3, 'm', text)


def test_backticks_hold_any_name():
    law = Formula('`net amount` + `quoted0` == `größe(m)` - c')
    assert law.columns == ('net amount', 'quoted0', 'größe(m)', 'c')
    table = view([[1.0, 2.0, 9.0, 5.0]], law.columns)
    assert evaluate(law, table).tolist() == [[-1.0]]


def test_columns_come_in_the_order_of_the_text_and_once():
    assert Formula('c + a == a * b + c').columns == ('c', 'a', 'b')


@pytest.mark.parametrize(
    'text',
    [
        'a + b',
        'a = b',
        'a < b',
        'a != b',
        'a == b and b == c',
        '1 == 2',
        'a == b.real',
        'a == b[0]',
        'a == __import__("os").getpid()',
        'a == eval("1")',
        'a == (lambda: 1)()',
        'a == [b for b in c]',
        'a == "b"',
        'a == True',
        'a == 1j',
        'a == sin(b, c)',
        'a == maximum(b)',
        'a == sin(x=b)',
        'a == sin(*b)',
        'a == f"{b}"',
        'a == (b := 1)',
        'a == b if c else a',
        'a == 1e999 * b',
        'a == ' + '9' * 400,
        'a == b // c',
        'a == ~b',
        'a == (',
        'a == b\x00',
        'a == ' + '-' * 990 + 'b',
        'a == ' + '(' * 400 + 'b' + ')' * 400,
        'a' * 6000 + ' == b',
        '',
        '`` == a',
        'a == ' + 'b.' * 2000 + 'c',
        'a`b` == 1',
        '\u00b5 == a',
        '\uff51uoted0 == `x y`',
    ],
)
def test_anything_else_is_refused_without_being_run(text):
    with pytest.raises(ConstraintError, match=r'Formula|takes'):
        Formula(text)


@pytest.mark.parametrize(
    ('text', 'said'),
    [('a = b', "An equation is written with '=='"), ('a => b', "written '<=' and '>='"), ('a =< b', "'<='")],
)
def test_signs_that_mean_a_law_are_told_how_it_is_written(text, said):
    with pytest.raises(ConstraintError, match=said):
        Formula(text)


def test_a_sum_of_two_hundred_columns_is_read():
    names = [f'x{i}' for i in range(200)]
    law = Formula(' + '.join(names) + ' == 100')
    assert evaluate(law, view(np.ones((1, 200)), names)).tolist() == [[100.0]]


def test_a_name_inside_backticks_may_not_meet_the_alias_of_another():
    law = Formula('`a b` == quoted0')
    assert law.columns == ('a b', 'quoted0')
    assert evaluate(law, view([[5.0, 3.0]], law.columns)).tolist() == [[2.0]]


def test_a_missing_column_is_named():
    with pytest.raises(ColumnMissingError, match=r"needs column 'prize', .* look close: 'price'"):
        Formula('total == prize * 2').require(['total', 'price'])


def test_formulas_pass_the_kit_and_survive_pickle():
    rng = np.random.default_rng(0)
    price, quantity = rng.uniform(1, 9, 50), rng.integers(1, 9, 50)
    real = pd.DataFrame({'price': price, 'quantity': quantity, 'total': price * quantity})
    law = pickle.loads(pickle.dumps(Formula('total == price * quantity')))
    found = check_constraint(law, real)
    assert found.passed
    assert found.share_feasible == 1
