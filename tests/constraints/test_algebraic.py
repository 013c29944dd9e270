"""The ready-made laws against plain arithmetic."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdv_constrained_diffusion import Bounds, Linear, Ordered, Ratio, SumTo, check_constraint
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
