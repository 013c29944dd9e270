"""Laws that a table obeys: those that were planted are found, and no others."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdv_constrained_diffusion import Formula, SumTo
from sdv_constrained_diffusion.constraints.discovery import TOLERANCE, discover, independent
from sdv_constrained_diffusion.constraints.feasibility import share_feasible


def weights(law):
    return dict(law.weights), law.lower


def noise(num_rows, num_columns, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.normal(size=(num_rows, num_columns))).add_prefix('x')


def test_sums_ratios_and_offsets_are_found_with_their_weights():
    data = noise(200, 3).round(2)
    data['total'] = (data['x0'] + data['x1']).round(2)
    data['q'] = 0.25 * data['x2']
    data['shifted'] = 1000 - 2 * data['x0']
    found = discover(data)
    assert len(found) == 3
    assert share_feasible(found, data) == 1.0
    # Three equations in six unknowns: every planted law is a combination of those found.
    rows = np.array([[law.weights.get(name, 0.0) for name in data] + [law.lower] for law in found])
    for planted in ([1, 1, 0, -1, 0, 0, 0], [0, 0, 0.25, 0, -1, 0, 0], [2, 0, 0, 0, 0, 1, 1000]):
        combination, *_ = np.linalg.lstsq(rows.T, np.array(planted, dtype=float), rcond=None)
        # Least squares in float64 with numbers up to 1,000.
        np.testing.assert_allclose(combination @ rows, planted, atol=1e-9)


def test_a_fixed_ratio_is_told_in_plain_numbers():
    data = noise(100, 1).assign(q=lambda rows: 0.3 * rows['x0'])
    (law,) = discover(data)
    assert weights(law) in (({'x0': 1.0, 'q': pytest.approx(-1 / 0.3, rel=1e-14)}, 0.0), ({'q': 1.0, 'x0': -0.3}, 0.0))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), free=st.integers(2, 6), planted=st.integers(0, 3))
def test_as_many_laws_are_found_as_were_planted(seed, free, planted):
    rng = np.random.default_rng(seed)
    data = noise(150, free, seed)
    for number in range(planted):
        mix = rng.normal(size=free).round(3) * (rng.random(free) < 0.7)
        data[f'y{number}'] = data.iloc[:, :free].to_numpy() @ mix + rng.normal() if mix.any() else 2 * data['x0']
    found = discover(data)
    assert len(found) == planted
    if found:
        assert share_feasible(found, data) == 1.0


@pytest.mark.parametrize('miss', [1e-6, 1e-3, 1.0])
def test_a_relation_that_one_row_misses_is_no_law(miss):
    data = noise(200, 2).assign(total=lambda rows: rows['x0'] + rows['x1'])
    assert len(discover(data)) == 1
    data.loc[77, 'total'] += miss
    assert discover(data) == []
    assert miss > 100 * TOLERANCE


def test_few_rows_prove_nothing():
    assert discover(noise(10, 12)) == []
    assert discover(noise(20, 2).assign(y=lambda rows: rows['x0'])) == []


def test_constants_texts_and_missing_values_take_no_part():
    data = noise(100, 2).assign(same=5.0, text='a', closed=True)
    assert discover(data) == []
    data['copy'] = data['x0']
    data.loc[3, 'copy'] = np.nan
    assert discover(data) == []
    assert discover(pd.DataFrame({'a': ['x', 'y'] * 50})) == []


def test_moments_are_columns_like_others():
    days = np.random.default_rng(0).integers(0, 900, 100)
    start = pd.Timestamp('2023-01-01') + pd.to_timedelta(days, 'D')
    data = pd.DataFrame({'start': start, 'end': start + pd.Timedelta(days=14), 'x': noise(100, 1)['x0']})
    (law,) = discover(data)
    assert set(law.weights) == {'start', 'end'}
    assert abs(law.lower) == pytest.approx(14 * 86400)


def test_whole_numbers_are_found_in_whole_weights():
    rng = np.random.default_rng(0)
    data = pd.DataFrame(rng.integers(0, 50, (300, 3)), columns=['a', 'b', 'c'])
    data['n'] = data['a'] + data['b'] + data['c']
    (law,) = discover(data)
    assert {abs(weight) for weight in law.weights.values()} == {1.0}
    assert law.lower == 0.0


def test_what_given_constraints_say_already_is_not_said_again():
    data = noise(100, 2).assign(total=lambda rows: rows['x0'] + rows['x1'], q=lambda rows: 3 * rows['x1'])
    found = discover(data)
    assert len(found) == 2
    left = independent(found, [SumTo(['x0', 'x1'], 'total')], data)
    assert len(left) == 1
    assert share_feasible([SumTo(['x0', 'x1'], 'total'), *left], data) == 1.0
    assert independent(found, [SumTo(['x0', 'x1'], 'total'), Formula('q == 3 * x1')], data) == []


def test_a_curved_constraint_or_an_inequality_says_nothing_of_affine_laws():
    data = noise(100, 2).assign(total=lambda rows: rows['x0'] + rows['x1'])
    curved = Formula('total ** 2 == (x0 + x1) ** 2', tolerance=1e-3)
    assert len(independent(discover(data), [curved, Formula('total >= x0 + x1')], data)) == 1
