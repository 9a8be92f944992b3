"""Runs benchmarks, prints a table as each ends, and writes them all to results.md and results.json.

    python -m tests.benchmarks              all but the long ones
    python -m tests.benchmarks NAME …       those
    python -m tests.benchmarks --list       what there is

Each runs in a process of its own, so that none finds the memory or the threads of another.
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
    """Run and write; returns the names of the benchmarks that failed."""
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
            except Exception as error:  # also that its process was killed
                failed.append(name)
                traceback.print_exception(error)
                texts.append(f"## {name}\n\nfailed: {type(error).__name__}: {error}\n")
            else:
                seconds = time.monotonic() - begin
                result.notes.append(f"`{name}` took {seconds:.0f} s.")
                results[name] = {**result.json(), "seconds": round(seconds, 1)}
                texts.append(result.markdown())
        print(texts[-1], flush=True)
        # After each, so that what was measured is kept if a later one is interrupted.
        (out / "results.md").write_text("\n".join(texts), encoding="utf-8")
        everything = {"machine": about, "versions": installed, "benchmarks": results, "failed": failed}
        (out / "results.json").write_text(json.dumps(everything, indent=2, allow_nan=False), encoding="utf-8")
    return failed


def _line(facts: dict) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measures and writes tables.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (all but the long ones)")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and end")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder for tables and plots ({OUT.name}/)")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:<22} {about}" for name, about in BENCHMARKS.items()))
        print("\n".join(f"{name:<22} {about} (long: if named)" for name, about in LONG.items()))
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
