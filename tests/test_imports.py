"""Import order and cost, each in a fresh interpreter."""

import subprocess
import sys

import pytest


def run(code):
    command = [sys.executable, '-W', 'error::UserWarning', '-c', code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    'first',
    [
        'import sdv_constrained_diffusion',
        'import sdv',
        'import sdv.single_table',
        'from sdv.single_table import ConstrainedDiffusionSynthesizer',
        'import sdv_constrained_diffusion.synthesizer',
        'from sdv_constrained_diffusion.power.constraints import PowerFlow',
    ],
)
def test_the_class_is_importable_from_sdv_whatever_comes_first(first):
    # A plug-in that SDV meets half-built is skipped with a UserWarning, which is an error here.
    code = (
        f'{first}\n'
        'from sdv.single_table import ConstrainedDiffusionSynthesizer as theirs\n'
        'from sdv_constrained_diffusion import ConstrainedDiffusionSynthesizer as ours\n'
        'assert theirs is ours'
    )
    run(code)


def test_importing_the_package_loads_no_optional_library():
    # SDV itself loads plotly, joblib and more; what counts is what this package adds.
    optional = "{'pandapower', 'casadi', 'joblib', 'pyarrow', 'plotly', 'jinja2', 'typer'}"
    loaded = f'print(*sorted({optional} & set(sys.modules)))'
    without_plug_ins = 'import sys, importlib.metadata\nimportlib.metadata.entry_points = lambda **_: ()\n'
    by_sdv = run(f'{without_plug_ins}import sdv.single_table\n{loaded}')
    assert set(run(f'import sys, sdv_constrained_diffusion\n{loaded}')) <= set(by_sdv)


def test_public_names_resolve_and_unknown_ones_are_named():
    code = (
        'import sdv_constrained_diffusion as package\n'
        'for name in package.__all__:\n'
        '    assert getattr(package, name).__name__ == name, name\n'
        'try:\n'
        '    package.Nothing\n'
        'except AttributeError as error:\n'
        "    assert 'Nothing' in str(error)\n"
        'else:\n'
        "    raise AssertionError('no error')"
    )
    run(code)
