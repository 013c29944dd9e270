import functools
import shutil
import tempfile

import numpy as np
import pandapower as pp
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cases import LINE, case
from sdv_constrained_diffusion.errors import ColumnMissingError, GridError
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.gridfm import is_gridfm, read_gridfm, write_gridfm
from sdv_constrained_diffusion.power.nets import solved_row
from sdv_constrained_diffusion.power.table_files import read_table
from sdv_constrained_diffusion.power.tables import APART, FLOWS, WIDE

# Of gridfm-datakit 1.1.0, gridfm_datakit/utils/column_names.py.
COLUMNS = {
    'bus': 'scenario load_scenario_idx bus Pd Qd Pg Qg Vm Va PQ PV REF vn_kv min_vm_pu max_vm_pu GS BS',
    'gen': 'scenario load_scenario_idx idx bus p_mw q_mvar min_p_mw max_p_mw min_q_mvar max_q_mvar cp0_eur '
    'cp1_eur_per_mw cp2_eur_per_mw2 in_service is_slack_gen',
    'branch': 'scenario load_scenario_idx idx from_bus to_bus pf qf pt qt r x b Yff_r Yff_i Yft_r Yft_i Ytf_r Ytf_i '
    'Ytt_r Ytt_i tap shift ang_min ang_max rate_a br_status',
    'y_bus': 'scenario load_scenario_idx index1 index2 G B',
}


def ring():
    """Ids out of order, two loads and two generators at one bus, parallel lines, a turned phase, a shunt, a storage."""
    net = pp.create_empty_network('ring', sn_mva=10.0)
    for bus, vn_kv in ((42, 110.0), (7, 110.0), (3, 110.0), (20, 20.0)):
        pp.create_bus(net, vn_kv, index=bus, min_vm_pu=0.9, max_vm_pu=1.1)
    pp.create_ext_grid(net, 42, vm_pu=1.02)
    pp.create_gen(net, 7, p_mw=8.0, vm_pu=1.01, min_p_mw=1.0, max_p_mw=10.0, index=5)
    pp.create_sgen(net, 7, p_mw=2.0, q_mvar=0.5)
    for bus, p_mw in ((7, 3.0), (7, 4.0), (3, 5.0), (20, 2.0)):
        pp.create_load(net, bus, p_mw=p_mw, q_mvar=p_mw / 4)
    pp.create_storage(net, 3, p_mw=1.0, max_e_mwh=1.0)
    pp.create_shunt(net, 3, q_mvar=-1.0, p_mw=0.1)
    for pair in ((42, 7), (7, 3), (3, 42), (42, 7)):
        pp.create_line_from_parameters(net, *pair, **LINE)
    pp.create_transformer(net, 3, 20, std_type='40 MVA 110/20 kV')
    pp.create_poly_cost(net, 5, 'gen', cp1_eur_per_mw=30.0, cp2_eur_per_mw2=0.5)
    return net


@functools.cache
def grid_of(make):
    return Grid.from_pandapower(make())


@functools.cache
def _rows(make, quantities, topologies=()):
    solved = []
    for seed, topology in enumerate(('base', 'base', 'base', *topologies)):
        net = make()
        net.load['scaling'] = np.random.default_rng(seed).uniform(0.7, 1.1, len(net.load))
        if topology != 'base':
            table, index = topology.split('_')
            net[table].loc[int(index), 'in_service'] = False
        solved.append(solved_row(net, 1e-9, quantities).assign(topology=topology))
    return pd.concat(solved, ignore_index=True)


def rows_of(make, quantities, topologies=()):
    return _rows(make, quantities, topologies).copy()


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


NUMBERS = st.one_of(st.floats(allow_nan=False), st.just(np.nan), st.just(-0.0))


@settings(max_examples=15, deadline=None)
@given(
    data=st.data(),
    quantities=st.sampled_from([WIDE, APART, (*APART, *FLOWS), (*WIDE, 'pd_mw', 'loading_percent')]),
    num_rows=st.integers(1, 7),
    per_partition=st.integers(1, 4),
    topology=st.booleans(),
)
def test_a_round_trip_loses_nothing(data, quantities, num_rows, per_partition, topology):
    grid = grid_of(ring)
    names = data.draw(st.permutations(grid.columns(quantities)))
    values = data.draw(arrays(np.float64, (num_rows, len(names)), elements=NUMBERS, fill=st.just(1.5)))
    table = pd.DataFrame(values, columns=list(names))
    table['cost'] = np.arange(num_rows)
    if topology:
        labels = st.sampled_from(['base', 'line_1', 'trafo_0', 'line_0+line_3'])
        table.insert(1, 'topology', data.draw(st.lists(labels, min_size=num_rows, max_size=num_rows)))
    index = data.draw(st.lists(st.text(max_size=3) | st.integers(0, 9).map(str), min_size=num_rows, max_size=num_rows))
    table.index = pd.Index(index, name='label') if data.draw(st.booleans()) else table.index
    with tempfile.TemporaryDirectory() as folder, np.errstate(all='ignore'):
        write_gridfm(table, grid, folder, scenarios_per_partition=per_partition)
        back = read_gridfm(folder, grid)
    pd.testing.assert_frame_equal(back, table, check_exact=True)
    # The comparison takes -0.0 for 0.0.
    sign, back_sign = (np.signbit(each[list(names)].fillna(0.0)) for each in (table, back))
    assert np.array_equal(sign, back_sign)


@pytest.mark.parametrize('quantities', [WIDE, (*APART, *FLOWS)], ids=['wide', 'apart'])
@pytest.mark.parametrize(
    'index',
    [
        pd.date_range('2026-03-28', periods=3, freq='12h', tz='Europe/Berlin', name='hour'),
        pd.timedelta_range('1h', periods=3, freq='15min'),
        pd.period_range('2026-01', periods=3, freq='M'),
        pd.MultiIndex.from_tuples([(0, 'a'), (0, 'b'), (1, 'a')], names=['day', 'half']),
    ],
    ids=['dates', 'durations', 'periods', 'levels'],
)
def test_kinds_of_numbers_and_of_an_index_come_back(index, quantities, tmp_path):
    table = rows_of(ring, quantities).drop(columns='topology').set_index(index)
    first, second = table.columns[:2]
    # A float64 does not hold all of an int64's digits.
    table[first], table[second] = table[first].round().astype('Int32'), 2**62 + 1
    table = table.astype({'vm_pu_3': 'float32', table.columns[-1]: 'float32'})
    write_gridfm(table, grid_of(ring), tmp_path / 'raw')
    pd.testing.assert_frame_equal(read_gridfm(tmp_path / 'raw', grid_of(ring)), table, check_exact=True)


def test_the_sign_of_a_zero_comes_back_where_a_branch_is_out(tmp_path):
    table = rows_of(ring, (*WIDE, *FLOWS), ('line_1',))
    table.loc[3, ['p_from_mw_line_1', 'p_to_mw_line_1']] = -0.0, 0.0
    write_gridfm(table, grid_of(ring), tmp_path / 'raw')
    back = read_gridfm(tmp_path / 'raw', grid_of(ring))
    assert np.signbit(back.loc[3, ['p_from_mw_line_1', 'p_to_mw_line_1']].to_numpy('float64')).tolist() == [True, False]


@pytest.mark.parametrize('failing', ['bus_data', 'row_data'])
def test_an_interrupted_write_is_no_table(failing, tmp_path, monkeypatch):
    grid, rows, folder = grid_of(ring), rows_of(ring, APART), tmp_path / 'raw'
    real, calls = pd.DataFrame.to_parquet, []

    def interrupted(frame, path, **options):
        calls.append(path)
        if failing in str(path) and len(calls) > 5:
            raise KeyboardInterrupt
        real(frame, path, **options)

    monkeypatch.setattr(pd.DataFrame, 'to_parquet', interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_gridfm(rows, grid, folder, scenarios_per_partition=1)
    assert tree(folder) == {}
    with pytest.raises(GridError, match="needs a folder with 'bus_data"):
        read_gridfm(folder, grid)
    # A kill leaves what it had written.
    monkeypatch.setattr(shutil, 'rmtree', lambda path: None)
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        write_gridfm(rows, grid, folder, scenarios_per_partition=1)
    assert tree(folder)
    with pytest.raises(GridError, match=r'was killed there: write the table anew'):
        read_gridfm(folder, grid)
    with pytest.raises(GridError, match=r'read_table needs'):
        read_table(folder, grid)
    monkeypatch.undo()
    write_gridfm(rows, grid, folder)
    write_gridfm(rows, grid, tmp_path / 'other')
    assert tree(folder).keys() == tree(tmp_path / 'other').keys()
    pd.testing.assert_frame_equal(read_gridfm(folder, grid), rows, check_exact=True)


def test_scenarios_that_are_missing_are_noticed(tmp_path):
    grid, rows, folder = grid_of(ring), rows_of(ring, APART), tmp_path / 'raw'
    write_gridfm(rows, grid, folder, scenarios_per_partition=1)
    shutil.rmtree(folder / 'gen_data.parquet' / 'scenario_partition=2')
    with pytest.raises(GridError, match=r"same scenarios in every file, but '.*gen_data\.parquet' has 2, .* have 3"):
        read_gridfm(folder, grid)
    (folder / 'names.json').unlink()
    with pytest.raises(GridError, match=r"lacks 'names\.json': the table is not complete"):
        read_gridfm(folder, grid)


def test_scenarios_that_are_missing_in_files_of_gridfm_datakit_are_noticed(tmp_path):
    rows, folder = rows_of(single_loads, APART), tmp_path / 'raw'
    foreign(folder, rows, single_loads)
    (folder / 'n_scenarios.txt').write_text('3\n')
    assert len(read_gridfm(folder, grid_of(single_loads))) == 3
    for name in ('bus', 'gen', 'branch'):
        shutil.rmtree(folder / f'{name}_data.parquet' / 'scenario_partition=1')
    with pytest.raises(GridError, match=r"'n_scenarios\.txt' says, '3', but .* has 2\. .* write 2 into"):
        read_gridfm(folder, grid_of(single_loads))


@pytest.mark.parametrize('name', ['bus', 'row'])
def test_a_corrupt_file_is_named(name, tmp_path):
    write_gridfm(rows_of(ring, WIDE), grid_of(ring), tmp_path / 'raw')
    path = tmp_path / 'raw' / f'{name}_data.parquet'
    (path if path.is_file() else path / 'scenario_partition=0' / 'part-0.parquet').write_bytes(b'PAR1 and no more')
    with pytest.raises(GridError, match=rf"needs Parquet files, but '.*{name}_data\.parquet' cannot be read as one"):
        read_gridfm(tmp_path / 'raw', grid_of(ring))


@pytest.mark.parametrize('quantities', [WIDE, (*APART, *FLOWS)], ids=['wide', 'apart'])
def test_many_partitions_keep_their_order(quantities, tmp_path):
    rows = rows_of(ring, quantities)
    table = pd.concat([rows] * 8, ignore_index=True)
    table[rows.columns[0]] += np.arange(len(table))
    write_gridfm(table, grid_of(ring), tmp_path / 'raw', net=ring(), scenarios_per_partition=2)
    # 'scenario_partition=10' comes before 'scenario_partition=2' in a listing.
    assert len(list((tmp_path / 'raw' / 'bus_data.parquet').glob('scenario_partition=*'))) == 12
    pd.testing.assert_frame_equal(read_table(tmp_path / 'raw', grid_of(ring)), table, check_exact=True)
    pd.testing.assert_frame_equal(
        read_table(tmp_path / 'raw' / 'bus_data.parquet', grid_of(ring)), table, check_exact=True
    )


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """case30 with an outage, as GridFM's files."""
    folder = tmp_path_factory.mktemp('case30') / 'raw'
    rows = rows_of(case30, APART, ('line_1',))
    write_gridfm(rows, grid_of(case30), folder, net=case('case30'))
    return folder, rows


def case30():
    return case('case30')


def read(folder, name):
    return pd.read_parquet(folder / f'{name}_data.parquet')


def test_the_files_have_gridfms_columns_and_partitions(written):
    folder, rows = written
    for name, columns in COLUMNS.items():
        frame = read(folder, name)
        assert sorted(frame.columns) == sorted([*columns.split(), 'scenario_partition']), name
        assert frame['scenario'].unique().tolist() == list(range(len(rows)))
        assert not frame.isna().any(axis=None)
    assert (folder / 'n_scenarios.txt').read_text() == str(len(rows))
    assert [path.name for path in (folder / 'gen_data.parquet').iterdir()] == ['scenario_partition=0']


def test_the_files_obey_the_power_flow_by_their_own_numbers(written):
    """As gridfm-datakit's own validation: branch flows from Yff..., and what enters a bus is Pg - Pd - shunt."""
    folder, _ = written
    bus, gen, branch, y_bus = (read(folder, name) for name in ('bus', 'gen', 'branch', 'y_bus'))
    for scenario in range(4):
        nodes, ends, y = (frame[frame['scenario'] == scenario] for frame in (bus, branch, y_bus))
        v = (nodes['Vm'] * np.exp(1j * np.deg2rad(nodes['Va']))).to_numpy()
        at_from, at_to = ends['from_bus'].to_numpy(), ends['to_bus'].to_numpy()
        yff, yft, ytf, ytt = (
            (ends[f'{name}_r'] + 1j * ends[f'{name}_i']).to_numpy() for name in ('Yff', 'Yft', 'Ytf', 'Ytt')
        )
        s_from = 100 * v[at_from] * np.conj(yff * v[at_from] + yft * v[at_to])
        s_to = 100 * v[at_to] * np.conj(ytf * v[at_from] + ytt * v[at_to])
        for name, expected in (('pf', s_from.real), ('qf', s_from.imag), ('pt', s_to.real), ('qt', s_to.imag)):
            np.testing.assert_allclose(ends[name], expected, atol=1e-9)
        shunt = 100 * np.abs(v) ** 2 * (nodes['GS'] - 1j * nodes['BS']).to_numpy()
        entering = np.zeros(30, dtype=complex)
        np.add.at(entering, at_from, s_from)
        np.add.at(entering, at_to, s_to)
        injected = (nodes['Pg'] - nodes['Pd'] + 1j * (nodes['Qg'] - nodes['Qd'])).to_numpy()
        # The rows are solved to 1e-9 MVA; the limit leaves room for sums over a bus.
        np.testing.assert_allclose(injected - shunt - entering, 0, atol=1e-7)
        matrix = np.zeros((30, 30), dtype=complex)
        matrix[y['index1'], y['index2']] = y['G'] + 1j * y['B']
        np.testing.assert_allclose(100 * v * np.conj(matrix @ v), injected, atol=1e-7)
        out = ends['br_status'] == 0
        assert out.sum() == (scenario == 3)
        assert (ends.loc[out, ['pf', 'Yff_r', 'Yft_i']] == 0).all(axis=None)
        summed = gen[gen['scenario'] == scenario].groupby('bus')['p_mw'].sum().reindex(nodes['bus'], fill_value=0)
        np.testing.assert_allclose(summed, nodes['Pg'])
    assert bus.groupby('scenario')['REF'].sum().tolist() == [1.0] * 4
    assert ((bus['PQ'] + bus['PV'] + bus['REF']) == 1).all()


def test_limits_and_costs_are_the_networks(tmp_path):
    rows = rows_of(ring, APART)
    write_gridfm(rows, grid_of(ring), tmp_path / 'raw', net=ring())
    bus, gen, branch = (read(tmp_path / 'raw', name) for name in ('bus', 'gen', 'branch'))
    bus, branch = bus[bus['scenario'] == 1].set_index('bus'), branch[branch['scenario'] == 1]
    # GridFM's buses are pandapower's in the order of their ids: 3, 7, 20, 42.
    assert bus['vn_kv'].tolist() == [110.0, 110.0, 20.0, 110.0]
    assert (bus.loc[0, 'GS'], bus.loc[0, 'BS']) == (pytest.approx(0.01), pytest.approx(0.1))
    assert bus['REF'].tolist() == [0, 0, 0, 1]
    # The storage unit at bus 3 draws 1 MW, which is in no load's column.
    assert bus.loc[0, 'Pd'] == pytest.approx(rows.loc[1, 'pd_mw_2'] + 1.0)
    assert bus['min_vm_pu'].tolist() == [0.9] * 4
    gen = gen[gen['scenario'] == 1].reset_index(drop=True)
    assert gen['bus'].tolist() == [3, 1, 1]
    assert gen.loc[1, ['min_p_mw', 'max_p_mw', 'cp1_eur_per_mw', 'cp2_eur_per_mw2']].tolist() == [1.0, 10.0, 30.0, 0.5]
    assert gen['is_slack_gen'].tolist() == [1, 0, 0]
    assert branch['from_bus'].tolist() == [3, 1, 0, 3, 0]
    assert branch['to_bus'].tolist() == [1, 0, 3, 1, 2]
    # 1 kA at 110 kV; a transformer's own rating.
    np.testing.assert_allclose(branch['rate_a'], [np.sqrt(3) * 110] * 4 + [40.0])


def foreign(folder, rows, make, one_file=False, in_service=1.0):
    """Files as gridfm-datakit writes them, number by number, without any of ours.

    Transformers stand the other way round than in the grid.
    """
    grid, number = grid_of(make), {bus: place for place, bus in enumerate(sorted(grid_of(make).buses))}
    net, bus, gen, branch = make(), [], [], []
    for scenario, row in enumerate(rows.to_dict('records')):
        for id_, place in number.items():
            loads = [each for each, at in zip(grid.loads, grid.load_at, strict=True) if grid.buses[at] == id_]
            generators = [
                each for each, at in zip(grid.generators, grid.generator_at, strict=True) if grid.buses[at] == id_
            ]
            bus.append(
                {
                    'scenario': scenario,
                    'bus': place,
                    'Pd': sum(row[f'pd_mw_{each}'] for each in loads),
                    'Qd': sum(row[f'qd_mvar_{each}'] for each in loads),
                    'Pg': sum(row[f'pg_mw_{each}'] for each in generators),
                    'Qg': sum(row[f'qg_mvar_{each}'] for each in generators),
                    'Vm': row[f'vm_pu_{id_}'],
                    'Va': row[f'va_degree_{id_}'],
                    'REF': float(id_ == net.ext_grid['bus'].iloc[0]),
                }
            )
        for place, (label, where) in enumerate(zip(grid.generators, grid.generator_at, strict=True)):
            output = {'p_mw': row[f'pg_mw_{label}'], 'q_mvar': row[f'qg_mvar_{label}'], 'in_service': in_service}
            gen.append({'scenario': scenario, 'idx': float(place), 'bus': number[grid.buses[where]], **output})
        ends = [('line', i, e.from_bus, e.to_bus) for i, e in net.line.iterrows()]
        ends += [('trafo', i, e.lv_bus, e.hv_bus) for i, e in net.trafo.iterrows()]
        for place, (table, index, first, last) in enumerate(ends):
            status = float(f'{table}_{index}' not in row['topology'].split('+'))
            at = {'from_bus': number[first], 'to_bus': number[last], 'br_status': status}
            names = {'pf': 'p_from_mw', 'qf': 'q_from_mvar', 'pt': 'p_to_mw', 'qt': 'q_to_mvar'}
            turned = {'pf': 'p_to_mw', 'qf': 'q_to_mvar', 'pt': 'p_from_mw', 'qt': 'q_from_mvar'}
            flows = {
                name: np.nan_to_num(row[f'{quantity}_{table}_{index}'])
                for name, quantity in (names if table == 'line' else turned).items()
                if f'{quantity}_{table}_{index}' in row
            }
            branch.append({'scenario': scenario, 'idx': float(place), **at, **flows})
    folder.mkdir()
    for name, values in (('bus', bus), ('gen', gen), ('branch', branch)):
        frame = pd.DataFrame(values)
        if one_file:
            frame.to_parquet(folder / f'{name}_data.parquet', index=False)
        else:
            frame = frame.assign(load_scenario_idx=0.0, scenario_partition=frame['scenario'] // 2)
            frame.to_parquet(folder / f'{name}_data.parquet', partition_cols=['scenario_partition'], index=False)


def single_loads():
    """`ring` without what hinders loads from having columns of their own: a second load, and the storage."""
    net = ring()
    net.load.loc[1, 'in_service'] = False
    net.storage['in_service'] = False
    return net


@pytest.mark.parametrize('one_file', [False, True], ids=['partitions', 'one file'])
def test_files_of_gridfm_datakit_become_loads_and_generators(one_file, tmp_path):
    rows = rows_of(single_loads, APART, ('line_0', 'line_3'))
    rows.loc[1, 'topology'] = 'line_1+trafo_0'
    foreign(tmp_path / 'raw', rows, single_loads, one_file)
    assert is_gridfm(tmp_path / 'raw')
    table = read_gridfm(tmp_path / 'raw', grid_of(single_loads))
    assert table.index.name == 'scenario'
    assert table.columns.tolist() == [*grid_of(single_loads).columns(APART), 'topology']
    pd.testing.assert_frame_equal(table.reset_index(drop=True), rows[table.columns], check_exact=True)


def test_files_of_gridfm_datakit_become_injections(tmp_path):
    rows = rows_of(single_loads, APART)
    foreign(tmp_path / 'raw', rows, single_loads)
    table = read_gridfm(tmp_path / 'raw', grid_of(single_loads), WIDE)
    expected = rows_of(single_loads, WIDE)
    assert table.columns.tolist() == grid_of(single_loads).columns(WIDE)
    # Sums and differences of a few MW in float64.
    np.testing.assert_allclose(table, expected[table.columns], atol=1e-12)


@pytest.mark.parametrize('one_file', [False, True], ids=['partitions', 'one file'])
def test_flows_are_read_from_files_of_gridfm_datakit(one_file, tmp_path):
    flows = FLOWS[:4]
    rows = rows_of(single_loads, (*APART, *flows), ('line_0', 'line_3'))
    foreign(tmp_path / 'raw', rows, single_loads, one_file)
    table = read_gridfm(tmp_path / 'raw', grid_of(single_loads), (*APART, *flows))
    assert table.columns.tolist() == [*grid_of(single_loads).columns((*APART, *flows)), 'topology']
    # What is out of service has no flow there, and no value in a solved row.
    pd.testing.assert_frame_equal(table.reset_index(drop=True), rows[table.columns].fillna(0.0), check_exact=True)
    assert not read_gridfm(tmp_path / 'raw', grid_of(single_loads)).filter(regex='_from_|_to_').size
    with pytest.raises(
        GridError, match=r"cannot read 'loading_percent' .*: GridFM has no such quantity\. Leave it out"
    ):
        read_gridfm(tmp_path / 'raw', grid_of(single_loads), FLOWS)


def test_flows_that_the_files_do_not_say(tmp_path):
    def one_line_less():
        net = single_loads()
        net.line.loc[3, 'in_service'] = False
        return net

    def three_windings():
        net = single_loads()
        pp.create_bus(net, 10.0, index=30)
        pp.create_transformer3w(net, 42, 20, 30, std_type='63/25/38 MVA 110/20/10 kV')
        return net

    rows = rows_of(single_loads, (*APART, *FLOWS))
    foreign(tmp_path / 'raw', rows, single_loads)
    with pytest.raises(GridError, match=r"'branch_data\.parquet' does not have as many branches between any two buses"):
        read_gridfm(tmp_path / 'raw', grid_of(one_line_less), ('p_from_mw',))
    shutil.rmtree(tmp_path / 'raw' / 'branch_data.parquet')
    with pytest.raises(GridError, match=r"cannot read 'q_to_mvar' .*: there is no 'branch_data\.parquet'"):
        read_gridfm(tmp_path / 'raw', grid_of(single_loads), (*WIDE, 'q_to_mvar'))
    write_gridfm(rows_of(three_windings, WIDE), grid_of(three_windings), tmp_path / 'windings')
    for name in ('names.json', 'row_data.parquet'):
        (tmp_path / 'windings' / name).unlink()
    with pytest.raises(GridError, match=r"cannot read 'p_to_mw' .*: 'trafo3w_0_hv' has no bus at one of its ends"):
        read_gridfm(tmp_path / 'windings', grid_of(three_windings), ('p_to_mw',))


def test_what_gridfm_sums_per_bus_is_not_guessed(tmp_path):
    foreign(tmp_path / 'shared', rows_of(ring, APART), ring)
    grid = grid_of(ring)
    assert read_gridfm(tmp_path / 'shared', grid).columns.tolist() == grid.columns(WIDE)
    with pytest.raises(GridError, match=r"cannot read 'pd_mw' .* the demand of bus 7 is that of several loads.*WIDE"):
        read_gridfm(tmp_path / 'shared', grid, APART)
    foreign(tmp_path / 'bare', rows_of(single_loads, APART), single_loads)
    shutil.rmtree(tmp_path / 'bare' / 'gen_data.parquet')
    with pytest.raises(GridError, match=r"there is no 'gen_data.parquet'"):
        read_gridfm(tmp_path / 'bare', grid_of(single_loads), APART)
    with pytest.raises(GridError, match=r"cannot read 'p_from_mw'"):
        read_gridfm(tmp_path / 'bare', grid_of(single_loads), FLOWS)


def test_demand_without_a_load_is_not_lost(tmp_path):
    def without_load():
        net = single_loads()
        net.load.loc[2, 'in_service'] = False
        return net

    rows = rows_of(single_loads, APART)
    foreign(tmp_path / 'raw', rows, single_loads)
    with pytest.raises(GridError, match='bus 3 has demand, but no load'):
        read_gridfm(tmp_path / 'raw', grid_of(without_load), APART)
    table = read_gridfm(tmp_path / 'raw', grid_of(without_load))
    np.testing.assert_array_equal(table['p_mw_3'], -rows['pd_mw_2'])


@pytest.mark.parametrize(
    ('break_', 'message'),
    [
        (lambda frame: frame.drop(columns='Vm'), r"needs the column 'Vm' .* which has scenario, bus"),
        (lambda frame: frame.iloc[1:], 'every bus once in every scenario'),
        (lambda frame: frame[frame['bus'] != 3], 'has 3 buses, the grid 4'),
        (lambda frame: frame.assign(REF=frame['REF'].to_numpy()[::-1]), 'the reference is bus 3, in the grid bus 42'),
    ],
    ids=['column', 'incomplete', 'buses', 'order'],
)
def test_files_that_do_not_fit_are_refused(break_, message, tmp_path):
    foreign(tmp_path / 'raw', rows_of(single_loads, APART).iloc[:2], single_loads, one_file=True)
    path = tmp_path / 'raw' / 'bus_data.parquet'
    break_(pd.read_parquet(path)).to_parquet(path, index=False)
    with pytest.raises(GridError, match=message):
        read_gridfm(tmp_path / 'raw', grid_of(single_loads))


def test_branches_that_do_not_fit_are_refused_where_they_count(tmp_path):
    def one_line_less():
        net = single_loads()
        net.line.loc[3, 'in_service'] = False
        return net

    rows = rows_of(single_loads, APART)
    foreign(tmp_path / 'base', rows, single_loads)
    assert 'topology' not in read_gridfm(tmp_path / 'base', grid_of(one_line_less))
    rows.loc[1, 'topology'] = 'line_1'
    foreign(tmp_path / 'out', rows, single_loads)
    with pytest.raises(GridError, match='as many branches between any two buses'):
        read_gridfm(tmp_path / 'out', grid_of(one_line_less))
    rows['topology'] = ['line_3', 'line_3+line_1', 'line_3']
    foreign(tmp_path / 'never', rows, single_loads)
    assert read_gridfm(tmp_path / 'never', grid_of(one_line_less))['topology'].tolist() == ['base', 'line_1', 'base']


def test_the_grid_must_be_that_of_the_files(tmp_path):
    write_gridfm(rows_of(ring, WIDE), grid_of(ring), tmp_path / 'raw')
    with pytest.raises(GridError, match=r'has the loads 0, 1, 2, 3, the grid 0, 2, 3\. Pass the Grid'):
        read_gridfm(tmp_path / 'raw', grid_of(single_loads))
    with pytest.raises(GridError, match=r"needs a folder with 'bus_data\.parquet'"):
        read_gridfm(tmp_path, grid_of(ring))


def test_what_cannot_be_written_is_refused(tmp_path):
    grid, rows = grid_of(ring), rows_of(ring, WIDE)
    with pytest.raises(ColumnMissingError, match="needs column 'vm_pu_3'"):
        write_gridfm(rows.drop(columns='vm_pu_3'), grid, tmp_path / 'a')
    with pytest.raises(GridError, match=r"but got 'line_9'\. Write 'base'.*'line_0'"):
        write_gridfm(rows.assign(topology='line_9'), grid, tmp_path / 'a')
    with pytest.raises(GridError, match=r"every column once, but the table has 'vm_pu_3' 2 times\. Drop or rename"):
        write_gridfm(pd.concat([rows, rows[['vm_pu_3']]], axis=1), grid, tmp_path / 'a')
    with pytest.raises(GridError, match='at least one row'):
        write_gridfm(rows.iloc[:0], grid, tmp_path / 'a')
    with pytest.raises(GridError, match=r'the network that the grid was made from.*4 buses and 3 generators'):
        write_gridfm(rows_of(case30, WIDE), grid_of(case30), tmp_path / 'a', net=ring())
    assert not (tmp_path / 'a').exists()
    write_gridfm(rows, grid, tmp_path / 'a')
    for taken in ('a', 'a/names.json'):
        with pytest.raises(GridError, match='an empty folder'):
            write_gridfm(rows, grid, tmp_path / taken)


def test_a_dc_lines_reactive_power_is_not_guessed(tmp_path):
    net = ring()
    pp.create_dcline(net, 42, 3, p_mw=1.0, loss_percent=1.0, loss_mw=0.1, vm_from_pu=1.02, vm_to_pu=1.0)
    grid = Grid.from_pandapower(net)
    with pytest.raises(GridError, match=r'DC lines at the buses 42, 3 .*tables\.WIDE'):
        write_gridfm(solved_row(net, quantities=APART), grid, tmp_path / 'a')
    row = solved_row(net)
    write_gridfm(row, grid, tmp_path / 'a')
    pd.testing.assert_frame_equal(read_gridfm(tmp_path / 'a', grid), row, check_exact=True)
