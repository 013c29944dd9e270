"""Rows on their steps: what is delivered obeys the law after rounding, or says that it does not."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdv_constrained_diffusion import Bounds, Formula, Ordered, SumTo
from sdv_constrained_diffusion.constraints.moments import in_seconds
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.projection import ResultCode, project
from sdv_constrained_diffusion.guidance.rounding import attainable_steps, observed_step, project_rounded
from sdv_constrained_diffusion.guidance.rounding import rounded as rounded_to


def bound(laws, table):
    system = ConstraintSystem(laws, table)
    values = system.values(table)
    return Chord(system, values), values


def invoices(num_rows=300, seed=0):
    rng = np.random.default_rng(seed)
    net = rng.gamma(3, 40, num_rows).round(2)
    tax = (0.19 * net).round(2)
    return pd.DataFrame({'total': (net + tax).round(2), 'net': net, 'tax': tax})


def shares(num_rows=300, seed=0):
    """Ten shares of one decimal that come to 100."""
    cuts = np.sort(np.random.default_rng(seed).integers(0, 1001, (num_rows, 9)), axis=1)
    tenths = np.diff(np.c_[np.zeros(num_rows), cuts, np.full(num_rows, 1000)], axis=1)
    return pd.DataFrame(tenths / 10).add_prefix('s')


def orders(num_rows=300, seed=0):
    rng = np.random.default_rng(seed)
    price, quantity = rng.uniform(1, 9, num_rows).round(2), rng.integers(1, 9, num_rows)
    return pd.DataFrame({'total': (price * quantity).round(2), 'price': price, 'quantity': quantity})


CASES = {
    # The tax is rounded to the cent, so its law holds within half a cent; the sum is exact up to float64's last digits.
    'invoices': (
        invoices,
        [SumTo(['net', 'tax'], 'total', 1e-9), Formula('tax == 0.19 * net', 0.005 + 1e-9)],
        [0.01, 0.01, 0.01],
    ),
    'shares': (shares, [SumTo([f's{i}' for i in range(10)], 100, 1e-9)], [0.1] * 10),
    'orders': (orders, [Formula('total == price * quantity', 1e-9)], [0.01, 0.01, 1.0]),
}


@pytest.mark.parametrize('case', CASES)
@settings(deadline=None)
@given(seed=st.integers(0, 1000))
def test_rounded_rows_obey_the_law_and_stand_on_their_steps(case, seed):
    make, laws, steps = CASES[case]
    chord, values = bound(laws, make())
    rng = np.random.default_rng(seed)
    shaken = values + 0.3 * chord.scale * torch.from_numpy(rng.normal(size=values.shape))
    rounded = project_rounded(chord, shaken, torch.zeros_like(shaken, dtype=torch.bool), steps)
    converged = rounded.codes == ResultCode.CONVERGED
    # Orders may want a negative price, or a quantity of 0 whose total cannot be reached.
    assert converged.double().mean() > 0.9
    delivered = rounded.values[converged]
    assert chord.system.feasible(delivered).all()
    for column, step in zip(delivered.numpy().T, steps, strict=True):
        np.testing.assert_array_equal(column, rounded_to(column, step))


def test_rounding_moves_rows_by_little_more_than_the_decimals():
    chord, values = bound(CASES['shares'][1], shares())
    shaken = values + torch.from_numpy(np.random.default_rng(0).normal(size=values.shape))
    free = torch.zeros_like(values, dtype=torch.bool)
    exact, rounded = project(chord, shaken, free), project_rounded(chord, shaken, free, [0.1] * 10)
    # Each of nine roundings moves a column by at most 0.05 and its share of the rest; the last takes up what is left.
    assert (rounded.values - exact.values).abs().max() < 0.05 * 10


def test_columns_without_decimals_are_projected_only():
    chord, values = bound(CASES['shares'][1], shares())
    shaken = values + 0.1
    free = torch.zeros_like(values, dtype=torch.bool)
    one, other = project(chord, shaken, free), project_rounded(chord, shaken, free, [None] * 10)
    assert torch.equal(one.values, other.values)
    assert torch.equal(one.codes, other.codes)


def test_fixed_values_stay_even_off_their_decimals():
    chord, values = bound(CASES['shares'][1], shares())
    values[:, 3] = 0.123456
    fixed = torch.zeros_like(values, dtype=torch.bool)
    fixed[:, 3] = True
    rounded = project_rounded(chord, values, fixed, [0.1] * 10)
    assert (rounded.values[:, 3] == 0.123456).all()
    # Nine shares of one decimal cannot come to 99.876544.
    assert (rounded.codes != ResultCode.CONVERGED).all()


def test_a_row_has_the_same_bits_alone_and_in_company():
    chord, values = bound(CASES['invoices'][1], invoices())
    shaken = values + 0.2 * chord.scale
    free = torch.zeros_like(values, dtype=torch.bool)
    together = project_rounded(chord, shaken, free, [0.01, 0.01, 0.01]).values
    alone = torch.cat([project_rounded(chord, row[None], free[:1], [0.01, 0.01, 0.01]).values for row in shaken[:20]])
    assert torch.equal(together[:20], alone)


@pytest.mark.parametrize(
    ('column', 'step'),
    [
        ([1.0, 25.0], 1.0),
        ([0.1, 0.25], 0.01),
        ([1e-10, 1.0], 1e-10),
        ([1 / 3, 1.0], None),
        ([-0.5, 0.0], 0.1),
        ([1e300, 0.0], 1.0),
        ([86400.0, 0.0, 7.0], 1.0),
        ([4.0, -10.0, 0.0], 2.0),
        ([15.0, 25.0], 5.0),
    ],
)
def test_the_step_is_the_widest_that_changes_nothing(column, step):
    assert observed_step(np.array(column)) == step


@pytest.mark.parametrize(
    ('moments', 'step'),
    [
        (['2024-01-31', '1969-02-01'], 86400.0),
        (['2024-01-31 13:00', '2024-02-01'], 3600.0),
        (['2024-01-31 13:05', '2024-02-01'], 60.0),
        (['2024-01-31 13:05:07', '2024-02-01'], 1.0),
        (['2024-01-31 13:05:07.25', '2024-02-01'], 0.01),
    ],
)
def test_moments_stand_on_days_hours_minutes_and_seconds(moments, step):
    assert observed_step(in_seconds(pd.Series(pd.to_datetime(moments, format='mixed'))), moment=True) == step


def test_laws_that_share_no_column_are_judged_apart():
    triples = np.tile([(3.0, 4.0, 5.0), (5.0, 12.0, 13.0), (8.0, 15.0, 17.0), (7.0, 24.0, 25.0)], (75, 1))
    table = invoices().assign(a=triples[:, 0], b=triples[:, 1], c=triples[:, 2])
    laws = [SumTo(['net', 'tax'], 'total', 1e-9), Formula('a ** 2 + b ** 2 == c ** 2', 1e-6)]
    chord, values = bound(laws, table)
    steps = [0.01, 0.01, 0.01, 1.0, 1.0, 1.0]
    assert attainable_steps(chord, values, steps) == [0.01, 0.01, 0.01, None, None, None]


def test_moments_are_projected_onto_their_days():
    days = np.random.default_rng(0).integers(0, 400, (200, 2))
    days = pd.DataFrame(np.sort(days), columns=['start', 'end'])
    table = days.apply(lambda day: pd.Timestamp('2024-01-01') + pd.to_timedelta(day, 'D'))
    chord, values = bound([Ordered('start', 'end', pd.Timedelta(days=7))], table)
    steps = [86400.0, 86400.0]
    free = torch.zeros_like(values, dtype=torch.bool)
    rounded = project_rounded(chord, values + 3e5 * torch.randn(values.shape, dtype=torch.float64), free, steps)
    assert (rounded.codes == ResultCode.CONVERGED).all()
    assert (rounded.values[:, 1] - rounded.values[:, 0] >= 7 * 86400).all()
    assert (rounded.values % 86400 == 0).all()


@pytest.mark.parametrize('case', CASES)
def test_steps_that_the_laws_allow_are_kept(case):
    make, laws, steps = CASES[case]
    assert [observed_step(make()[name].to_numpy(dtype='float64')) for name in make()] == steps
    assert attainable_steps(*bound(laws, make()), steps) == steps


def test_steps_that_the_laws_allow_by_chance_only_are_given_up():
    # Pythagorean triples are whole, but hardly any point of the circle is.
    triples = pd.DataFrame(
        [(3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25)] * 20, columns=['a', 'b', 'c'], dtype=float
    )
    laws = [Formula('a ** 2 + b ** 2 == c ** 2', 1e-6)]
    assert attainable_steps(*bound(laws, triples), [1.0] * 3) == [None] * 3


def test_bounds_are_met_by_rounded_rows():
    table = pd.DataFrame({'age': np.random.default_rng(0).integers(0, 121, 200).astype('float64')})
    chord, values = bound([Bounds('age', 0, 120)], table)
    rounded = project_rounded(chord, values * 1.5 - 30.3, torch.zeros_like(values, dtype=torch.bool), [1.0])
    assert (rounded.codes == ResultCode.CONVERGED).all()
    assert rounded.values.min() == 0
    assert rounded.values.max() == 120
