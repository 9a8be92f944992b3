"""The options of `kosmos-evaluate` → the runs, all checked before the first one starts, and what cannot be run."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kosmos_plugin.errors import UserError, require_file
from kosmos_plugin.evaluation.benchmark import Benchmark
from kosmos_plugin.evaluation.benchmarks import BENCHMARKS, benchmark_class
from kosmos_plugin.evaluation.contract import errors_of_user_code
from kosmos_plugin.evaluation.run import Run
from kosmos_plugin.evaluation.user_benchmarks import is_file, user_benchmark

ALL = "all"


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    runs: list[Run]
    left_out: list[str]  # what is not run, and why: "coco: val2014 is not in …"


def plan_runs(
    checkpoint: Path,
    names: str,
    data: Path | None,
    shots: str | None = None,
    split: str | None = None,
    seed: int = 1,
    limit: int | None = None,
    text_only: bool = False,
) -> Plan:
    """Plan a run for each benchmark and each number of shots.

    A benchmark with images is left out for a text-only model. Of "all" benchmarks, those are left out whose files or
    programs are missing; if a benchmark was named, that is an error.

    Args:
        checkpoint: The model's file.
        names: Benchmarks and users' files, separated by commas, or "all".
        data: The folder of all releases; only users' files can do without.
        shots: Numbers of demonstrations, separated by commas; default: the paper's of each benchmark.
        split: A split of the benchmark, if there is only one; default: the paper's.
        seed: Seed of the demonstrations.
        limit: If given, only the first items of each benchmark.
        text_only: Whether the model cannot read images.

    Raises:
        UserError: An option is wrong, files of a named benchmark are missing (one message lists those of all), or
            nothing can be run.
    """
    require_file(checkpoint)
    chosen = chosen_names(names)
    if split is not None and len(chosen) > 1:
        raise UserError("--split needs a single benchmark: each has its own splits (--list).")
    counts = None if shots is None else _counts(shots)
    runs: list[tuple[Benchmark[Any], int]] = []
    problems, left_out = [], []
    benchmarks = _benchmarks(chosen, data, split)
    for name, benchmark in benchmarks.items():
        if text_only and benchmark.has_images:
            left_out.append(f"{name}: it has images, and the model reads only text.")
            continue
        possible, missing = _possible(benchmark, counts)
        runs += [(benchmark, count) for count in possible]
        problems += missing
    if problems and names != ALL:
        complete = [name for name, benchmark in benchmarks.items() if benchmark in {planned for planned, _ in runs}]
        hint = f"\nAll files exist for --benchmark {','.join(complete)}" if complete else ""
        raise UserError("\n".join(problems) + hint)
    left_out += problems
    if not runs:
        raise UserError("\n".join(["Nothing can be evaluated.", *left_out]))
    digest = file_digest(checkpoint)
    planned = [
        Run(
            benchmark,
            count,
            str(checkpoint),
            digest,
            seed,
            limit,
            benchmark_digest=" ".join(map(file_digest, benchmark.defined_in)),
        )
        for benchmark, count in runs
    ]
    return Plan(planned, left_out)


def chosen_names(names: str) -> list[str]:
    """Split the value of `--benchmark`; each name once."""
    return list(BENCHMARKS) if names == ALL else list(dict.fromkeys(name.strip() for name in names.split(",")))


def needs_data(names: str) -> bool:
    """Return whether one of the benchmarks is read from `--data`."""
    return not all(map(is_file, chosen_names(names)))


def _benchmarks(names: Sequence[str], data: Path | None, split: str | None) -> dict[str, Benchmark[Any]]:
    """Make the benchmarks, by what `--benchmark` calls them."""
    benchmarks: dict[str, Benchmark[Any]] = {}
    for name in names:
        if is_file(name):
            benchmark = user_benchmark(name, data, split)
        else:
            kind = benchmark_class(name)
            assert data is not None
            benchmark = kind(data / kind.release, split)
        same = next((other for other, made in benchmarks.items() if made.name == benchmark.name), None)
        if same is not None:
            raise UserError(f"{same} and {name} are both called {benchmark.name!r}: give one of them another name.")
        benchmarks[name] = benchmark
    return benchmarks


def _counts(shots: str) -> list[int]:
    try:
        counts = [int(count) for count in shots.split(",")]
    except ValueError:
        counts = [-1]
    if min(counts) < 0:
        raise UserError(f"--shots must be numbers from 0, such as 0,2,4,8, not {shots!r}.")
    return list(dict.fromkeys(counts))


def _possible(benchmark: Benchmark[Any], counts: Sequence[int] | None) -> tuple[list[int], list[str]]:
    """Return (the numbers of shots that can be run, what keeps the others from it)."""
    possible: list[int] = []
    problems: dict[str, None] = {}  # each once
    for count in benchmark.shots if counts is None else counts:
        try:
            if count > 0 and not benchmark.few_shot:
                raise UserError(f"{benchmark.name} has no demonstrations: evaluate it with --shots 0.")
            with errors_of_user_code(benchmark):
                benchmark.check_files(few_shot=count > 0)
            possible.append(count)
        except UserError as error:
            problems[str(error)] = None
    if possible:
        try:
            with errors_of_user_code(benchmark):
                benchmark.check_tools()
        except UserError as error:
            return [], [*problems, f"{benchmark.name}: {error}"]
    return possible, list(problems)


def file_digest(path: Path) -> str:
    """Hash a checkpoint, to recognize a later one of the same name."""
    digest = hashlib.blake2b()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:32]
