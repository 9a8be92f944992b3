"""The paper in miniature: data, trainings, evaluations, a page. Run again, it goes on where it stopped.

    python examples/paper/run.py [--out OUT] [--claims few-shot,instructions] [--seeds 3]

OUT/paper.html shows the results, OUT/results.json has them for programs. It needs
`pip install ".[fairseq,evaluation,curation,quickstart]"`.
"""

import argparse
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
FOLDERS = [str(HERE), str(HERE.parent / "quickstart")]
sys.path[:0] = FOLDERS

import claims  # noqa: E402
import data  # noqa: E402
import measuring  # noqa: E402
import page  # noqa: E402
import trainings  # noqa: E402

# PyTorch allocates large buffers at every step; by default glibc would return and clear them each time. Data workers
# must not spin while the training needs the cores.
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONWARNINGS": "ignore",
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),  # fairseq-train
    "PYTHONPATH": os.pathsep.join([*FOLDERS, *filter(None, [os.environ.get("PYTHONPATH")])]),
}


def main() -> None:
    arguments = parse_arguments()
    chosen = [claim for claim in claims.CLAIMS if claim.name in arguments.claims]
    out, seeds = arguments.out, range(1, arguments.seeds + 1)
    os.environ.update(ENVIRONMENT)
    data.write_data(out / "data")
    asked = claims.benchmarks_of(chosen)
    for seed in seeds:
        for name in trainings.with_starts(list(asked)):
            trainings.train(out, name, seed)
            if name in asked:
                measuring.evaluate(out, name, seed, asked[name])
    seconds = [trainings.seconds(out, name, seed) for name in trainings.with_starts(list(asked)) for seed in seeds]
    results = {
        "facts": {**facts(), "Minutes of training, of a seed": round(sum(seconds) / len(seeds) / 60)},
        "claims": [measuring.results(out, claim, seeds) for claim in chosen],
    }
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    page.write_page(out / "paper.html", results, out / "data" / "benchmarks")
    for result in results["claims"]:
        print(f"{result['name']:<18} {page.verdict(result)}")
        for each in result["comparisons"]:
            print(f"    {page.comparison_text(each)}")
    print(f"\nThe page: {out / 'paper.html'}")


def parse_arguments() -> argparse.Namespace:
    names = [claim.name for claim in claims.CLAIMS]
    others = ", ".join(claim.name for claim in claims.CLAIMS if not claim.by_default)
    parser = argparse.ArgumentParser(description="Test the claims of the paper by small trainings.")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for all of it (default: %(default)s)")
    parser.add_argument("--claims", help=f"some of {', '.join(names)} (default: all but {others})")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each kind (default: 1)")
    arguments = parser.parse_args()
    if arguments.claims is None:
        arguments.claims = [claim.name for claim in claims.CLAIMS if claim.by_default]
    else:
        arguments.claims = arguments.claims.split(",")
        if unknown := [name for name in arguments.claims if name not in names]:
            parser.error(f"there is no claim {unknown[0]!r}: choose of {', '.join(names)}")
    if arguments.seeds < 1:
        parser.error("--seeds must be 1 or more")
    return arguments


def facts() -> dict[str, str]:
    """The machine and the versions."""
    names = ("torch", "torchscale", "ve-fairseq", "kosmos-plugin")
    python = ".".join(map(str, sys.version_info[:3]))
    return {
        "Processor": f"{_processor()}, {os.cpu_count()} cores",
        "Versions": ", ".join([f"Python {python}", *(f"{name} {version(name)}" for name in names)]),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
