"""Compares two models on the same benchmarks, or two ways of training with several seeds of each.

The paper compares KOSMOS-1, here the second, with itself before language-only instruction tuning (Tables 6 and 14), and
with its text-only baseline (Tables 8, 13 and 16; on WebSRC the baseline reads only the text of the page).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.files import read_json_lines
from kosmos_plugin.evaluation.metrics.difference import PairedScores, difference_interval
from kosmos_plugin.evaluation.predictions import PREDICTIONS_FILE
from kosmos_plugin.evaluation.reporting.tables import in_order
from kosmos_plugin.evaluation.results import RESULTS_FILE, Result, read_results

# The benchmark of the baseline, which sees no screenshot → that of KOSMOS-1.
BASELINE_BENCHMARKS = {"websrc_text": "websrc"}

Key = tuple[str, str, int]  # of a Result


@dataclass(frozen=True)
class Pair:
    """The results of both sides on the same items."""

    first: tuple[Result, ...]  # one for each seed, of the same benchmark, split and number of shots
    second: tuple[Result, ...]
    scores: PairedScores | None  # of the headline; None if items have no scores
    interval: tuple[float, float] | None  # 95%, of the headline's difference; None without scores

    @property
    def title(self) -> str:
        """The benchmark's title; of two different ones, both."""
        return " / ".join(dict.fromkeys((self.first[0].title, self.second[0].title)))

    @property
    def is_of_one_benchmark(self) -> bool:
        """Whether both sides answered the same benchmark, not the baseline's form of it on one side."""
        return self.first[0].benchmark == self.second[0].benchmark

    def values(self, metric: str) -> tuple[float, float]:
        """Return both sides' values of a metric, the means over their seeds."""
        one, other = (float(np.mean([result.metrics[metric] for result in side])) for side in (self.first, self.second))
        return one, other

    @property
    def metrics(self) -> list[str]:
        """The metrics that all results have, the headline first."""
        results = (*self.first, *self.second)
        return [name for name in self.first[0].metrics if all(name in result.metrics for result in results)]


@dataclass(frozen=True)
class Comparison:
    """The results that both sides have in common."""

    pairs: list[Pair]
    notes: list[str]  # what is compared, and what only one side has


def folders(text: str) -> list[Path]:
    """Parse a value of `--compare`: a folder, or several, separated by commas."""
    return [Path(text)] if Path(text).exists() else [Path(part.strip()) for part in text.split(",")]


def compare(first: Path | Sequence[Path], second: Path | Sequence[Path]) -> Comparison:
    """Compare results.

    Args:
        first: An --out of kosmos-evaluate, or several, of checkpoints that differ in the seed of their training.
        second: Another, or others.

    Raises:
        UserError: A folder has no results, they have no benchmark in common, or the items differ.
    """
    sides = [_results([side] if isinstance(side, Path) else side) for side in (first, second)]
    common = [_common(side) for side in sides]
    pairs = [_pair(sides, key, other) for key in common[0] for other in _counterparts(key, common[1])]
    if not pairs:
        names = " and ".join(", ".join(map(str, side)) for side in sides)
        raise UserError(f"{names} have no benchmark in common, with the same split and shots.")
    paired = [{pair.first[0].key for pair in pairs}, {pair.second[0].key for pair in pairs}]
    notes = []
    for name, side, keys in zip(("First", "Second"), sides, paired, strict=True):
        all_results = [result for results in side.values() for result in results.values()]
        checkpoints = ", ".join(dict.fromkeys(result.checkpoint for result in all_results))
        notes.append(f"{name}: {', '.join(map(str, side))} ({checkpoints})")
        others = {result.key: result for result in all_results if result.key not in keys}
        if others:
            left_out = (f"{result.title} ({result.split}, {result.shots} shots)" for result in others.values())
            notes.append(f"Only in the {name.lower()}: {', '.join(left_out)}")
    return Comparison(pairs, notes)


def _results(side: Sequence[Path]) -> dict[Path, dict[Key, Result]]:
    """Read the results of each folder that have metrics, by their keys."""
    found: dict[Path, dict[Key, Result]] = {}
    for folder in side:
        if folder in found:
            raise UserError(f"{folder} is given twice: the results of each seed have a folder of their own.")
        found[folder] = {result.key: result for result in read_results(folder) if result.metrics}
        if not found[folder]:
            raise UserError(f"{folder} has no {RESULTS_FILE} with metrics: give an --out of kosmos-evaluate.")
    return found


def _common(side: dict[Path, dict[Key, Result]]) -> list[Key]:
    """List the results that all folders of a side have, in the paper's order."""
    first, *others = side.values()
    return [result.key for result in in_order(first.values()) if all(result.key in other for other in others)]


def _counterparts(key: Key, others: Sequence[Key]) -> list[Key]:
    name, split, shots = key
    keys = [(other, split, shots) for other in (name, BASELINE_BENCHMARKS.get(name)) if other]
    return [key for key in keys if key in others]


def _pair(sides: Sequence[dict[Path, dict[Key, Result]]], first: Key, second: Key) -> Pair:
    results = [
        tuple(of_folder[key] for of_folder in side.values()) for side, key in zip(sides, (first, second), strict=True)
    ]
    paths = [
        [folder / of_folder[key].folder / PREDICTIONS_FILE for folder, of_folder in side.items()]
        for side, key in zip(sides, (first, second), strict=True)
    ]
    scores = _scores(*paths)
    return Pair(results[0], results[1], scores, None if scores is None else difference_interval([scores]))


def _scores(first: Sequence[Path], second: Sequence[Path]) -> PairedScores | None:
    """Read the scores of the same items in all files; None if items have no scores."""
    of_files = {path: {line["id"]: line["score"] for line in read_json_lines(path)} for path in (*first, *second)}
    (path, scores), *others = of_files.items()
    for other, found in others:
        if found.keys() != scores.keys():
            common = len(scores.keys() & found.keys())
            raise UserError(
                f"{path.parent} and {other.parent} hold different items: {len(scores):,} and {len(found):,}, of which "
                f"{common:,} are the same. Evaluate both on the same release, with the same --limit."
            )
    if any(score is None for score in itertools.chain.from_iterable(found.values() for found in of_files.values())):
        return None
    return PairedScores(
        *(np.array([[of_files[path][item] for item in scores] for path in side]) for side in (first, second))
    )
