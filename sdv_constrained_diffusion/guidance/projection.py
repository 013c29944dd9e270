r"""Finished rows onto the constraints, in float64 and physical units.

Chord Gauss-Newton `v <- v - K h(v)` with one K for all rows; rows it does not serve get damped Gauss-Newton with a
Jacobian of their own. Every row ends with a code; the caller redraws what failed.
"""

import enum
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from sdv_constrained_diffusion._batches import SIZE, in_threads
from sdv_constrained_diffusion._types import ColumnMask, Jacobians, PerRow, Residuals, RowCodes, Table
from sdv_constrained_diffusion.guidance.chord import Chord, standardised_move
from sdv_constrained_diffusion.guidance.local import LocalSteps

MARGIN = 0.01
"""Rows are projected to this share of the tolerance, so that a later change in the last digits does not undo them."""

BLOCK = 1024
"""Rows projected at a time: as many as stay in the processor's cache."""

MOST_ENTRIES = 2**20
"""Equations times columns up to which rows have factorisations of their own."""

PATIENCE = 16
"""Steps with a row's own Jacobian after which it is given up if its residual has not fallen below `SHRINKS` of what it
was; the damping it needs is often ten steps away."""

SHRINKS = 0.8

LEAST_SHARE = 0.02
"""Least measure of a column, in standard deviations: what model space calls flat must be able to move where nothing
else helps."""

LOCAL_ENTRIES = 2**25
"""Entries of Jacobians of rows with factorisations of their own that are held at a time."""


class ResultCode(enum.IntEnum):
    """How a row's projection ended."""

    CONVERGED = 0
    MAX_STEPS = 1
    """The residual still shrank when the steps ran out, or too slowly: draw another row."""
    SINGULAR = 2
    """No column that may move changes the residual: too many columns are fixed."""
    NOT_FINITE = 3
    """The residual is NaN or infinite: the row lies outside the constraint's domain."""
    REFUSED = 4
    """The row breaks an inequality that rows are not moved to: draw another row."""


@dataclass(frozen=True)
class Projected:
    """Rows after projection.

    Attributes:
        values: constrained columns, shape (row, column).
        codes: a `ResultCode` per row.
        displacement: root mean square move of the row's columns, in column standard deviations.
    """

    values: Table
    codes: RowCodes
    displacement: PerRow


def project(
    chord: Chord,
    values: Table,
    fixed: ColumnMask,
    measure: Table | None = None,
    chord_steps: int = 12,
    newton_steps: int = 30,
) -> Projected:
    """Moves rows the shortest way to where the constraints hold.

    Args:
        chord: the constraints and their linearisation.
        values: constrained columns, shape (row, column), float64.
        fixed: columns that may not move, shape (row, column).
        measure: what counts as a move of one in each row, shape (row, column), in the columns' units; their standard
            deviations when None, and in systems of more than `MOST_ENTRIES`, where one factorisation serves all rows.
        chord_steps: steps with the Jacobian of typical rows before a row gets its own.
        newton_steps: steps with its own Jacobian before a row is given up.
    """
    entries = len(chord.system.equations) * values.shape[1]
    scale = torch.where(chord.scale > 0, chord.scale, 1.0)
    measured = None if measure is None or entries > MOST_ENTRIES else (measure / scale).clamp(min=LEAST_SHARE)
    block = BLOCK if measured is None else max(min(BLOCK, LOCAL_ENTRIES // entries // SIZE * SIZE), SIZE)

    def some(rows: Int[Tensor, ' some']) -> Projected:
        own = None if measured is None else measured[rows]
        return _project(chord, values[rows], fixed[rows], own, chord_steps, newton_steps)

    parts = in_threads(some, torch.arange(len(values)).split(block))
    joined = (torch.cat([getattr(part, name) for part in parts]) for name in ('values', 'codes', 'displacement'))
    return Projected(*joined)


def _project(
    chord: Chord, values: Table, fixed: ColumnMask, measure: Table | None, chord_steps: int, newton_steps: int
) -> Projected:
    local = None if measure is None else chord.local(values, measure, fixed, own=False)
    projected, excess = _chord_steps(chord, values, fixed, local, chord_steps)
    codes = torch.full((len(values),), ResultCode.CONVERGED, dtype=torch.int64)
    stragglers = (~(excess <= MARGIN)).nonzero()[:, 0]
    if len(stragglers) and measure is not None:
        local = chord.local(values[stragglers], measure[stragglers], fixed[stragglers], own=True)
        found = _chord_steps(chord, values[stragglers], fixed[stragglers], local, chord_steps)
        projected[stragglers], excess[stragglers] = found
        stragglers = (~(excess <= MARGIN)).nonzero()[:, 0]
    # What the rows' own measures call too dear may be the only way.
    for own in [None] if measure is None else [measure, None]:
        if len(stragglers):
            some = None if own is None else own[stragglers]
            moved = _newton_steps(chord, values[stragglers], fixed[stragglers], some, newton_steps)
            projected[stragglers], codes[stragglers] = moved, _verdict(chord, moved, fixed[stragglers])
            stragglers = stragglers[codes[stragglers] != ResultCode.CONVERGED]
    return Projected(projected, codes, standardised_move(projected, values, chord.scale))


def _chord_steps(
    chord: Chord, values: Table, fixed: ColumnMask, local: LocalSteps | None, num_steps: int
) -> tuple[Table, PerRow]:
    """Chord steps until a row is done or shrinks by less than half; rows, and their excess."""
    system = chord.system
    done, excess = values.clone(), values.new_full((len(values),), torch.inf)
    pending, current = torch.arange(len(values)), values
    for step in range(num_steps + 1):
        deviation = system.deviation(system.residual(current))
        # Bounds of single columns are the caller's: steps in measures of their own know nothing of them.
        asked = deviation if local is None else deviation.masked_fill(chord.bounds, 0)
        size = (asked.abs() / system.tolerance).amax(1)
        going = (size > MARGIN) & (size <= 0.5 * excess[pending])
        done[pending], excess[pending] = current, size
        if step == num_steps or not going.any():
            break
        if not going.all():
            pending, current, deviation, fixed = pending[going], current[going], deviation[going], fixed[going]
        if local is None:
            current = chord.step(current, deviation, fixed)
        else:
            current = current + chord.scale * local.move(deviation / chord.equation_scale, pending)
    return done, excess


def _newton_steps(chord: Chord, values: Table, fixed: ColumnMask, measure: Table | None, num_steps: int) -> Table:
    r"""Levenberg-Marquardt per row: `u <- u - J^T (J J^T + \mu I)^{-1} h`, mu tenfold up or down (Marquardt 1963).

    Rows that are done are left alone, and so are rows that crawl: see `PATIENCE`.
    """
    system, result = chord.system, values.clone()
    own = torch.ones_like(values) if measure is None else measure
    pending, current, damping = torch.arange(len(values)), values, values.new_full((len(values),), 1e-6)
    deviation = chord.deviation(values)
    reached, patience = values.new_full((len(values),), torch.inf), torch.full((len(values),), PATIENCE)
    # Whole sizes, so that every row's matrices lie in memory alike, and round alike.
    high, wide = -len(system.equations) % SIZE, -values.shape[1] % SIZE
    identity = torch.eye(len(system.equations) + high, dtype=values.dtype)
    inequalities = torch.nn.functional.pad(system.inequalities, (0, high))[:, None]
    for _ in range(num_steps):
        jacobian = _standardised_jacobian(chord, current, fixed, deviation) * own[:, None, :]
        # An equation that no free column changes is judged in the end, and must not hide what the others gain.
        dead = (jacobian == 0).all(2) & ~system.idle(deviation)
        asked = deviation.masked_fill(dead, 0)
        size = asked.norm(dim=1)
        shrinks = size < SHRINKS * reached
        reached, patience = torch.where(shrinks, size, reached), torch.where(shrinks, PATIENCE, patience - 1)
        going = ~((asked.abs() * chord.equation_scale / system.tolerance).amax(1) <= MARGIN) & (patience > 0)
        if not going.any():
            break
        if not going.all():
            pending, current, fixed, own = pending[going], current[going], fixed[going], own[going]
            jacobian, dead, asked, size = jacobian[going], dead[going], asked[going], size[going]
            deviation, damping = deviation[going], damping[going]
            reached, patience = reached[going], patience[going]
        jacobian = torch.nn.functional.pad(jacobian, (0, wide, 0, high))
        right = torch.nn.functional.pad(asked, (0, high))[:, :, None]
        normal = jacobian @ jacobian.mT + damping[:, None, None] * identity
        multiplier, _ = torch.linalg.solve_ex(normal, right)
        trial, trial_deviation = _trial(chord, current, own, jacobian, multiplier)
        better = trial_deviation.masked_fill(dead, 0).norm(dim=1) < size
        # The others would push some inequalities farther inside than to their limits: held there they may bar the way.
        released = inequalities & (multiplier * right < 0) & ~better[:, None, None]
        if released.any():
            others = jacobian.masked_fill(released, 0)
            normal = others @ others.mT + damping[:, None, None] * identity
            multiplier, _ = torch.linalg.solve_ex(normal, right.masked_fill(released, 0))
            free, free_deviation = _trial(chord, current, own, others, multiplier)
            helps = released.any(1)[:, 0] & (free_deviation.masked_fill(dead, 0).norm(dim=1) < size)
            trial = torch.where(helps[:, None], free, trial)
            trial_deviation = torch.where(helps[:, None], free_deviation, trial_deviation)
            better |= helps
        current = torch.where(better[:, None], trial, current)
        deviation = torch.where(better[:, None], trial_deviation, deviation)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-14, 1e6)
        result[pending] = current
    return result


def _trial(chord: Chord, values: Table, own: Table, jacobian: Tensor, multiplier: Tensor) -> tuple[Table, Residuals]:
    """Rows after a step, and their deviations; Jacobians may be padded, a multiplier has shape (row, equation, 1)."""
    # No product of matrices: that of a single row rounds otherwise than those of many.
    move = (jacobian * multiplier).sum(1)[:, : values.shape[1]]
    trial = values - move * chord.scale * own
    return trial, chord.deviation(trial)


def _standardised_jacobian(chord: Chord, values: Table, fixed: ColumnMask, deviation: Residuals) -> Jacobians:
    """Each row's own Jacobian by standardised columns, without fixed columns and idle inequalities."""
    jacobian = chord.system.jacobian(values) * chord.scale / chord.equation_scale[:, None]
    idle = chord.system.idle(deviation)
    return jacobian.masked_fill(fixed[:, None, :] | idle[:, :, None], 0)


def _verdict(chord: Chord, values: Table, fixed: ColumnMask) -> RowCodes:
    """Why rows did not converge, for those that did not."""
    deviation = chord.deviation(values)
    jacobian = _standardised_jacobian(chord, values, fixed, deviation)
    # No way down: the residual is orthogonal to everything that the free columns can change.
    downhill = (jacobian.mT @ deviation[:, :, None])[:, :, 0].norm(dim=1)
    stuck = downhill <= 1e-6 * deviation.norm(dim=1)
    codes = torch.where(stuck, int(ResultCode.SINGULAR), int(ResultCode.MAX_STEPS))
    codes = codes.masked_fill(~deviation.isfinite().all(1), int(ResultCode.NOT_FINITE))
    return codes.masked_fill(chord.system.feasible(values), int(ResultCode.CONVERGED))
