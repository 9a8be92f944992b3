"""Runs benchmarks, prints each table when it is ready, and writes all of them to results.md and results.json.

    python -m tests.benchmarks              all but the long ones; on a machine with a GPU, those of ON_A_GPU
    python -m tests.benchmarks NAME …       those
    python -m tests.benchmarks --list       their names

Each runs in its own process, so that none inherits the memory or threads of another. On a machine with a GPU the files
are called results-gpu.
"""

import argparse
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

import torch

from tests.benchmarks import BENCHMARKS, LONG, ON_A_GPU, measure
from tests.benchmarks.cores import fresh_processes
from tests.benchmarks.machine import machine, versions
from tests.benchmarks.result import Result

OUT = Path(__file__).parents[2] / "benchmark_results"


def run_all(names: list[str], out: Path, seconds: Mapping[str, float] | None = None) -> list[str]:
    """Run the benchmarks and write their results.

    Args:
        names: The benchmarks.
        out: The folder for tables and plots.
        seconds: The time that each may take, after which it is stopped (default: no limit).

    Returns:
        The names of those that failed.
    """
    about, installed = machine(), versions()
    title, file = ("Benchmarks", "results") if "gpu" not in about else (f"Benchmarks on {about['gpu']}", "results-gpu")
    texts = [f"# {title}\n\n{_line(about)}\n\n{_line(installed)}\n"]
    print(texts[0])
    results, failed = {}, []
    for name in names:
        print(f"{name}: {(BENCHMARKS | LONG)[name]} …\n", flush=True)
        begin = time.monotonic()
        try:
            result = run_one(name, out, (seconds or {}).get(name, math.inf))
        except Exception as error:  # also if its process was killed
            failed.append(name)
            traceback.print_exception(error)
            texts.append(f"## {name}\n\nfailed: {type(error).__name__}: {error}\n")
        else:
            took = time.monotonic() - begin
            result.notes.append(f"`{name}` took {took:.0f} s.")
            results[name] = {**result.json(), "seconds": round(took, 1)}
            texts.append(result.markdown())
        print(texts[-1], flush=True)
        # After each one, so that its results are kept if a later one is interrupted.
        (out / f"{file}.md").write_text("\n".join(texts), encoding="utf-8")
        everything = {"machine": about, "versions": installed, "benchmarks": results, "failed": failed}
        (out / f"{file}.json").write_text(json.dumps(everything, indent=2, allow_nan=False), encoding="utf-8")
    return failed


def run_one(name: str, out: Path, seconds: float) -> Result:
    """Run a benchmark in a process of its own.

    Raises:
        TimeoutError: It took longer than `seconds`; its processes were killed.
    """
    with fresh_processes(1) as process:
        process.submit(os.setsid).result()  # a group that the processes it starts belong to
        group = process.submit(os.getpid).result()
        try:
            return process.submit(measure, name, out, seconds).result(None if math.isinf(seconds) else seconds)
        except (TimeoutError, KeyboardInterrupt) as stopped:
            os.killpg(group, signal.SIGKILL)
            if isinstance(stopped, TimeoutError):
                raise TimeoutError(f"stopped after {seconds:.0f} s") from None
            raise


def _line(facts: dict) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure, and write tables.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="benchmarks to run (default: all but the long ones, on a GPU those for it)",
    )
    parser.add_argument("--list", action="store_true", help="list the benchmarks and exit")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder for tables and plots (default: {OUT.name})")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:<22} {about}" for name, about in BENCHMARKS.items()))
        print("\n".join(f"{name:<22} {about} (long: only if named)" for name, about in LONG.items()))
        return
    unknown = [name for name in arguments.names if name not in BENCHMARKS | LONG]
    if unknown:
        parser.error(f"no benchmark is called {' or '.join(unknown)}; there are {', '.join(BENCHMARKS | LONG)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # for the processes that are started
    on_a_gpu = torch.cuda.is_available() and not arguments.names
    names = arguments.names or list(ON_A_GPU if on_a_gpu else BENCHMARKS)
    failed = run_all(names, arguments.out, ON_A_GPU if on_a_gpu else None)
    print(f"Written to {arguments.out}: tables (.md, .json) and plots.")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
