"""Runs the stages of a command on datatrove, so that a run that was stopped goes on where it was.

    OUT/…                 what the command makes
    OUT/report.json       what came in, what was dropped and why, what is there; written last
    OUT/work/plan.json    what the run was asked for: run again, it must be the same
    OUT/work/lock         held while it runs
    OUT/work/STAGE/       datatrove's own folder of a stage: a mark and the counts of each finished task, its messages
    OUT/work/parts/…      what one stage leaves to the next; removed at the end

A finished task is not done again; one that was stopped writes its files anew. A task depends on its number and the plan
alone, so what a run makes is the same, byte for byte, however often it was stopped and however many workers it had.

Stages are datatrove pipelines: on Slurm or Ray give `Stage.steps` and `Stage.tasks` to its other executors.
"""

import contextlib
import copy
import dataclasses
import io
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from filelock import FileLock, Timeout
from tqdm import tqdm

from kosmos_plugin.curation.pipeline.inputs import InputFile
from kosmos_plugin.curation.pipeline.report import Report, read_counts
from kosmos_plugin.errors import UserError

PARTS = "parts"

# Importing fairseq turns on all that libraries have to say.
for _library in ("asyncio", "filelock", "fsspec"):
    logging.getLogger(_library).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Stage:
    """A datatrove pipeline and the number of tasks it is cut into. Its name says what it does: "read pages"."""

    name: str
    steps: Sequence[PipelineStep]
    tasks: int


@dataclass(frozen=True)
class Run:
    """A command's run: its name, what it was asked for, and its folder."""

    command: str
    options: object  # a dataclass
    inputs: Sequence[InputFile]
    out: Path

    @property
    def work(self) -> Path:
        return self.out / "work"

    @property
    def parts(self) -> Path:
        """Where a stage leaves what the next one reads."""
        return self.work / PARTS

    @property
    def report_file(self) -> Path:
        return self.out / "report.json"

    def begin(self) -> bool:
        """Write the plan, if it is not there, and return whether that was so.

        UserError if the folder belongs to another one, or cannot be written to.
        """
        plan = {
            "command": self.command,
            "options": dataclasses.asdict(self.options),
            "inputs": [dataclasses.asdict(file) for file in self.inputs],
        }
        plan = json.loads(json.dumps(plan))
        file = self.work / "plan.json"
        if file.is_file():
            previous = json.loads(file.read_text(encoding="utf-8"))
            if previous != plan:
                raise UserError(
                    f"{self.out} holds another run ({_difference(previous, plan)}). Give another folder with --out, or "
                    "remove this one."
                )
            return False
        try:
            if self.out.exists() and any(path != self.work for path in self.out.iterdir()):
                raise UserError(f"{self.out} has files of something else. Give another folder with --out.")
            self.work.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(plan, indent=2))
        except OSError as error:
            raise UserError(f"Cannot write to {self.out}: {error.strerror}.") from None
        return True

    def withdraw(self) -> None:
        """Remove what `begin` wrote."""
        shutil.rmtree(self.work)
        with contextlib.suppress(OSError):  # it has something else, which was not there before
            self.out.rmdir()


def _difference(previous: dict, plan: dict) -> str:
    if previous["command"] != plan["command"]:
        return f"of kosmos-prepare {previous['command']}"
    for name, value in plan["options"].items():
        if previous["options"].get(name) != value:
            return f"--{name.replace('_', '-')} was {previous['options'].get(name)}"
    return "its input files were others"


def run_stages(run: Run, stages: Sequence[Stage], workers: int) -> Report:
    """Run what is not done yet of `stages`, `workers` tasks at a time, and write the report.

    UserError if another process runs them in the same folder.
    """
    try:
        with FileLock(run.work / "lock", timeout=0):
            if not run.report_file.is_file():
                _run_all(run, stages, workers)
            shutil.rmtree(run.parts, ignore_errors=True)
    except Timeout:
        raise UserError(f"The same command runs already in {run.out}.") from None
    return Report.read(run.report_file)


def _run_all(run: Run, stages: Sequence[Stage], workers: int) -> None:
    folders = [run.work / _folder(number, stage) for number, stage in enumerate(stages)]
    with _pool(min(workers, max(stage.tasks for stage in stages))) as pool:
        for stage, folder in zip(stages, folders, strict=True):
            _run_stage(stage, folder, pool)
    write_atomically(run.report_file, Report(run.command, read_counts(folders)).as_json())


def _folder(number: int, stage: Stage) -> str:
    return f"{number + 1}-{stage.name.replace(' ', '-')}"


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Executor | None]:
    """Processes for all stages of a run, or None for this one alone."""
    if workers == 1:
        yield None
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fairseq_cli_ext.worker"])
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


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
                f"{stage.name!r} was stopped: {error}. Run the command again when that is mended: it goes on there."
            ) from error
        except BrokenProcessPool:
            raise UserError(
                f"A process was killed while it did {stage.name!r}, most often for want of memory. Run the command "
                "again, with fewer --workers: it goes on where it was."
            ) from None


class _Executor(LocalPipelineExecutor):
    """datatrove's local one, on concurrent.futures: its own pool waits for ever for a process that was killed."""

    def finish(self, ranks: Sequence[int], pool: Executor | None) -> Iterator[int]:
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
        """What datatrove says goes into the task's file alone."""
        with contextlib.redirect_stderr(io.StringIO()):
            super()._run_for_rank(rank, local_rank, node_rank)


def write_atomically(path: Path, text: str) -> None:
    """A file that is either whole or not there."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
