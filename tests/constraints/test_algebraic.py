"""The ready-made laws against plain arithmetic."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdv_constrained_diffusion import Bounds, ConditionalOn, Formula, Linear, Ordered, Ratio, SumTo, check_constraint
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.errors import ConstraintError

LAWS = [
    Linear({'a': 1.0, 'b': -2.0, 'c': 0.5}, -1.0, 2.0),
    Linear({'a': 1.0, 'b': 1.0}, 3.0, 3.0),
    SumTo(['a', 'b', 'c'], 4.0),
    SumTo(['a', 'b'], 'c'),
    Bounds('a', 0, 2),
    Bounds('b', lower=1),
    Ordered('a', 'b'),
    Ordered('a', 'b', gap=0.5),
    Ratio('a', 'c', 0.5, 0.5),
    Ratio('a', 'c', most=0.5),
    Ratio('a', 'c', 0.25, 0.5),
]


def obeys(law, a, b, c):
    """Each law once more, in plain words."""
    match law:
        case Linear(weights=weights):
            return law.lower <= sum(weights[name] * {'a': a, 'b': b, 'c': c}[name] for name in weights) <= law.upper
        case SumTo(total=4.0):
            return a + b + c == 4
        case SumTo():
            return a + b == c
        case Bounds(column='a'):
            return 0 <= a <= 2
        case Bounds():
            return b >= 1
        case Ordered():
            return a + law.gap <= b
        case Ratio():
            return law.least * c <= a <= law.most * c if math.isfinite(law.least) else a <= law.most * c
    raise AssertionError(law)


@pytest.mark.parametrize('law', LAWS, ids=repr)
@given(values=st.tuples(*[st.integers(0, 16).map(lambda quarters: quarters / 4)] * 3))
def test_a_row_is_feasible_if_and_only_if_it_obeys(law, values):
    # Quarters are exact in float64, so limits are met or missed exactly.
    row = pd.DataFrame([values], columns=['a', 'b', 'c'])
    system = ConstraintSystem([law], row)
    assert bool(system.feasible(system.values(row))[0]) == obeys(law, *values)


@pytest.mark.parametrize('law', LAWS, ids=repr)
def test_they_pass_the_kit(law):
    real = pd.DataFrame(np.random.default_rng(0).uniform(1, 3, (40, 3)), columns=['a', 'b', 'c'])
    assert check_constraint(law, real).passed


def test_a_violation_is_in_the_column_s_own_unit():
    row = pd.DataFrame({'a': [5.0], 'b': [2.0], 'c': [4.0]})
    laws = [
        Bounds('a', 0, 2),
        Ordered('a', 'b', 0.5),
        Ratio('a', 'c', 0.25, 0.5),
        SumTo(['a', 'b'], 'c'),
        SumTo(['a', 'b'], 1),
    ]
    system = ConstraintSystem(laws, row)
    violation = system.violation(system.residual(system.values(row)))
    assert violation.tolist() == [[3.0, 3.5, 0.0, 3.0, 3.0, 6.0]]


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda: Linear({}), 'finite weight for each'),
        (lambda: Linear({'a': math.inf}), 'finite weight for each'),
        (lambda: SumTo('abc', 1.0), "the string 'abc'"),
        (lambda: Ratio('a', 'b'), 'finite limit'),
    ],
)
def test_what_makes_no_law_is_refused(make, words):
    with pytest.raises(ConstraintError, match=words):
        make()


def test_crossed_limits_are_refused():
    row = pd.DataFrame({'a': [1.0]})
    with pytest.raises(ConstraintError, match='lower <= upper'):
        ConstraintSystem([Bounds('a', 3, 2)], row)


def test_limits_that_are_missing_ask_for_nothing():
    row = pd.DataFrame({'a': [-1e300]})
    system = ConstraintSystem([Bounds('a', upper=1)], row)
    assert system.violation(system.residual(system.values(row))).item() == 0
    assert torch.isfinite(system.jacobian(system.values(row))).all()


@pytest.mark.parametrize('law', [SumTo(['a', 'a'], 'b'), SumTo(['a', 'b'], 'b'), Ordered('a', 'a')], ids=repr)
def test_a_column_named_twice_is_refused(law):
    with pytest.raises(ConstraintError, match='more than once'):
        ConstraintSystem([law], pd.DataFrame({'a': [1.0], 'b': [2.0]}))


@pytest.mark.parametrize(
    ('law', 'name'),
    [
        (Linear({'a': 1.0, 'b': -2.5}, upper=math.inf), '0 <= a - 2.5 b'),
        (Linear({'a': -1.0, 'b': 1.0}, 3.0, 3.0), '- a + b == 3'),
        (SumTo(list('abcdef'), 100), 'a + b + c + d + 2 more == 100'),
        (SumTo(['net', 'tax'], 'total'), 'net + tax == total'),
        (Bounds('age', 0, 120), '0 <= age <= 120'),
        (Bounds('issued', lower='2024-01-31'), '2024-01-31 <= issued'),
        (Ordered('start', 'end'), 'start <= end'),
        (Ordered('start', 'end', pd.Timedelta(days=1)), 'start + 86400 <= end'),
        (Ratio('tax', 'net', 0.07, 0.19), '0.07 <= tax / net <= 0.19'),
        (ConditionalOn('kind', 'x', SumTo(['a'], 1)), "a == 1 if kind is 'x'"),
    ],
)
def test_a_law_is_called_by_what_it_says(law, name):
    assert law.name == name


def topologies():
    return pd.DataFrame(
        {'p': [4.0, 4.0, -9.0, 9.0], 'q': [2.0, 3.0, 0.0, 3.0], 'topology': ['ring', 'ring', 'open', 'ring']}
    )


def test_a_conditional_law_binds_the_rows_with_the_label_only():
    law = ConditionalOn('topology', 'ring', Formula('q == sqrt(p)', unit='MW'))
    system = ConstraintSystem([law], topologies())
    values = system.values(topologies())
    # The root of -9 is no number, and must not matter where the law does not bind.
    assert system.residual(values)[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert system.jacobian(values)[:, 0, :].tolist() == [
        [-0.25, 1.0, 0.0],
        [-0.25, 1.0, 0.0],
        [0.0] * 3,
        [-1 / 6, 1.0, 0.0],
    ]
    (equation,) = system.equations
    assert (equation.name, equation.unit) == ("q == sqrt(p) if topology is 'ring'", 'MW')


@pytest.mark.parametrize(
    'inner', [Bounds('p', 5, 8), Bounds('p', lower=10), Bounds('p', upper=-10), SumTo(['p', 'q'], 100)]
)
def test_rows_that_a_conditional_law_does_not_bind_are_feasible(inner):
    law = ConditionalOn('topology', ['ring', 'mesh'], inner)
    system = ConstraintSystem([law], topologies())
    assert system.feasible(system.values(topologies())).tolist() == [False, False, True, False]


def test_numbers_can_be_conditions():
    data = pd.DataFrame({'phase': [1, 2, 1], 'p': [1.0, 5.0, 2.0]})
    system = ConstraintSystem([ConditionalOn('phase', 1, SumTo(['p'], 1.0))], data)
    assert system.feasible(system.values(data)).tolist() == [True, True, False]


def test_a_condition_needs_a_constraint():
    with pytest.raises(ConstraintError, match='ConditionalOn needs a constraint that it makes conditional'):
        ConditionalOn('topology', 'ring', Bounds)
