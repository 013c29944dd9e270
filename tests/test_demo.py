"""The demo and the command line, on few rows: every stage runs, every file is written, the figures are true."""

import json

import pandapower.networks
import pandas as pd
import pytest
from sdv.utils import load_synthesizer
from typer.testing import CliRunner

from sdv_constrained_diffusion.cli import app
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.demo import Result
from sdv_constrained_diffusion.power.constraints import PowerFlow
from sdv_constrained_diffusion.power.scenarios import Scenarios


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp('pjm5')
    arguments = ['demo', 'pjm5', '--rows', '300', '--epochs', '40', '--workers', '1', '--out', str(out)]
    return CliRunner().invoke(app, arguments), out


def test_it_prints_its_figures_beside_their_targets(run):
    result, out = run
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if '(target' in line]
    assert len(lines) == 11
    # Feasibility does not depend on the length of training, unlike fidelity, which 40 epochs on 300 rows leave open.
    for wanted in ('mismatch of delivered rows', 'rows drawn that had to be replaced', 'voltage gap', 'angle gap'):
        assert any(line.startswith('ok') and wanted in line for line in lines), wanted
    assert str(out / 'report.html') in result.stdout


def test_the_delivered_table_is_what_the_summary_says(run):
    _, out = run
    synthetic, real = pd.read_parquet(out / 'synthetic.parquet'), pd.read_parquet(out / 'real.parquet')
    assert synthetic.shape == (300, 20)
    assert list(synthetic.columns) == list(real.columns)
    system = ConstraintSystem([PowerFlow.from_pandapower(pandapower.networks.case5())], synthetic)
    largest_pu = float(system.residual(system.values(synthetic)).abs().max()) / 100
    assert largest_pu <= 1e-8
    summary = {line['Figure']: line for line in json.loads((out / 'report.json').read_text())['summary']}
    reported = summary['largest P or Q mismatch of delivered rows, p.u. on 100 MVA']['Value']
    assert reported == pytest.approx(largest_pu, rel=1e-9)


def test_real_rows_keep_their_metadata_and_held_out_rows_are_others(run):
    _, out = run
    real, held_out = Scenarios.load(out / 'real.parquet'), Scenarios.load(out / 'held_out.parquet')
    assert real.metadata['network'] == 'PJM 5-bus'
    assert real.metadata['seed'] != held_out.metadata['seed']
    assert pd.merge(real.table, held_out.table).empty


def test_the_saved_model_samples_in_the_ordinary_way(run):
    _, out = run
    rows = load_synthesizer(out / 'model.pkl').sample(10)['pjm5']
    assert rows.shape == (10, 20)


def test_the_page_holds_the_papers_figures_and_asks_the_network_for_nothing(run):
    _, out = run
    page = (out / 'report.html').read_text()
    for figure in ('(Fig. 4', '(Fig. 5)', '(Fig. 6)'):
        assert figure in page
    assert "default-src 'none'" in page  # the browser itself refuses to load anything
    for reference in ('<script src', '<link', '<img'):
        assert reference not in page.lower()


def test_bad_arguments_are_refused_before_anything_is_solved(tmp_path):
    result = CliRunner().invoke(app, ['demo', 'pjm5', '--rows', '1', '--out', str(tmp_path)])
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_result_meets_its_target_on_the_right_side_and_nan_never_does():
    assert Result('x', 1.0, ('<=', 1.0)).met
    assert not Result('x', 1.1, ('<=', 1.0)).met
    assert Result('x', 1.1, ('>=', 1.0)).met
    assert not Result('x', float('nan'), ('<=', 1.0)).met
    assert str(Result('x', 2.0, ('<=', 1.0), 0.5)) == 'MISSED x: 2 (target <= 1, floor 0.5)'
