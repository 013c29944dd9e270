"""An SDV synthesizer: diffusion models for tables whose rows obey constraints to solver precision."""

import sdv  # noqa: F401  First, so that SDV's plug-in discovery never meets this module half-built.

__version__ = '0.1.0.dev0'
