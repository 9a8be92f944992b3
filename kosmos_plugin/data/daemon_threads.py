"""Threads that do not outlive the process: at its end it does not wait for what they are reading.

`concurrent.futures` waits for all that was submitted, also for a request that hangs.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonThreads:
    """A pool of threads. They are started by the first use and, in a forked process, again.

    Args:
        count: Number of threads.
    """

    def __init__(self, count: int):
        self.count = count
        self._process = -1
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()

    def submit(self, task: Callable[[], T]) -> "Future[T]":
        """Have `task` done by the next free thread."""
        if self._process != os.getpid():
            self._process, self._tasks = os.getpid(), queue.SimpleQueue()
            for _ in range(self.count):
                threading.Thread(target=_work, args=(self._tasks,), daemon=True).start()
        future: Future[T] = Future()
        self._tasks.put((future, task))
        return future

    def all(self, tasks: Iterable[Callable[[], T]]) -> list[T]:
        """What the tasks give, in order, done at the same time. Raises what the first one that fails raises."""
        tasks = list(tasks)
        if len(tasks) == 1:
            return [tasks[0]()]
        return [future.result() for future in [self.submit(task) for task in tasks]]


def _work(tasks: "queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]]") -> None:
    while True:
        future, task = tasks.get()
        _settle(future, task)
        del future, task  # else the result would live until the next task


def _settle(future: "Future[Any]", task: Callable[[], Any]) -> None:
    try:
        future.set_result(task())
    except BaseException as error:
        future.set_exception(error)


def in_time(seconds: float, task: Callable[[], T]) -> T:
    """What `task` gives, in a thread of its own. Raises TimeoutError if that takes longer."""
    future: Future[T] = Future()
    threading.Thread(target=_settle, args=(future, task), daemon=True).start()
    try:
        return future.result(seconds)
    except FutureTimeout:
        raise TimeoutError(f"no answer in {seconds:g} seconds") from None
