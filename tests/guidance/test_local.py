"""Steps in measures of each row's own: the closed form, and the same bits in any company."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdv_constrained_diffusion.constraints.base import constraint
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.guidance.chord import Chord
from sdv_constrained_diffusion.guidance.entries import num_products
from sdv_constrained_diffusion.guidance.local import LocalSteps
from sdv_constrained_diffusion.guidance.projection import ResultCode, project


def random_system(seed, rows, columns, equations):
    random = np.random.default_rng(seed)
    jacobian = torch.from_numpy(random.normal(size=(equations, columns)))
    measure = torch.from_numpy(random.uniform(0.1, 2.0, (rows, columns)))
    return jacobian, measure, torch.from_numpy(random.normal(size=(rows, equations)))


def steps(jacobian, measure, fixed=None, idle=None, sparse=False, apart=()):
    rows, equations = len(measure), len(jacobian)
    fixed = torch.zeros_like(measure, dtype=torch.bool) if fixed is None else fixed
    idle = torch.zeros(rows, equations, dtype=torch.bool) if idle is None else idle
    used = torch.ones(equations, dtype=torch.bool)
    first = torch.zeros(equations, dtype=torch.bool)
    first[list(apart)] = True
    return LocalSteps(jacobian[None], measure, fixed, idle, used, first, sparse)


def set_apart(jacobian, apart, values):
    """Leaves these equations two columns each, of their own."""
    for place in apart:
        jacobian[place] = 0
        jacobian[place, 2 * place : 2 * place + 2] = values[:2, place] + 3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), columns=st.integers(3, 9), sparse=st.booleans(), data=st.data())
def test_a_step_is_the_shortest_in_the_rows_own_measure(seed, columns, sparse, data):
    equations = data.draw(st.integers(1, columns - 2))
    jacobian, measure, deviation = random_system(seed, 5, columns, equations)
    jacobian[torch.from_numpy(np.random.default_rng(seed).random(jacobian.shape) < 0.3)] = 0
    apart = range(data.draw(st.integers(0, min(equations, columns // 2))))
    set_apart(jacobian, apart, deviation)
    if np.linalg.cond(jacobian[:, 1:].numpy()) > 1e3:
        return
    fixed = torch.zeros(5, columns, dtype=torch.bool)
    fixed[1, 0] = True
    moved = steps(jacobian, measure, fixed, sparse=sparse, apart=apart).move(deviation, torch.arange(5))
    for row in range(5):
        d = np.diag((measure[row] * ~fixed[row]).numpy() ** 2)
        j, h = jacobian.numpy(), deviation[row].numpy()
        normal = j @ d @ j.T
        expected = -d @ j.T @ np.linalg.solve(normal, h)
        # Single precision and a ridge of 1e-6, times the condition of the normal matrix.
        size = np.abs(expected).max() * max(np.linalg.cond(normal), 1.0)
        assert np.abs(moved[row].numpy() - expected).max() <= 1e-5 * size
    assert moved[1, 0] == 0


def test_an_idle_equation_asks_for_nothing():
    jacobian, measure, deviation = random_system(0, 4, 6, 3)
    idle = torch.zeros(4, 3, dtype=torch.bool)
    idle[2, 1] = True
    moved = steps(jacobian, measure, idle=idle).move(deviation.masked_fill(idle, 0), torch.arange(4))
    without = steps(jacobian[[0, 2]], measure).move(deviation[:, [0, 2]], torch.arange(4))
    # Another size of matrix: single precision.
    torch.testing.assert_close(moved[2], without[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('sparse', [False, True])
@pytest.mark.parametrize('apart', [(), range(7)])
@pytest.mark.parametrize(('columns', 'equations'), [(21, 13), (57, 40)])
def test_rows_have_the_same_bits_in_any_company(columns, equations, apart, sparse):
    jacobian, measure, deviation = random_system(1, 40, columns, equations)
    jacobian[torch.from_numpy(np.random.default_rng(2).random(jacobian.shape) < 0.6)] = 0
    set_apart(jacobian, apart, deviation)
    options = {'apart': apart, 'sparse': sparse}
    together = steps(jacobian, measure, **options).move(deviation, torch.arange(40))
    for chosen in (torch.tensor([7]), torch.tensor([3, 11, 39])):
        alone = steps(jacobian, measure[chosen], **options).move(deviation[chosen], torch.arange(len(chosen)))
        assert torch.equal(alone, together[chosen])
        part = steps(jacobian, measure, **options).move(deviation[chosen], chosen)
        assert torch.equal(part, together[chosen])


def test_a_row_has_the_same_bits_beside_rows_with_other_entries():
    jacobian, measure, deviation = random_system(4, 24, 20, 11)
    random = np.random.default_rng(5)
    own = jacobian * torch.from_numpy(random.random((24, 11, 20)) < 0.2)
    own[:, torch.arange(11), torch.arange(11)] = jacobian.diagonal()
    nothing, used = torch.zeros(24, 20, dtype=torch.bool), torch.ones(11, dtype=torch.bool)
    together = LocalSteps(own, measure, nothing, nothing[:, :11], used, ~used, True).move(deviation, torch.arange(24))
    one = slice(3, 4)
    alone = LocalSteps(own[one], measure[one], nothing[one], nothing[one, :11], used, ~used, True)
    assert torch.equal(alone.move(deviation[one], torch.arange(1)), together[one])


def test_equations_met_first_ask_nothing_of_a_row_that_holds_their_columns():
    jacobian, measure, deviation = random_system(6, 4, 9, 5)
    set_apart(jacobian, range(3), deviation)
    fixed = torch.zeros(4, 9, dtype=torch.bool)
    fixed[1, :2] = True
    moved = steps(jacobian, measure, fixed, apart=range(3)).move(deviation, torch.arange(4))
    without = steps(jacobian[1:], measure, fixed).move(deviation[:, 1:], torch.arange(4))
    # Another size of matrix: single precision.
    torch.testing.assert_close(moved[1], without[1], rtol=1e-4, atol=1e-5)
    assert (moved[1, :2] == 0).all()


def test_of_two_equations_that_say_the_same_one_may_be_met_first():
    jacobian, measure, deviation = random_system(7, 4, 9, 4)
    set_apart(jacobian, range(2), deviation)
    twice = torch.cat([jacobian, 2 * jacobian[:1] - jacobian[1:2]])
    moved = steps(twice, measure, apart=range(2)).move(
        torch.cat([deviation, 2 * deviation[:, :1] - deviation[:, 1:2]], dim=1), torch.arange(4)
    )
    once = steps(jacobian, measure).move(deviation, torch.arange(4))
    # Rounding of single precision in a pivot that is the ridge alone.
    torch.testing.assert_close(moved, once, rtol=1e-3, atol=1e-3)


def test_products_are_counted_column_by_column():
    where = torch.tensor([[True, True, False], [True, False, False]])
    assert num_products(where) == pytest.approx(5 / 12)


def test_a_projection_moves_what_its_measure_makes_cheap():
    """On a circle: rows reach it, and the column of the larger measure does the way."""

    @constraint(columns=['x', 'y'], tolerance=1e-9)
    def circle(table):
        return table.x**2 + table.y**2 - 1

    angles = np.linspace(0.2, 0.9, 50)
    data = pd.DataFrame({'x': np.cos(angles), 'y': np.sin(angles)})
    system = ConstraintSystem([circle], data)
    chord, rows = Chord(system, system.values(data)), system.values(data) + 0.1
    fixed = torch.zeros_like(rows, dtype=torch.bool)
    cheap = torch.tensor([1.0, 1e-3]).double().expand(rows.shape)
    projected = project(chord, rows, fixed, cheap)
    assert (projected.codes == ResultCode.CONVERGED).all()
    moved = (projected.values - rows).abs()
    assert (moved[:, 1] < 1e-4 * moved[:, 0] + 1e-9).all()
