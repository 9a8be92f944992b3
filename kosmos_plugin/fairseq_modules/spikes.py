"""Spikes: a loss, or a norm of the gradients, far above those of the updates before it."""

import math
from collections import deque

import numpy as np


class SpikeDetector:
    """Compares a value with the last ones.

    Args:
        window: The number of values to compare with; from half of it on there are enough.
        deviations: A spike is above their mean by more than so many of their standard deviations.

    Attributes:
        values: The last values, oldest first. Spikes are among them, so that a new level is soon no spike any more.
    """

    def __init__(self, window: int, deviations: float):
        self.deviations = deviations
        self.values: deque[float] = deque(maxlen=window)
        self._enough = max(window // 2, 2)

    def check(self, value: float) -> str:
        """Describe how far a spike is above the last values, or return "" for another value. It joins them."""
        found = ""
        if len(self.values) >= self._enough:
            last = np.array(self.values)
            mean, deviation = float(last.mean()), float(last.std(ddof=1))
            if 0 < deviation < math.inf and value - mean > self.deviations * deviation:
                found = (
                    f"{value:.4g} is {(value - mean) / deviation:.1f} standard deviations above the mean {mean:.4g} of "
                    f"the last {len(last)} updates"
                )
        self.values.append(value)
        return found
