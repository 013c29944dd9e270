import copy
import functools
import itertools
import math

import numpy as np
import pandapower.networks as networks
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch.testing import assert_close

from sdv_constrained_diffusion import Bounds, Formula
from sdv_constrained_diffusion.constraints.base import constraint
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.guidance import projection
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.projection import ResultCode, project
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.nets import solved_row

OK, MAX_STEPS, SINGULAR, NOT_FINITE, _ = (int(code) for code in ResultCode)


def law(function, columns=('x', 'y'), **data):
    return constraint(columns=columns, **{'tolerance': 1e-9, **data})(function)


def chord_of(constraint, train):
    train = pd.DataFrame(np.asarray(train), columns=constraint.columns)
    system = ConstraintSystem([constraint], train)
    return Chord(system, system.values(train))


def float64(numbers):
    return torch.as_tensor(np.asarray(numbers, dtype='float64'))


def projected(chord, rows, fixed=None, **steps):
    rows = float64(rows)
    fixed = torch.zeros(rows.shape, dtype=torch.bool) if fixed is None else torch.as_tensor(fixed)
    return project(chord, rows, fixed, **steps)


def unit_circle(**data):
    return law(lambda table: table.x**2 + table.y**2 - 1, **data)


def arc(number=40):
    angle = np.linspace(0.2, 1.2, number)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), columns=st.integers(2, 6), data=st.data())
def test_an_affine_law_gives_the_orthogonal_projection(seed, columns, data):
    equations = data.draw(st.integers(1, columns - 1))
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(equations, columns)), random.normal(size=equations)
    a *= 10.0 ** random.integers(-3, 4, size=(equations, 1))
    train, rows = random.normal(size=(30, columns)), random.normal(size=(5, columns))
    matrix, right = float64(a), float64(b)
    affine = law(lambda t: t.values @ matrix.T - right, [f'v{i}' for i in range(columns)], tolerance=1e-6)
    result = projected(chord_of(affine, train), rows)
    # v - C A^T (A C A^T)^-1 (A v - b) with C = diag(s^2), equations brought to one size before the inverse.
    size = np.linalg.norm(a, axis=1, keepdims=True)
    c, unit = np.diag(train.var(0, ddof=1)), a / size
    expected = rows - (rows @ unit.T - b / size[:, 0]) @ (c @ unit.T @ np.linalg.inv(unit @ c @ unit.T)).T
    # The residual is met to a tenth of 1e-6 at most; nearly parallel equations carry that, and the inverse's rounding,
    # further.
    condition = np.linalg.cond(unit * train.std(0, ddof=1))
    assert np.abs(result.values.numpy() - expected).max() <= condition * (
        1e-7 / size.min() + 1e-12 * np.abs(rows).max()
    )
    assert result.codes.tolist() == [OK] * 5


def test_near_rows_end_at_the_nearest_point_of_the_circle():
    random = np.random.default_rng(0)
    chord = chord_of(unit_circle(), arc())
    scale = chord.scale.numpy()
    rows = arc(9) + 0.05 * scale * random.normal(size=(9, 2))
    result = projected(chord, rows)
    assert result.codes.tolist() == [OK] * 9
    for row, moved, length in zip(rows, result.values.numpy(), result.displacement.tolist(), strict=True):
        nearest = minimize(
            lambda v, row=row: (((v - row) / scale) ** 2).sum(),
            row,
            method='SLSQP',
            constraints={'type': 'eq', 'fun': lambda v: v @ v - 1, 'jac': lambda v: 2 * v},
            options={'ftol': 1e-14},
        )
        assert nearest.success
        away = np.linalg.norm((row - nearest.x) / scale)
        # The step goes along the law's normal at the mean row, whose angle to the normal at this row is at most 0.55
        # in standardised columns: the row slides along the circle by tan(0.55) = 0.61 of the distance, to first order.
        assert np.linalg.norm((moved - nearest.x) / scale) <= 0.66 * away + 1e-9
        assert away - 1e-9 <= length * math.sqrt(2) <= 1.2 * away


def test_own_jacobians_end_closer_to_the_nearest_point_of_the_circle():
    # Without chord steps the direction is right at the starting row: the slide along the circle is of second order.
    chord = chord_of(unit_circle(), arc())
    scale = chord.scale.numpy()
    for distance in (0.1, 0.01, 0.001):
        rows = (1 + distance) * arc(7)
        result = projected(chord, rows, chord_steps=0)
        assert result.codes.tolist() == [OK] * 7
        for row, moved in zip(rows, result.values.numpy(), strict=True):
            nearest = minimize(
                lambda v, row=row: (((v - row) / scale) ** 2).sum(),
                row,
                method='SLSQP',
                constraints={'type': 'eq', 'fun': lambda v: v @ v - 1, 'jac': lambda v: 2 * v},
                options={'ftol': 1e-16},
            )
            # SLSQP itself is good to about 1e-7 here.
            assert np.linalg.norm(moved - nearest.x) <= 2 * distance**2 + 1e-7


@functools.cache
def operating_points(case):
    net = getattr(networks, case)()
    random = np.random.default_rng(0)
    rows = []
    for _ in range(7):
        varied = copy.deepcopy(net)
        varied.load['p_mw'] *= random.uniform(0.9, 1.1, len(net.load))
        varied.load['q_mvar'] *= random.uniform(0.9, 1.1, len(net.load))
        rows.append(solved_row(varied))
    return PowerFlow.from_pandapower(net), pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize('case', ['case5', 'case14'])
def test_noisy_operating_points_return_to_the_power_flow_equations(case):
    power_flow, data = operating_points(case)
    system = ConstraintSystem([power_flow], data)
    values = system.values(data)
    chord = Chord(system, values)
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = values + 0.05 * chord.scale * noise
    # Hundreds of thousands of tolerances of 1e-6 MW before.
    assert system.excess(noisy).min() > 1e5
    result = projected(chord, noisy, chord_steps=8, newton_steps=0)
    assert result.codes.tolist() == [OK] * 7
    assert system.excess(result.values).max() <= 0.1
    # The nearest operating point is no farther than the one that noise was added to; the chord may slide a little.
    noise_size = (0.05 * noise[:, chord.scale > 0]).square().mean(1).sqrt()
    assert (result.displacement <= 1.1 * noise_size).all()
    # The nodal balance holds in numpy's complex arithmetic, too; case5 and case14 have one bus per node.
    p, q, vm, va = np.split(
        pd.DataFrame(result.values, columns=system.columns)[list(power_flow.columns)].to_numpy(), 4, 1
    )
    v = vm * np.exp(1j * np.radians(va))
    s = 100.0 * v * (v @ power_flow.grid.y_bus.T).conj()
    assert np.abs(p + 1j * q - s).max() <= 1e-6


def test_own_jacobians_take_over_where_the_chord_does_not_contract():
    power_flow, data = operating_points('case5')
    system = ConstraintSystem([power_flow], data)
    values = system.values(data)
    chord = Chord(system, values)
    # Angles 30 degrees apart from the mean row's: the shared inverse does not serve them.
    far = values.clone()
    angle = system.columns.index('va_degree_3')
    far[:, angle] += 30.0
    assert (projected(chord, far, newton_steps=0).codes != OK).any()
    result = projected(chord, far)
    assert result.codes.tolist() == [OK] * 7
    assert system.excess(result.values).max() <= 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
@example(seed=1237)
@example(seed=1245)
@example(seed=2200)
@example(seed=3431)
def test_limits_are_met_and_rows_inside_are_not_moved(seed):
    random = np.random.default_rng(seed)
    within = law(
        lambda t: torch.stack([t.x, t.x**2 + t.y**2], dim=1),
        lower=[-0.5, -math.inf],
        upper=[math.inf, 1.0],
        tolerance=1e-9,
    )
    train = random.uniform(-0.6, 0.8, size=(50, 2))
    rows = float64(random.normal(size=(20, 2)))
    chord = chord_of(within, train)
    result = projected(chord, rows)
    inside = (rows[:, 0] >= -0.5) & (rows.square().sum(1) <= 1)
    assert torch.equal(result.values[inside], rows[inside])
    assert (result.displacement[inside] == 0).all()
    assert result.codes.tolist() == [OK] * 20
    assert (result.values[:, 0] >= -0.5 - 1e-9).all()
    assert (result.values.square().sum(1) <= 1 + 1e-9).all()
    assert ((result.values != rows).any(1) == ~inside).all()


def test_a_row_beyond_a_limit_ends_on_it_not_behind_it():
    chord = chord_of(law(lambda t: t.x + t.y, lower=-1.0, upper=2.0), [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    result = projected(chord, [[3.0, 1.0], [-3.0, 0.0]])
    # Equal standard deviations share the excess in halves: 2 beyond the upper limit, 2 beyond the lower.
    assert_close(result.values, float64([[2.0, 0.0], [-2.0, 1.0]]), rtol=0, atol=1e-12)


def test_equality_and_limit_together_leave_the_corner():
    chord = chord_of(
        law(lambda t: torch.stack([t.x + t.y, t.x], dim=1), lower=[1.0, -math.inf], upper=[1.0, 0.3]), np.eye(2)
    )
    # From (1, 0) the equality holds and x must come down by 0.7; from (0, -1) the equality pulls x up past its limit.
    result = projected(chord, [[1.0, 0.0], [0.0, -1.0], [0.1, 0.9]])
    assert result.codes.tolist() == [OK] * 3
    assert_close(result.values, float64([[0.3, 0.7], [0.3, 0.7], [0.1, 0.9]]), rtol=0, atol=1e-9)


@pytest.mark.parametrize('steps', [{}, {'chord_steps': 0}], ids=['chord', 'own'])
def test_fixed_columns_do_not_move(steps):
    chord = chord_of(unit_circle(), arc())
    fixed = [[False, False], [True, False], [False, True]]
    result = projected(chord, [[0.7, 0.75]] * 3, fixed, **steps)
    assert result.codes.tolist() == [OK] * 3
    assert result.values[1, 0] == 0.7
    assert result.values[2, 1] == 0.75
    # The free column is what the law leaves: less than the tolerance of 1e-9 over the slope of about 1.4.
    assert result.values[1, 1].item() == pytest.approx(math.sqrt(1 - 0.7**2), abs=1e-9)
    assert result.values[2, 0].item() == pytest.approx(math.sqrt(1 - 0.75**2), abs=1e-9)


def test_constant_columns_do_not_move():
    train = np.column_stack([arc(), np.full(40, 4.0)])
    chord = chord_of(law(lambda t: t.x**2 + t.y**2 - t.z / 4, ['x', 'y', 'z']), train)
    result = projected(chord, train * [1.1, 1.0, 1.0])
    assert result.codes.tolist() == [OK] * 40
    assert (result.values[:, 2] == 4.0).all()


@pytest.mark.parametrize('steps', [{}, {'chord_steps': 0}], ids=['chord', 'own'])
def test_all_columns_of_an_equation_fixed_is_singular(steps):
    chord = chord_of(unit_circle(), arc())
    rows = float64([[0.7, 0.75], [0.7, 0.75], [0.6, 0.8]])
    result = projected(chord, rows, [[True, True], [False, False], [True, True]], **steps)
    # The last row obeys the law as it is.
    assert result.codes.tolist() == [SINGULAR, OK, OK]
    assert torch.equal(result.values[[0, 2]], rows[[0, 2]])


def test_one_equation_of_two_that_nothing_can_change_is_singular():
    both = law(lambda t: torch.stack([t.x - t.y, t.z - 1], dim=1), ['x', 'y', 'z'])
    train = np.random.default_rng(0).normal(size=(20, 3))
    result = projected(chord_of(both, train), [[1.0, 2.0, 3.0]], [[False, False, True]])
    assert result.codes.tolist() == [SINGULAR]


@pytest.mark.parametrize('bad', [-1.0, math.nan, math.inf])
def test_a_row_outside_the_domain_is_not_finite_and_harms_no_other(bad):
    logarithm = law(lambda t: t.x.log() + t.y)
    chord = chord_of(logarithm, np.random.default_rng(0).uniform(1, 2, size=(30, 2)))
    good = projected(chord, [[1.5, 0.1], [2.5, -1.2]])
    result = projected(chord, [[1.5, 0.1], [bad, 0.1], [2.5, -1.2]])
    assert result.codes.tolist() == [OK, NOT_FINITE, OK]
    assert_close(result.values[[0, 2]], good.values, rtol=1e-12, atol=1e-12)


def test_an_unsolvable_law_ends_with_a_code():
    chord = chord_of(law(lambda t: t.x**2 + 1, ['x']), [[0.5], [1.0], [2.5]])
    result = projected(chord, [[0.5], [1.0], [2.0], [2.5]])
    # Steps run out, or end where x = 0 and the law has no slope left.
    assert set(result.codes.tolist()) <= {MAX_STEPS, SINGULAR}
    assert MAX_STEPS in result.codes.tolist()
    assert result.values.isfinite().all()


def test_steps_that_run_out_give_max_steps_and_more_of_them_converge():
    chord = chord_of(law(lambda t: t.x**5 - 1, ['x']), [[0.9], [1.1]])
    # From 3, Newton's method takes a fifth of the way at first: far more than two steps.
    assert projected(chord, [[3.0]], newton_steps=2).codes.tolist() == [MAX_STEPS]
    result = projected(chord, [[3.0]])
    assert result.codes.tolist() == [OK]
    assert result.values.item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(('mean', 'code'), [(8.0, MAX_STEPS), (3.0, OK)])
def test_rows_that_shrink_by_less_than_half_a_step_leave_the_chord(mean, code):
    # The slope at the mean row is 2m, at the solution 4: each step leaves about 1 - 2/m of the residual, 3/4 or 1/3.
    # Enough steps of 3/4 would do, but the row's own Jacobian is the better way; here it gets no step.
    chord = chord_of(law(lambda t: t.x**2 - 4, ['x'], tolerance=1.0), [[mean - 1], [mean + 1]])
    assert projected(chord, [[2.5]], chord_steps=1000, newton_steps=0).codes.tolist() == [code]


def test_a_circle_around_the_mean_row_is_reached_by_own_jacobians():
    # The law has no slope at the mean row, so that the shared inverse is zero.
    angle = np.linspace(0, 2 * np.pi, 4, endpoint=False)
    train = np.round(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    rows = float64(1.2 * np.stack([np.cos(angle + 0.3), np.sin(angle + 0.3)], axis=1))
    result = projected(chord_of(unit_circle(), train), rows)
    assert result.codes.tolist() == [OK] * 4
    # Both columns have one standard deviation: the nearest point lies on the ray; half the tolerance of 1e-9 in radius.
    assert_close(result.values, rows / 1.2, rtol=0, atol=1e-9)


@pytest.mark.parametrize('steps', [{}, {'chord_steps': 0}, {'newton_steps': 4}], ids=['all', 'own', 'few'])
@pytest.mark.parametrize('tolerance', [1e-9, 1e-2])
def test_rows_never_meet(steps, tolerance):
    # Good rows, one that never converges, one outside the domain, different fixed columns, a loose tolerance.
    odd = law(
        lambda t: torch.stack([t.x**2 + t.y**2 - 1, t.y + t.z.sqrt() - 1.5], dim=1),
        ['x', 'y', 'z'],
        lower=[0.0, -0.5],
        upper=[0.0, 0.5],
        tolerance=tolerance,
    )
    train = np.column_stack([arc(), np.linspace(0.5, 1.5, 40)])
    rows = float64(np.random.default_rng(0).normal(size=(24, 3)) * 0.3 + [0.7, 0.7, 1.0])
    rows[3, 2], rows[5] = -1.0, float64([30.0, -20.0, 1e4])
    fixed = torch.tensor(list(itertools.product([False, True], repeat=3)) * 3)
    chord = chord_of(odd, train)
    together = projected(chord, rows, fixed, **steps)
    for index, (row, mask) in enumerate(zip(rows, fixed, strict=True)):
        alone = projected(chord_of(odd, train), row[None], mask[None], **steps)
        assert together.codes[index] == alone.codes[0]
        # The same steps in float64; solves and products of a batch may round otherwise.
        if alone.codes[0] == OK:
            assert_close(together.values[index], alone.values[0], rtol=1e-9, atol=1e-9)
    assert {OK, NOT_FINITE, SINGULAR} <= set(together.codes.tolist())


def test_the_displacement_is_the_root_mean_square_in_standard_deviations():
    chord = chord_of(unit_circle(), arc())
    rows = float64([[0.9, 0.9], [0.5, 0.6], [0.6, 0.8]])
    result = projected(chord, rows)
    moves = (result.values.numpy() - rows.numpy()) / arc().std(0, ddof=1)
    assert result.displacement.numpy() == pytest.approx(np.sqrt((moves**2).mean(1)), rel=1e-12)
    assert result.displacement[2] == 0
    assert result.displacement[0] > 0.1


def test_feasible_rows_are_returned_as_they_are():
    # The second misses the circle by 2e-6, which is a five-hundredth of the tolerance.
    chord = chord_of(unit_circle(tolerance=1e-3), arc())
    rows = float64([[0.6, 0.8], [0.6, 0.8 + 1.25e-6]])
    result = projected(chord, rows)
    assert torch.equal(result.values, rows)
    assert result.codes.tolist() == [OK, OK]
    assert result.displacement.tolist() == [0, 0]


def test_rows_end_well_inside_the_tolerance():
    chord = chord_of(unit_circle(tolerance=1e-3), arc())
    result = projected(chord, 1.1 * arc())
    # At most a tenth of it, so that later rounding does not undo them.
    assert chord.system.excess(result.values).max() <= 0.1


def test_the_input_is_left_alone_and_no_rows_give_no_rows():
    chord = chord_of(unit_circle(), arc())
    rows = float64([[0.9, 0.9], [9.0, 9.0]])
    before = rows.clone()
    projected(chord, rows)
    assert torch.equal(rows, before)
    empty = projected(chord, np.zeros((0, 2)))
    assert empty.values.shape == (0, 2)
    assert len(empty.codes) == len(empty.displacement) == 0


def test_a_step_that_breaks_an_inequality_which_held_is_no_gain():
    """With the product fixed, a step towards the equality may leave the bounds, which ask nothing of the row before."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.1, 3, (2, 2000))
    table = pd.DataFrame({'t': x * y, 'x': x, 'y': y})
    laws = [Formula('t == x * y', 1e-9), Bounds('x', 0.1, 3), Bounds('y', 0.1, 3)]
    system = ConstraintSystem(laws, table)
    values = system.values(table)
    chord = Chord(system, values)
    shaken = values + chord.scale * torch.from_numpy(rng.normal(size=values.shape)) * torch.tensor([0.0, 2.0, 2.0])
    fixed = torch.tensor([True, False, False]).expand(len(values), 3)
    projected = project(chord, shaken, fixed)
    # Each of these products is reached inside the bounds: by the row that was shaken.
    assert (projected.codes == ResultCode.CONVERGED).all()
    assert system.feasible(projected.values).all()


@pytest.mark.parametrize('measured', [False, True])
@pytest.mark.parametrize(('equations', 'number'), [(3, 7), (5, 9), (4, 20)])
def test_rows_that_need_their_own_steps_have_the_same_bits_in_any_company(equations, number, measured, monkeypatch):
    random = np.random.default_rng(equations)
    weights = random.normal(size=(equations, number))
    names = [f'x{place}' for place in range(number)]

    @constraint(columns=names, tolerance=1e-9)
    def curved(table):
        # Term by term: a product of matrices of odd sizes would itself round by the company.
        sums = [sum(float(w) * table[name] for w, name in zip(row, names, strict=True)) for row in weights]
        return torch.stack([each.square() + table[name] - 2 for each, name in zip(sums, names, strict=False)], dim=1)

    data = pd.DataFrame(random.normal(size=(40, number)), columns=names)
    system = ConstraintSystem([curved], data)
    values = system.values(data)
    chord, fixed = Chord(system, values), torch.zeros_like(values, dtype=torch.bool)
    measure = torch.from_numpy(random.uniform(0.5, 2.0, values.shape)) if measured else None
    reached, newton_steps = [], projection._newton_steps

    def counted(chord, values, *rest):
        reached.append(len(values))
        return newton_steps(chord, values, *rest)

    monkeypatch.setattr(projection, '_newton_steps', counted)
    together = project(chord, values, fixed, measure)
    assert reached[0] > 10
    each = torch.arange(len(values))
    for rows in [*each.split(7), *each.split(1)]:
        part = project(chord, values[rows], fixed[rows], None if measure is None else measure[rows])
        assert torch.equal(part.values, together.values[rows])
        assert torch.equal(part.codes, together.codes[rows])


def test_a_row_that_comes_no_nearer_is_given_up_early_and_holds_up_no_other(monkeypatch):
    """x^2 + 1 has no root: the way ends at x = 0. The other law is met by the other row in a few steps."""
    evaluated = []

    def residual(table):
        evaluated.append(len(table.x))
        return torch.stack([torch.where(table.y > 0, table.x**2 + 1, table.x**2 - 2)], dim=1)

    chord = chord_of(law(residual, tolerance=1e-9), np.random.default_rng(0).uniform(1, 2, size=(50, 2)))
    rows, fixed = float64([[3.0, 1.0], [3.0, -1.0]]), torch.tensor([[False, True], [False, True]])

    def steps():
        evaluated.clear()
        return project(chord, rows, fixed, newton_steps=60), len(evaluated)

    early, few = steps()
    assert early.codes.tolist()[1] == OK
    assert early.codes[0] != OK
    assert early.values[1, 0] == pytest.approx(2**0.5, abs=1e-8)
    monkeypatch.setattr(projection, 'PATIENCE', 1000)
    late, many = steps()
    assert few < many
    assert torch.equal(early.codes, late.codes)
    assert torch.equal(early.values[1], late.values[1])
