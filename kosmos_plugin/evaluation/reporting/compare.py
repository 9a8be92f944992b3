"""Compares two models on the same benchmarks: both values, their difference with its interval, and the paper's pair.

The paper compares KOSMOS-1, here the second, with itself before language-only instruction tuning (Tables 6 and 14), and
with its text-only baseline (Tables 8, 13 and 16; on WebSRC the baseline reads only the text of the page).
"""

from dataclasses import dataclass
from pathlib import Path

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.files import read_json_lines
from kosmos_plugin.evaluation.metrics.accuracy import bootstrap_interval
from kosmos_plugin.evaluation.predictions import PREDICTIONS_FILE
from kosmos_plugin.evaluation.reporting.tables import as_markdown, as_text, in_order
from kosmos_plugin.evaluation.results import RESULTS_FILE, Result, read_results
from kosmos_plugin.paper.results import reported
from kosmos_plugin.reporting.tables import Table

# The benchmark of the baseline, which sees no screenshot → that of KOSMOS-1.
BASELINE_BENCHMARKS = {"websrc_text": "websrc"}
HEADER = ("section", "benchmark", "split", "shots", "metric", "first", "second", "difference (95%)", "reported")
LEGEND = (
    "Difference: second minus first, with the 95% interval of a paired bootstrap over the items. Reported: the values "
    "in the paper, arXiv 2302.14045, of KOSMOS-1 without and with language-only instruction tuning, or of its "
    "text-only baseline and KOSMOS-1."
)


@dataclass(frozen=True)
class Pair:
    """Two results on the same items."""

    first: Result
    second: Result
    interval: tuple[float, float] | None  # 95%, of the headline's difference; None if items have no scores


@dataclass(frozen=True)
class Comparison:
    """The results that two models have in common."""

    pairs: list[Pair]
    notes: list[str]  # below the table

    def __str__(self) -> str:
        """Write the table for a terminal, at most 100 columns wide."""
        return as_text(self.table, self.notes)

    def as_markdown(self) -> str:
        """Write the table in Markdown."""
        return as_markdown(self.table, self.notes)

    @property
    def table(self) -> Table:
        """The table, with a row for each metric."""
        return Table("Two models compared", HEADER, [line for pair in self.pairs for line in _lines(pair)])


def compare(first: Path, second: Path) -> Comparison:
    """Compare the results in two folders.

    Args:
        first: An --out of kosmos-evaluate.
        second: Another.

    Raises:
        UserError: A folder has no results, they have no benchmark in common, or the items differ.
    """
    results = [_results(first), _results(second)]
    pairs = [
        Pair(one, other, _interval_of_difference(first / one.folder, second / other.folder))
        for one in in_order(results[0].values())
        for other in _counterparts(one, results[1])
    ]
    if not pairs:
        raise UserError(f"{first} and {second} have no benchmark in common, with the same split and shots.")
    paired = [{pair.first.key for pair in pairs}, {pair.second.key for pair in pairs}]
    notes = []
    for name, path, folder_results, keys in zip(("First", "Second"), (first, second), results, paired, strict=True):
        checkpoints = ", ".join(dict.fromkeys(result.checkpoint for result in folder_results.values()))
        notes.append(f"{name}: {path} ({checkpoints})")
        left_out = [f"{r.title} ({r.split}, {r.shots} shots)" for r in folder_results.values() if r.key not in keys]
        if left_out:
            notes.append(f"Only in the {name.lower()}: {', '.join(left_out)}")
    return Comparison(pairs, [*notes, LEGEND])


def _results(folder: Path) -> dict[tuple[str, str, int], Result]:
    """Read the results of a folder that have metrics, by their keys."""
    results = {result.key: result for result in read_results(folder) if result.metrics}
    if not results:
        raise UserError(f"{folder} has no {RESULTS_FILE} with metrics: give an --out of kosmos-evaluate.")
    return results


def _counterparts(result: Result, others: dict[tuple[str, str, int], Result]) -> list[Result]:
    names = (result.benchmark, BASELINE_BENCHMARKS.get(result.benchmark))
    keys = [(name, result.split, result.shots) for name in names]
    return [others[key] for key in keys if key in others]


def _interval_of_difference(first: Path, second: Path) -> tuple[float, float] | None:
    """Compute the 95% interval of the mean difference of the scores, in percent; None if items have no scores."""
    scores, others = (
        {line["id"]: line["score"] for line in read_json_lines(folder / PREDICTIONS_FILE)} for folder in (first, second)
    )
    if scores.keys() != others.keys():
        common = len(scores.keys() & others.keys())
        raise UserError(
            f"{first} and {second} hold different items: {len(scores):,} and {len(others):,}, of which {common:,} are "
            "the same. Evaluate both on the same release, with the same --limit."
        )
    if None in scores.values() or None in others.values():
        return None
    return bootstrap_interval([others[item] - score for item, score in scores.items()])


def _lines(pair: Pair) -> list[tuple[str, ...]]:
    """Write a row for each metric that both have, the headline first."""
    first, second = pair.first, pair.second
    names = dict.fromkeys((first.title, second.title))
    lines: list[tuple[str, ...]] = []
    for metric in (metric for metric in first.metrics if metric in second.metrics):
        value, other = first.metrics[metric], second.metrics[metric]
        with_interval = pair.interval if metric == first.headline else None
        interval = " ({:+.1f}, {:+.1f})".format(*with_interval) if with_interval else ""
        cells = (
            metric,
            f"{value:.1f}",
            f"{other:.1f}",
            f"{other - value:+.1f}{interval}",
            _reported_pair(pair, metric),
        )
        named = (f"§{first.section}", " / ".join(names), first.split, str(first.shots))
        lines.append((*(named if not lines else ("", "", "", "")), *cells))
    return lines


def _reported_pair(pair: Pair, metric: str) -> str:
    first, second = (reported(result.benchmark, result.shots, metric) for result in (pair.first, pair.second))
    before, after = first.untuned or first.llm, second.kosmos_1
    return f"{before.value:.1f} → {after.value:.1f}" if before and after else ""
