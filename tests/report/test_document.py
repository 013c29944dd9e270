import json
import math
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from sdv_constrained_diffusion.report.document import Document, Figure, Section, Table, format_value

NUMBERS = pd.DataFrame({'name': ['a <b>', 'c & d'], 'value': [0.123456789, np.nan], 'fine': [True, False]})


@pytest.fixture
def document():
    plot = go.Figure(go.Scatter(x=[0, 1], y=[1, 0], name='</script><b>'))
    return Document(
        title='Rows & laws',
        subtitle='One sentence.',
        summary=pd.DataFrame({'Measure': ['AUC'], 'Synthetic': [0.51234], 'Floor': [0.5], 'Target': [0.5]}),
        sections=[
            Section('Figures', 'First.\n\nSecond <i>.', [Figure('A line.', plot), Figure('Again.', plot)]),
            Section('Tables', tables=[Table('Numbers', NUMBERS), Table('Many', pd.DataFrame({'n': range(50)}), 5)]),
        ],
    )


class Tags(HTMLParser):
    """Collects tags, what they load, and the text outside of scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.loads, self.text, self.open = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)
        self.loads += [value for name, value in attributes if name in ('src', 'href', 'data', 'action', 'srcset')]

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {'script', 'style'} & set(self.open):
            self.text.append(data)


def test_page_loads_nothing(document):
    page = Tags(document.render())
    assert page.loads
    assert all(load.startswith('#') for load in page.loads)
    assert 'link' not in {tag for tag, _ in page.tags}
    policy = next(facts['content'] for tag, facts in page.tags if facts.get('http-equiv') == 'Content-Security-Policy')
    # The browser itself refuses what the policy does not name.
    assert "default-src 'none'" in policy
    assert 'http' not in policy


def test_page_holds_every_section_and_escapes_text(document):
    html = document.render()
    text = ' '.join(Tags(html).text)
    for words in ('Rows & laws', 'Figures', 'Tables', 'First.', 'Second <i>.', 'A line.', 'a <b>', '0.123', '0.512'):
        assert words in text
    assert html.count('<h2>') == 2
    assert '</script><b>' not in html
    assert 'The first 5 of 50 lines.' in text


def test_plotly_is_inlined_once_and_only_for_figures(document, tmp_path):
    html = document.render()
    assert html.count('plotly.js v') == 1
    assert html.count('Plotly.newPlot(') >= 2
    assert 'id="figure-0"' in html
    assert 'id="figure-1"' in html
    bare = Document('Words', sections=[Section('Only', 'words.')])
    bare.to_html(tmp_path / 'bare.html')
    assert (tmp_path / 'bare.html').stat().st_size < 10_000


def test_rendering_is_reproducible(document):
    assert document.render() == document.render()


def test_json_twin_holds_the_same_numbers(document, tmp_path):
    document.to_json(tmp_path / 'page.json')
    content = json.loads((tmp_path / 'page.json').read_text('utf-8'), parse_constant=pytest.fail)
    assert content == document.to_dict()
    assert content['summary'] == [{'Measure': 'AUC', 'Synthetic': 0.51234, 'Floor': 0.5, 'Target': 0.5}]
    assert content['sections'][1]['tables'][0]['rows'] == [
        {'name': 'a <b>', 'value': 0.123456789, 'fine': True},
        {'name': 'c & d', 'value': None, 'fine': False},
    ]
    assert len(content['sections'][1]['tables'][1]['rows']) == 50
    assert content['sections'][0]['figures'] == ['A line.', 'Again.']


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (0.123456, '0.123'),
        (-12.3456, '-12.3'),
        (1234.5, '1234'),
        (5000, '5\u202f000'),
        (np.int64(7), '7'),
        (1.0, '1'),
        (0.9996, '0.9996'),
        (0.99999996, '0.99999996'),
        (1 - 2**-53, '0.9999999999999999'),
        (0.99949, '0.999'),
        (3.21e-14, '3.21e-14'),
        (-2.5e9, '-2.50e9'),
        (0.0, '0'),
        (math.nan, '–'),
        (None, '–'),
        (pd.NA, '–'),
        (math.inf, 'inf'),
        (np.True_, 'yes'),
        ('p_mw_0', 'p_mw_0'),
        (['a', 'b'], 'a, b'),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert format_value(value) == text
