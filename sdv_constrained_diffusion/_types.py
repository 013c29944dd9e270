"""Shape vocabulary: every tensor that crosses a function's border is named here once.

The axis names are the contract: `row` is one record of the table, `feature` one number of the model space,
`column` one column of the delivered table, `equation` one scalar equation of a constraint, `block` one discrete column
of the model space.
The shapes are checked in the test run only.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Rows = Float[Tensor, 'row feature']
"""Rows in model space."""

Numbers = Float[Tensor, 'row number']
"""The features that are numbers, the first of a row; see `Layout`."""

Levels = Float[Tensor, 'row level']
"""The features of all discrete columns: one per level, see `Layout`."""

Inputs = Float[Tensor, 'row input']
"""What a backbone sees: a noisy row, and flags, known values and hinges after it."""

NumberMask = Bool[Tensor, ' number']
"""True where something holds of a number in all rows, e.g. that it is known."""

FeatureMask = Bool[Tensor, 'row feature']
"""True where something holds of a feature in a row, e.g. that it is known."""

Codes = Int[Tensor, 'row block']
"""Number of the level that each discrete column holds."""

Blocks = Bool[Tensor, 'row block']
"""True where something holds of a discrete column in a row, e.g. that it is hidden."""

Table = Float[Tensor, 'row column']
"""Rows in the table's columns: numbers in physical units, levels of discrete columns by their code."""

Residuals = Float[Tensor, 'row equation']
"""One signed entry per equation, in the equation's physical unit."""

Jacobians = Float[Tensor, 'row equation column']
"""Derivative of each residual by each column, in the residual's unit per the column's unit."""

ColumnMask = Bool[Tensor, 'row column']
"""True where something holds of a column in a row, e.g. that it may not move."""

EquationMask = Bool[Tensor, 'row equation']
"""True where something holds of an equation in a row."""

PerRow = Float[Tensor, ' row']
RowMask = Bool[Tensor, ' row']
RowCodes = Int[Tensor, ' row']
PerColumn = Float[Tensor, ' column']
PerEquation = Float[Tensor, ' equation']

Times = Float[Tensor, ' row']
"""Diffusion time of each row, in the schedule's own unit."""

SharedTimes = Float[Tensor, ' time']
"""Diffusion time of each row, or one that all rows share."""

TimeGrid = Float[Tensor, ' time']
"""Decreasing diffusion times that a sampler visits; the last one is noise-free."""
