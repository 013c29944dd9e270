"""Steps of rows that hold columns of their own, against the KKT system of the shortest move."""

import numpy as np
import pandas as pd
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdv_constrained_diffusion.constraints.base import constraint
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
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
