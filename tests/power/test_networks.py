"""Networks by name and from files."""

import numpy as np
import pandapower as pp
import pytest
import scipy.io

from cases import case
from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power.networks import network_names, read_network

BUS = [[1, 3, 0, 0, 0, 0, 1, 1, 0, 345, 1, 1.1, 0.9], [2, 1, 90, 30, 0, 0, 1, 1, 0, 345, 1, 1.1, 0.9]]
GEN = [[1, 72.3, 27.03, 300, -300, 1.04, 100, 1, 250, 10, *[0] * 11]]
BRANCH = 2 * [[1, 2, 0.034, 0.184, 0.079, 250, 250, 250, 0, 0, 1, -360, 360]]
GENCOST = [[2, 1500, 0, 3, 0.11, 5, 150]]


def matrix(rows):
    return '[' + ';\n'.join(' '.join(map(str, row)) for row in rows) + '];'


def test_a_name_is_one_of_pandapowers():
    net = read_network('case5')
    assert pp.toolbox.nets_equal(net, case('case5'))
    assert {'case118', 'create_cigre_network_mv', 'example_simple'} < set(network_names())
    assert read_network('example_simple').name == 'example_simple'


def test_a_json_file_keeps_the_network(tmp_path):
    net = case('case9')
    net.name = 'mine'
    pp.to_json(net, tmp_path / 'net.json')
    read = read_network(tmp_path / 'net.json')
    assert read.name == 'mine'
    assert pp.toolbox.nets_equal(read, net)


@pytest.mark.parametrize('suffix', ['.m', '.mat'])
def test_matpower_files_become_the_network_they_describe(tmp_path, suffix):
    path = tmp_path / f'two{suffix}'
    if suffix == '.m':
        parts = {'bus': BUS, 'gen': GEN, 'branch': BRANCH, 'gencost': GENCOST}
        text = ''.join(f'mpc.{name} = {matrix(rows)}\n' for name, rows in parts.items())
        path.write_text(f"function mpc = two\nmpc.version = '2';\nmpc.baseMVA = 100;\n{text}")
    else:
        arrays = {'bus': np.array(BUS), 'gen': np.array(GEN), 'branch': np.array(BRANCH), 'gencost': np.array(GENCOST)}
        scipy.io.savemat(path, {'mpc': {'version': '2', 'baseMVA': 100.0, **arrays}})
    net = read_network(str(path))
    assert net.name == 'two'
    pp.runpp(net, numba=False)
    assert net.load.p_mw.tolist() == [90.0]
    assert net.poly_cost.cp1_eur_per_mw.tolist() == [5.0]
    # The two-bus power flow by hand, two lines as one: V_2 conj(Y (V_2 - V_1) + Y_sh V_2) + 0.9 + 0.3j = 0.
    v1, v2 = net.res_bus.vm_pu.to_numpy() * np.exp(1j * np.deg2rad(net.res_bus.va_degree.to_numpy()))
    current = (v2 - v1) / (0.017 + 0.092j) + 0.158j / 2 * v2
    assert abs(v2 * np.conj(current) + 0.9 + 0.3j) < 1e-8
    assert abs(v1) == 1.04


@pytest.mark.parametrize(
    ('source', 'facts'),
    [
        ('case_118', ["'case_118'", 'case118', '.json', 'to_json']),
        ('missing.json', ["'missing.json'", 'none', 'case118']),
        ('broken.json', ['a network of pandapower', 'broken.json']),
        ('broken.m', ['MATPOWER, format 2', 'broken.m', 'savecase']),
        ('broken.mat', ['MATPOWER, format 2', 'broken.mat']),
        ('case5.xlsx', ["'case5.xlsx'", '.json']),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, monkeypatch, source, facts):
    monkeypatch.chdir(tmp_path)
    if source.startswith('broken'):
        (tmp_path / source).write_text('{"a": 1}')
    with pytest.raises(GridError) as error:
        read_network(source)
    for fact in ('read_network needs', *facts):
        assert fact in str(error.value)
