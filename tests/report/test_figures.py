import numpy as np
import pandas as pd
import pytest

from sdv_constrained_diffusion.constraints.base import constraint
from sdv_constrained_diffusion.errors import ColumnMissingError, DataError
from sdv_constrained_diffusion.report.figures import REAL, colours, joints, marginals, violations
from sdv_constrained_diffusion.report.score_figures import dots, heatmaps


def table(num_rows, seed):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            'p_mw_0': rng.normal(size=num_rows),
            'q_mvar_0': rng.normal(size=num_rows),
            'vm_pu_0': 1.0,
            'kind': rng.choice(['x', 'y'], num_rows),
            'day': pd.Timestamp('2024-01-01') + pd.to_timedelta(rng.integers(0, 99, num_rows), unit='D'),
        }
    )


@pytest.fixture
def tables():
    return {'real data': table(3000, 0), 'without guidance': table(2000, 1), 'with guidance': table(2000, 2)}


def shown(figure, label):
    return [trace for trace in figure.data if trace.name == label]


def test_histograms_are_those_of_numpy(tables):
    figure = marginals(tables, [['p_mw_0'], ['q_mvar_0']], num_bins=20)
    for label, data in tables.items():
        for trace, name in zip(shown(figure, label), ('p_mw_0', 'q_mvar_0'), strict=True):
            edges, shares = np.asarray(trace.x)[1:], np.asarray(trace.y)[1:-1]
            np.testing.assert_array_equal(shares, np.histogram(data[name], edges)[0] / len(data))
            # The bins reach over the central 99.8 % of every table.
            assert 0.996 <= shares.sum() <= 1
            assert len(edges) == 21
    first = np.asarray(figure.data[0].x)
    assert all(np.array_equal(first, trace.x) for trace in figure.data[:3])


def test_every_kind_of_column_has_a_histogram(tables):
    figure = marginals(tables, ['vm_pu_0', 'kind', 'day', 'p_mw_0', 'q_mvar_0'])
    for trace in figure.data:
        assert np.sum(trace.y) == pytest.approx(1.0, abs=0.02)
    assert set(figure.data[3].x) == {'x', 'y'}
    # A constant column is one bin, not its own round-off.
    assert np.count_nonzero(figure.data[0].y) == 1


def test_one_colour_and_one_legend_entry_per_table(tables):
    given = colours(tables)
    assert given['real data'] == REAL
    assert len(set(given.values())) == 3
    for figure in (marginals(tables, ['p_mw_0', 'q_mvar_0']), joints(tables, [('p_mw_0', 'q_mvar_0')] * 2)):
        for label in tables:
            traces = shown(figure, label)
            assert sum(bool(trace.showlegend) for trace in traces) == 1
            assert {trace.marker.color or trace.line.color for trace in traces} == {given[label]}


def test_panels_carry_their_labels(tables):
    figure = marginals(tables, ['p_mw_0'], {'p_mw_0': 'p at bus 0 (MW)'})
    assert figure.layout.xaxis.title.text == 'p at bus 0 (MW)'
    figure = joints(tables, [('p_mw_0', 'q_mvar_0')], {'q_mvar_0': 'q (Mvar)'})
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ('p_mw_0', 'q (Mvar)')


def test_joints_show_rows_of_the_table_and_not_too_many(tables):
    figure = joints(tables, [('p_mw_0', 'q_mvar_0')], num_points=100)
    for trace, data in zip(figure.data, tables.values(), strict=True):
        points = set(zip(trace.x, trace.y, strict=True))
        assert len(points) == 100
        assert points <= set(data[['p_mw_0', 'q_mvar_0']].astype('float32').itertuples(index=False, name=None))


@constraint(columns=['p_mw_0', 'q_mvar_0'], tolerance=1e-6, unit='MW')
def mismatch(data):
    return data.p_mw_0 - data.q_mvar_0


def test_violations_share_bins_and_draw_zero_at_the_floor(tables):
    exact = tables['with guidance'].assign(q_mvar_0=lambda data: data['p_mw_0'])
    figure = violations({'free': tables['without guidance'], 'exact': exact}, mismatch, floor=1e-12)
    free, projected = figure.data
    np.testing.assert_array_equal(free.x, projected.x)
    edges = np.asarray(free.x)[1:]
    assert edges[0] == pytest.approx(1e-12)
    assert np.asarray(projected.y)[1] == 1.0
    missed = (tables['without guidance']['p_mw_0'] - tables['without guidance']['q_mvar_0']).abs()
    np.testing.assert_allclose(np.asarray(free.y)[1:-1], np.histogram(missed, edges)[0] / len(missed))
    assert np.sum(free.y) == pytest.approx(1.0)
    assert figure.layout.xaxis.type == 'log'
    assert figure.layout.xaxis.title.text == 'violation in MW'
    assert '1e-12' in figure.layout.title.text
    # The tolerance is marked; on a logarithmic axis a shape's place is given in the axis' own numbers.
    assert figure.layout.shapes[0].x0 == 1e-6


def test_missing_numbers_are_not_drawn(tables):
    holes = tables['without guidance'].assign(p_mw_0=lambda data: data['p_mw_0'].where(data.index % 2 == 0))
    infinite = holes.fillna(np.inf)
    assert np.sum(violations({'inf': infinite}, mismatch).data[0].y) == pytest.approx(0.5)
    for figure in (violations({'holes': holes}, mismatch), marginals({'holes': holes}, ['p_mw_0'])):
        assert np.sum(figure.data[0].y) == pytest.approx(0.5, abs=0.01)


def test_scores_beside_the_floor():
    details = pd.DataFrame(
        {
            'Column 1': ['a', 'a', 'b'],
            'Column 2': ['b', 'c', 'c'],
            'Score': [0.8, np.nan, 0.6],
            'Floor': [0.9, 1.0, 0.95],
        }
    )
    synthetic, floor = heatmaps(details, 'pairs').data
    np.testing.assert_array_equal(
        synthetic.z, np.array([[np.nan, 0.8, np.nan], [0.8, np.nan, 0.6], [np.nan, 0.6, np.nan]], dtype='float32')
    )
    assert floor.z[0][2] == floor.z[2][0] == 1.0
    floor, synthetic = dots(details, 'Column 1', 'scores', 'score').data
    assert (list(floor.y), synthetic.y[2]) == ([0.9, 1.0, 0.95], 0.6)


def test_errors_state_the_facts(tables):
    with pytest.raises(DataError, match=r"\['p_mw_9'\], which the table 'real data' lacks"):
        marginals(tables, ['p_mw_9'])
    with pytest.raises(DataError, match='at least one table'):
        joints({}, [('p_mw_0', 'q_mvar_0')])
    with pytest.raises(DataError, match=r"no equations \['Q'\]. It has: mismatch"):
        violations(tables, mismatch, ['Q'])
    with pytest.raises(DataError, match="'empty' has none"):
        marginals({'empty': table(0, 0)}, ['p_mw_0'])
    with pytest.raises(DataError, match='at least one panel'):
        marginals(tables, [])
    with pytest.raises(DataError, match='at least one panel'):
        violations(tables, mismatch, [])
    with pytest.raises(ColumnMissingError, match="'p_mw_0'"):
        violations({'x': table(9, 0).drop(columns='p_mw_0')}, mismatch)
