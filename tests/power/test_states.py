"""Voltages that are solved for: found where they can be, of least norm where nothing asks, with their derivatives."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdv_constrained_diffusion.power.states import UnseenVoltages


class Affine:
    """Equations `h = linear - A x` over the states x of a few nodes: the solution is linear algebra."""

    def __init__(self, equations, nodes, seed, rank=None):
        generator = torch.Generator().manual_seed(seed)
        self.matrix = torch.randn(equations, 2 * nodes, generator=generator, dtype=torch.float64)
        if rank is not None:
            left = torch.randn(equations, rank, generator=generator, dtype=torch.float64)
            self.matrix = left @ torch.randn(rank, 2 * nodes, generator=generator, dtype=torch.float64)

    def implied(self, voltages):
        return torch.cat(voltages, dim=1) @ self.matrix.T

    def derivative(self, voltages):
        return self.matrix.expand(len(voltages[0]), -1, -1)


def divider(voltages):
    """P and Q that a bus draws over x = 0.1 from a bus of 1 p.u. at angle 0: states are vm and va of both."""
    (_, vm), (_, va) = (part.unbind(1) for part in voltages)
    return torch.stack([-vm * va.sin() / 0.1, (vm * va.cos() - vm.square()) / 0.1], dim=1)


def divider_derivative(voltages):
    (_, vm), (_, va) = (part.unbind(1) for part in voltages)
    nothing = torch.zeros_like(vm)
    by_p = torch.stack([nothing, -va.sin() / 0.1, nothing, -vm * va.cos() / 0.1], dim=1)
    by_q = torch.stack([nothing, (va.cos() - 2 * vm) / 0.1, nothing, -vm * va.sin() / 0.1], dim=1)
    return torch.stack([by_p, by_q], dim=1)


FLAT = (torch.ones(1, 2).double(), torch.zeros(1, 2).double())
FAR_BUS = torch.tensor([1, 3])


def drawing(demands):
    """Solves for the far bus's voltage at some demands."""
    linear = torch.tensor(demands, dtype=torch.float64)
    unseen = UnseenVoltages(FAR_BUS, -divider_derivative(FLAT)[0])
    start = tuple(part.expand(len(linear), -1) for part in FLAT)
    return linear, unseen.solve(start, linear, divider, divider_derivative)


@pytest.mark.parametrize('p', [0.1, 1.0, 3.0, 4.5, 4.9999])
def test_a_demand_over_a_reactance_in_closed_form(p):
    # Without reactive demand vm^2 = (1 + sqrt(1 - 4 (x p)^2)) / 2 up to the limit x p = 1/2, and vm cos(va) = vm^2.
    linear, (vm, va) = drawing([[p, 0.0]])
    expected = math.sqrt((1 + math.sqrt(1 - 4 * (0.1 * p) ** 2)) / 2)
    # The upper of two solutions; near the limit, where they meet, a residual of 1e-14 is 1e-7 of a voltage.
    assert vm[0].tolist() == pytest.approx([1.0, expected], abs=1e-12 if p < 4.9 else 1e-9)
    assert va[0].tolist() == pytest.approx([0.0, -math.acos(expected)], abs=1e-12 if p < 4.9 else 1e-9)
    assert (divider((vm, va)) - linear).abs().max() < 1e-11


def test_a_demand_beyond_reach_ends_somewhere_finite():
    linear, (vm, va) = drawing([[5.5, 0.0], [1.0, 0.0], [math.nan, 0.0]])
    assert vm[:2].isfinite().all()
    assert va[:2].isfinite().all()
    left = (divider((vm, va)) - linear).abs().amax(1)
    assert left[0] > 0.1
    assert left[1] < 1e-11


def test_a_row_is_solved_alike_in_any_company():
    generator = torch.Generator().manual_seed(0)
    # From idle to beyond reach, so that some settle at once, some are searched for, and some are given up.
    demands = (6.0 * torch.rand(40, 2, generator=generator, dtype=torch.float64)).tolist()
    _, (vm, va) = drawing(demands)
    for row in range(0, 40, 7):
        _, (own_vm, own_va) = drawing([demands[row]] * 16)
        assert torch.equal(own_vm[0], vm[row])
        assert torch.equal(own_va[0], va[row])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), nodes=st.integers(1, 5), data=st.data())
def test_affine_equations_by_least_squares(seed, nodes, data):
    equations = data.draw(st.integers(1, 8))
    unseen = data.draw(st.integers(1, 2 * nodes))
    rank = data.draw(st.integers(1, min(equations, unseen)))
    law = Affine(equations, nodes, seed, rank)
    where = torch.randperm(2 * nodes, generator=torch.Generator().manual_seed(seed))[:unseen]
    solver = UnseenVoltages(where, -law.matrix)
    rank = int(torch.linalg.matrix_rank(law.matrix[:, where], rtol=1e-9))
    assert solver.num_unknowns == rank
    start = torch.randn(3, 2 * nodes, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    linear = torch.randn(3, equations, generator=torch.Generator().manual_seed(seed + 2), dtype=torch.float64)
    found = torch.cat(solver.solve(tuple(start.chunk(2, dim=1)), linear, law.implied, law.derivative), dim=1)
    # The shortest change of the unseen that fits best: pseudo-inverse by torch's own SVD.
    inverse = torch.linalg.pinv(law.matrix[:, where], rtol=1e-9)
    expected = start.clone()
    expected[:, where] += (linear - start @ law.matrix.T) @ inverse.T
    condition = float(torch.linalg.norm(inverse, 2) * torch.linalg.norm(law.matrix, 2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * condition**2)
    seen = [place for place in range(2 * nodes) if place not in where.tolist()]
    assert torch.equal(found[:, seen], start[:, seen])
    # By columns: what is left of h when x follows, (I - A A^+) h_u.
    by = torch.randn(3, equations, 4, generator=torch.Generator().manual_seed(seed + 3), dtype=torch.float64)
    eliminated = solver.eliminated(-law.derivative(start.chunk(2, dim=1)), by)
    expected = by - law.matrix[:, where] @ inverse @ by
    torch.testing.assert_close(eliminated, expected, rtol=0, atol=1e-12 * condition**2 * float(by.abs().max()))


def test_nothing_unknown_changes_nothing():
    law = Affine(2, 2, seed=0)
    law.matrix[:, [1, 3]] = 0.0
    solver = UnseenVoltages(FAR_BUS, -law.matrix)
    assert solver.num_unknowns == 0
    start = (torch.ones(2, 2).double(), torch.zeros(2, 2).double())
    assert solver.solve(start, torch.ones(2, 2).double(), law.implied, law.derivative) is start
    by = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(solver.eliminated(-law.derivative(start), by), by)


def test_one_more_step_of_newton_carries_the_derivative():
    linear, found = drawing([[3.0, 0.5]])
    solver = UnseenVoltages(FAR_BUS, -divider_derivative(FLAT)[0])

    def magnitude(demand):
        vm, _ = solver.newton(found, demand - divider(found), -divider_derivative(found))
        return vm[0, 1]

    # The search ends at 1e-12; the step beyond it moves no more than that.
    assert magnitude(linear).item() == pytest.approx(found[0][0, 1].item(), abs=1e-12)
    slope = torch.autograd.functional.jacobian(magnitude, linear)[0]
    step = 1e-5
    for place in range(2):
        move = step * torch.eye(2, dtype=torch.float64)[place]
        ends = [drawing((linear + sign * move).tolist())[1][0][0, 1].item() for sign in (1, -1)]
        # Central differences: the third derivative's share, 1e-10, and rounding, 1e-11.
        assert slope[place].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8)
