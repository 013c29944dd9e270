"""Numbers known by their intervals are drawn as the others say."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sdv_constrained_diffusion.tabular.quantiles import QuantileCodec
from sdv_constrained_diffusion.tabular.tails import CensoredNormal, truncated_normal


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(('mean', 'deviation', 'low', 'high'), [(0, 1, -1, 0.5), (2, 0.3, -8, 1), (-1, 2, 6, 8)])
def test_draws_follow_the_truncated_normal_distribution(mean, deviation, low, high):
    size = torch.ones(4000, dtype=torch.float64)
    share = torch.rand(4000, generator=generator(), dtype=torch.float64)
    drawn = truncated_normal(share, mean * size, deviation, low * size, high * size)
    law = stats.truncnorm((low - mean) / deviation, (high - mean) / deviation, mean, deviation)
    # Seeded; 4,000 draws.
    assert stats.kstest(drawn.numpy(), law.cdf).pvalue > 1e-2


@settings(max_examples=100, deadline=None)
@given(
    mean=st.floats(-100, 100), deviation=st.floats(1e-3, 10), ends=st.lists(st.floats(-8, 8), min_size=2, max_size=2)
)
def test_draws_lie_within_their_interval_however_far_that_is(mean, deviation, ends):
    low, high = (torch.full((20,), end, dtype=torch.float64) for end in sorted(ends))
    share = torch.linspace(0, 1, 20, dtype=torch.float64)
    drawn = truncated_normal(share, torch.full_like(low, mean), deviation, low, high)
    assert ((low <= drawn) & (drawn <= high)).all()


def correlated(num_rows, rho, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=num_rows)
    return np.stack([x, rho * x + math.sqrt(1 - rho**2) * random.normal(size=num_rows)], axis=1)


@pytest.mark.parametrize(
    ('share', 'rho'),
    # Of opposite columns with 80 % beyond the limit `fit` does not find the covariance, with more rows neither.
    [*itertools.product([0.3, 0.6], [-0.9, 0.0, 0.6, 0.95]), *itertools.product([0.8], [0.0, 0.6, 0.95])],
)
def test_the_covariance_of_censored_rows_is_found(share, rho):
    rows = torch.from_numpy(correlated(8000, rho))
    limit = float(torch.special.ndtri(torch.tensor(1 - share)))
    low = torch.minimum(rows, torch.tensor(limit))
    high = torch.where(rows < limit, rows, 8.0)
    found = CensoredNormal.fit(low, high, generator())
    # A few standard errors of what 8,000 rows say, of which up to 80 % lie beyond the limit.
    assert found.covariance[0, 1] == pytest.approx(rho, abs=0.12)
    assert found.covariance.diagonal().tolist() == pytest.approx([1, 1], abs=0.2)
    assert found.mean.tolist() == pytest.approx([0, 0], abs=0.15)
    complete = found.complete(low, high, generator(1))
    assert torch.equal(complete[rows < limit], rows[rows < limit])
    assert ((low <= complete) & (complete <= high)).all()
    assert np.corrcoef(complete.T)[0, 1] == pytest.approx(rho, abs=0.12)


@pytest.mark.parametrize('sign', [1, -1])
def test_columns_that_are_one_are_one_beyond_their_limits_too(sign):
    random = np.random.default_rng(1)
    cut = np.minimum(random.normal(size=3000), -0.8)  # four of five rows at the limit
    values = np.stack([cut, 5 + 2 * sign * cut, random.normal(size=3000)], axis=1)
    codec = QuantileCodec.fit(values)
    scores = codec.encode(torch.from_numpy(values), generator())
    # Drawn apart they would agree where they are not at the limit only: 0.6 here.
    assert sign * np.corrcoef(scores.T)[0, 1] > 0.98
    assert torch.equal(codec.decode(scores)[:, 0], torch.from_numpy(cut)) or np.allclose(
        codec.decode(scores)[:, 0], cut, rtol=0, atol=1e-6
    )


def test_some_of_the_columns_are_completed_from_each_other():
    rows = torch.from_numpy(np.concatenate([correlated(3000, 0.9), correlated(3000, 0.0, seed=5)], axis=1))
    high = torch.where(rows < 0, rows, 8.0)
    low = torch.minimum(rows, torch.zeros_like(rows))
    found = CensoredNormal.fit(low, high, generator())
    some = found.select([3, 0])
    assert torch.equal(some.covariance, found.covariance[[3, 0]][:, [3, 0]])
    assert some.complete(low[:5, [3, 0]], high[:5, [3, 0]], generator()).shape == (5, 2)


def test_a_rows_numbers_do_not_hang_on_the_rows_beside_it():
    rows = torch.from_numpy(correlated(512, 0.8))
    limits = [torch.tensor(0.0), torch.tensor(0.5)]
    drawn = []
    for limit in limits:
        # The first row lies beyond a limit of its own in either table; of the others more or fewer do.
        own = limit.expand(512, 2).clone()
        own[0] = -3.0
        high, low = torch.where(rows < own, rows, 8.0), torch.minimum(rows, own.double())
        law = CensoredNormal(
            torch.zeros(2).double(), torch.tensor([[1, 0.8], [0.8, 1]]).double(), torch.tensor([True] * 2)
        )
        drawn.append(law.complete(low, high, generator()))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert not torch.equal(drawn[0], drawn[1])
