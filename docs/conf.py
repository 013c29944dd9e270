"""Sphinx configuration."""

from importlib.metadata import version as installed_version
from pathlib import Path

from plotly.offline import get_plotlyjs

project = 'sdv-constrained-diffusion'
author = 'The sdv-constrained-diffusion authors'
version = release = installed_version('sdv-constrained-diffusion')
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode']
exclude_patterns = ['_build']
myst_enable_extensions = ['dollarmath', 'colon_fence']
myst_heading_anchors = 2
html_theme = 'furo'
html_title = 'sdv-constrained-diffusion'
autodoc_member_order = 'bysource'
autodoc_typehints = 'none'
napoleon_google_docstring = True
napoleon_numpy_docstring = False
suppress_warnings = ['ref.python', 'docutils', 'myst.xref_missing']

# The plots' script lies beside the pages: they show without a network.
STATIC = Path(__file__).parent / '_build' / 'static'
STATIC.mkdir(parents=True, exist_ok=True)
(STATIC / 'plotly.min.js').write_text(get_plotlyjs(), encoding='utf-8')
html_static_path = [str(STATIC)]
