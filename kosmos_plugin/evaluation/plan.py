"""The options of `kosmos-evaluate` → the runs, all checked before the first one starts."""

import hashlib
from pathlib import Path
from typing import Any

from kosmos_plugin.errors import UserError, require_file
from kosmos_plugin.evaluation.benchmark import Benchmark
from kosmos_plugin.evaluation.benchmarks import BENCHMARKS, benchmark_class
from kosmos_plugin.evaluation.run import Run

ALL = "all"


def plan_runs(
    checkpoint: Path,
    names: str,
    data: Path,
    shots: str | None = None,
    split: str | None = None,
    seed: int = 1,
    limit: int | None = None,
) -> list[Run]:
    """Plan a run for each benchmark and each number of shots.

    Args:
        checkpoint: The model's file.
        names: Benchmarks, separated by commas, or "all".
        data: The folder of all releases.
        shots: Numbers of demonstrations, separated by commas; default: the paper's of each benchmark.
        split: A split of the benchmark, if there is only one; default: the paper's.
        seed: Seed of the demonstrations.
        limit: If given, only the first items of each benchmark.

    Raises:
        UserError: An option is wrong, or files are missing: one message lists those of all benchmarks.
    """
    require_file(checkpoint)
    chosen = list(BENCHMARKS) if names == ALL else names.split(",")
    if split is not None and len(chosen) > 1:
        raise UserError("--split needs a single benchmark: each has its own splits (--list).")
    benchmarks = [_benchmark(name, data, split) for name in chosen]
    runs = [(benchmark, count) for benchmark in benchmarks for count in _shots(benchmark, shots)]
    _check_files(runs)
    for benchmark in benchmarks:
        benchmark.check_tools()
    digest = file_digest(checkpoint)
    return [Run(benchmark, count, str(checkpoint), digest, seed, limit) for benchmark, count in runs]


def _benchmark(name: str, data: Path, split: str | None) -> Benchmark[Any]:
    kind = benchmark_class(name)
    return kind(data / kind.release, split)


def _shots(benchmark: Benchmark[Any], shots: str | None) -> list[int]:
    if shots is None:
        return list(benchmark.shots)
    try:
        counts = [int(count) for count in shots.split(",")]
    except ValueError:
        counts = [-1]
    if min(counts) < 0:
        raise UserError(f"--shots must be numbers from 0, such as 0,2,4,8, not {shots!r}.")
    if max(counts) > 0 and not benchmark.few_shot:
        raise UserError(f"{benchmark.name} has no demonstrations: evaluate it with --shots 0.")
    return list(dict.fromkeys(counts))


def _check_files(runs: list[tuple[Benchmark[Any], int]]) -> None:
    """Raise one UserError for the missing files of all benchmarks; it also says which benchmarks are complete."""
    incomplete: set[str] = set()
    problems: dict[str, None] = {}
    for benchmark, shots in runs:
        try:
            benchmark.check_files(few_shot=shots > 0)
        except UserError as error:
            problems[str(error)] = None
            incomplete.add(benchmark.name)
    if problems:
        complete = dict.fromkeys(benchmark.name for benchmark, _ in runs if benchmark.name not in incomplete)
        hint = f"\nAll files exist for --benchmark {','.join(complete)}" if complete else ""
        raise UserError("\n".join(problems) + hint)


def file_digest(path: Path) -> str:
    """Hash a checkpoint, to recognize a later one of the same name."""
    digest = hashlib.blake2b()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:32]
