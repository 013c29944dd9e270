"""Every Python block of README and docs runs, page by page, in the order it is read."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)
PAGES = [
    page for page in [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('**/*.md'))] if BLOCK.search(page.read_text())
]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, names = page.read_text(), {}
    for block in BLOCK.finditer(text):
        line = text[: block.start(1)].count('\n')
        # Blank lines in front, so that a traceback shows the page's own line.
        exec(compile('\n' * line + block.group(1), str(page), 'exec'), names)


def test_the_readmes_example_is_fifteen_lines():
    example = BLOCK.search((ROOT / 'README.md').read_text()).group(1)
    assert len([line for line in example.splitlines() if line.strip()]) == 15
