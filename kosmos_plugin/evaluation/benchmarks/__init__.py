"""The benchmarks, one file each (or each family). A new one is a file here and a line in BENCHMARKS."""

import importlib

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Benchmark

# `--benchmark` → the class, in the order of the paper. Imported where they are used: some bring heavy libraries.
BENCHMARKS = {
    "rendered_sst2": "rendered_sst2.RenderedSst2",
    "rendered_sst2_cot": "rendered_sst2.RenderedSst2ChainOfThought",
}


def benchmark_class(name: str) -> type[Benchmark]:
    """The benchmark called `name`."""
    if name not in BENCHMARKS:
        raise UserError(f"There is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}.")
    module, _, attribute = BENCHMARKS[name].partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
