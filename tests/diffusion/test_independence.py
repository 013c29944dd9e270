"""Which numbers are found independent, against laws that are known, scipy and sums by hand."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sdv_constrained_diffusion.diffusion import independence
from sdv_constrained_diffusion.diffusion.independence import FEWEST_ROWS, independent_numbers


def normal(num_rows, num_columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, num_columns, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(('num_rows', 'num_columns'), [(FEWEST_ROWS, 4), (2500, 17), (2000, 60)])
def test_columns_that_are_independent_stay_but_for_chance(num_rows, num_columns):
    """Three tests of level 0.01 see one set of twenty in a hundred or less, and leave out one column then, or two."""
    left_out = [num_columns - int(independent_numbers(normal(num_rows, num_columns, seed)).sum()) for seed in range(20)]
    assert sum(number > 0 for number in left_out) <= 4  # more than 4 of 20 have a chance of 3e-4; seeded
    assert max(left_out) <= 2


def copied(z):
    return torch.cat([z, z[:, :2]], dim=1), [{0, 4}, {1, 5}]


def summed(z):
    return torch.cat([z, z.sum(1, keepdim=True) + 0.1 * normal(len(z), 1, 9)], dim=1), [{4}]


def bent(z):
    return torch.cat([z, z[:, :1].square() + 0.1 * normal(len(z), 1, 9)], dim=1), [{0, 4}]


def of_one_spread(z):
    """No correlation, but large values come together."""
    return torch.cat([z[:, :2] * (1 + z[:, [2]].square()), z[:, 3:]], dim=1), [{0, 1}]


def of_three(z):
    """Any two of the first three are independent; the sign of the third is that of the others' product."""
    return torch.cat([z[:, :2], (z[:, 0] * z[:, 1]).sign()[:, None] * z[:, [2]].abs(), z[:, 3:]], dim=1), [{0, 1, 2}]


@pytest.mark.parametrize('make', [copied, summed, bent, of_one_spread, of_three], ids=lambda make: make.__name__)
@pytest.mark.parametrize('seed', range(3))
def test_of_columns_that_depend_on_each_other_one_is_left_out(make, seed):
    """Just one of each such group, if it is the group's only fault, and nothing else."""
    rows, groups = make(normal(2500, 4, seed))
    found = set(independent_numbers(rows).nonzero()[:, 0].tolist())
    assert [len(group - found) for group in groups] == [1] * len(groups)
    assert set(range(rows.shape[1])) - set().union(*groups) <= found


def test_what_no_pair_shows_all_pairs_show():
    """Thirty columns share a factor: correlations of 0.02, one deviation of chance; one of 435 pairs needs four."""
    shared = normal(2500, 30) + 0.15 * normal(2500, 1, seed=1)
    pairs = independence._pairs(independence._waves(shared))
    strongest = stats.chi2.sf(float(pairs.max()), independence.NUM_WAVES**2)
    assert strongest * 435 > 0.01
    assert int(independent_numbers(shared).sum()) < 28


@settings(max_examples=20)
@given(st.integers(0, 100), st.floats(-3, 3))
def test_only_ranks_count(seed, shift):
    rows = copied(normal(600, 4, seed))[0]
    assert torch.equal(independent_numbers(rows), independent_numbers((rows + shift).exp()))


def test_of_many_rows_some_are_looked_at(monkeypatch):
    """In every second row the second column is the first one; the others are independent."""
    monkeypatch.setattr(independence, 'MOST_ROWS', 1000)
    rows = normal(2000, 2)
    rows[1::2, 1] = rows[1::2, 0]
    assert independent_numbers(rows).all()
    assert not independent_numbers(rows.roll(1, 0)).any()


@pytest.mark.parametrize('shape', [(FEWEST_ROWS - 1, 3), (1000, 1), (1000, 0), (0, 3)])
def test_few_rows_and_single_columns_show_nothing(shape):
    assert independent_numbers(normal(*shape)).tolist() == [False] * shape[1]


def test_a_column_that_depends_on_all_others_is_not_marked_alone():
    z = normal(2000, 1)
    assert not independent_numbers(torch.cat([z, z, z], dim=1)).any()


def test_statistics_of_pairs_and_triples_are_sums_of_squared_means():
    """By hand, from scipy's ranks."""
    rows = normal(700, 5, seed=3)
    u = (stats.rankdata(rows.numpy(), axis=0) - 0.5) / len(rows)
    f = np.stack([np.sqrt(2) * np.cos(np.pi * order * u) for order in (1, 2, 3)])
    waves = independence._waves(rows)
    np.testing.assert_allclose(waves.numpy(), f, atol=1e-12)
    pairs, triples = np.zeros((5, 5)), np.zeros(5)
    for i, j in itertools.permutations(range(5), 2):
        pairs[i, j] = sum(700 * (a[:, i] * b[:, j]).mean() ** 2 for a, b in itertools.product(f, f))
    for three in itertools.combinations(range(5), 3):
        triples[list(three)] += 700 * f[0][:, list(three)].prod(1).mean() ** 2
    np.testing.assert_allclose(independence._pairs(waves).numpy(), pairs, atol=1e-9)  # sums of 700 terms of order 1
    np.testing.assert_allclose(independence._triples(waves[0]).numpy(), triples, atol=1e-9)
    chance = independence._chance(torch.from_numpy(pairs), 9)
    np.testing.assert_allclose(chance.numpy(), stats.chi2.sf(pairs, 9), rtol=1e-6)
