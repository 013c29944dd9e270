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


def scores(rows):
    """Normal scores of columns: which are independent is a matter of ranks."""
    places = (rows.argsort(0).argsort(0).double() + 0.5) / len(rows)
    return torch.special.ndtri(places)


@pytest.mark.parametrize(('num_rows', 'num_columns'), [(FEWEST_ROWS, 4), (2500, 17), (FEWEST_ROWS, 80)])
def test_columns_that_are_independent_stay_but_for_chance(num_rows, num_columns):
    """Seven tests of level 0.02, of which some say much the same, leave out a column of one set in seven, or two."""
    left_out = [num_columns - int(independent_numbers(normal(num_rows, num_columns, seed)).sum()) for seed in range(20)]
    assert sum(number > 0 for number in left_out) <= 8  # more than 8 of 20 have a chance of 0.1 % then; seeded
    # Each column that is left out has a chance of some 2 % to be followed by one more; of many, pairs add their own.
    assert max(left_out) <= max(2, 0.05 * num_columns)


def copied(z):
    return torch.cat([z, z[:, :2]], dim=1), [{0, 4}, {1, 5}]


def summed(z):
    return torch.cat([z, z.sum(1, keepdim=True) + 0.1 * normal(len(z), 1, 9)], dim=1), [{4}]


def bent(z):
    return torch.cat([z, z[:, :1].square() + 0.1 * normal(len(z), 1, 9)], dim=1), [{0, 4}]


def waving(z, order=2):
    """Exact functions that go up and down twice, or three times, over the other column."""
    return torch.cat([z, torch.cos(2 * order * torch.pi * torch.special.ndtr(z[:, :1]))], dim=1), [{0, 4}]


def waving_more(z):
    return waving(z, 3)


def of_one_spread(z):
    """No correlation, but large values come together."""
    return torch.cat([z[:, :2] * (1 + z[:, [2]].square()), z[:, 3:]], dim=1), [{0, 1}]


def of_three(z):
    """Any two of the first three are independent; the sign of the third is that of the others' product."""
    return torch.cat([z[:, :2], (z[:, 0] * z[:, 1]).sign()[:, None] * z[:, [2]].abs(), z[:, 3:]], dim=1), [{0, 1, 2}]


@pytest.mark.parametrize(
    'make', [copied, summed, bent, waving, waving_more, of_one_spread, of_three], ids=lambda make: make.__name__
)
@pytest.mark.parametrize('seed', range(3))
def test_of_columns_that_depend_on_each_other_one_is_left_out(make, seed):
    """Just one of each such group, if it is the group's only fault, and nothing else."""
    rows, groups = make(normal(2500, 4, seed))
    found = set(independent_numbers(scores(rows)).nonzero()[:, 0].tolist())
    assert [len(group - found) for group in groups] == [1] * len(groups)
    assert set(range(rows.shape[1])) - set().union(*groups) <= found


def test_what_no_pair_shows_all_pairs_show():
    """Thirty columns share a factor: correlations of 0.02, one deviation of chance; one of 435 pairs needs four."""
    shared = scores(normal(2500, 30, seed=1) + 0.15 * normal(2500, 1, seed=101))
    pairs = independence._pairs(independence._ranks(shared))
    strongest = [
        stats.chi2.sf(float(each.max()), number**2) for each, number in zip(pairs, independence.NUMS_WAVES, strict=True)
    ]
    assert min(strongest) * 435 > independence.LEVEL
    # Seen 16: of 120 pairs the sum of squared correlations is no longer more than chance may make it.
    assert int(independent_numbers(shared).sum()) < 22


@settings(max_examples=20)
@given(st.integers(0, 100), st.floats(-3, 3))
def test_only_ranks_count(seed, shift):
    rows = copied(normal(1000, 4, seed))[0]
    assert torch.equal(independent_numbers(scores(rows)), independent_numbers(scores((rows + shift).exp())))


def test_numbers_that_are_not_standard_normal_are_left_to_the_network():
    """Uniform, shifted and narrow ones, all independent."""
    z = normal(2000, 6, seed=2)  # a seed of which no column is left out by chance
    rows = torch.stack([z[:, 0], torch.special.ndtr(z[:, 1]), z[:, 2] + 0.2, 0.8 * z[:, 3], z[:, 4], z[:, 5]], dim=1)
    assert independent_numbers(rows).tolist() == [True, False, False, False, True, True]


def test_a_small_part_of_the_numbers_is_not_worth_it():
    common = normal(2000, 1, seed=1)
    for num_dependent, found in ((15, 2), (30, 0)):
        rows = torch.cat([normal(2000, 1), scores(common + normal(2000, num_dependent, seed=2))], dim=1)
        assert int(independent_numbers(rows).sum()) == found


def test_of_many_rows_some_are_looked_at(monkeypatch):
    """At random: in every twenty-fourth row columns that follow the hour are independent."""
    monkeypatch.setattr(independence, 'MOST_ROWS', 1000)
    hours = torch.arange(24_000) % 24
    rows = scores(torch.stack([hours, hours], dim=1) + 6 * normal(24_000, 2))
    assert not independent_numbers(rows).any()
    assert independent_numbers(normal(24_000, 2, seed=1)).all()


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
    f = np.stack([np.sqrt(2) * np.cos(np.pi * order * u) for order in range(1, 9)])
    ranks = independence._ranks(rows)
    np.testing.assert_allclose(ranks.numpy(), u, atol=1e-12)
    pairs, triples = np.zeros((3, 5, 5)), np.zeros(5)
    for i, j in itertools.permutations(range(5), 2):
        for test, number in enumerate(independence.NUMS_WAVES):
            some = itertools.product(f[:number], f[:number])
            pairs[test, i, j] = sum(699 * (a[:, i] * b[:, j]).mean() ** 2 for a, b in some)
    for three in itertools.combinations(range(5), 3):
        triples[list(three)] += 700 * f[0][:, list(three)].prod(1).mean() ** 2
    np.testing.assert_allclose(independence._pairs(ranks).numpy(), pairs, atol=1e-9)  # sums of 700 terms of order 1
    triples_found = independence._triples(independence._wave(ranks, 1))
    np.testing.assert_allclose(triples_found.numpy(), triples, atol=1e-9)
    chance = independence._chance(torch.from_numpy(pairs), 9)
    np.testing.assert_allclose(chance.numpy(), stats.chi2.sf(pairs, 9), rtol=1e-6)
