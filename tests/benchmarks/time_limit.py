"""The time that a benchmark may take. One that measures several things leaves out what does not fit, and says so."""

import math
import time

_end = math.inf


def start(seconds: float) -> None:
    """From now on, the benchmark of this process has so many seconds."""
    global _end
    _end = time.monotonic() + seconds


def left() -> float:
    """Seconds that are left; infinite if nothing limits them."""
    return _end - time.monotonic()
