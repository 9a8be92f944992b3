"""Ctrl-C and SIGTERM: a command ends within two seconds, with one line, and leaves no process behind.

Ctrl-C also reaches a command's workers, which ignore it (`curation/pipeline/runner`) and are killed by the command.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing import forkserver
from types import FrameType, TracebackType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS_TO_CLEAN_UP = 1.0


class Stopping:
    """A context in which a signal raises KeyboardInterrupt, and then ends the program.

    The program ends even if the main thread does not get to the exception soon, as in a long computation of torch.

    Attributes:
        message: What to print.
    """

    def __init__(self) -> None:
        self.message = "Stopped."
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        self._handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self._received, self._wakeup = os.pipe()  # Python writes to it the number of each signal
        os.set_blocking(self._wakeup, False)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        threading.Thread(target=self._end_in_time, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._signal is not None:  # whatever error it has become
            self._end(self._signal)
        signal.set_wakeup_fd(-1)
        os.close(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = number
            sys.unraisablehook = lambda unraisable: None  # in a callback Python would print the exception and go on
            raise KeyboardInterrupt

    def _end_in_time(self) -> None:
        while received := os.read(self._received, 1):
            if received[0] in SIGNALS:
                time.sleep(SECONDS_TO_CLEAN_UP)
                self._end(received[0])
        os.close(self._received)

    def _end(self, number: int) -> NoReturn:
        """Print the message and end the program at once: no thread or library can delay it."""
        for child in multiprocessing.active_children():
            child.kill()
        # It may be in the middle of its imports.
        server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # typeshed lacks it
        if server is not None:
            os.kill(server, signal.SIGKILL)
        if int(os.environ.get("RANK", 0)) == 0:  # one line also under torchrun
            # after a progress bar, or the ^C that a terminal shows
            print(f"\n{self.message}", file=sys.__stderr__, flush=True)
        os._exit(128 + number)
