"""The public methods of SDV's BaseSingleTableSynthesizer, on a table with a column of every kind, by 1.38 and 2.x."""

import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import torch
from rdt.transformers import (
    FloatFormatter,
    GaussianNormalizer,
    LabelEncoder,
    OneHotEncoder,
    OrderedUniformEncoder,
    UniformEncoder,
)
from sdv.errors import InvalidDataError, NotFittedError, RefitWarning, SamplingError, SynthesizerInputError
from sdv.sampling import Condition

from mixed_table import CATEGORIES, make_synthesizer, mixed_metadata, mixed_table
from sdv_constrained_diffusion.diffusion.devices import is_available
from sdv_version import (
    IN_DICTS,
    TABLE,
    auto_assign_transformers,
    fit,
    fit_processed_data,
    preprocess,
    sample,
    sample_from_conditions,
    sample_remaining_columns,
    validate,
)


@pytest.fixture(scope='module')
def table():
    return mixed_table()


@pytest.fixture(scope='module')
def fitted(table):
    return fit(make_synthesizer(table), table)


def drawn(rows):
    """The rows without the ids made from a pattern: RDT scrambles those within each batch."""
    return rows.drop(columns='ref')


@pytest.fixture
def fresh(fitted):
    """The fitted synthesizer as `fit` left it."""
    fitted.reset_sampling()
    return fitted


def numbered_columns():
    """A part of the mixed table, under numbers for names."""
    part = mixed_table()[['x', 'count', 'colour', 'flag', 'height']]
    return part.set_axis(range(5), axis='columns')


@pytest.mark.parametrize(
    ('method', 'part'),
    [
        (fit, mixed_table),
        (preprocess, mixed_table),
        (validate, mixed_table),
        (auto_assign_transformers, mixed_table),
        (fit, numbered_columns),
        (preprocess, numbered_columns),
    ],
)
def test_the_callers_table_is_left_alone(method, part):
    given = part().sample(frac=1, random_state=0)  # an index out of order, that must survive as well
    before = given.copy(deep=True)
    method(make_synthesizer(given, epochs=1), given)
    pd.testing.assert_frame_equal(given, before)


def test_a_refused_fit_leaves_the_callers_table_alone():
    spoiled = numbered_columns()
    spoiled.loc[3, 0] = np.inf
    before = spoiled.copy(deep=True)
    with pytest.raises(ValueError, match="'0'"):
        fit(make_synthesizer(spoiled), spoiled)
    pd.testing.assert_frame_equal(spoiled, before)


def test_same_seed_gives_the_same_model_and_the_same_rows(table, fresh):
    again = fit(make_synthesizer(table), table)
    pd.testing.assert_frame_equal(again.get_loss_values(), fresh.get_loss_values())
    pd.testing.assert_frame_equal(sample(again, 50), sample(fresh, 50))
    other = fit(make_synthesizer(table, seed=1), table)
    again.reset_sampling()
    assert not sample(other, 50)['x'].equals(sample(again, 50)['x'])


def test_fit_on_another_table_forgets_the_first_one(table):
    first, second = table.head(200), table.tail(200).reset_index(drop=True)
    metadata = mixed_metadata(table)
    twice = fit(make_synthesizer(first, metadata), first)
    fit(twice, second)
    once = fit(make_synthesizer(second, metadata), second)
    pd.testing.assert_frame_equal(sample(twice, 30), sample(once, 30))


def test_preprocess_then_fit_processed_data_is_fit(table, fresh):
    synthesizer = make_synthesizer(table)
    processed = preprocess(synthesizer, table)
    assert len(processed) == len(table)
    assert not {'ref', 'name', 'email', 'note'} & set(processed.columns)  # SDV invents these anew
    fit_processed_data(synthesizer, processed)
    pd.testing.assert_frame_equal(sample(synthesizer, 50), sample(fresh, 50))


def test_processed_data_may_be_fitted_again(table):
    synthesizer = make_synthesizer(table, epochs=1)
    processed = preprocess(synthesizer, table)
    fit_processed_data(synthesizer, processed)
    with pytest.warns(RefitWarning):
        preprocess(synthesizer, table)
    fit_processed_data(synthesizer, processed)
    assert len(sample(synthesizer, 5)) == 5


def test_a_table_of_other_columns_is_refused(table):
    with pytest.raises(InvalidDataError, match='colour'):
        validate(make_synthesizer(table), table.drop(columns='colour'))
    with pytest.raises(InvalidDataError, match='stranger'):
        fit(make_synthesizer(table), table.assign(stranger=1.0))


def test_transformers_are_assigned_on_demand_in_the_order_of_the_metadata(table):
    synthesizer = make_synthesizer(table)
    with pytest.raises(ValueError, match='auto_assign_transformers'):
        synthesizer.get_transformers()
    auto_assign_transformers(synthesizer, table)
    transformers = synthesizer.get_transformers()
    assert list(transformers) == list(table.columns)
    # The model learns categories as they are; SDV's encoders would turn them into uniform numbers.
    assert [name for name in (*CATEGORIES, 'blank', 'same') if transformers[name] is not None] == []
    assert transformers['email'].is_generator()


@pytest.mark.parametrize(
    ('column', 'transformer'),
    [
        ('colour', LabelEncoder()),
        ('colour', OneHotEncoder()),
        ('colour', UniformEncoder()),
        ('size', OneHotEncoder()),
        ('flag', LabelEncoder()),
        ('level', OrderedUniformEncoder(order=[1, 2, 3, 4, 5])),
        ('x', None),
        ('price', None),
        ('x', GaussianNormalizer()),
        ('visits', FloatFormatter(missing_value_generation='from_column')),
        ('height', FloatFormatter(missing_value_replacement='mean', missing_value_generation='random')),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
@pytest.mark.filterwarnings('ignore:Replacing the default transformer', 'ignore:Unable to turn off rounding')
def test_a_transformer_of_ones_own_survives_and_serves(table, column, transformer):
    part = table[[column, 'count', 'town']]
    synthesizer = make_synthesizer(part, epochs=2)
    auto_assign_transformers(synthesizer, part)
    synthesizer.update_transformers({column: transformer})
    fit(synthesizer, part)
    assert synthesizer.get_transformers()[column] is transformer
    rows = sample(synthesizer, 100)
    assert (rows.dtypes == part.dtypes).all()
    if column in ('colour', 'size', 'flag', 'level'):
        assert set(rows[column].dropna()) <= set(part[column].dropna())
    else:
        assert rows[column].dropna().between(part[column].min(), part[column].max()).all()
        assert rows[column].nunique() > 10


def test_transformers_changed_after_fit_wait_for_the_next_fit(table):
    part = table[['colour', 'x']]
    synthesizer = fit(make_synthesizer(part, epochs=1), part)
    with pytest.warns(RefitWarning):
        synthesizer.update_transformers({'x': FloatFormatter(missing_value_generation='from_column')})
    fit(synthesizer, part)
    assert synthesizer.get_transformers()['x'].missing_value_generation == 'from_column'
    assert len(sample(synthesizer, 10)) == 10


def test_a_key_takes_no_transformer_that_would_learn_it(table):
    synthesizer = make_synthesizer(table)
    auto_assign_transformers(synthesizer, table)
    with pytest.raises(SynthesizerInputError, match="Column 'id' is a key"):
        synthesizer.update_transformers({'id': LabelEncoder()})


def test_sample_returns_as_many_rows_as_asked_numbered_from_zero(fresh, table):
    rows = sample(fresh, 123)
    assert list(rows.index) == list(range(123))
    assert list(rows.columns) == list(table.columns)
    assert len(sample(fresh, 1)) == 1
    assert len(sample(fresh, 0)) == 0
    assert list(sample(fresh, 0).columns) == list(table.columns)


@pytest.mark.parametrize('batch_size', [1, 7, 20, 60, 1000])
def test_rows_do_not_depend_on_the_batch_size(fresh, batch_size):
    whole = sample(fresh, 60)
    fresh.reset_sampling()
    rows = sample(fresh, 60, batch_size=batch_size)
    pd.testing.assert_frame_equal(drawn(rows), drawn(whole))
    assert rows['ref'].is_unique


def test_few_rows_are_the_first_of_many(fresh):
    many = sample(fresh, 700)  # more than the model draws at once
    fresh.reset_sampling()
    pd.testing.assert_frame_equal(drawn(sample(fresh, 40)), drawn(many.head(40)))


def test_samples_follow_one_another_until_sampling_is_reset(fresh):
    first, second = sample(fresh, 30), sample(fresh, 30)
    assert not first['x'].equals(second['x'])
    assert not set(first['id']) & set(second['id'])
    fresh.reset_sampling()
    pd.testing.assert_frame_equal(sample(fresh, 30), first)


def test_sampling_leaves_numpys_and_torchs_random_numbers_alone(fresh):
    import torch

    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    sample(fresh, 5)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize('batch_size', [None, 20, 23])
def test_the_file_holds_the_rows_that_are_returned(fresh, tmp_path, batch_size):
    rows = sample(fresh, 60, batch_size=batch_size, folder=tmp_path / 'out' if IN_DICTS else tmp_path)
    (written,) = tmp_path.rglob('*.csv')
    assert written.name == f'{TABLE}.csv'
    assert written.read_text() == rows.to_csv(index=False)


def test_sampling_shows_sdvs_bar_up_to_its_end(fresh, table, capsys):
    sample(fresh, 60, batch_size=20)
    assert '100%' in capsys.readouterr().err
    sample_from_conditions(fresh, [Condition({'colour': 'red'}, num_rows=30)])
    shown = capsys.readouterr().err
    assert '100%' in shown
    assert '30/30' in shown
    sample_remaining_columns(fresh, table[['x']].head(25))
    assert '25/25' in capsys.readouterr().err


def test_a_file_that_exists_is_not_overwritten(fresh, tmp_path):
    (tmp_path / f'{TABLE}.csv').write_text('mine')
    with pytest.raises(AssertionError, match='already exist'):
        sample(fresh, 5, folder=tmp_path)
    assert (tmp_path / f'{TABLE}.csv').read_text() == 'mine'


def test_every_kind_of_sample_before_fit_is_refused(table):
    synthesizer = make_synthesizer(table)
    with pytest.raises(SamplingError, match='has not been fitted'):
        sample(synthesizer, 3)
    with pytest.raises(SamplingError, match='has not been fitted'):
        sample_from_conditions(synthesizer, [Condition({'colour': 'red'})])
    with pytest.raises((SamplingError, NotFittedError), match='fitted'):
        sample_remaining_columns(synthesizer, table[['colour']].head(3))
    with pytest.raises(NotFittedError):
        synthesizer.get_loss_values()
    with pytest.raises(NotFittedError):
        synthesizer.get_loss_values_plot()


def test_parameters_make_an_equal_synthesizer(table, fresh):
    parameters = fresh.get_parameters()
    assert parameters['epochs'] == 3
    assert parameters['seed'] == 0
    assert parameters['locales'] == ['en_US']
    assert parameters['enforce_min_max_values'] is True
    assert 'metadata' not in parameters
    assert type(fresh)(mixed_metadata(table), **parameters).get_parameters() == parameters


def test_metadata_come_back_as_given(table, fresh):
    given = mixed_metadata(table).to_dict()
    assert fresh.get_metadata().to_dict() == given
    assert fresh.get_metadata(version='original').to_dict() == given
    assert fresh.get_metadata(version='modified').to_dict() == given


def test_info_tells_when_and_by_which_sdv_it_was_fitted(table, fresh):
    before = make_synthesizer(table).get_info()
    assert before['class_name'] == 'ConstrainedDiffusionSynthesizer'
    assert before['is_fit'] is False
    assert before['fitted_sdv_version'] is None
    after = fresh.get_info()
    assert after['is_fit'] is True
    assert after['last_fit_date'] >= after['creation_date']
    assert after['fitted_sdv_version'] == version('sdv')


def test_losses_are_one_number_an_epoch_and_are_plotted(fresh):
    losses = fresh.get_loss_values()
    assert losses['Epoch'].tolist() == [0, 1, 2]
    assert np.isfinite(losses['Loss']).all()
    figure = fresh.get_loss_values_plot(title='Mine')
    assert figure.layout.title.text == 'Mine'
    np.testing.assert_array_equal(figure.data[0].y, losses['Loss'])


def loaded_elsewhere(synthesizer, folder, **environment):
    """40 rows and the losses of the saved synthesizer in another process."""
    synthesizer.save(folder / 'model.pkl')
    code = (
        'import sys\n'
        'from pathlib import Path\n'
        'from sdv.utils import load_synthesizer\n'  # no import of this package: the pickle says what it needs
        'folder = Path(sys.argv[1])\n'
        "synthesizer = load_synthesizer(folder / 'model.pkl')\n"
        'rows = synthesizer.sample(40)\n'
        "rows = rows['t'] if isinstance(rows, dict) else rows\n"
        "rows.to_pickle(folder / 'rows.pkl')\n"
        "synthesizer.get_loss_values().to_pickle(folder / 'losses.pkl')\n"
    )
    done = subprocess.run(
        [sys.executable, '-c', code, folder], capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return pd.read_pickle(folder / 'rows.pkl'), pd.read_pickle(folder / 'losses.pkl')


def test_another_process_loads_it_and_draws_the_same_rows(fresh, tmp_path):
    rows, losses = loaded_elsewhere(fresh, tmp_path)
    pd.testing.assert_frame_equal(rows, sample(fresh, 40))
    pd.testing.assert_frame_equal(losses, fresh.get_loss_values())


@pytest.mark.skipif(is_available('mps'), reason='needs a machine without MPS')
def test_a_model_of_a_device_that_is_not_here_draws_on_the_processor(fresh, tmp_path):
    fresh._model._device = 'mps'
    rows, _ = loaded_elsewhere(fresh, tmp_path)
    fresh._model._device = 'cpu'
    pd.testing.assert_frame_equal(rows, sample(fresh, 40))


@pytest.mark.skipif(is_available('mps'), reason='needs a machine without MPS')
def test_a_gpu_that_is_asked_for_must_be_here(table):
    with pytest.raises(SynthesizerInputError, match="enable_gpu='mps' needs Apple's"):
        fit(make_synthesizer(table, enable_gpu='mps'), table)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_what_a_gpu_learned_loads_where_there_is_none(table, tmp_path):
    synthesizer = fit(make_synthesizer(table, enable_gpu=True), table)
    assert next(synthesizer._model.denoiser.parameters()).is_cuda
    rows, losses = loaded_elsewhere(synthesizer, tmp_path, CUDA_VISIBLE_DEVICES='')
    assert list(rows.columns) == list(table.columns)
    assert set(rows['colour'].dropna()) <= set(table['colour'].dropna())
    pd.testing.assert_frame_equal(losses, synthesizer.get_loss_values())


def test_saving_does_not_move_on_the_rows_that_follow(fresh, tmp_path):
    first = sample(fresh, 20)
    fresh.save(tmp_path / 'model.pkl')
    second = sample(fresh, 20)
    fresh.reset_sampling()
    both = pd.concat([first, second], ignore_index=True)
    pd.testing.assert_frame_equal(drawn(both), drawn(sample(fresh, 40)))
