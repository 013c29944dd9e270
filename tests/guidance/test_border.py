"""Steps of rows that hold columns of their own, against the KKT system of the shortest move."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdv_constrained_diffusion.constraints.base import constraint
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.guidance.border import Border
from sdv_constrained_diffusion.guidance.chord import Chord


def chord_of(seed, columns, equalities, inequalities):
    random = np.random.default_rng(seed)
    a = torch.from_numpy(random.normal(size=(equalities + inequalities, columns)))
    upper = [0.0] * equalities + [0.5] * inequalities

    @constraint(columns=[f'v{number}' for number in range(columns)], lower=[-each for each in upper], upper=upper)
    def law(table):
        return table.values @ a.T

    data = pd.DataFrame(random.normal(size=(50, columns)), columns=law.columns)
    system = ConstraintSystem([law], data)
    return Chord(system, system.values(data)), a.numpy()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), columns=st.integers(6, 12), equalities=st.integers(0, 2), more=st.integers(1, 2))
def test_the_step_solves_the_kkt_system(seed, columns, equalities, more):
    chord, a = chord_of(seed, columns, equalities, more)
    random = np.random.default_rng(seed + 1)
    rows = torch.from_numpy(random.normal(size=(6, columns)))
    fixed = torch.from_numpy(random.random((6, columns)) < 0.15)
    deviation = chord.system.deviation(chord.system.residual(rows))
    moved = chord.step(rows, deviation, fixed)
    assert torch.equal(moved[fixed], rows[fixed])
    scale = chord.scale.numpy()
    for row in range(6):
        asked = (np.arange(len(a)) < equalities) | (deviation[row].numpy() != 0)
        free = ~fixed[row].numpy()
        j = (a * scale)[asked][:, free]
        if np.linalg.matrix_rank(j) < len(j):
            continue
        expected = np.zeros(columns)
        expected[free] = -np.linalg.pinv(j) @ deviation[row].numpy()[asked] * scale[free]
        found = (moved[row] - rows[row]).numpy()
        # Rounding, times the square of the condition number of what is left to move.
        size = max(np.abs(expected).max(), 1.0) * np.linalg.cond(j) ** 2 if len(j) else 1.0
        assert np.abs(found - expected).max() <= 1e-11 * size


def test_columns_that_no_row_may_move_are_left_out_of_the_factorisation():
    chord, _ = chord_of(3, 8, 2, 0)
    rows = torch.from_numpy(np.random.default_rng(4).normal(size=(5, 8)))
    still = torch.zeros(8, dtype=torch.bool)
    still[[1, 6]] = True
    deviation = chord.system.deviation(chord.system.residual(rows))
    nothing = torch.zeros_like(rows, dtype=torch.bool)
    left_out = chord.without(still).step(rows, deviation, nothing)
    assert torch.equal(left_out[:, still], rows[:, still])
    # The same move by another way.
    torch.testing.assert_close(left_out, chord.step(rows, deviation, nothing | still), rtol=1e-10, atol=1e-10)
    assert chord.without(still) is chord.without(still)


def border_of(jacobian, inequality):
    """The factorisation of some equations, by numpy's singular values."""
    _, sizes, right = np.linalg.svd(jacobian[~inequality], full_matrices=False)
    rank = int((sizes > 1e-9 * sizes.max(initial=0.0)).sum())
    gain = np.zeros(jacobian.T.shape)
    gain[:, ~inequality] = np.linalg.pinv(jacobian[~inequality], rcond=1e-9)
    parts = (gain, right[:rank].T.copy(), jacobian, inequality)
    return Border(*(torch.from_numpy(part) for part in parts))


def asked_of(jacobian, inequality, deviation, fixed, active):
    """Of one row: the equations `A d = b` of its move, those of the equalities first, and how many these are."""
    pins = np.eye(jacobian.shape[1])[fixed & (jacobian != 0).any(0)]
    mine = inequality & active
    left = np.concatenate([jacobian[~inequality], pins, jacobian[mine]])
    right = np.concatenate([-deviation[~inequality], np.zeros(len(pins)), -deviation[mine]])
    return left, right, int((~inequality).sum())


def random_rows(seed, rows, columns, equations, inequalities, pinned):
    """Equations of unit gradients, and rows with deviations, columns that stay and inequalities that are broken."""
    random = np.random.default_rng(seed)
    jacobian = random.normal(size=(equations + inequalities, columns))
    jacobian /= np.linalg.norm(jacobian, axis=1, keepdims=True)
    inequality = np.arange(equations + inequalities) >= equations
    active = ~inequality | (random.random((rows, len(jacobian))) < 0.5)
    deviation = np.where(active, random.normal(size=active.shape), 0.0)
    return jacobian, inequality, deviation, random.random((rows, columns)) < pinned, active


def steps(border, *rows):
    return border.step(*(torch.from_numpy(np.ascontiguousarray(each)) for each in rows)).numpy()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    columns=st.integers(2, 40),
    share=st.floats(0, 0.9),
    inequalities=st.integers(0, 4),
    pinned=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
)
def test_the_step_is_the_shortest_that_meets_what_is_asked(seed, columns, share, inequalities, pinned):
    equations = int(share * columns)
    jacobian, inequality, *rows = random_rows(seed, 5, columns, equations, inequalities, pinned)
    moved = steps(border_of(jacobian, inequality), *rows)
    for row, move in enumerate(moved):
        left, right, _ = asked_of(jacobian, inequality, *(each[row] for each in rows))
        shortest = np.linalg.pinv(left) @ right if len(left) else np.zeros(columns)
        sizes = np.linalg.svd(left, compute_uv=False)
        # What the equalities nearly decide, and what cannot be met, are other tests' matter.
        if len(left) and (len(left) > columns or sizes.min() < 1e-2):
            continue
        condition = sizes.max() / sizes.min() if len(left) else 1.0
        assert np.abs(move - shortest).max() <= 1e-13 * condition**2 * max(1.0, np.abs(shortest).max())


@pytest.mark.parametrize('sine', [1e-1, 1e-2, 1e-3, 1e-4])
def test_pins_that_the_equalities_nearly_decide_are_still_met(sine):
    # Two columns stay that would carry the first equation all but for the sine of an angle; a third has to do it.
    jacobian = np.array([[1.0, 1.0, sine, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0, 1.0]])
    jacobian /= np.linalg.norm(jacobian, axis=1, keepdims=True)
    inequality, active = np.zeros(2, dtype=bool), np.ones((1, 2), dtype=bool)
    deviation, fixed = sine * np.array([[1.0, 0.5]]), np.array([[True, True, False, False, False]])
    move = steps(border_of(jacobian, inequality), deviation, fixed, active)[0]
    left, right, _ = asked_of(jacobian, inequality, deviation[0], fixed[0], active[0])
    shortest = np.linalg.pinv(left) @ right
    assert np.abs(shortest).max() > 0.9
    # The system's smallest eigenvalue is the square of the sine.
    assert np.abs(move - shortest).max() <= 1e-14 / sine**2


@pytest.mark.parametrize('inequalities', [0, 2])
def test_pins_that_cannot_be_met_give_way_and_the_equalities_hold(inequalities):
    # Nine of ten columns stay, and five equations hold: there is no such move, unless nothing deviates.
    jacobian, inequality, deviation, fixed, active = random_rows(3, 8, 10, 5, inequalities, 0.0)
    fixed[:, :9] = True
    moved = steps(border_of(jacobian, inequality), deviation, fixed, active)
    _, _, right_vectors = np.linalg.svd(jacobian[~inequality])
    free = right_vectors[5:].T @ right_vectors[5:]
    for row, move in enumerate(moved):
        left, right, equalities = asked_of(jacobian, inequality, deviation[row], fixed[row], active[row])
        assert np.linalg.norm(left[:equalities] @ move - right[:equalities]) < 1e-12
        # Least squares of the pins and of what is broken, in the null space of the equalities.
        first = np.linalg.pinv(left[:equalities]) @ right[:equalities]
        further = left[equalities:] @ free
        best = first + np.linalg.pinv(further, rcond=1e-6) @ (right[equalities:] - left[equalities:] @ first)
        assert np.abs(move - best).max() < 1e-10
        assert np.linalg.norm(left[equalities:] @ move - right[equalities:]) > 1e-3


def test_what_is_asked_twice_is_asked_once():
    jacobian, inequality, deviation, fixed, active = random_rows(5, 6, 9, 3, 2, 0.2)
    twice = np.concatenate([jacobian, jacobian[-1:]])
    again = [np.concatenate([each, each[..., -1:]], axis=-1) for each in (inequality, deviation, active)]
    once = steps(border_of(jacobian, inequality), deviation, fixed, active)
    # The same gradient in two inequalities makes the system singular: the pseudo-inverse drops what is below 1e-9.
    doubled = steps(border_of(twice, again[0]), again[1], fixed, again[2])
    np.testing.assert_allclose(doubled, once, rtol=0, atol=1e-9)
    assert np.abs(once).max() > 0.1


def test_columns_that_never_move_and_inequalities_that_are_obeyed_ask_nothing():
    jacobian, inequality, deviation, fixed, active = random_rows(7, 6, 9, 3, 2, 0.0)
    jacobian[:, [2, 5]] = 0.0
    border = border_of(jacobian, inequality)
    fixed[:, [2, 5]] = True
    assert np.array_equal(steps(border, deviation, fixed, active), steps(border, deviation, ~fixed & fixed, active))
    obeyed = np.where(inequality, 0.0, deviation)
    idle = np.broadcast_to(~inequality, active.shape)
    moved = steps(border, obeyed, ~fixed & fixed, idle)
    np.testing.assert_allclose(moved @ jacobian[~inequality].T, -obeyed[:, ~inequality], rtol=0, atol=1e-13)
    np.testing.assert_allclose(moved, -obeyed[:, ~inequality] @ np.linalg.pinv(jacobian[~inequality]).T, atol=1e-13)


@pytest.mark.parametrize(('columns', 'equations', 'inequalities'), [(9, 7, 0), (25, 16, 3), (35, 17, 2), (14, 5, 5)])
def test_a_row_has_the_same_bits_in_any_company(columns, equations, inequalities):
    # Odd numbers of columns and equations, for which products round by where a row lies in memory.
    jacobian, inequality, *rows = random_rows(0, 37, columns, equations, inequalities, 0.3)
    border = border_of(jacobian, inequality)
    together = steps(border, *rows)
    for count in (1, 2, 15, 17):
        assert np.array_equal(steps(border, *(each[-count:] for each in rows)), together[-count:])
    assert np.abs(together).max() > 0.1


def test_without_equalities_what_is_broken_is_mended_alone():
    jacobian, inequality, deviation, fixed, active = random_rows(9, 4, 6, 0, 3, 0.3)
    moved = steps(border_of(jacobian, inequality), deviation, fixed, active)
    for row, move in enumerate(moved):
        free = ~fixed[row]
        broken = jacobian[active[row]][:, free]
        shortest = np.zeros(6)
        shortest[free] = -np.linalg.pinv(broken) @ deviation[row][active[row]]
        np.testing.assert_allclose(move, shortest, rtol=0, atol=1e-12)


def test_chords_without_columns_are_kept_and_share_what_moves():
    chord, _ = chord_of(3, 8, 2, 1)
    nothing = torch.zeros(8, dtype=torch.bool)
    assert chord.without(nothing) is chord
    first, second = nothing.clone(), nothing.clone()
    first[1], second[[1, 4]] = True, True
    rows = torch.from_numpy(np.random.default_rng(4).normal(size=(5, 8)))
    deviation = chord.system.deviation(chord.system.residual(rows))
    none = torch.zeros_like(rows, dtype=torch.bool)
    # One after the other is both at once, and neither changes the whole.
    whole = chord.step(rows, deviation, none)
    both = chord.without(first).without(second)
    torch.testing.assert_close(
        both.step(rows, deviation, none), chord.without(second).step(rows, deviation, none), rtol=1e-12, atol=1e-12
    )
    assert torch.equal(chord.step(rows, deviation, none), whole)
    assert not torch.equal(whole[:, 4], rows[:, 4])
