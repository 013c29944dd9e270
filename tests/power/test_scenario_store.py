"""Scenarios in a folder: whole after a kill at any moment, and only ever of one set of arguments."""

import multiprocessing
import shutil
import signal
import time

import pandapower
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cases import case
from sdv_constrained_diffusion.errors import GridError
from sdv_constrained_diffusion.power.scenarios import (
    PART_CHUNKS,
    Outages,
    ProfileLoads,
    Scenarios,
    UniformLoads,
    generate,
    generate_to,
)
from sdv_constrained_diffusion.power.scenarios.recipe import CHUNK_DRAWS
from sdv_constrained_diffusion.power.scenarios.store import ScenarioStore

WHAT = {'seed': 4, 'loads': UniformLoads(0.9, 1.3), 'outages': Outages(0.3)}
"""Some draws have no solution."""

SHORT, LONG = 300, 900
PART_DRAWS = PART_CHUNKS * CHUNK_DRAWS


def run(directory, num_rows):
    generate_to(directory, case('case5'), num_rows, **WHAT)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A folder of a run that nothing interrupted."""
    directory = tmp_path_factory.mktemp('finished') / 'scenarios'
    run(directory, SHORT)
    return directory


@pytest.fixture(scope='module')
def in_memory():
    return generate(case('case5'), LONG, **WHAT)


def assert_equal(found, expected):
    pd.testing.assert_frame_equal(found.table, expected.table, check_exact=True)
    pd.testing.assert_frame_equal(found.unsolved, expected.unsolved, check_exact=True)


def committed(directory):
    """Files of a run in the order in which they come to be."""
    parts = [[directory / '_unsolved' / rows.name, rows] for rows in sorted(directory.glob('rows-*.parquet'))]
    return [directory / '_manifest.json', *(each for part in parts for each in part)]


def test_a_folder_holds_what_generate_returns(finished, in_memory):
    found = Scenarios.load(finished)
    pd.testing.assert_frame_equal(found.table, in_memory.table[:SHORT], check_exact=True)
    last = found.metadata['draws'] - 1
    expected = in_memory.unsolved[in_memory.unsolved['draw'] <= last]
    assert 0 < len(found.unsolved) == found.metadata['unsolved']
    pd.testing.assert_frame_equal(found.unsolved, expected, check_exact=True)
    pd.testing.assert_frame_equal(pd.read_parquet(finished), found.table, check_exact=True)
    assert len(found.table) + len(found.unsolved) == found.metadata['draws']
    assert found.metadata['outages']['candidates'] == [f'line_{i}' for i in range(6)]
    assert [pq.read_metadata(path).num_row_groups for path in finished.glob('*.parquet')] == [1, 1]
    assert sorted(path.name for path in finished.iterdir()) == [
        *('_manifest.json', '_unsolved', 'rows-000000.parquet', 'rows-000001.parquet')
    ]


def test_a_run_is_whole_wherever_it_was_cut(finished, tmp_path):
    files = committed(finished)
    assert len(files) == 5
    for number in range(len(files) + 1):
        directory = tmp_path / str(number)
        directory.mkdir()
        for path in files[:number]:
            copy = directory / path.relative_to(finished)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
        # What a process leaves that is killed while it writes.
        (directory / '.half.tmp').write_bytes(files[-1].read_bytes()[:100])
        run(directory, SHORT)
        assert_equal(Scenarios.load(directory), Scenarios.load(finished))
        assert [path.read_bytes() for path in committed(directory)] == [path.read_bytes() for path in files]
        assert not list(directory.rglob('*.tmp'))


def test_a_run_that_is_killed_again_and_again_loses_and_doubles_nothing(in_memory, tmp_path):
    # One process imports everything once; each run is forked from it.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['sdv_constrained_diffusion.power.scenarios'])
    directory, store = tmp_path / 'scenarios', ScenarioStore(tmp_path / 'scenarios')
    for parts, wait in ((0, 0.0), (0, 0.3), (1, 0.1), (2, 0.1)):
        process = context.Process(target=run, args=(directory, LONG))
        process.start()
        begun = time.monotonic()
        while not (directory / '_manifest.json').exists() or store.num_parts() < parts:
            assert process.is_alive()
            assert time.monotonic() - begun < 120
            time.sleep(0.005)
        time.sleep(wait)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with pytest.raises(GridError, match=rf'complete folder.* of {LONG} rows'):
            Scenarios.load(directory)
    assert 2 <= store.num_parts() < LONG / PART_DRAWS
    run(directory, LONG)
    assert_equal(Scenarios.load(directory), in_memory)


def test_a_finished_run_is_left_as_it_is(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob('*')}
    metadata = generate_to(finished, case('case5'), SHORT, **WHAT, workers=2)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob('*')} == before
    assert metadata == Scenarios.load(finished).metadata


def changed_network():
    net = case('case5')
    net.load.loc[0, 'p_mw'] += 1e-9
    return net


@pytest.mark.parametrize(
    ('arguments', 'facts'),
    [
        ({'seed': 5}, ['seed was 4 and is now 5']),
        ({'num_rows': 301}, ['num_rows was 300 and is now 301']),
        ({'loads': UniformLoads(0.9, 1.5)}, ['loads.high was 1.3 and is now 1.5']),
        ({'loads': ProfileLoads(pd.DataFrame({str(i): [1.0] for i in range(3)}))}, ["loads.model was 'UniformLoads'"]),
        ({'outages': None}, ["outages was {'branches': None", 'is now None']),
        ({'flow_limit': 'current'}, ["flow_limit was 'apparent' and is now 'current'"]),
        ({'net': changed_network}, ['network_sha256 was']),
    ],
)
def test_a_run_goes_on_with_its_own_arguments_only(finished, arguments, facts):
    arguments = {'num_rows': SHORT, **WHAT, **arguments}
    net = arguments.pop('net', lambda: case('case5'))()
    before = [path.read_bytes() for path in committed(finished)]
    with pytest.raises(GridError, match=r'generate_to needs the arguments.*Pass the same arguments') as error:
        generate_to(finished, net, **arguments)
    for fact in facts:
        assert fact in str(error.value)
    assert [path.read_bytes() for path in committed(finished)] == before


def test_results_in_the_network_do_not_make_it_another(finished):
    net = case('case5')
    pandapower.runpp(net, numba=False)
    generate_to(finished, net, SHORT, **WHAT)


def test_a_folder_of_other_origin_is_refused(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(GridError, match=r'new or empty folder.*other origin'):
        run(tmp_path, 3)
    with pytest.raises(GridError, match=r'generate_to wrote.*no _manifest\.json'):
        Scenarios.load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


def test_text_columns_stay_text_where_a_part_has_no_unsolved_draw(tmp_path):
    directory = tmp_path / 'scenarios'
    metadata = generate_to(directory, case('case5'), 40, outages=Outages(0.0))
    assert metadata['unsolved'] == 0
    unsolved = Scenarios.load(directory).unsolved
    assert unsolved.dtypes[['topology', 'reason']].tolist() == [object, object]
    schema = pq.read_schema(directory / '_unsolved' / 'rows-000000.parquet')
    assert [str(schema.field(name).type) for name in ('draw', 'pd_mw_0', 'topology')] == ['int64', 'double', 'string']
