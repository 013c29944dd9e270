import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sdv_constrained_diffusion.constraints.base import constraint
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.guidance.chord import Chord, _apart, standardised_move


def affine(matrix, offset=None, **data):
    """`A v - b` over columns v0, v1, ..."""
    a = torch.as_tensor(np.asarray(matrix), dtype=torch.float64)
    b = torch.zeros(len(a), dtype=torch.float64) if offset is None else torch.as_tensor(offset, dtype=torch.float64)

    @constraint(columns=[f'v{column}' for column in range(a.shape[1])], **data)
    def law(table):
        return table.values @ a.T - b

    return law


def chord_of(law, values):
    data = pd.DataFrame(values, columns=law.columns)
    system = ConstraintSystem([law], data)
    return Chord(system, system.values(data))


def table(rows, columns, seed=0, scale=None):
    values = np.random.default_rng(seed).normal(size=(rows, columns))
    return values * (10.0 ** np.arange(columns) if scale is None else scale)


def deviation(chord, values):
    return chord.system.deviation(chord.system.residual(values))


def step(chord, values, fixed=None):
    fixed = torch.zeros(values.shape, dtype=torch.bool) if fixed is None else fixed
    return chord.step(values, deviation(chord, values), fixed)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), columns=st.integers(2, 6), data=st.data())
def test_one_step_is_the_orthogonal_projection_in_standardised_columns(seed, columns, data):
    equations = data.draw(st.integers(1, columns - 1))
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(equations, columns)), random.normal(size=equations)
    train = table(20, columns, seed, scale=10.0 ** random.integers(-2, 3, size=columns))
    chord = chord_of(affine(a, b), train)
    rows = table(7, columns, seed + 1, scale=train.std(0))
    # K = C A^T (A C A^T)^-1 with C = diag(s^2), by numpy.
    c = np.diag(train.std(0, ddof=1) ** 2)
    gain = c @ a.T @ np.linalg.inv(a @ c @ a.T)
    expected = rows - (rows @ a.T - b) @ gain.T
    moved = step(chord, torch.as_tensor(rows))
    # Numpy's inverse loses digits with the square of the condition number of A S, the package's with the number itself.
    spread, condition = train.std(0, ddof=1), np.linalg.cond(a * train.std(0, ddof=1))
    size = np.abs(np.concatenate([rows, expected]) / spread).max()
    assert np.abs((moved.numpy() - expected) / spread).max() <= 1e-13 * condition**2 * size
    # On the constraint but for the rounding of the residual's own terms, before and after.
    terms = np.abs(np.concatenate([rows, expected])) @ np.abs(a).T + np.abs(b)
    assert deviation(chord, moved).abs().max() <= 1e-13 * condition * terms.max()


def test_the_step_is_the_shortest_way():
    # Any other point of the constraint is farther away, in standard deviations.
    a = np.array([[1.0, 0.1, -0.01]])
    train = table(50, 3)
    chord = chord_of(affine(a, [2.0]), train)
    row = torch.as_tensor(table(1, 3, seed=1))
    moved = step(chord, row)
    along = torch.as_tensor(np.linalg.svd(a)[2][1:])
    for direction, length in itertools.product(along, (-0.1, 0.01, 1.0)):
        other = moved + length * direction
        assert deviation(chord, other).abs().max() < 1e-12
        assert ((other - row) / chord.scale).norm() > ((moved - row) / chord.scale).norm()


def test_a_fixed_column_does_not_move_and_the_others_make_up_for_it():
    a = np.array([[1.0, 1.0, 1.0]])
    chord = chord_of(affine(a, [6.0]), table(30, 3, scale=[1.0, 2.0, 3.0]))
    rows = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)
    fixed = torch.tensor([[False, True, False]])
    moved = step(chord, rows, fixed)
    s0, _, s2 = (chord.scale**2).tolist()
    # Three units are missing; they are shared in proportion to the variances of the free columns.
    expected = torch.tensor([[1 + 3 * s0 / (s0 + s2), 1.0, 1 + 3 * s2 / (s0 + s2)]], dtype=torch.float64)
    assert_close(moved, expected, rtol=1e-14, atol=0)
    assert moved[0, 1] == 1.0


def test_a_constant_column_does_not_move():
    train = table(30, 3)
    train[:, 1] = 4.0
    chord = chord_of(affine([[1.0, 1.0, 1.0]]), train)
    moved = step(chord, torch.as_tensor(train))
    assert (moved[:, 1] == 4.0).all()
    # Numbers up to a few hundred.
    assert deviation(chord, moved).abs().max() < 1e-12


def test_rows_of_different_fixed_columns_equal_each_alone():
    # All sixteen patterns of four columns, mixed in one batch, and two equations, one of them an inequality.
    law = affine(np.random.default_rng(0).normal(size=(2, 4)), [0.0, 0.0], lower=[0.0, -0.5], upper=[0.0, 0.5])
    train = table(40, 4)
    fixed = torch.tensor(list(itertools.product([False, True], repeat=4)) * 2)[torch.randperm(32)]
    rows = torch.as_tensor(table(32, 4, seed=1))
    together = step(chord_of(law, train), rows, fixed)
    alone = torch.cat(
        [step(chord_of(law, train), row[None], mask[None]) for row, mask in zip(rows, fixed, strict=True)]
    )
    # The same gain; the product of a batch may add in another order.
    assert_close(together, alone, rtol=1e-12, atol=1e-12)
    assert (together[fixed] == rows[fixed]).all()
    # At least one pattern leaves all columns free and moves all of them.
    assert (together[~fixed.any(1)] != rows[~fixed.any(1)]).all()


def test_a_batch_without_rows_stays_empty():
    chord = chord_of(affine([[1.0, 1.0]]), table(10, 2))
    assert step(chord, torch.zeros(0, 2, dtype=torch.float64)).shape == (0, 2)


def test_redundant_equations_are_named_and_change_nothing():
    a = np.array([[1.0, 0.1, 0.0], [0.0, 0.1, -0.01]])
    twice = np.vstack([a, a[0] - 2 * a[1]])
    train, rows = table(30, 3), torch.as_tensor(table(5, 3, seed=1))
    plain, doubled = chord_of(affine(a), train), chord_of(affine(twice), train)
    assert plain.redundant() == []
    assert len(doubled.redundant()) == 1
    # Any of the three is implied by the other two.
    assert doubled.redundant()[0] in ('law[0]', 'law[1]', 'law[2]')
    # The same plane; condition numbers below 1e4.
    assert_close(step(doubled, rows) / plain.scale, step(plain, rows) / plain.scale, rtol=0, atol=1e-11)


def test_the_equation_that_only_others_imply_is_named():
    # The third depends on nothing that varies; the fourth is the first in another unit.
    train = table(30, 3)
    train[:, 2] = 1.0
    chord = chord_of(affine([[1.0, 0, 0], [1.0, 1.0, 0], [0, 0, 1.0], [1e3, 0, 0]]), train)
    named = chord.redundant()
    assert len(named) == 2
    assert 'law[2]' in named
    assert ('law[0]' in named) != ('law[3]' in named)


def test_nearly_parallel_equations_are_not_redundant():
    assert chord_of(affine([[1.0, 1.0], [1.0, 1.0 + 1e-6]]), table(30, 2, scale=1.0)).redundant() == []


def test_more_equations_than_columns():
    chord = chord_of(affine([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [1.0, 2.0, 3.0]), table(30, 2))
    moved = step(chord, torch.as_tensor(table(4, 2, seed=1)))
    # The three lines meet in one point; numbers of order one.
    assert_close(moved, torch.tensor([[1.0, 2.0]], dtype=torch.float64).expand(4, 2), rtol=0, atol=1e-12)


def test_an_idle_inequality_does_not_bind():
    # x + y = 0 pulls x from 3 down to 0; x <= 2 is broken, x >= -5 and y <= 5 are idle.
    law = affine([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], lower=[0.0, -5.0, -math.inf], upper=[0.0, 2.0, 5.0])
    train = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    chord = chord_of(law, train)
    rows = torch.tensor([[3.0, 1.0], [1.0, 0.0], [3.0, -3.0]], dtype=torch.float64)
    # First row: equality and upper limit of x together leave one point. Second: half of the surplus from each. Third:
    # an equality that holds still binds.
    expected = torch.tensor([[2.0, -2.0], [0.5, -0.5], [2.0, -2.0]], dtype=torch.float64)
    assert_close(step(chord, rows), expected, rtol=0, atol=1e-14)


def test_a_row_inside_all_inequalities_does_not_move_at_all():
    chord = chord_of(affine([[1.0, 0.0], [1.0, 1.0]], lower=-9.0, upper=9.0), table(30, 2, scale=1.0))
    rows = torch.tensor([[1.0, 2.0], [-4.0, 3.0]], dtype=torch.float64)
    assert torch.equal(step(chord, rows), rows)


def test_equations_and_columns_weigh_the_same_in_every_unit():
    a, train = np.array([[1.0, 0.1], [1.0, -0.3]]), table(30, 2)
    chord = chord_of(affine(a), train)
    other = chord_of(affine(np.array([[1e6], [1e-3]]) * a / [1e3, 1e-2]), train * [1e3, 1e-2])
    # Changing units changes no standardised number beyond rounding.
    assert other.norm == pytest.approx(chord.norm, rel=1e-12)
    assert_close(other.scale, chord.scale * torch.tensor([1e3, 1e-2], dtype=torch.float64), rtol=1e-12, atol=0)


def test_norm_and_scales_by_numpy():
    a, train = np.array([[1.0, 0.1, 0.0], [2.0, 0.0, -0.01]]), table(30, 3)
    chord = chord_of(affine(a), train)
    standardised = a * train.std(0, ddof=1)
    lengths = np.linalg.norm(standardised, axis=1)
    assert chord.scale.numpy() == pytest.approx(train.std(0, ddof=1), rel=1e-12)
    assert chord.equation_scale.numpy() == pytest.approx(lengths, rel=1e-12)
    assert chord.norm == pytest.approx(np.linalg.norm(standardised / lengths[:, None], 2), rel=1e-12)


def test_the_linearisation_is_taken_at_the_mean_row():
    @constraint(columns=['x', 'y'])
    def product(table):
        return table.x * table.y - 6

    train = np.array([[2.0, 3.0], [4.0, 5.0], [0.0, 1.0]])
    chord = chord_of(product, train)
    # At the mean row (2, 3) the gradient is (3, 2); both columns have standard deviation 2.
    row = torch.tensor([[5.0, 1.0]], dtype=torch.float64)
    expected = row - torch.tensor([[3.0, 2.0]], dtype=torch.float64) / 13 * (5 * 1 - 6)
    assert_close(step(chord, row), expected, rtol=1e-13, atol=0)


def test_the_move_is_a_root_mean_square_over_columns_that_vary():
    start = torch.zeros(2, 3, dtype=torch.float64)
    moved = torch.tensor([[3.0, 8.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    move = standardised_move(moved, start, torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64))
    # sqrt((3^2 + 4^2) / 2)
    assert_close(move, torch.tensor([math.sqrt(12.5), 0.0], dtype=torch.float64), rtol=1e-15, atol=0)


def test_rows_whose_columns_all_are_constant_moved_by_nothing():
    start = torch.ones(2, 3, dtype=torch.float64)
    assert standardised_move(start, start, torch.zeros(3, dtype=torch.float64)).tolist() == [0.0, 0.0]


def test_an_equation_flat_at_the_mean_row_has_its_own_values_as_scale():
    # x^2 + y^2 - 1 has no gradient at the centre of the circle. Its residual must stay a finite number when scaled.
    @constraint(columns=['x', 'y'])
    def circle(table):
        return table.x**2 + table.y**2 - 1

    chord = chord_of(circle, np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    rows = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    assert (deviation(chord, rows) / chord.equation_scale).square().isfinite().all()
    assert torch.equal(step(chord, rows), rows)


def test_each_combination_of_labels_has_a_gain_of_its_own():
    @constraint(columns=['kind', 'x', 'y'])
    def by_kind(table):
        # Affine for each label, so that one chord step with the right gain is exact, and with another's is not.
        return table.y - table.kind.map({'a': 2.0, 'b': -3.0}) * table.x

    rng = np.random.default_rng(0)
    data = pd.DataFrame({'kind': rng.choice(['a', 'b'], 200), 'x': rng.normal(size=200), 'y': rng.normal(size=200)})
    system = ConstraintSystem([by_kind], data)
    values = system.values(data)
    chord = Chord(system, values)
    free = torch.zeros_like(values, dtype=torch.bool)
    moved = chord.step(values, system.residual(values), free)
    assert system.residual(moved).abs().max() <= 1e-12
    assert torch.equal(moved[:, 0], values[:, 0])
    alone = torch.cat([chord.step(row[None], system.residual(row[None]), free[:1]) for row in values[:20]])
    assert torch.equal(moved[:20], alone)


def test_a_combination_that_was_never_seen_is_linearised_when_it_comes():
    @constraint(columns=['kind', 'other', 'x'])
    def law(table):
        return table.x * table.kind.map({'a': 1.0, 'b': 2.0}) - table.other.map({'c': 3.0, 'd': 4.0})

    data = pd.DataFrame({'kind': ['a', 'b'] * 50, 'other': ['c', 'd'] * 50, 'x': np.linspace(0, 1, 100)})
    system = ConstraintSystem([law], data)
    chord = Chord(system, system.values(data))
    row = system.values(pd.DataFrame({'kind': ['a'], 'other': ['d'], 'x': [0.0]}))
    moved = chord.step(row, system.residual(row), torch.zeros_like(row, dtype=torch.bool))
    assert moved[0, 2] == pytest.approx(4.0, rel=1e-12)


def test_an_equation_is_redundant_only_if_it_is_for_every_label():
    @constraint(columns=['kind', 'x', 'y'])
    def two(table):
        same = table.kind.map({'a': 1.0, 'b': 0.0})
        return torch.stack([table.x + table.y, table.x + same * table.y], dim=1)

    data = pd.DataFrame(
        {'kind': ['a'] * 50 + ['b'] * 50, 'x': np.linspace(0, 1, 100), 'y': np.linspace(1, 0, 100) ** 2}
    )
    for rows, redundant in ((data, 0), (data.head(50), 1)):
        system = ConstraintSystem([two], rows)
        assert len(Chord(system, system.values(rows)).redundant()) == redundant


def test_equations_apart_are_chosen_short_ones_without_a_common_column():
    typical = torch.zeros(1, 6, 12, dtype=torch.float64)
    for equation, columns in enumerate([(0, 1, 2), (2, 3), (3, 4), (5,), (6, 7, 8, 9, 10), (11,)]):
        typical[0, equation, list(columns)] = 1.0
    chosen = torch.tensor([True, True, True, True, True, False])
    # (2, 3) comes before the longer (0, 1, 2) and the later (3, 4), with which it shares a column; (6 ... 10) is long.
    assert _apart(typical, chosen).tolist() == [False, True, False, True, False, False]
    elsewhere = torch.zeros_like(typical)
    elsewhere[0, 3, 2] = 1.0  # with other labels the law of column 5 reads column 2, too
    assert _apart(torch.cat([typical, elsewhere]), chosen).tolist() == [False, True, False, False, False, False]
