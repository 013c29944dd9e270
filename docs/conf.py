"""Sphinx configuration."""

from importlib.metadata import version as installed_version

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
