"""Separate processes for measurements: one at a time, or one per core with one thread each."""

import logging
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch


def fresh_processes(count: int, threads: int | None = None) -> ProcessPoolExecutor:
    """`count` processes, each with `threads` threads (None: torch's own choice)."""
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin, (threads,))


def _begin(threads: int | None) -> None:
    logging.disable(logging.INFO)  # importing fairseq turns on the messages of every library
    if threads is not None:
        torch.set_num_threads(threads)


def run_each(function: Callable, jobs: list[tuple]) -> list:
    """Call `function(*job)` for every job; results are in order and do not depend on the number of cores."""
    with fresh_processes(len(os.sched_getaffinity(0)), threads=1) as processes:
        futures = [processes.submit(function, *job) for job in jobs]
        return [future.result() for future in futures]


class Worker:
    """A process that builds an object and keeps it, so that measurements do not share memory.

    Calling the worker calls the object and waits for the result.
    """

    def __init__(self, build: Callable, *arguments):
        """Start `build(*arguments)`; later calls wait for it."""
        self._process = fresh_processes(1)
        self._built = self._process.submit(_build, build, arguments)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error) -> None:
        self._process.shutdown()

    def __call__(self):
        return self.ask(_call)

    def ask(self, function: Callable, *arguments):
        """Call `function(object, *arguments)` in the process."""
        self._built.result()
        return self._process.submit(_ask, function, arguments).result()


_kept: object = None  # in the worker's process


def _build(build: Callable, arguments: tuple) -> None:
    global _kept
    _kept = build(*arguments)


def _ask(function: Callable, arguments: tuple):
    return function(_kept, *arguments)


def _call(kept: Callable):
    result = kept()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result
