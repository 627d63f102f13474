"""How far a training run is, by steps or by time, and the schedules that follow from it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass
class Budget:
    """A limit in steps, in seconds, or both (whichever ends first). A resumed run continues with what was spent."""

    steps: int | None = None
    time_s: float | None = None
    spent_steps: int = 0
    spent_s: float = 0.0

    def __post_init__(self) -> None:
        if self.steps is None and self.time_s is None:
            raise ValueError("expected a limit in steps or in seconds, got neither")
        self._last = time.monotonic()

    def advance(self) -> None:
        """Counts one step and the time since the last one."""
        now = time.monotonic()
        self.spent_steps += 1
        self.spent_s += now - self._last
        self._last = now

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the budget is spent."""
        by_steps = self.spent_steps / self.steps if self.steps else 0.0
        by_time = self.spent_s / self.time_s if self.time_s else 0.0
        return min(max(by_steps, by_time), 1.0)


def learning_rate(base: float, budget: Budget, warmup_steps: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth of `base` at the end of the budget."""
    warm = min((budget.spent_steps + 1) / max(warmup_steps, 1), 1.0)
    return base * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * budget.progress)))
