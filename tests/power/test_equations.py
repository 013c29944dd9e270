import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdv_constrained_diffusion.power.equations import Admittances, packed, power_jacobians, powers, product


def random_grid(nodes, seed, resistance=True):
    """A connected network of random lines, shunts excepted: a ring and chords, admittances of 1 to 10 per unit."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {(node, (node + 1) % nodes) for node in range(nodes)} | {(0, nodes // 2)}
    y_bus = torch.zeros(nodes, nodes, dtype=torch.complex128)
    for i, k in sorted((min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]):
        r, x = torch.rand(2, generator=generator, dtype=torch.float64) * 0.9 + 0.1
        y = 1 / torch.complex(r if resistance else torch.zeros_like(r), x)
        y_bus[i, i] += y
        y_bus[k, k] += y
        y_bus[i, k] -= y
        y_bus[k, i] -= y
    return y_bus


def lines(nodes, seed, resistance=True):
    return Admittances.of(random_grid(nodes, seed, resistance).numpy())


def random_voltages(rows, nodes, seed):
    generator = torch.Generator().manual_seed(seed)
    vm = 0.9 + 0.2 * torch.rand(rows, nodes, generator=generator, dtype=torch.float64)
    va = 2 * math.pi * torch.rand(rows, nodes, generator=generator, dtype=torch.float64)
    return vm, va


def test_two_buses_match_the_textbook_formula():
    # Lossless line x between V1 and V2 at angle d: P12 = V1 V2 sin(d) / x, Q12 = (V1^2 - V1 V2 cos d) / x.
    x, v1, v2, delta = 0.2, 1.03, 0.97, 0.3
    y = 1 / (1j * x)
    y_bus = torch.tensor([[y, -y], [-y, y]], dtype=torch.complex128)
    p, q = powers(
        torch.tensor([[v1, v2]]).double(), torch.tensor([[delta, 0.0]]).double(), Admittances.of(y_bus.numpy())
    )
    # float64 rounding of terms of about 5 per unit; the voltages come from float32 literals with 7 digits.
    assert p[0].tolist() == pytest.approx([v1 * v2 * math.sin(delta) / x, -v1 * v2 * math.sin(delta) / x], abs=1e-6)
    assert q[0, 0].item() == pytest.approx((v1**2 - v1 * v2 * math.cos(delta)) / x, abs=1e-6)
    assert q[0, 1].item() == pytest.approx((v2**2 - v1 * v2 * math.cos(delta)) / x, abs=1e-6)


def test_real_arithmetic_equals_complex_arithmetic():
    y_bus = random_grid(7, seed=0)
    # A phase shifter makes Y unsymmetric, so that a transposed product shows.
    y_bus[0, 1] *= torch.exp(torch.tensor(0.4j, dtype=torch.complex128))
    vm, va = random_voltages(20, 7, seed=1)
    v = torch.polar(vm, va)
    s = v * (v @ y_bus.T).conj()
    p, q = powers(vm, va, Admittances.of(y_bus.numpy()))
    # Sums of a few terms of about 10 per unit: rounding stays near 1e-14.
    torch.testing.assert_close(torch.complex(p, q), s, rtol=0, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(nodes=st.integers(2, 12), seed=st.integers(0, 10_000))
def test_a_lossless_network_conserves_active_power(nodes, seed):
    vm, va = random_voltages(3, nodes, seed)
    p, _ = powers(vm, va, lines(nodes, seed, resistance=False))
    # Up to 13 branches with terms of about 12 per unit each, 1e-16 relative rounding per operation.
    assert p.sum(dim=1).abs().max() < 1e-12
    lossy, _ = powers(vm, va, lines(nodes, seed))
    assert (lossy.sum(dim=1) > 1e-6).all()


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-10, 10), seed=st.integers(0, 10_000))
def test_a_common_turn_of_all_angles_changes_nothing(shift, seed):
    y = lines(5, seed)
    vm, va = random_voltages(2, 5, seed)
    for turned, original in zip(powers(vm, va + shift, y), powers(vm, va, y), strict=True):
        # Angles up to 17 rad are rounded to 2e-15, times derivatives of about 30 per unit per radian.
        torch.testing.assert_close(turned, original, rtol=0, atol=1e-12)


def test_gradcheck():
    y = lines(5, seed=2)
    vm, va = (part.requires_grad_(True) for part in random_voltages(3, 5, seed=3))
    assert torch.autograd.gradcheck(lambda vm, va: powers(vm, va, y), (vm, va))


def test_closed_form_derivatives_equal_automatic_ones():
    y_bus = random_grid(6, seed=4)
    y_bus[2, 3] *= torch.exp(torch.tensor(0.4j, dtype=torch.complex128))
    vm, va = random_voltages(4, 6, seed=5)
    closed = power_jacobians(vm, va, Admittances.of(y_bus.numpy()))
    for row in range(4):
        automatic = torch.autograd.functional.jacobian(
            lambda vm, va: torch.cat(powers(vm[None], va[None], Admittances.of(y_bus.numpy()))), (vm[row], va[row])
        )
        by_power_and_voltage = (automatic[0][0], automatic[1][0], automatic[0][1], automatic[1][1])
        for formula, derivative in zip(closed, by_power_and_voltage, strict=True):
            # The same sums of about ten terms in another order: float64 rounding only.
            torch.testing.assert_close(formula[row], derivative, rtol=1e-12, atol=1e-12)


def test_single_precision_stays_single():
    vm, va = random_voltages(2, 4, seed=6)
    p, q = powers(vm.float(), va.float(), lines(4, seed=6))
    assert p.dtype == q.dtype == torch.float32


def branch_ends(nodes, ends, seed):
    """Random rows of branch admittances, each with two entries and at one of the nodes; node 1 has none of them."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.zeros(ends, nodes, dtype=torch.complex128)
    at = torch.tensor([0 if end % nodes == 1 else end % nodes for end in range(ends)])
    for end, own in enumerate(at.tolist()):
        other = (own + 1 + end % (nodes - 1)) % nodes
        entries = torch.randn(2, 2, generator=generator, dtype=torch.float64)
        matrix[end, [own, other]] = torch.complex(*entries)
    return matrix, at


@pytest.mark.parametrize('nodes', [5, 12, 70])
def test_terminals_may_be_ends_of_branches_on_grids_of_any_size(nodes):
    # 70 nodes are more than are written out: the products skip zeros there.
    matrix, at = branch_ends(nodes, 2 * nodes + 1, seed=1)
    y = Admittances.of(matrix.numpy(), at.numpy())
    assert isinstance(y.g, torch.Tensor) == (nodes <= 64)
    vm, va = random_voltages(6, nodes, seed=2)
    v = torch.polar(vm, va)
    s = v[:, at] * (v @ matrix.T).conj()
    p, q = powers(vm, va, y)
    # Terms of about one per unit.
    torch.testing.assert_close(torch.complex(p, q), s, rtol=0, atol=1e-13)
    for part, entries in zip((matrix.real, matrix.imag), y.entries(nodes), strict=True):
        assert torch.equal(entries, part)
    closed = power_jacobians(vm, va, y)
    for row in (0, 5):
        automatic = torch.autograd.functional.jacobian(
            lambda vm, va: torch.cat(powers(vm[None], va[None], y)), (vm[row], va[row])
        )
        by_power_and_voltage = (automatic[0][0], automatic[1][0], automatic[0][1], automatic[1][1])
        for formula, derivative in zip(closed, by_power_and_voltage, strict=True):
            torch.testing.assert_close(formula[row], derivative, rtol=1e-12, atol=1e-12)


def test_an_empty_set_of_terminals_has_no_powers():
    y = Admittances.of(np.zeros((0, 4), dtype=complex), np.zeros(0, dtype=np.int64))
    vm, va = random_voltages(3, 4, seed=0)
    assert [part.shape for part in powers(vm, va, y)] == [(3, 0)] * 2
    assert [part.shape for part in power_jacobians(vm, va, y)] == [(3, 0, 4)] * 4


@pytest.mark.parametrize('columns', [1, 15, 16, 17, 64, 65, 200])
def test_packed_matrices_multiply_as_they_are(columns):
    generator = torch.Generator().manual_seed(columns)
    matrix = torch.randn(7, columns, generator=generator, dtype=torch.float64)
    matrix[torch.rand(7, columns, generator=generator) < 0.7] = 0.0
    rows = torch.randn(5, columns, generator=generator, dtype=torch.float64)
    for given_as in (matrix.numpy(), sp.csr_matrix(matrix.numpy()), sp.coo_array(matrix.numpy())):
        product_of = product(rows, packed(given_as))
        # Sums of some sixty terms of order one.
        torch.testing.assert_close(product_of, rows @ matrix.T, rtol=0, atol=1e-13)
        assert torch.equal(packed(given_as).to_dense()[:, :columns], matrix)


@pytest.mark.parametrize('nodes', [3, 5, 9, 57, 89])
def test_powers_of_a_row_have_the_same_bits_in_any_batch_of_whole_size(nodes):
    y = lines(nodes, seed=3)
    vm, va = random_voltages(48, nodes, seed=4)
    whole = torch.cat(powers(vm, va, y), dim=1)
    for row in (0, 7, 16, 31, 47):
        alone = torch.cat(powers(vm[row].expand(16, -1).contiguous(), va[row].expand(16, -1).contiguous(), y), dim=1)
        assert torch.equal(alone[0], whole[row])


def test_admittances_go_where_the_voltages_are():
    y = lines(5, seed=7)
    vm, va = random_voltages(2, 5, seed=8)
    assert y.to(vm) is y
    single = y.to(vm.float())
    assert (single.g.dtype, single.b.dtype, single.at.dtype) == (torch.float32, torch.float32, torch.int64)
    # 24 bits of powers of some ten per unit.
    torch.testing.assert_close(powers(vm.float(), va.float(), y)[0].double(), powers(vm, va, y)[0], rtol=0, atol=1e-4)
