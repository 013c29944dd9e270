"""Shapes are checked in the test run: functions that pass tensors verify what they take and return.

The faces, where users pass anything and get an error in words, check their own arguments and are left out.
"""

import contextlib

from jaxtyping import install_import_hook

PACKAGE = 'sdv_constrained_diffusion'
SHAPED = ('_layout', 'tabular', 'diffusion', 'constraints', 'guidance', 'model', 'testing')
SHAPED_POWER = ('constraints', 'equations', 'grid', 'gridfm', 'implied', 'operating_points', 'states', 'table_files')
SHAPED_POWER += ('time_series', 'topologies', 'validation')

install_import_hook(
    [f'{PACKAGE}.{name}' for name in SHAPED] + [f'{PACKAGE}.power.{name}' for name in SHAPED_POWER],
    'typecheck.checked',
)

with contextlib.suppress(ImportError):  # the environment of an older SDV has no hypothesis
    from hypothesis import settings

    # How long an example takes says more of what else the machine does.
    settings.register_profile('without deadlines', deadline=None)
    settings.load_profile('without deadlines')
