"""One standalone HTML page and its JSON twin, made of sections; the page never asks the network for anything."""

import json
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

PANEL_WIDTH = 200
"""Narrowest readable panel of a figure in pixels; narrower screens scroll the figure sideways."""


@dataclass(frozen=True)
class Table:
    """A table of a section.

    Attributes:
        caption: what it shows.
        data: its columns and lines; the index is not shown.
        num_shown: how many lines the page shows; the JSON twin holds all. None for all.
    """

    caption: str
    data: pd.DataFrame
    num_shown: int | None = None


@dataclass(frozen=True)
class Figure:
    """A figure of a section.

    Attributes:
        caption: what it shows and how to read it.
        plot: the plotly figure.
    """

    caption: str
    plot: go.Figure


@dataclass(frozen=True)
class Section:
    """A part of a document.

    Attributes:
        title: its heading.
        prose: plain text; empty lines part paragraphs.
        figures: shown in this order, after the prose.
        tables: shown after the figures.
    """

    title: str
    prose: str = ''
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Document:
    """A page: title, summary, sections.

    Attributes:
        title: of the page.
        subtitle: one sentence below it.
        summary: the table at the top, e.g. measure, value, floor and target.
        sections: the rest, in order.
    """

    title: str
    subtitle: str = ''
    summary: pd.DataFrame | None = None
    sections: Sequence[Section] = ()

    def to_dict(self) -> dict[str, Any]:
        """The document as plain lists and numbers, without the drawings; numbers that are not finite become None."""
        return {
            'title': self.title,
            'subtitle': self.subtitle,
            'summary': [] if self.summary is None else records(self.summary),
            'sections': [
                {
                    'title': section.title,
                    'prose': section.prose,
                    'figures': [figure.caption for figure in section.figures],
                    'tables': [{'caption': table.caption, 'rows': records(table.data)} for table in section.tables],
                }
                for section in self.sections
            ],
        }

    def to_json(self, path: str | Path) -> None:
        """Writes the JSON twin of the page, UTF-8."""
        write_json(self.to_dict(), path)

    def to_html(self, path: str | Path) -> None:
        """Writes the page, UTF-8: one file of about 5 MB that holds its own script and style."""
        Path(path).write_text(self.render(), encoding='utf-8')

    def render(self) -> str:
        """The page's HTML."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
        )
        environment.filters |= {
            'shown': format_value,
            'exact': _exact,
            'paragraphs': _paragraphs,
            'is_number': _is_number,
        }
        counter = iter(range(10**6))
        return environment.get_template('template.html.jinja').render(
            document=self,
            # Without a figure there is nothing to draw, and the page stays small.
            plotly_js=get_plotlyjs() if any(section.figures for section in self.sections) else '',
            draw=lambda figure: _draw(figure, f'figure-{next(counter)}'),
            min_width=_min_width,
        )


def records(data: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a table as dictionaries of JSON values; missing and infinite numbers become None."""
    return [{str(name): _plain(value) for name, value in line.items()} for line in data.to_dict('records')]


def write_json(content: Any, path: str | Path) -> None:
    """Writes JSON that every reader accepts: UTF-8, no NaN."""
    Path(path).write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False), encoding='utf-8')


def format_value(value: Any) -> str:
    """A value as a reader wants it: three significant digits, powers of ten for the very large and small.

    A share just below one keeps the digits that tell it from one: 0.99996 is not 1.00.
    """
    if _is_number(value):
        return _format_number(value)
    if isinstance(value, list | tuple):
        return ', '.join(map(format_value, value))
    if _plain(value) is None:
        return '–'
    return {'True': 'yes', 'False': 'no'}.get(str(value), str(value))


def _format_number(value: Any) -> str:
    if not math.isfinite(value):
        return '–' if math.isnan(value) else str(float(value))
    if float(value).is_integer() and abs(value) < 1e7:
        return f'{int(value):,}'.replace(',', '\u202f')
    if 0.9995 <= value < 1:
        return f'{value:.{min(16, 1 + math.floor(-math.log10(1 - value)))}f}'
    if 1e-3 <= abs(value) < 1e5:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f'{value:.{digits}f}'
    mantissa, exponent = f'{value:.2e}'.split('e')
    return f'{mantissa}e{int(exponent)}'


def _plain(value: Any) -> Any:
    """A value as JSON knows it."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if _is_number(value):
        if isinstance(value, numbers.Integral):
            return int(value)
        return float(value) if math.isfinite(value) else None
    return bool(value) if str(value) in ('True', 'False') else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _exact(value: Any) -> str:
    return repr(float(value)) if _is_number(value) else ''


def _paragraphs(text: str) -> list[str]:
    return [' '.join(paragraph.split()) for paragraph in text.split('\n\n') if paragraph.strip()]


def _min_width(figure: go.Figure) -> int:
    """Width below which the figure's panels would be unreadable, in pixels."""
    starts = {tuple(axis.domain) for axis in figure.select_xaxes() if axis.domain}
    return max(340, PANEL_WIDTH * len(starts))


def _draw(figure: go.Figure, identifier: str) -> str:
    return figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=identifier,
        # The bar of buttons covers legends on narrow screens; dragging zooms, a double click resets.
        config={'responsive': True, 'displaylogo': False, 'displayModeBar': False},
    )
