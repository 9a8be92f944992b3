"""Writes one checkpoint at a time beside the training (`--async-save`).

What ends a training, also a signal, calls `wait` before the process ends. Should nothing call it, the interpreter still
waits for the write, but an error of it is lost.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_thread = ThreadPoolExecutor(1, "checkpoint-writer")
_in_flight: "Future[None] | None" = None


def start(write: Callable[[], None]) -> None:
    """Call `write` in the background, after waiting for an earlier write. Raises what that raised."""
    global _in_flight
    wait()
    _in_flight = _thread.submit(write)


def wait() -> None:
    """Wait for the write in flight, if there is one. Raises what it raised; a later call does not raise it again."""
    global _in_flight
    if _in_flight is None:
        return
    try:
        _in_flight.result()
    finally:
        if _in_flight.done():  # not if the waiting was interrupted
            _in_flight = None
