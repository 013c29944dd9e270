"""Numbers that a model draws too wide or askew, read so that columns have the training rows' marginals all the same."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sdv_constrained_diffusion.tabular.encoder import TableEncoder
from sdv_constrained_diffusion.tabular.marginals import shifted

SCORES = torch.linspace(-3, 3, 61, dtype=torch.float64)


def normal(num_rows, num_numbers, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, num_numbers, generator=draw, dtype=torch.float64)


def test_scores_go_where_their_share_of_the_drawn_numbers_ends():
    drawn = normal(20_000, 2) * torch.tensor([1.2, 0.8]) + torch.tensor([0.3, 0.0])
    moved = shifted(SCORES.expand(2, -1), drawn)
    inside = SCORES.abs() <= 2.5
    for found, slope, shift in zip(moved, (1.2, 0.8), (0.3, 0.0), strict=True):
        # Standard error of a quantile at 2.5 deviations is 0.04 among 20,000; lines between quantiles add 0.01.
        torch.testing.assert_close(found[inside], slope * SCORES[inside] + shift, rtol=0, atol=0.12)


def test_scores_of_normal_numbers_stay_up_to_chance():
    moved = shifted(SCORES.expand(100, -1), normal(2048, 100)) - SCORES
    # At one deviation the standard error is 0.033; the largest of a hundred is 3.3 of these.
    assert moved[:, SCORES.abs() <= 1].abs().max() < 0.11


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), num_rows=st.integers(1, 300), size=st.sampled_from([0.0, 1e-3, 1.0, 50.0]))
def test_shifted_scores_increase(seed, num_rows, size):
    """Whatever is drawn, equal numbers included: or a map would not be invertible."""
    drawn = size * normal(num_rows, 3, seed).round()
    moved = shifted(SCORES.expand(3, -1), drawn)
    assert moved.isfinite().all()
    assert (moved.diff() > 0).all()
    alone = shifted(SCORES.expand(1, -1), drawn[:, [1]])
    assert torch.equal(alone[0], moved[1])


def table(num_rows=4000):
    rng = np.random.default_rng(0)
    level = np.minimum(rng.normal(size=num_rows), 1.0)
    return pd.DataFrame(
        {
            'skewed': rng.gamma(2, 1, num_rows),
            'bounded': rng.uniform(-1, 1, num_rows),
            'limit': level,
            'twice': -2 * level,
            'often': np.where(rng.uniform(size=num_rows) < 0.3, 0.0, rng.normal(5, 1, num_rows)),
            'word': rng.choice(['a', 'b'], num_rows),
        }
    )


def test_columns_get_their_marginals_back():
    data = table()
    encoder = TableEncoder.fit(data, discrete=['word'], continuous=['limit', 'twice'])
    values = encoder.values(data)

    def wide(seed):
        """Rows as a model would draw them that draws numbers 15 % too wide."""
        rows = encoder.encode(values, torch.Generator().manual_seed(seed))
        rows[:, : encoder.layout.num_numbers] *= 1.15
        return rows

    reader = encoder.adjusted_to(encoder.layout.numbers(wide(0)))
    plain, read = (each.frame(each.decode(wide(1))) for each in (encoder, reader))
    for name in ('skewed', 'bounded', 'limit', 'twice'):
        off, found = (stats.ks_2samp(data[name], each[name]).statistic for each in (plain, read))
        # 15 % in width is 0.033 of KS; the quantiles of 4,000 rows miss by 0.014 at most, of one seed.
        assert off > 0.02
        assert found < 0.014
    assert (read['limit'] == 1).mean() == pytest.approx((data['limit'] == 1).mean(), abs=0.01)
    np.testing.assert_allclose(read['twice'], -2 * read['limit'], rtol=0, atol=1e-13)  # some eps of 8
    for name in ('often', 'word'):
        assert read[name].equals(plain[name])
    # It is an encoder as every other.
    torch.testing.assert_close(reader.decode(reader.encode(values)), values, rtol=0, atol=1e-12)
