"""Figures of a report's scores, the synthetic table's beside the floor of two real tables."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sdv_constrained_diffusion.report.figures import FONT, PALETTE, REAL

SYNTHETIC, FLOOR = PALETTE[0], REAL


def dots(
    details: pd.DataFrame,
    label: str,
    title: str,
    axis_title: str,
    line: float | None = None,
    columns: tuple[str, str] = ('Score', 'Floor'),
    logarithmic: bool = False,
) -> go.Figure:
    """One point per line of a details table for the synthetic data and one for the floor.

    Args:
        details: the table.
        label: its column that names each line.
        title: of the figure.
        axis_title: of the vertical axis.
        line: where to draw a horizontal line, e.g. at the value of a perfect table.
        columns: its columns of the synthetic table's numbers and of the floor's.
        logarithmic: whether the vertical axis is; zeros are then drawn at 1e-14.
    """
    figure = go.Figure()
    for name, colour, symbol, column in zip(
        ('floor (real data)', 'synthetic'),
        (FLOOR, SYNTHETIC),
        ('line-ew-open', 'circle'),
        columns[::-1],
        strict=True,
    ):
        values = details[column].astype('float64')
        figure.add_trace(
            go.Scatter(
                x=[_text(each) for each in details[label]],
                y=values.clip(lower=1e-14) if logarithmic else values,
                name=name,
                mode='markers',
                marker={'color': colour, 'symbol': symbol, 'size': 8, 'line_width': 2 if symbol != 'circle' else 0},
                hovertemplate='%{x}: %{y:.4g}',
            )
        )
    if line is not None:
        figure.add_hline(line, line={'dash': 'dash', 'width': 1, 'color': '#888888'})
    if logarithmic:
        figure.update_yaxes(type='log', exponentformat='power')
    elif np.ptp(details[list(columns)].to_numpy(dtype='float64')) == 0:
        # Without a spread of its own the axis would reach beyond the highest score there is.
        figure.update_yaxes(range=[0, 1.05])
    figure.update_yaxes(title_text=axis_title)
    figure.update_xaxes(type='category', tickangle=-60 if len(details) > 8 else 0)
    return _dress(figure, title, 400)


def heatmaps(details: pd.DataFrame, title: str) -> go.Figure:
    """Scores of pairs of columns as two matrices, the synthetic table's and the floor's, in one scale of colours.

    Args:
        details: columns 'Column 1', 'Column 2', 'Score' and 'Floor'.
        title: of the figure.
    """
    names = list(dict.fromkeys([*details['Column 1'], *details['Column 2']]))
    figure = make_subplots(1, 2, subplot_titles=['synthetic', 'floor (real data)'], horizontal_spacing=0.04)
    lowest = float(np.nanmin(details[['Score', 'Floor']].to_numpy(dtype='float64'), initial=0.99))
    for position, column in enumerate(('Score', 'Floor'), start=1):
        index = pd.Index(names)
        rows, columns = (index.get_indexer(pd.Index(details[each])) for each in ('Column 1', 'Column 2'))
        values = np.full((len(names), len(names)), np.nan, dtype='float32')
        values[rows, columns] = values[columns, rows] = details[column].astype('float32')
        figure.add_trace(
            go.Heatmap(
                z=values,
                x=list(map(str, names)),
                y=list(map(str, names)),
                coloraxis='coloraxis',
                hovertemplate='%{x}, %{y}: %{z:.3f}<extra></extra>',
            ),
            row=1,
            col=position,
        )
    figure.update_xaxes(type='category', tickangle=-60, tickfont_size=10, constrain='domain')
    figure.update_yaxes(type='category', autorange='reversed', tickfont_size=10)
    figure.update_yaxes(showticklabels=False, col=2)
    figure.update_layout(coloraxis={'colorscale': 'Cividis', 'cmin': lowest, 'cmax': 1.0, 'colorbar_title': 'score'})
    return _dress(figure, title, 520)


def _text(name: object) -> str:
    return ', '.join(map(str, name)) if isinstance(name, list | tuple) else str(name)


def _dress(figure: go.Figure, title: str, height: int) -> go.Figure:
    return figure.update_layout(
        template='plotly_white',
        font=FONT,
        title={'text': title, 'font_size': 14},
        height=height,
        margin={'l': 60, 'r': 15, 't': 80, 'b': 60},
        legend={'orientation': 'h', 'x': 0, 'y': 1.02, 'yanchor': 'bottom'},
    )
