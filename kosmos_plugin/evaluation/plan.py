"""The options of an evaluation → its runs, all checked before the first one begins."""

import hashlib
from pathlib import Path

from kosmos_plugin.checkpoints.files import require_file
from kosmos_plugin.errors import UserError
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
    """A run for each benchmark of `names` (comma-separated, or all) and each number of `shots`.

    UserError for what is not there: one that names all missing files, whatever benchmark they belong to.
    """
    require_file(checkpoint)
    chosen = list(BENCHMARKS) if names == ALL else names.split(",")
    if split is not None and len(chosen) > 1:
        raise UserError("--split goes with one benchmark: splits have names of their own.")
    benchmarks = [_benchmark(name, data, split) for name in chosen]
    runs = [(benchmark, count) for benchmark in benchmarks for count in _shots(benchmark, shots)]
    problems: dict[str, list[str]] = {}
    for benchmark, count in runs:
        try:
            benchmark.check_files(few_shot=count > 0)
        except UserError as error:
            problems.setdefault(str(error), []).append(benchmark.name)
    if problems:
        lacking = {name for of_problem in problems.values() for name in of_problem}
        whole = [name for name in chosen if name not in lacking]
        hint = f"\nAll files are there for --benchmark {','.join(whole)}" if whole else ""
        raise UserError("\n".join(problems) + hint)
    for benchmark in benchmarks:
        benchmark.check_tools()
    digest = file_digest(checkpoint)
    return [Run(benchmark, count, str(checkpoint), digest, seed, limit) for benchmark, count in runs]


def _benchmark(name: str, data: Path, split: str | None) -> Benchmark:
    kind = benchmark_class(name)
    return kind(data / kind.release, split)


def _shots(benchmark: Benchmark, shots: str | None) -> list[int]:
    if shots is None:
        return list(benchmark.shots)
    try:
        counts = [int(count) for count in shots.split(",")]
    except ValueError:
        counts = [-1]
    if min(counts) < 0:
        raise UserError(f"--shots must be numbers from 0, such as 0,2,4,8, not {shots!r}.")
    if max(counts) > 0 and not benchmark.few_shot:
        raise UserError(f"{benchmark.name} has no demonstrations: it is evaluated with --shots 0.")
    return list(dict.fromkeys(counts))


def file_digest(path: Path) -> str:
    """Tells a checkpoint from a later one of the same name."""
    digest = hashlib.blake2b()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:32]
