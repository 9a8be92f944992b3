"""Runs the stages of a command on datatrove, so that a stopped run resumes where it stopped.

    OUT/…                     the command's output
    OUT/report.json           what was read, dropped (and why) and kept; written last
    OUT/work/plan.json        command, options and inputs; a resumed run must have the same
    OUT/work/lock             held while it runs
    OUT/work/STAGE/           datatrove's folder of a stage: completion marks, counts and logs of its tasks
    OUT/work/intermediate/…   files passed from one stage to the next; removed at the end

A finished task is not repeated; one that was stopped writes its files again. A task depends only on its number and the
plan, so a run makes the same bytes however often it was stopped and with any number of workers.

Stages are datatrove pipelines: on Slurm or Ray, give `Stage.steps` and `Stage.tasks` to its other executors.
"""

import contextlib
import copy
import io
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from filelock import FileLock, Timeout
from tqdm import tqdm

from kosmos_plugin.atomic import write_text
from kosmos_plugin.curation.pipeline.report import Report, read_report
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.errors import UserError

# A task that imports fairseq without `register()` sets the root logger to DEBUG; these libraries log every file then.
for _library in ("asyncio", "filelock", "fsspec"):
    logging.getLogger(_library).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Stage:
    """A datatrove pipeline and the number of its tasks."""

    name: str  # what it does: "read pages"
    steps: Sequence[PipelineStep]
    tasks: int


def run_stages(run: Run, stages: Sequence[Stage], workers: int) -> Report:
    """Run the unfinished tasks of `stages` and write the report.

    Args:
        run: The run, after `begin`.
        stages: The stages of its command.
        workers: The number of processes.

    Raises:
        UserError: Another process is using the folder, a worker was killed, or a file cannot be written.
    """
    try:
        with FileLock(run.work / "lock", timeout=0):
            if not run.report_file.is_file():
                remove_temporaries(run.out)
                _run_all(run, stages, workers)
            shutil.rmtree(run.intermediate, ignore_errors=True)
    except Timeout:
        raise UserError(f"The same command is already running in {run.out}.") from None
    return Report.read(run.report_file)


def remove_temporaries(folder: Path, name: str = "*") -> None:
    """Remove the temporary files of `atomic_path` that a killed process left in `folder` and below it."""
    for path in folder.rglob(f".{name}.{'[0-9a-f]' * 32}.tmp"):
        path.unlink(missing_ok=True)


def _run_all(run: Run, stages: Sequence[Stage], workers: int) -> None:
    folders = [run.work / _folder(number, stage) for number, stage in enumerate(stages)]
    with _pool(min(workers, max(stage.tasks for stage in stages))) as pool:
        for stage, folder in zip(stages, folders, strict=True):
            _run_stage(stage, folder, pool)
    write_text(run.report_file, read_report(run.command, folders).as_json())


def _folder(number: int, stage: Stage) -> str:
    return f"{number + 1}-{stage.name.replace(' ', '-')}"


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Executor | None]:
    """The processes of all stages of a run; None if this process does the work."""
    if workers == 1:
        yield None
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fairseq_cli_ext.worker"])
    _start_fork_server()
    with ProcessPoolExecutor(workers, context, _end_with_the_command) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _start_fork_server() -> None:
    """Start the process that workers are forked from. Ctrl-C reaches it and them, and they ignore it, as inherited."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)


def _end_with_the_command() -> None:
    """Let a worker end when the command has, also if a signal ended it while it was starting the worker."""
    command = multiprocessing.parent_process()
    assert command is not None

    def wait() -> None:
        command.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _run_stage(stage: Stage, folder: Path, pool: Executor | None) -> None:
    executor = _Executor(list(stage.steps), stage.tasks, logging_dir=str(folder))
    unfinished = executor.get_incomplete_ranks()
    bar = tqdm(total=stage.tasks, initial=stage.tasks - len(unfinished), desc=f"{stage.name:<22}", unit="task")
    with bar, contextlib.closing(executor.finish(unfinished, pool)) as finished:
        try:
            for _ in finished:
                bar.update()
        except OSError as error:
            raise UserError(
                f"The stage {stage.name!r} stopped: {error}. Run the command again after fixing this; the run resumes "
                "where it stopped."
            ) from error
        except BrokenProcessPool:
            raise UserError(
                f"A process of the stage {stage.name!r} was killed, most often because memory ran out. Run the command "
                "again with fewer --workers; the run resumes where it stopped."
            ) from None


class _Executor(LocalPipelineExecutor):
    """datatrove's local executor on concurrent.futures: its own pool waits forever for a process that was killed."""

    def finish(self, ranks: Sequence[int], pool: Executor | None) -> Generator[int, None, None]:
        """Run the tasks, in the processes of `pool` if there is one; yields the number of each as it ends."""
        if pool is None:
            for rank in ranks:
                copy.deepcopy(self)._run_for_rank(rank)
                yield rank
        else:
            tasks = {pool.submit(self._run_for_rank, rank): rank for rank in ranks}
            for task in as_completed(tasks):
                task.result()
                yield tasks[task]

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> None:
        """As in datatrove, except that messages go only to the task's log."""
        with contextlib.redirect_stderr(io.StringIO()):
            super()._run_for_rank(rank, local_rank, node_rank)
