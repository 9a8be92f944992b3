"""Benchmarks in users' files: FILE.py:CLASS or FILE.jsonl of `--benchmark` → the benchmark.

The folder of FILE.py can be imported from, as that of a script that Python runs.
"""

import hashlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from kosmos_plugin.errors import UserError, did_you_mean, require_file
from kosmos_plugin.evaluation.benchmark import Benchmark
from kosmos_plugin.evaluation.benchmarks import BENCHMARKS
from kosmos_plugin.evaluation.contract import described_error
from kosmos_plugin.evaluation.files import shown
from kosmos_plugin.evaluation.jsonl_benchmark import SUFFIX, JsonLines

PACKAGE = "kosmos_plugin"
PYTHON = ".py"
REQUIRED = ("name", "title", "splits")  # class attributes without a default


def is_file(name: str) -> bool:
    """Return whether a name of `--benchmark` is a user's file."""
    return name.lower().endswith(SUFFIX) or name.endswith(PYTHON) or f"{PYTHON}:" in name


def user_benchmark(name: str, data: Path | None, split: str | None) -> Benchmark[Any]:
    """Make the benchmark of a user's file.

    Args:
        name: FILE.jsonl or FILE.py:CLASS.
        data: The folder of all releases; default: the folder of FILE.py. FILE.jsonl needs none.
        split: One of its splits; default: the first.

    Raises:
        UserError: The file is wrong; the message says where.
    """
    if name.lower().endswith(SUFFIX):
        benchmark: Benchmark[Any] = JsonLines(Path(name), split)
    else:
        kind = _class_of_file(name)
        try:
            benchmark = kind((data or kind.defined_in[0].parent) / kind.release, split)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{name} cannot be created: {described_error(error, kind.defined_in)}") from error
    if benchmark.name in BENCHMARKS:
        raise UserError(f"{name}: there is a benchmark {benchmark.name!r} in the package: give it another name.")
    return benchmark


def _class_of_file(name: str) -> type[Benchmark[Any]]:
    file, _, class_name = name.rpartition(":") if not name.endswith(PYTHON) else (name, "", "")
    path = Path(file)
    require_file(path)
    module = _imported(path)
    kinds = [
        found.__name__
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Benchmark) and found.__module__ == module.__name__
    ]
    if not class_name or not hasattr(module, class_name):
        problem = f"has no class {class_name!r}.{did_you_mean(class_name, kinds)}" if class_name else "needs its class."
        its = f"Its benchmarks: {', '.join(f'{file}:{kind}' for kind in kinds)}" if kinds else "It defines no benchmark"
        raise UserError(f"{file} {problem} {its}.")
    kind = getattr(module, class_name)
    if not isinstance(kind, type) or not issubclass(kind, Benchmark):
        raise UserError(f"{name} is not a subclass of {Benchmark.__module__}.Benchmark.")
    _check(kind, name)
    # The file of a class that it inherits from counts, too.
    own = [base for base in kind.__mro__ if issubclass(base, Benchmark) and base.__module__.split(".")[0] != PACKAGE]
    kind.defined_in = tuple(dict.fromkeys([path.resolve(), *(Path(inspect.getfile(base)).resolve() for base in own)]))
    return kind


def _imported(path: Path) -> ModuleType:
    """Import a file, once."""
    location = path.resolve()
    module_name = f"{path.stem}_{hashlib.sha256(str(location).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, location)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    if str(location.parent) not in sys.path:
        sys.path.insert(0, str(location.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise UserError(f"{path} cannot be imported: {described_error(error, (location,))}") from error
    return module


def _check(kind: type[Benchmark[Any]], name: str) -> None:
    """Raise UserError unless a class can be used as a benchmark."""
    if inspect.isabstract(kind):
        raise UserError(f"{name} does not define {', '.join(sorted(kind.__abstractmethods__))} of Benchmark.")
    missing = [attribute for attribute in REQUIRED if not hasattr(kind, attribute)]
    if missing:
        raise UserError(f"{name} does not set {', '.join(missing)}, as every benchmark does.")
    for attribute, values in {"name": [kind.name], "splits": kind.splits}.items():  # they name folders
        if not isinstance(values, tuple | list) or not values or not all(map(_names_folder, values)):
            what = "a name" if attribute == "name" else "a tuple of names"
            raise UserError(f"{name}: {attribute!r} must be {what} without /; it is {shown(getattr(kind, attribute))}.")
    if not isinstance(kind.shots, tuple | list) or not all(
        isinstance(count, int) and count >= 0 for count in kind.shots
    ):
        raise UserError(f"{name}: 'shots' must be a tuple of numbers, such as (0,); it is {shown(kind.shots)}.")
    if kind.few_shot and kind.training_items is Benchmark.training_items:
        raise UserError(f"{name} sets few_shot, but does not define training_items of Benchmark.")


def _names_folder(name: object) -> bool:
    return isinstance(name, str) and name.isprintable() and name.strip(". ") != "" and "/" not in name
