"""How far a training run is, and how fast it learns there."""

import math
import time

from sdv_constrained_diffusion.diffusion.plan import TrainingPlan

COOLING = 0.25
"""Share of a 'trapezoid' run in which the learning rate falls."""


class Clock:
    """How far a run is, by its steps or, where that is farther, by its time.

    Attributes:
        step: steps that were made.
    """

    def __init__(self, plan: TrainingPlan, num_steps: int) -> None:
        """Starts the clock."""
        self._plan, self._num_steps, self.step = plan, num_steps, 0
        self._start, self._elapsed = time.process_time(), 0.0
        self._cooled_from, self._cooling_steps = 0, 0
        self._warmup = max(min(plan.warmup_steps, num_steps // 10), 1)

    def rate(self) -> float:
        """Learning rate of the next step, as a share of the largest."""
        plan, step = self._plan, self.step
        if plan.decay == 'exponential':
            return plan.decay_factor ** (step // plan.decay_steps)
        left = 1 - self.progress
        decayed = left / COOLING if plan.decay == 'trapezoid' else 0.5 * (1 - math.cos(math.pi * left))
        return min((step + 1) / self._warmup, decayed, 1.0)

    @property
    def progress(self) -> float:
        """Share of the run that is over."""
        run = max(self.step / self._num_steps, self._elapsed)
        if self._cooling_steps:
            run = max(run, 1 - COOLING + COOLING * (self.step - self._cooled_from) / self._cooling_steps)
        return min(run, 1.0)

    @property
    def cools(self) -> bool:
        """Whether the last `COOLING` of the run has begun."""
        return self.progress >= 1 - COOLING

    def cool(self, num_steps: int) -> None:
        """Lets the last `COOLING` of the run begin now, as of a run of which so many steps are behind."""
        self._cooled_from = self.step
        self._cooling_steps = max(math.ceil(COOLING / (1 - COOLING) * num_steps), 1)

    def tick(self) -> bool:
        """Counts a step; True when the run is over."""
        self.step += 1
        if self._plan.max_time is not None:
            self._elapsed = (time.process_time() - self._start) / self._plan.max_time
        return self.over

    @property
    def over(self) -> bool:
        """Whether the run is over."""
        return self.progress >= 1
