import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import importlib_metadata  # noqa: F401 - puts its own finder in the place of importlib.metadata's, as under dask
import pandas as pd
import pytest
from typer.testing import CliRunner

from sdv_constrained_diffusion.cli import app
from sdv_constrained_diffusion.constraints.registry import GROUP, SWITCH, load, registered
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.errors import MissingExtraError, PluginError
from sdv_constrained_diffusion.power.constraints import PowerFlow

GOOD = '''
from sdv_constrained_diffusion.constraints.base import Constraint

class Sum(Constraint):
    """x + y is 1."""

    columns = ('x', 'y')
    unit = 'litre'

    def residual(self, table):
        return table.x + table.y - 1
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution of one module on the path: its dist-info directory as an installer writes it."""

    def write(module, source, name, value, group=GROUP):
        info = tmp_path / f'{module}-1.2.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {module}\nVersion: 1.2\n')
        (info / 'entry_points.txt').write_text(f'[{group}]\n{name} = {value}\n')
        (tmp_path / f'{module}.py').write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        # Undone after the test: the module must not outlive its file.
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, module)

    return write


def test_power_flow_is_found_through_entry_points():
    assert load('power_flow') is PowerFlow
    (entry_point,) = importlib.metadata.entry_points(group='sdv_constrained_diffusion.constraints', name='power_flow')
    assert registered()['power_flow'] == entry_point


def test_registered_lists_without_importing():
    code = (
        'import sys\n'
        'from sdv_constrained_diffusion.constraints.registry import registered\n'
        'print(sorted(registered()), "sdv_constrained_diffusion.power.constraints" in sys.modules)\n'
    )
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert "'power_flow'" in said
    assert said.strip().endswith('False')


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(PluginError, match=r"No constraint is registered as 'heat_flow'; registered are: .*power_flow"):
        load('heat_flow')


def test_a_strangers_constraint_loads_and_works(install):
    install('strange_sums', GOOD, 'sum', 'strange_sums:Sum')
    data = pd.DataFrame({'y': [0.25, 0.5], 'x': [0.75, 0.75]})
    system = ConstraintSystem([load('sum')()], data)
    values = system.values(data)
    # Short binary fractions: exact.
    assert system.residual(values).tolist() == [[0.0], [0.25]]
    assert system.jacobian(values).tolist() == [[[1.0, 1.0]]] * 2
    assert system.feasible(values).tolist() == [True, False]
    assert system.equations[0].unit == 'litre'
    assert {'sum', 'power_flow'} <= set(registered())


def test_a_name_in_another_group_is_not_registered(install):
    install('strange_group', GOOD, 'sum', 'strange_group:Sum', group='some.other.group')
    with pytest.raises(PluginError, match="registered as 'sum'"):
        load('sum')


@pytest.mark.parametrize(
    ('module', 'source', 'value', 'said'),
    [
        ('broken_import', 'import a_library_nobody_has', 'broken_import:Sum', "ModuleNotFoundError: .*nobody_has'"),
        ('broken_syntax', 'def (', 'broken_syntax:Sum', 'SyntaxError: '),
        ('broken_run', '1 / 0', 'broken_run:Sum', 'ZeroDivisionError: division by zero'),
        ('broken_name', GOOD, 'broken_name:Total', "AttributeError: .*'Total'"),
        ('broken_module', GOOD, 'no_such_module:Sum', "ModuleNotFoundError: .*'no_such_module'"),
    ],
)
def test_a_plugin_that_fails_to_import_is_named_with_the_reason_and_its_distribution(
    install, module, source, value, said
):
    install(module, source, 'broken', value)
    where = rf"The constraint plug-in 'broken' \({value}, from {module} 1\.2\) fails to import: "
    with pytest.raises(PluginError, match=where + said) as caught:
        load('broken')
    assert caught.value.__cause__ is not None
    assert load('power_flow') is PowerFlow


@pytest.mark.parametrize(
    ('module', 'thing'), [('odd_function', 'print'), ('odd_class', 'dict'), ('odd_instance', 'Sum()')]
)
def test_a_plugin_that_names_no_constraint_class_is_refused(install, module, thing):
    install(module, f'{GOOD}\nThing = {thing}\n', 'odd', f'{module}:Thing')
    with pytest.raises(
        PluginError, match=rf"'odd' \({module}:Thing, from {module} 1\.2\) must name a subclass of Constraint; it names"
    ):
        load('odd')


def test_two_distributions_with_one_name_are_told_apart(install):
    install('first_sums', GOOD, 'sum', 'first_sums:Sum')
    install('second_sums', GOOD, 'sum', 'second_sums:Sum')
    with pytest.raises(PluginError, match=r"More than one .* 'sum': .*first_sums 1\.2.*Uninstall") as caught:
        load('sum')
    assert 'second_sums 1.2' in str(caught.value)


@pytest.mark.parametrize('value', ['0', 'off', 'OFF'])
def test_the_switch_leaves_the_packages_own_constraints_only(install, monkeypatch, value):
    install('strange_sums', GOOD, 'sum', 'strange_sums:Sum')
    monkeypatch.setenv(SWITCH, value)
    assert sorted(registered()) == ['by_topology', 'operating_limits', 'power_flow']
    with pytest.raises(PluginError, match=f"registered as 'sum'.*switched off by {SWITCH}"):
        load('sum')
    assert load('power_flow') is PowerFlow


def test_the_list_names_what_is_broken_and_skips_it(install):
    install('strange_sums', GOOD, 'sum', 'strange_sums:Sum')
    install('broken_run', '1 / 0', 'broken', 'broken_run:Sum')
    done = CliRunner().invoke(app, ['constraints', 'list'])
    assert done.exit_code == 0, done.output
    lines = dict(line.split('\t', 1) for line in done.output.splitlines())
    assert lines['sum'] == 'strange_sums 1.2'
    assert lines['power_flow'].startswith('sdv-constrained-diffusion ')
    assert lines['broken'].startswith('broken_run 1.2\tskipped: ')
    assert 'ZeroDivisionError' in lines['broken']


def test_the_documented_plugin_is_installed_and_used(tmp_path):
    source = tmp_path / 'plugin'  # building leaves files beside the sources
    shutil.copytree(Path(__file__).parents[2] / 'docs' / 'plugin', source)
    options = ['--quiet', '--no-deps', '--no-build-isolation', '--target', str(tmp_path / 'installed')]
    subprocess.run([sys.executable, '-m', 'pip', 'install', *options, str(source)], check=True)
    code = (
        'import numpy as np, pandas as pd\n'
        'from sdv.metadata import Metadata\n'
        'from sdv_constrained_diffusion import ConstrainedDiffusionSynthesizer, check_constraint\n'
        'from sdv_constrained_diffusion.constraints import registry\n'
        'law = registry.load("ideal_gas")(moles=2.0)\n'
        'rng = np.random.default_rng(0)\n'
        'volume, temperature = rng.uniform(10, 20, 300), rng.uniform(280, 320, 300)\n'
        'pressure = 2.0 * 8.314462618 * temperature / volume\n'
        'columns = {"pressure_kpa": pressure, "volume_l": volume, "temperature_k": temperature}\n'
        'rows = pd.DataFrame(columns)\n'
        'assert check_constraint(law, rows).passed\n'
        'synthesizer = ConstrainedDiffusionSynthesizer(Metadata.detect_from_dataframes({"t": rows}), epochs=5)\n'
        'synthesizer.add_constraints([law])\n'
        'synthesizer.fit({"t": rows})\n'
        'drawn = synthesizer.sample(20)["t"]\n'
        'energy = drawn.pressure_kpa * drawn.volume_l - 2.0 * 8.314462618 * drawn.temperature_k\n'
        'assert energy.abs().max() <= 1e-6\n'
    )
    path = os.pathsep.join(each for each in (str(tmp_path / 'installed'), os.environ.get('PYTHONPATH')) if each)
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False, env=os.environ | {'PYTHONPATH': path}
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_extra_keeps_its_own_advice(install):
    source = (
        'from sdv_constrained_diffusion.errors import MissingExtraError\n'
        "raise MissingExtraError.of('Heat', 'heatlib', 'heat')\n"
    )
    install('extra_heat', source, 'heat', 'extra_heat:Heat')
    with pytest.raises(MissingExtraError, match=r"pip install 'sdv-constrained-diffusion\[heat\]'"):
        load('heat')
