import importlib.metadata
import subprocess
import sys

import pandas as pd
import pytest

from sdv_constrained_diffusion.constraints.registry import GROUP, load, registered
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


def test_a_missing_extra_keeps_its_own_advice(install):
    source = (
        'from sdv_constrained_diffusion.errors import MissingExtraError\n'
        "raise MissingExtraError.of('Heat', 'heatlib', 'heat')\n"
    )
    install('extra_heat', source, 'heat', 'extra_heat:Heat')
    with pytest.raises(MissingExtraError, match=r"pip install 'sdv-constrained-diffusion\[heat\]'"):
        load('heat')
