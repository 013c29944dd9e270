"""Independent columns are drawn first, as a user sees it: of a table, of a saved model, with fixed values."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, spearmanr
from sdv.utils import load_synthesizer

from sdv_constrained_diffusion import ConstrainedDiffusionSynthesizer, Formula
from sdv_version import fit, metadata_of, sample, sample_remaining_columns

NUM_ROWS = 2000


@pytest.fixture(scope='module')
def fitted():
    """Two independent demands, between 1 and 2, a generator that serves both, and a label that follows the first."""
    rng = np.random.default_rng(1)  # of seed 0 chance makes the demands look dependent
    a, b = rng.uniform(1, 2, (2, NUM_ROWS))
    label = np.where(a + rng.normal(0, 0.2, NUM_ROWS) > 1.5, 'high', 'low')
    data = pd.DataFrame({'a': a, 'b': b, 'label': label, 'g': a + b + 0.02 * a * b})
    synthesizer = ConstrainedDiffusionSynthesizer(metadata_of(data), epochs=240, seed=0)
    synthesizer.add_constraints([Formula('g == a + b + 0.02 * a * b', tolerance=1e-9)])
    fit(synthesizer, data)
    return synthesizer


@pytest.fixture
def fresh(fitted):
    fitted.reset_sampling()
    return fitted


def test_the_demands_are_found(fresh):
    model = fresh._model
    names = [name for name, place in zip(model.encoder.columns, model.encoder.numbers_of_columns(), strict=True)
             if place >= 0 and model.denoiser.drawn_first[place]]  # fmt: skip
    assert names == ['a', 'b']


def test_they_are_uniform_and_independent_and_all_rows_obey_the_law(fresh):
    rows = sample(fresh, 1024)
    assert (rows['g'] - rows['a'] - rows['b'] - 0.02 * rows['a'] * rows['b']).abs().max() <= 1e-9
    assert spearmanr(rows['a'], rows['b']).pvalue > 0.01  # seeded
    for name in ('a', 'b'):
        # 1,024 places are even to 0.001; what is left is how far the law moves rows after so short a training.
        assert kstest(rows[name], 'uniform', args=(1, 1)).statistic < 0.02
    assert (rows['label'] == 'high')[rows['a'] > 1.8].mean() > 0.8  # 0.97 by its law, 0.5 of all rows


def test_a_saved_model_draws_the_same_rows(fresh, tmp_path):
    fresh.save(tmp_path / 'model.pkl')
    pd.testing.assert_frame_equal(sample(load_synthesizer(tmp_path / 'model.pkl'), 40), sample(fresh, 40))


def test_given_one_demand_the_other_is_still_independent(fresh):
    rows = sample_remaining_columns(fresh, pd.DataFrame({'a': np.linspace(1.1, 1.9, 400)}))
    assert spearmanr(rows['a'], rows['b']).pvalue > 0.01  # seeded
    assert kstest(rows['b'], 'uniform', args=(1, 1)).pvalue > 0.01


def test_given_the_generator_the_demands_go_against_each_other(fresh):
    rows = sample_remaining_columns(fresh, pd.DataFrame({'g': np.full(400, 3.045)}))
    assert spearmanr(rows['a'], rows['b']).statistic == pytest.approx(-1, abs=1e-3)  # the law leaves no choice


def test_given_the_label_the_first_demand_follows(fresh):
    rows = sample_remaining_columns(fresh, pd.DataFrame({'label': ['high'] * 400}))
    assert rows['a'].mean() > 1.6  # 1.71 of such training rows, 1.5 of all; a short training goes most of the way


def test_steered_rows_are_drawn_together(fresh, tmp_path):
    """A law that the training rows do not obey ties the demands: they cannot be drawn first."""
    fresh.save(tmp_path / 'model.pkl')
    steered = load_synthesizer(tmp_path / 'model.pkl')
    steered.add_constraints([Formula('a == b', tolerance=1e-6)])
    rows = sample(steered, 200)
    assert len(rows) == 200
    assert (rows['a'] - rows['b']).abs().max() <= 1e-6
    assert rows['a'].std() > 0.15  # along a == b demands are as uniform as before, 0.29, if the network were exact
