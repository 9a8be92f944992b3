"""Processes of their own for what is measured: one at a time, or one a core with one thread each."""

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
    logging.disable(logging.INFO)  # importing fairseq turns on what every library has to say
    if threads is not None:
        torch.set_num_threads(threads)


def run_each(function: Callable, jobs: list[tuple]) -> list:
    """`function(*job)` for every job, in their order. Results are equal whatever the number of cores."""
    with fresh_processes(len(os.sched_getaffinity(0)), threads=1) as processes:
        futures = [processes.submit(function, *job) for job in jobs]
        return [future.result() for future in futures]
