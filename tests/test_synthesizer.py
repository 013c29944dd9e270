"""The SDV face, judged by the DataFrames that a user receives."""

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ks_2samp
from sdv.errors import NotFittedError, SamplingError, SynthesizerInputError
from sdv.sampling import Condition
from sdv.utils import load_synthesizer

from sdv_constrained_diffusion import ConstrainedDiffusionSynthesizer, constraint
from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.diffusion.backbone import ResidualMLP
from sdv_constrained_diffusion.diffusion.denoiser import PreconditionedDenoiser
from sdv_constrained_diffusion.diffusion.plan import TrainingPlan
from sdv_constrained_diffusion.diffusion.presets import Preset, default_preset, paper_preset
from sdv_constrained_diffusion.diffusion.sampler import MultistepSampler
from sdv_constrained_diffusion.diffusion.schedule import EDMSchedule
from sdv_constrained_diffusion.diffusion.training import TrainingRecord
from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError, ConstraintMismatchError, DataError
from sdv_constrained_diffusion.model import DiffusionModel, _held_out
from sdv_constrained_diffusion.tabular.encoder import TableEncoder
from sdv_version import fit, metadata_of, sample, sample_from_conditions, sample_remaining_columns


@constraint(columns=['gen_mw', 'load_mw', 'loss_mw'], tolerance=1e-9, unit='MW')
def balance(table):
    """Nonlinear on purpose: losses are quadratic in generation."""
    return table.gen_mw - table.load_mw - 1e-3 * table.loss_mw * table.gen_mw


def make_table(num_rows=400, seed=0):
    rng = np.random.default_rng(seed)
    load, loss = rng.uniform(80, 120, num_rows), rng.gamma(5.0, 1.0, num_rows)
    return pd.DataFrame(
        {
            'gen_mw': load / (1 - 1e-3 * loss),
            'load_mw': load,
            'loss_mw': loss,
            'price': np.round(rng.normal(30, 5, num_rows), 2),
        }
    )


def make_synthesizer(data, constraints=(balance,), **arguments):
    synthesizer = ConstrainedDiffusionSynthesizer(metadata_of(data), **({'epochs': 30, 'seed': 0} | arguments))
    if constraints:
        synthesizer.add_constraints(list(constraints))
    return synthesizer


def residual(rows):
    return (rows['gen_mw'] - rows['load_mw'] - 1e-3 * rows['loss_mw'] * rows['gen_mw']).abs()


@pytest.fixture(scope='module')
def data():
    return make_table()


@pytest.fixture(scope='module')
def fitted(data):
    synthesizer = make_synthesizer(data)
    fit(synthesizer, data)
    return synthesizer


@pytest.fixture
def fresh(fitted):
    """The fitted synthesizer as `fit` left it."""
    fitted.guidance, fitted.projection, fitted.guidance_scale = 'gauss_newton', True, 1.0
    fitted.reset_sampling()
    return fitted


def test_every_delivered_row_is_feasible_and_columns_are_those_of_the_data(fresh, data):
    rows = sample(fresh, 300)
    assert list(rows.columns) == list(data.columns)
    assert list(rows.index) == list(range(300))
    assert residual(rows).max() <= 1e-9
    summary = fresh.get_projection_summary().iloc[0]
    assert summary['num_rows'] >= 300
    assert summary['num_replaced'] == 0


def test_guidance_shrinks_the_residual_and_only_projection_meets_the_tolerance(fresh):
    fresh.projection = False
    mean = {}
    for fresh.guidance in ('none', 'gradient', 'gauss_newton'):
        fresh.reset_sampling()
        mean[fresh.guidance] = residual(sample(fresh, 300)).mean()
    assert mean['gradient'] < mean['none']
    assert mean['gauss_newton'] < 0.01 * mean['none']
    assert mean['none'] > 1e-3  # else there would be nothing to guide


def test_unconstrained_columns_are_rounded_and_clipped_as_sdv_does(fresh, data):
    price = sample(fresh, 300)['price']
    assert (price == price.round(2)).all()
    assert price.between(data['price'].min(), data['price'].max()).all()


def test_same_seed_gives_the_same_model_and_rows(data, fresh):
    again = make_synthesizer(data)
    fit(again, data)
    pd.testing.assert_frame_equal(sample(again, 50), sample(fresh, 50))
    other = make_synthesizer(data, seed=1)
    fit(other, data)
    assert not sample(other, 50).equals(sample(again, 50))


def test_rows_do_not_depend_on_batches_and_fewer_rows_are_a_prefix_of_more(fresh):
    # Rows are drawn in blocks of fixed size, so the network's part is bit-equal; the projection's products of matrices
    # may differ by rounding with the number of rows: 1e-12 of values about 100.
    whole = sample(fresh, 200)
    fresh.reset_sampling()
    pd.testing.assert_frame_equal(sample(fresh, 200, batch_size=37), whole, rtol=1e-12)
    fresh.reset_sampling()
    pd.testing.assert_frame_equal(sample(fresh, 20), whole.head(20), rtol=1e-12)


def test_samples_follow_one_another_and_reset_sampling_starts_anew(fresh):
    first, second = sample(fresh, 30), sample(fresh, 30)
    assert not first.equals(second)
    fresh.reset_sampling()
    pd.testing.assert_frame_equal(sample(fresh, 30), first)


def test_saved_synthesizer_delivers_the_same_rows(fresh, tmp_path):
    fresh.save(tmp_path / 'model.pkl')
    loaded = load_synthesizer(tmp_path / 'model.pkl')
    pd.testing.assert_frame_equal(sample(loaded, 40), sample(fresh, 40))
    assert [each.name for each in loaded.get_constraints()] == ['balance']


def test_parameters_losses_and_plot(fresh):
    parameters = fresh.get_parameters()
    assert parameters['preset'] == 'default'
    assert parameters['epochs'] == 30
    assert parameters['guidance'] == 'gauss_newton'
    assert parameters['enforce_rounding'] is True
    losses = fresh.get_loss_values()
    assert list(losses.columns) == ['Epoch', 'Loss', 'Held-out Loss']
    assert losses['Epoch'].tolist() == list(range(30))
    assert losses['Loss'].tail(5).mean() < losses['Loss'].head(5).mean()
    figure = fresh.get_loss_values_plot(title='Losses')
    assert figure.layout.title.text == 'Losses'
    np.testing.assert_array_equal(figure.data[0].y, losses['Loss'])


def test_fit_leaves_the_callers_table_alone(data):
    before = data.copy()
    fit(make_synthesizer(data, epochs=1), data)
    pd.testing.assert_frame_equal(data, before)


def test_training_says_what_the_rows_do_with_each_constraint(data, caplog):
    with caplog.at_level('INFO', logger='sdv_constrained_diffusion'):
        fit(make_synthesizer(data, epochs=1), data)
    told = ' '.join(caplog.messages)
    assert 'balance (learned): 100.0% of the training rows within 1e-09 MW' in told
    assert '3 constrained columns are delivered unrounded' in told


def test_it_is_silent_when_not_verbose(data, capsys):
    synthesizer = make_synthesizer(data, epochs=1)
    fit(synthesizer, data)
    synthesizer.sample(5)
    captured = capsys.readouterr()
    assert captured.out == ''
    assert captured.err == ''


def test_other_sdtypes_are_learned_through_sdv_transformers():
    rng = np.random.default_rng(0)
    data = pd.DataFrame(
        {
            'id': range(200),
            'colour': rng.choice(['red', 'green', None], 200),
            'flag': rng.choice([True, False], 200),
            'day': pd.date_range('2024-01-01', periods=200),
            'count': rng.poisson(3, 200),
            'value': np.where(rng.uniform(size=200) < 0.2, np.nan, rng.normal(size=200)),
        }
    )
    metadata = metadata_of(data, {'id': {'sdtype': 'id'}}, primary_key='id')
    synthesizer = ConstrainedDiffusionSynthesizer(metadata, epochs=5, seed=0)
    fit(synthesizer, data)
    rows = sample(synthesizer, 100)
    assert rows['id'].is_unique
    assert set(rows['colour'].dropna()) <= {'red', 'green'}
    assert rows['flag'].isin([True, False]).all()
    assert rows['day'].between(data['day'].min(), data['day'].max()).all()
    assert rows['count'].dtype == data['count'].dtype
    assert rows['value'].isna().any()


def test_sdv_constraints_pass_to_sdv_beside_ours(data):
    from sdv.cag import Inequality

    table = data.assign(cheap=data['price'] - 1 - data['loss_mw'].round(2))
    synthesizer = make_synthesizer(table, epochs=5)
    synthesizer.add_constraints([Inequality(low_column_name='cheap', high_column_name='price')])
    fit(synthesizer, table)
    rows = sample(synthesizer, 100)
    assert (rows['cheap'] <= rows['price']).all()
    assert residual(rows).max() <= 1e-9
    assert len(synthesizer.get_constraints()) == 2


def test_fixed_values_on_free_and_guided_columns_hold_together_with_the_constraint(fresh, data):
    given = data[['load_mw', 'price']].head(50).reset_index(drop=True)
    rows = sample_remaining_columns(fresh, given)
    pd.testing.assert_frame_equal(rows[['load_mw', 'price']], given)
    assert residual(rows).max() <= 1e-9
    rows = sample_from_conditions(fresh, [Condition(column_values={'load_mw': 100.0}, num_rows=3)])
    assert rows['load_mw'].tolist() == [100.0] * 3
    assert residual(rows).max() <= 1e-9


@pytest.mark.parametrize(
    ('arguments', 'fact'),
    [
        ({'preset': 'fast'}, "'preset' must be one of \\['default', 'paper'\\]; got 'fast'"),
        ({'guidance': 'newton'}, "'guidance' must be one of .*; got 'newton'"),
        ({'epochs': 0}, "'epochs' must be 'auto', a whole number above 0, or None; got 0"),
        ({'epochs': 'many'}, "'epochs' must be 'auto', a whole number above 0, or None; got 'many'"),
        ({'batch_size': -5}, "'batch_size' must be .* got -5"),
        ({'guidance_scale': -1.0}, "'guidance_scale' must be .* got -1.0"),
        ({'guidance_scale': None}, "'guidance_scale' must be .* got None"),
        ({'seed': -1}, "'seed' must be .* got -1"),
        ({'seed': True}, "'seed' must be .* got True"),
        ({'enable_gpu': 'rocm'}, "'enable_gpu' must be True, False or 'mps'; got 'rocm'"),
        ({'projection': 'no'}, "'projection' must be True or False; got 'no'"),
        ({'preset': ['paper']}, "'preset' must be one of"),
    ],
)
def test_bad_arguments_are_refused_at_construction(data, arguments, fact):
    with pytest.raises(SynthesizerInputError, match=fact):
        make_synthesizer(data, **arguments)


def test_sample_and_losses_before_fit_are_refused(data):
    synthesizer = make_synthesizer(data)
    with pytest.raises(SamplingError, match='has not been fitted'):
        synthesizer.sample(3)
    with pytest.raises(NotFittedError, match='Loss values are not available before fit'):
        synthesizer.get_loss_values()


def test_bad_tables_are_refused_before_training(data):
    for value in (np.nan, np.inf):
        spoiled = data.copy()
        spoiled.loc[7, 'load_mw'] = value
        with pytest.raises(DataError, match=r"column 'load_mw'; 1 of 400 rows .* row 7"):
            fit(make_synthesizer(spoiled), spoiled)
    spoiled = data.copy()
    spoiled.loc[9, 'price'] = np.inf
    with pytest.raises(DataError, match=r"fit needs finite numbers in column 'price'.*row 9"):
        fit(make_synthesizer(spoiled, ()), spoiled)


def test_missing_column_and_nan_residual_are_refused_before_training(data):
    without = data.drop(columns='loss_mw').rename(columns={'price': 'los_mw'})
    with pytest.raises(ColumnMissingError, match=r"balance needs column 'loss_mw'.*look close: 'los_mw'"):
        fit(make_synthesizer(without), without)

    @constraint(columns=['load_mw'])
    def undefined(table):
        return (80.5 - table.load_mw).log()

    with pytest.raises(ConstraintError, match=r'undefined must be finite on every row; its equation'):
        fit(make_synthesizer(data, [undefined]), data)


def test_auto_epochs_hold_rows_out_and_report_their_loss(data, capsys):
    """Four hundred rows overfit soon: the run stops by itself, far from the most steps of the recipe."""
    small = Preset(
        'quantile',
        lambda layout, _: PreconditionedDenoiser(ResidualMLP(layout.num_features, 32, 1), EDMSchedule(), layout),
        TrainingPlan(epochs=None, max_steps=20_000, learning_rate=0.005, decay='trapezoid', patience=0.4),
        MultistepSampler(10),
    )
    synthesizer = make_synthesizer(data, [], epochs='auto', preset=small, verbose=True)
    fit(synthesizer, data)
    losses = synthesizer.get_loss_values()
    held_out = losses['Held-out Loss'].dropna()
    assert len(losses) < 1000
    # An epoch is a step: measured every fifty steps, a twentieth of a thousand, and at the end.
    assert held_out.index.tolist() == [*range(49, len(losses) - 1, 50), len(losses) - 1]
    told = capsys.readouterr().out
    lowest = f'{held_out.min():.4f}, after {held_out.idxmin() + 1} epochs'
    assert f'40 rows were held out: their loss was lowest, {lowest}; training stopped' in told
    assert f'training stopped, as it did not fall any more, after {len(losses)} with {held_out.iloc[-1]:.4f}.' in told
    figure = synthesizer.get_loss_values_plot()
    np.testing.assert_array_equal(figure.data[1].y, losses['Held-out Loss'])


@pytest.mark.parametrize(
    ('num_rows', 'numbers', 'labels', 'held_out'),
    [
        (99, 51, 0, 0),
        (100, 51, 0, 10),
        (1999, 51, 0, 199),
        (2000, 20, 0, 0),
        (2000, 19, 0, 200),
        (2000, 49, 1, 0),
        (2000, 48, 1, 200),
        (4999, 51, 0, 0),
        (5000, 51, 0, 500),
        (90_000, 51, 1, 2000),
    ],
)
def test_how_many_rows_are_held_out(num_rows, numbers, labels, held_out):
    layout = Layout(numbers, [torch.full((2,), 0.5).double()] * labels)
    learned, others = _held_out(num_rows, layout, default_preset().plan, torch.Generator().manual_seed(0))
    assert len(others) == held_out
    assert torch.equal(torch.cat([learned, others]).sort().values, torch.arange(num_rows))


@pytest.mark.parametrize(('num_rows', 'arguments'), [(99, {'epochs': 'auto'}), (400, {'epochs': None})])
def test_tiny_tables_and_fixed_epochs_hold_nothing_out(data, num_rows, arguments, capsys):
    synthesizer = make_synthesizer(data, [], max_time=0.5, verbose=True, **arguments)
    fit(synthesizer, data.head(num_rows))
    assert synthesizer.get_loss_values()['Held-out Loss'].isna().all()
    assert 'held out' not in capsys.readouterr().out


def test_held_out_rows_are_not_learned(data, monkeypatch):
    """What is drawn for training and what is held out are the whole table, each row once."""
    data, seen = data.drop(columns='price'), {}  # prices repeat, and their places are drawn

    def watched(denoiser, draw_rows, plan, generator, verbose, held_out):
        seen.update(learned=draw_rows(generator)[torch.arange(360)], held_out=held_out)
        return TrainingRecord()

    monkeypatch.setattr('sdv_constrained_diffusion.model.train', watched)
    DiffusionModel.fit(data, default_preset(), default_preset().plan, continuous=list(data.columns), seed=1)
    encoder = TableEncoder.fit(data, continuous=list(data.columns))
    expected = encoder.encode(encoder.values(data))
    found = torch.cat([seen['learned'], seen['held_out']])
    order, same = found[:, 0].argsort(), expected[:, 0].argsort()
    torch.testing.assert_close(found[order], expected[same])
    assert len(seen['held_out']) == 40


class TooWide(MultistepSampler):
    """Draws free numbers two fifths too wide, and counts rows."""

    def __init__(self, num_steps):
        super().__init__(num_steps)
        self.drawn = []

    def sample(self, denoiser, num_rows, num_features, generator, given=None):
        self.drawn.append(num_rows)
        rows = super().sample(denoiser, num_rows, num_features, generator, given)
        number_given = given is not None and given.known[:, :6].any()
        return rows if number_given else torch.cat([1.4 * rows[:, :6], rows[:, 6:]], dim=1)


def test_marginals_are_adjusted_where_no_number_is_given():
    """Also where constants or labels are."""
    random = np.random.default_rng(0)
    numbers = random.gamma(3, 1, size=(1000, 1)) + random.gamma(1, 1, size=(1000, 6))
    data = pd.DataFrame(numbers).rename(columns=str).assign(fixed=7.0, word=random.choice(['a', 'b'], 1000))
    preset = replace(default_preset(), sampler=TooWide(num_steps=30))
    plan = replace(preset.plan, epochs=3, patience=None)
    plain, adjusted = (
        DiffusionModel.fit(data, replace(preset, adjusted=lambda layout, on=on: on), plan, ['word'], seed=0)
        for on in (False, True)
    )
    assert sum(preset.sampler.drawn) == 5120  # the quantiles of fewer rows miss by what is seen in many columns

    def off(rows):
        return np.mean([ks_2samp(data[name], rows[name]).statistic for name in '012345'])

    # Two fifths in width are 0.08 of KS; two tables of these sizes differ by 0.034.
    for drawn in (
        lambda model: model.sample(2048),
        lambda model: model.complete(pd.DataFrame({'fixed': [7.0] * 2048})),
        lambda model: model.complete(pd.DataFrame({'word': ['a', 'b'] * 1024})),
    ):
        assert off(drawn(plain)) > 0.065
        assert off(drawn(adjusted)) < 0.045
    known = data[['0', '3']].head(40)
    pd.testing.assert_frame_equal(adjusted.complete(known), plain.complete(known), check_exact=True)
    assert default_preset().adjusted(Layout(129))
    assert not default_preset().adjusted(Layout(128))
    assert not Preset('quantile', default_preset().denoiser, plan, preset.sampler).adjusted(Layout(129))


def test_presets_travel():
    default = default_preset()
    for preset in (default, Preset(default.scaling, default.denoiser, default.plan, default.sampler)):
        assert pickle.loads(pickle.dumps(preset)).adjusted is preset.adjusted


def test_grossly_missed_constraint_is_refused_with_its_residual(data):
    kilowatts = data.assign(load_mw=data['load_mw'] * 1000)
    with pytest.raises(ConstraintMismatchError, match=r'holds in none of the 400 training rows: .* MW'):
        fit(make_synthesizer(kilowatts), kilowatts)


def test_the_papers_recipe_trains_and_samples_with_a_learning_rate_of_ones_own(data, monkeypatch):
    monkeypatch.setattr('sdv_constrained_diffusion.model.BLOCK', 8)  # 1,000 steps of a wide network: few rows at once
    preset = paper_preset(decay_steps=30, decay_factor=0.5)
    synthesizer = make_synthesizer(data, preset=preset, epochs=40)
    fit(synthesizer, data)
    losses = synthesizer.get_loss_values()['Loss']
    assert losses.tail(5).mean() < 0.9 * losses.iloc[0]
    assert residual(sample(synthesizer, 8)).max() <= 1e-9


def test_a_misspelt_guidance_after_fit_is_named(fresh):
    fresh.guidance = 'newton'
    with pytest.raises(SynthesizerInputError) as caught:
        fresh.sample(3)
    assert "'guidance' must be one of" in str(caught.value)


def test_a_projection_that_is_no_switch_after_fit_is_named(fresh):
    fresh.projection = 'yes'
    with pytest.raises(SynthesizerInputError) as caught:
        fresh.sample(3)
    assert "'projection' must be True or False; got 'yes'" in str(caught.value)


@pytest.mark.parametrize('num_rows', [2.5, -1, '3', True])
def test_a_number_of_rows_that_is_none_is_named(fresh, num_rows):
    with pytest.raises(SynthesizerInputError) as caught:
        fresh.sample(num_rows)
    assert f"'num_rows' must be a whole number of at least 0; got {num_rows!r}" in str(caught.value)


def test_adding_nothing_after_fit_changes_nothing(fresh):
    fresh.add_constraints([])
    assert residual(sample(fresh, 50)).max() <= 1e-9


@pytest.mark.parametrize('guidance', ['gauss_newton', 'gradient'])
def test_guidance_does_no_harm_where_the_law_is_flat_at_the_mean_row(guidance):
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 600)
    table = pd.DataFrame({'x': np.cos(angle), 'y': np.sin(angle)})

    @constraint(columns=['x', 'y'], tolerance=1e-9)
    def circle(rows):
        return rows.x**2 + rows.y**2 - 1

    synthesizer = make_synthesizer(table, [circle], epochs=60, guidance=guidance)
    fit(synthesizer, table)
    rows = sample(synthesizer, 600)
    assert np.abs(rows['x'] ** 2 + rows['y'] ** 2 - 1).max() <= 1e-9
    # Most rows find the circle from where they were drawn; the network is trained for seconds only.
    assert synthesizer.get_projection_summary()['num_replaced'].iloc[0] <= 30
    # The 1 % bound of the two-sample KS statistic is 0.094 at 600 rows each; the network's own error comes on top.
    assert ks_2samp(rows['x'], table['x']).statistic < 0.2


def test_a_constraint_on_a_key_column_is_refused_with_the_way_out():
    table = pd.DataFrame({'k': np.arange(300) + 10**6, 'h': (np.arange(300) + 10**6) / 2})

    @constraint(columns=['k', 'h'])
    def half(rows):
        return rows.k - 2 * rows.h

    with pytest.raises(
        DataError, match=r"half needs the values of column 'k', but the metadata call it 'id'.*update_column"
    ):
        fit(make_synthesizer(table, [half]), table)


def test_a_column_that_an_sdv_constraint_rewrites_is_refused(data):
    from sdv.cag import Inequality

    table = data.assign(more=data['gen_mw'] + 1)
    synthesizer = make_synthesizer(table)
    synthesizer.add_constraints([Inequality(low_column_name='gen_mw', high_column_name='more')])
    with pytest.raises(ConstraintError, match=r"\['gen_mw'\] are guided by a constraint, but a constraint of SDV"):
        fit(synthesizer, table)


def test_what_is_no_constraint_is_refused(data):
    from sdv_constrained_diffusion import PowerFlow

    synthesizer = make_synthesizer(data, ())
    with pytest.raises(ConstraintError, match=r'the class PowerFlow\. Make an instance first'):
        synthesizer.add_constraints([PowerFlow])
    with pytest.raises(SynthesizerInputError, match='needs a list of constraints'):
        synthesizer.add_constraints(balance)


def test_partly_violated_training_rows_warn_and_train(data):
    table = data.copy()
    table.loc[:99, 'gen_mw'] += 5.0
    synthesizer = make_synthesizer(table, epochs=2)
    with pytest.warns(
        UserWarning, match=r'balance \(learned\): 75.0% of the training rows within .* largest 5 MW \(worst rows: '
    ):
        fit(synthesizer, table)
    found = synthesizer.get_constraint_diagnosis().iloc[0]
    assert found['share_feasible'] == 0.75
    # gen - load - 1e-3 loss gen grows by 5 (1 - 1e-3 loss), loss at most about 20.
    assert found['violation_max'] == pytest.approx(5.0, rel=0.02)


def test_delivered_rows_do_not_travel_with_a_saved_synthesizer(fresh, tmp_path):
    fresh.save(tmp_path / 'before.pkl')
    fresh.sample(5000)
    fresh.save(tmp_path / 'after.pkl')
    # 5,000 rows of three constrained float64 columns would be 120 kB; a code and two displacements per row are 65 kB.
    grown = (tmp_path / 'after.pkl').stat().st_size - (tmp_path / 'before.pkl').stat().st_size
    assert grown < 100_000


def test_errors_survive_pickling():
    error = ColumnMissingError.of('balance', 'loss_mw', ['los_mw'])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
