"""Small networks of a few columns each: whom they see, what they compute, how fast they learn."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.polynomial import hermite_e
from scipy import stats

from sdv_constrained_diffusion.diffusion import neighbourhoods
from sdv_constrained_diffusion.diffusion.neighbourhoods import (
    MOST_ROWS,
    NUM_SEEN,
    NeighbourhoodMLPs,
    nearest,
)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def networks(num_numbers, seed=0, **arguments):
    """Networks whose last layers say something, in float64."""
    torch.manual_seed(seed)
    found = NeighbourhoodMLPs(num_numbers, **arguments).double()
    torch.nn.init.normal_(found.second)
    return found


@pytest.mark.parametrize('bent', [lambda x: x, lambda x: x.square(), lambda x: x.abs(), lambda x: (x > 1).double()])
def test_a_relation_is_found_however_it_bends(bent):
    """Forty independent columns, of which the last is a function of the third, in normal scores, plus noise."""
    rows = normal(2000, 40)
    mixed = bent(rows[:, 2]) + 0.3 * normal(2000, seed=1)
    rows[:, 39] = torch.from_numpy(stats.norm.ppf((stats.rankdata(mixed) - 0.5) / 2000))
    near = nearest(rows, 4)
    assert torch.equal(near[:, 0], torch.arange(40))
    assert near[2, 1] == 39
    assert near[39, 1] == 2


def test_dependence_is_the_sum_of_squared_correlations_of_hermite_polynomials():
    rows = normal(500, 4)
    rows[:, 1] += rows[:, 0].square() / 2
    rows[:, 3] -= rows[:, 2]
    scores = ((rows - rows.mean(0)) / rows.std(0, correction=0)).clamp(-4, 4).numpy()

    def dependence(i, j):
        terms = [[hermite_e.hermeval(scores[:, k], [0] * a + [1]) for a in (1, 2, 3, 4)] for k in (i, j)]
        return sum(stats.pearsonr(one, other).statistic ** 2 for one in terms[0] for other in terms[1])

    expected = [sorted(range(4), key=lambda j, i=i: (j != i, -dependence(i, j))) for i in range(4)]
    assert nearest(rows, 4).tolist() == expected


def test_constant_columns_have_neighbours_too():
    rows = normal(50, 3)
    rows[:, 1] = 2
    near = nearest(rows, 3)
    assert torch.equal(near[:, 0], torch.arange(3))
    assert near[0, 1] == 2


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(num_numbers=st.integers(0, 12), num_rows=st.integers(1, 5), seed=st.integers(0, 1000))
def test_each_network_is_the_plain_formula(monkeypatch, num_numbers, num_rows, seed):
    monkeypatch.setattr(neighbourhoods, 'TOGETHER', 5)  # several turns, of one network each or of a few
    nets = networks(num_numbers, seed, width=3, pace=2.0)
    nets.measure(normal(30, num_numbers, seed=seed))
    noisy, estimate, t = normal(num_rows, num_numbers), normal(num_rows, num_numbers, seed=1), 10 * normal(num_rows)
    found, time = nets(noisy, estimate, t), nets.time(t)
    assert nets.near.shape == (num_numbers, min(NUM_SEEN, num_numbers))
    for number, near in enumerate(nets.near):
        pairs = torch.stack([noisy[:, near], estimate[:, near]], dim=2).flatten(1)
        inputs = torch.cat([pairs, time], dim=1)
        first, bias, second = (2 * each[number] for each in (nets.first, nets.bias, nets.second))
        expected = torch.nn.functional.silu(inputs @ first.T + bias[:, 0]) @ second[:, 0]
        torch.testing.assert_close(found[:, number], expected, rtol=1e-10, atol=1e-10)  # order of sums


def test_a_time_that_rows_share_is_the_time_of_each():
    nets = networks(6, width=3)
    noisy, estimate = normal(4, 6), normal(4, 6, seed=1)
    shared, each = nets(noisy, estimate, torch.full((1,), 7.0).double()), torch.full((4,), 7.0).double()
    torch.testing.assert_close(shared, nets(noisy, estimate, each), rtol=0, atol=1e-12)  # other order of sums


def test_untrained_networks_say_nothing():
    nets = NeighbourhoodMLPs(5)
    assert torch.equal(nets(torch.ones(2, 5), torch.ones(2, 5), torch.ones(2)), torch.zeros(2, 5))


def test_the_pace_changes_the_speed_only():
    """The same draws give the same first layer; one step of Adam then moves what the networks say that much more."""
    first, said = [], []
    noisy, estimate, t = normal(9, 4), normal(9, 4, seed=1), normal(9)
    for pace in (1.0, 8.0):
        torch.manual_seed(0)
        nets = NeighbourhoodMLPs(4, pace=pace).double()
        optimizer = torch.optim.Adam([nets.second], lr=1e-3)
        first.append(pace * nets.first.detach())
        nets(noisy, estimate, t).sum().backward()
        optimizer.step()
        said.append(nets(noisy, estimate, t).detach())
    torch.testing.assert_close(first[0], first[1], rtol=1e-6, atol=0)  # drawn in float32
    assert said[0].abs().max() > 1e-5
    torch.testing.assert_close(said[1], 8 * said[0], rtol=1e-4, atol=0)  # Adam's epsilon


def test_many_rows_are_thinned_evenly():
    """A relation that only the second half of a sorted table has is found, however long the table."""
    rows = normal(3 * MOST_ROWS + 5, 6)
    rows[len(rows) // 2 :, 5] = rows[len(rows) // 2 :, 0]
    assert nearest(rows, 2)[0].tolist() == [0, 5]
