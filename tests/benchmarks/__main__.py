"""Runs benchmarks, prints each table when it is ready, and writes all of them to results.md and results.json.

    python -m tests.benchmarks              all but the long ones
    python -m tests.benchmarks NAME …       those
    python -m tests.benchmarks --list       their names

Each runs in its own process, so that none inherits the memory or threads of another.
"""

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path

from tests.benchmarks import BENCHMARKS, LONG, measure
from tests.benchmarks.cores import fresh_processes
from tests.benchmarks.machine import machine, versions

OUT = Path(__file__).parents[2] / "benchmark_results"


def run_all(names: list[str], out: Path) -> list[str]:
    """Run the benchmarks and write their results; returns the names of those that failed."""
    about, installed = machine(), versions()
    texts = [f"# Benchmarks\n\n{_line(about)}\n\n{_line(installed)}\n"]
    print(texts[0])
    results, failed = {}, []
    for name in names:
        print(f"{name}: {(BENCHMARKS | LONG)[name]} …\n", flush=True)
        begin = time.monotonic()
        with fresh_processes(1) as process:
            try:
                result = process.submit(measure, name, out).result()
            except Exception as error:  # also if its process was killed
                failed.append(name)
                traceback.print_exception(error)
                texts.append(f"## {name}\n\nfailed: {type(error).__name__}: {error}\n")
            else:
                seconds = time.monotonic() - begin
                result.notes.append(f"`{name}` took {seconds:.0f} s.")
                results[name] = {**result.json(), "seconds": round(seconds, 1)}
                texts.append(result.markdown())
        print(texts[-1], flush=True)
        # After each one, so that its results are kept if a later one is interrupted.
        (out / "results.md").write_text("\n".join(texts), encoding="utf-8")
        everything = {"machine": about, "versions": installed, "benchmarks": results, "failed": failed}
        (out / "results.json").write_text(json.dumps(everything, indent=2, allow_nan=False), encoding="utf-8")
    return failed


def _line(facts: dict) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure, and write tables.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (default: all but the long ones)")
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
    failed = run_all(arguments.names or list(BENCHMARKS), arguments.out)
    print(f"Written to {arguments.out}: results.md, results.json and the plots.")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
