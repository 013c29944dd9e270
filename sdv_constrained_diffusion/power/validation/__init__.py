"""An independent check of finished rows: do other power-flow programs come to the same operating points?

`checking` compares rows with what they find, `agreement` reports on a whole table.
"""

from sdv_constrained_diffusion.power.validation.agreement import Agreement, ValidationReport, validation_report
from sdv_constrained_diffusion.power.validation.checking import verify_with_lightsim2grid, verify_with_runpp

__all__ = ['Agreement', 'ValidationReport', 'validation_report', 'verify_with_lightsim2grid', 'verify_with_runpp']
