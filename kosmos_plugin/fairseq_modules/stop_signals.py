"""The signals that ask a training to stop: SIGTERM, SIGUSR1 (Slurm's `--signal`) and Ctrl-C.

A signal is only noted; `managed_training` ends the training after the update. A second Ctrl-C ends the process at once.
"""

import atexit
import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

_received: signal.Signals | None = None
_is_listening = False


def received() -> signal.Signals | None:
    """The first signal that this process received while it was `listening`; None if there was none."""
    return _received


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Note the signals instead of being ended by them.

    After a signal the process stays deaf to further ones even outside the context, as it is about to end and may still
    write a checkpoint. Other threads than the main one cannot set handlers: there nothing is changed.
    """
    global _received, _is_listening
    _received = None
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _at_exit()
    process = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        global _received
        if os.getpid() != process:  # a data worker that was just forked
            return
        again = ""
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            again = " Ctrl-C again stops at once, without it."
        if _received is None:
            _received = signal.Signals(number)
            message = f"\n{_received.name}: the training stops after this update, with a checkpoint.{again}\n"
            os.write(2, message.encode())  # unlike a logger, this may interrupt anything

    previous = {number: signal.signal(number, note) for number in SIGNALS}
    _is_listening = True
    try:
        yield
    finally:
        _is_listening = False
        if _received is None:
            for number, handler in previous.items():
                signal.signal(number, handler)
        else:
            # A handler written in Python would be reset to the default, which kills, in the interpreter's last second.
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)


def ignore_in_worker(worker_id: int = 0) -> None:
    """Ignore the signals in a data worker of a process that listens: a signal to the process group reaches it too.

    Elsewhere nothing is changed, since only `listening` sees to it that a worker that ignores SIGTERM ends.
    """
    if not _is_listening:
        return
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_data_workers() -> None:
    """Kill the data workers of this process. They only read, and they ignore SIGTERM."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@functools.cache
def _at_exit() -> None:
    # Before multiprocessing's own handler, which sends SIGTERM and waits for a worker as long as its read hangs.
    atexit.register(_end_data_workers)


def _end_data_workers() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler reports that a worker was killed
    end_data_workers()
