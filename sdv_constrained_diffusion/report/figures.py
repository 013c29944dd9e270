"""Figures of tables beside each other: histograms, joint scatters, violations; real data dark, others in colour.

Histograms are counted here and not in the browser, so that a page holds some numbers per figure and not the tables.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.feasibility import violations as violations_of
from sdv_constrained_diffusion.errors import DataError

REAL = '#333333'
PALETTE = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
"""Okabe and Ito (2008): distinct for colour-blind readers."""

PANEL_HEIGHT = 190
FONT = {'family': 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif', 'size': 12}


def colours(labels: Iterable[str]) -> dict[str, str]:
    """One colour per table: dark grey for labels that begin with 'real', the palette in order for the others.

    Args:
        labels: the tables' labels. Figures of different tables share colours when they share this mapping.
    """
    others = 0
    chosen = {}
    for label in labels:
        real = label.lower().startswith('real')
        chosen[label] = REAL if real else PALETTE[others % len(PALETTE)]
        others += not real
    return chosen


def marginals(
    tables: Mapping[str, pd.DataFrame],
    columns: Sequence[str] | Sequence[Sequence[str]],
    labels: Mapping[str, str] | None = None,
    num_bins: int = 40,
    colour: Mapping[str, str] | None = None,
) -> go.Figure:
    """Histograms of columns, every table in each panel: the paper's Fig. 4 with one row of panels per quantity.

    Args:
        tables: the tables by label.
        columns: the columns' names as a grid of panels, one sequence per row; a flat sequence fills rows of four.
        labels: the axis titles by column, with units; the column's name where absent.
        num_bins: bins of a numeric column, common to all tables. They reach over the central 99.8 % of every table, so
            that one stray row does not flatten a panel; the shares are of all rows.
        colour: the colour by label; `colours(tables)` when absent.

    Raises:
        DataError: there is no table or no panel, or a table lacks a column.
    """
    grid = _grid(columns)
    flat = [name for row in grid for name in row]
    _require(tables, flat)
    labels, colour = dict(labels or {}), dict(colour or colours(tables))
    figure = _panels(grid)
    for row, names in enumerate(grid, start=1):
        for position, name in enumerate(names, start=1):
            for label, trace in _histograms({key: data[name] for key, data in tables.items()}, num_bins).items():
                _paint(trace, label, colour[label], first=(row, position) == (1, 1))
                figure.add_trace(trace, row=row, col=position)
            figure.update_xaxes(title_text=labels.get(name, name), row=row, col=position)
        figure.update_yaxes(title_text='share of rows', row=row, col=1)
    figure.update_xaxes(nticks=5)
    return figure


def joints(
    tables: Mapping[str, pd.DataFrame],
    pairs: Sequence[tuple[str, str]],
    labels: Mapping[str, str] | None = None,
    num_points: int = 1500,
    num_columns: int = 3,
    colour: Mapping[str, str] | None = None,
    seed: int = 0,
) -> go.Figure:
    """Scatter of pairs of columns, every table in each panel: the paper's Fig. 5 with p and q of each bus.

    Args:
        tables: the tables by label; the first is drawn undermost.
        pairs: (horizontal, vertical) column names, one panel each.
        labels: the axis titles by column, with units; the column's name where absent.
        num_points: most points per table and panel; the same random rows of a table in every panel.
        num_columns: panels per row.
        colour: the colour by label; `colours(tables)` when absent.
        seed: of the choice of points.

    Raises:
        DataError: there is no table or no panel, or a table lacks a column.
    """
    _require(tables, [name for pair in pairs for name in pair])
    labels, colour = dict(labels or {}), dict(colour or colours(tables))
    grid = [pairs[start : start + num_columns] for start in range(0, len(pairs), num_columns)]
    figure = _panels(grid, height=270)
    for label, data in tables.items():
        chosen = np.random.default_rng(seed).permutation(len(data))[:num_points]
        for index, (x, y) in enumerate(pairs):
            # Half precision of float64 is beyond what a point on a screen shows, and halves the page.
            points = data[[x, y]].iloc[chosen].to_numpy(dtype='float32')
            trace = go.Scatter(x=points[:, 0], y=points[:, 1], mode='markers', hoverinfo='skip')
            _paint(trace, label, colour[label], first=index == 0)
            trace.marker = {'size': 3.5, 'opacity': 0.45, 'color': colour[label]}
            figure.add_trace(trace, row=1 + index // num_columns, col=1 + index % num_columns)
    for index, (x, y) in enumerate(pairs):
        at = {'row': 1 + index // num_columns, 'col': 1 + index % num_columns}
        figure.update_xaxes(title_text=labels.get(x, x), **at)
        figure.update_yaxes(title_text=labels.get(y, y), nticks=6, **at)
    return figure.update_layout(legend_itemsizing='constant')


def violations(
    tables: Mapping[str, pd.DataFrame],
    constraint: Constraint,
    equations: Sequence[str] | None = None,
    floor: float = 1e-14,
    num_bins: int = 60,
    num_columns: int = 3,
    colour: Mapping[str, str] | None = None,
) -> go.Figure:
    """Histograms of the violation of single equations on a logarithmic axis: the paper's Fig. 6.

    All panels and tables share their bins. A dashed line marks the tolerance.

    Args:
        tables: the tables by label, e.g. without guidance, with guidance, with guidance and projection.
        constraint: the constraint.
        equations: names of the equations, one panel each; all when absent.
        floor: violations below it, zero among them, are drawn at it; in the equations' unit. Violations that are not
            finite are not drawn, so that their share is missing.
        num_bins: bins of the logarithmic axis.
        num_columns: panels per row.
        colour: the colour by label; `colours(tables)` when absent.

    Raises:
        DataError: there is no table or no equation, or an equation is unknown.
        ColumnMissingError: a table lacks a column of the constraint.
    """
    _require(tables, [])
    colour = dict(colour or colours(tables))
    found = {label: violations_of([constraint], data) for label, data in tables.items()}
    facts = {equation.name: (index, equation) for index, equation in enumerate(next(iter(found.values()))[0])}
    names = list(facts) if equations is None else list(equations)
    if unknown := [name for name in names if name not in facts]:
        raise DataError(f'{constraint.name} has no equations {unknown}. It has: {", ".join(facts)}.')
    kept = {
        label: np.clip(values[:, [facts[name][0] for name in names]], floor, None)
        for label, (_, values) in found.items()
    }
    largest = max(float(values[np.isfinite(values)].max(initial=10 * floor)) for values in kept.values())
    edges = np.logspace(np.log10(floor), np.ceil(np.log10(largest * 1.01)), num_bins + 1)
    grid = [names[start : start + num_columns] for start in range(0, len(names), num_columns)]
    figure = _panels(grid, titles=names)
    for index, name in enumerate(names):
        at = {'row': 1 + index // num_columns, 'col': 1 + index % num_columns}
        for label, values in kept.items():
            trace = _steps(edges, np.histogram(values[:, index], edges)[0] / len(values))
            _paint(trace, label, colour[label], first=index == 0)
            figure.add_trace(trace, **at)
        figure.add_vline(facts[name][1].tolerance, line={'dash': 'dash', 'width': 1, 'color': '#888888'}, **at)
        figure.update_xaxes(title_text=f'violation in {facts[name][1].unit or "its unit"}', **at)
    figure.update_xaxes(type='log', exponentformat='power', nticks=5, tickangle=0, range=np.log10(edges[[0, -1]]))
    figure.update_yaxes(title_text='share of rows', col=1)
    note = f'Dashed: tolerance. Violations below {floor:g} are drawn at {floor:g}.'
    below_legend = {'x': 0, 'y': 1, 'yref': 'container', 'yanchor': 'top', 'pad': {'t': 30, 'l': 8}}
    return figure.update_layout(title={'text': note, 'font_size': 12, **below_legend}, margin_t=95)


def _grid(columns: Sequence[str] | Sequence[Sequence[str]]) -> list[list[str]]:
    rows: list[list[str]] = []
    flat: list[str] = []
    for entry in columns:
        if isinstance(entry, str):
            flat.append(entry)
        else:
            rows.append(list(entry))
    return rows + [flat[start : start + 4] for start in range(0, len(flat), 4)]


def _require(tables: Mapping[str, pd.DataFrame], names: Sequence[str]) -> None:
    if not tables:
        raise DataError('A figure needs at least one table; none came. Pass {label: DataFrame}.')
    for label, data in tables.items():
        if lacking := [name for name in names if name not in data.columns]:
            raise DataError(f'The figure shows the columns {lacking}, which the table {label!r} lacks.')
        if data.empty:
            raise DataError(f'A figure needs at least one row in every table; the table {label!r} has none.')


def _panels(grid: Sequence[Sequence], titles: Sequence[str] | None = None, height: int = PANEL_HEIGHT) -> go.Figure:
    """An empty grid of panels with room for axis titles and a legend above."""
    if not any(grid):
        raise DataError('A figure needs at least one panel; none came. Name a column, a pair or an equation.')
    rows, wide = len(grid), max(map(len, grid))
    top = 80 if titles else 45
    figure = make_subplots(
        rows,
        wide,
        subplot_titles=titles,
        horizontal_spacing=0.25 / wide if wide > 1 else 0,
        vertical_spacing=(75 if titles else 60) / (height * rows) if rows > 1 else 0,
        specs=[[{} if position < len(row) else None for position in range(wide)] for row in grid],
    )
    figure.update_annotations(font_size=12)
    axes = {'showline': True, 'linecolor': '#888888', 'ticks': 'outside', 'ticklen': 3, 'gridcolor': '#eeeeee'}
    figure.update_xaxes(zeroline=False, title_standoff=4, title_font_size=12, tickfont_size=10, **axes)
    figure.update_yaxes(zeroline=False, title_standoff=4, title_font_size=12, tickfont_size=10, nticks=4, **axes)
    return figure.update_layout(
        template='plotly_white',
        font=FONT,
        height=height * rows + top + 30,
        margin={'l': 60, 'r': 15, 't': top, 'b': 50},
        legend={'orientation': 'h', 'x': 0, 'y': 1, 'yanchor': 'top', 'yref': 'container'},
    )


def _histograms(columns: Mapping[str, pd.Series], num_bins: int) -> dict[str, go.Scatter | go.Bar]:
    """One column of every table as shares of rows: steps for numbers and times, bars for the commonest categories."""
    if all(pd.api.types.is_datetime64_any_dtype(column) for column in columns.values()):
        seconds = {label: (column - pd.Timestamp(0)).dt.total_seconds() for label, column in columns.items()}
        edges = _edges(seconds.values(), num_bins)
        moments = pd.to_datetime(edges, unit='s')
        return {label: _steps(moments, _shares(column, edges)) for label, column in seconds.items()}
    if all(pd.api.types.is_numeric_dtype(column) and column.dtype != bool for column in columns.values()):
        edges = _edges(columns.values(), num_bins)
        return {label: _steps(edges, _shares(column, edges)) for label, column in columns.items()}
    texts = {label: column.astype('string').fillna('missing') for label, column in columns.items()}
    commonest = next(iter(texts.values())).value_counts().index[:12]
    return {
        label: go.Bar(x=list(commonest), y=(column.value_counts() / len(column)).reindex(commonest, fill_value=0.0))
        for label, column in texts.items()
    }


def _edges(columns: Iterable[pd.Series], num_bins: int) -> np.ndarray:
    ranges = [column.quantile([0.001, 0.999]) for column in columns if column.notna().any()]
    low, high = (min(each.iloc[0] for each in ranges), max(each.iloc[1] for each in ranges)) if ranges else (0.0, 1.0)
    # Round-off in a constant column must not fill the panel.
    half = 1e-6 * max(abs(low), abs(high), 1.0)
    return (
        np.linspace(low, high, num_bins + 1)
        if high - low > half
        else np.linspace(low - half, high + half, num_bins + 1)
    )


def _shares(column: pd.Series, edges: np.ndarray) -> np.ndarray:
    return np.histogram(column.dropna().to_numpy(dtype='float64'), edges)[0] / len(column)


def _steps(edges: np.ndarray | pd.DatetimeIndex, shares: np.ndarray) -> go.Scatter:
    """A histogram as a line of steps from zero to zero."""
    x = np.concatenate([edges[:1], edges])
    return go.Scatter(x=x, y=np.concatenate([[0.0], shares, [0.0]]), mode='lines', line_shape='hv')


def _paint(trace: go.Scatter | go.Bar, label: str, colour: str, first: bool) -> None:
    """Gives a trace its table's colour and, once per figure, its entry in the legend."""
    trace.update(name=label, legendgroup=label, showlegend=first)
    if isinstance(trace, go.Bar):
        trace.update(marker_color=colour)
    elif trace.mode == 'lines':
        trace.update(line={'color': colour, 'width': 1.6}, hovertemplate='%{x}: %{y:.3f}')
        if colour == REAL:
            trace.update(fill='tozeroy', fillcolor='rgba(51, 51, 51, 0.15)')
