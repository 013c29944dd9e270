"""The command `constrained-diffusion scenarios`."""

import pandas as pd
import pytest
from typer.testing import CliRunner

from cases import case
from sdv_constrained_diffusion.cli import app
from sdv_constrained_diffusion.power.scenarios import CostPerturbation, Outages, ProfileLoads, Scenarios, generate
from sdv_constrained_diffusion.power.tables import APART, FLOWS


def command(*arguments):
    return CliRunner().invoke(app, ['scenarios', *map(str, arguments)])


def test_options_become_models(tmp_path):
    profile = pd.DataFrame({str(i): [0.9, 1.0, 1.1] for i in range(3)})
    profile.assign(hour=range(3)).to_csv(tmp_path / 'profile.csv', index=False)
    out = tmp_path / 'out'
    result = command(
        *('case5', '--rows', 20, '--out', out, '--loads', 'profile', '--profile', tmp_path / 'profile.csv'),
        *('--order', 'in_turn', '--cost-spread', 0.2, '--outages', 0.4, '--quantities', 'apart', '--flows'),
        *('--flow-limit', 'current', '--seed', 3),
    )
    assert result.exit_code == 0, result.output
    assert result.output.startswith('20 rows of ')
    expected = generate(
        case('case5'),
        20,
        seed=3,
        flow_limit='current',
        loads=ProfileLoads(profile, 'in_turn'),
        costs=CostPerturbation(0.2),
        outages=Outages(0.4),
        quantities=(*APART, *FLOWS),
    )
    found = Scenarios.load(out)
    pd.testing.assert_frame_equal(found.table, expected.table, check_exact=True)
    pd.testing.assert_frame_equal(found.unsolved, expected.unsolved, check_exact=True)
    assert {**found.metadata, 'part_chunks': 0} == {**expected.metadata, 'part_chunks': 0}


@pytest.mark.parametrize(
    ('arguments', 'facts'),
    [
        (('case_5',), ["'case_5'", "'case5'"]),
        (('case5', '--loads', 'gaussian'), ["['uniform', 'normal', 'profile']", "'gaussian'"]),
        (('case5', '--std', 0.1), ['uniform loads take low, high, power_factor', "'std'"]),
        (('case5', '--loads', 'profile'), ["profile loads need 'table'"]),
        (('case5', '--loads', 'profile', '--profile', 'no.csv'), ["'no.csv'"]),
        (('case5', '--infeed-low', 0.1), ["['uniform', 'profile']", "None with 'low'"]),
        (('case5', '--quantities', 'long'), ["['wide', 'apart']", "'long'"]),
        (('case5', '--solver', 'dc'), ["'dc'"]),
        (('case5', '--outages', 2), ['share from 0 to 1']),
    ],
)
def test_what_cannot_be_is_said_without_a_traceback(tmp_path, arguments, facts):
    result = command(*arguments, '--rows', 3, '--out', tmp_path / 'out')
    assert result.exit_code == 1
    assert 'error: ' in result.output
    assert 'Traceback' not in result.output
    for fact in facts:
        assert fact in result.output


@pytest.mark.parametrize('out', ['taken', 'taken/out'])
def test_a_folder_that_cannot_be_written_to_is_said_without_a_traceback(out, tmp_path):
    (tmp_path / 'taken').write_text('a file')
    result = command('case5', '--rows', 3, '--out', tmp_path / out)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: scenarios needs a folder that it can write to, but --out is '{tmp_path}")
    assert isinstance(result.exception, SystemExit)
