"""Shapes are checked in the test run: every annotated function of the package verifies what it takes and returns."""

import os

from jaxtyping import install_import_hook

if os.environ.get('CHECK_SHAPES', '1') == '1':
    install_import_hook('sdv_constrained_diffusion', 'beartype.beartype')
