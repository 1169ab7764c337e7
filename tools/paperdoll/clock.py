"""Training by the clock: a stage has a time budget, its schedule follows the share that is spent."""

from __future__ import annotations

import math
import time


class Budget:
    """Progress in [0, 1] of a stage of ``seconds``, continued over several runs from ``spent`` seconds on."""

    def __init__(self, seconds: float, spent: float = 0.0, stop_after: float = math.inf):
        self.seconds = max(seconds, 1e-6)
        self.before = spent
        self.start = time.monotonic()
        self.stop_after = stop_after

    @property
    def spent(self) -> float:
        return self.before + time.monotonic() - self.start

    @property
    def progress(self) -> float:
        return min(1.0, self.spent / self.seconds)

    @property
    def over(self) -> bool:
        return self.progress >= 1.0 or time.monotonic() - self.start >= self.stop_after

    def rate(self, peak: float, step: int, warmup: int = 200, floor: float = 0.02) -> float:
        """Warm-up by steps, then constant, then a cosine fall over the last half of the time."""
        fall = max(0.0, (self.progress - 0.5) / 0.5)
        return peak * min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fall)))
