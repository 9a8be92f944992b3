"""A comparison in the form of the paper's Tables 13 and 16: a row for each task, and each section's average.

pairs ─→ sections of rows ─→ Cell for each number of demonstrations: both values and their difference
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kosmos_plugin.evaluation.metrics.difference import difference_interval
from kosmos_plugin.evaluation.reporting.compare import Pair

NOT_IN_THE_PAPER = "Other benchmarks"


@dataclass(frozen=True)
class Cell:
    """A task with one number of demonstrations, or the average of several."""

    first: float  # in percent, as the difference
    second: float
    interval: tuple[float, float] | None  # 95%, of the difference

    @property
    def texts(self) -> tuple[str, str, str]:
        """Both values and the difference, as they are shown."""
        return f"{self.first:.1f}", f"{self.second:.1f}", difference_text(self.first, self.second, self.interval)


@dataclass(frozen=True)
class Row:
    """A task, or an average of tasks."""

    name: str
    cells: dict[int, Cell]  # by the number of demonstrations
    is_average: bool = False


@dataclass(frozen=True)
class Section:
    """The tasks of a section of the paper."""

    title: str
    rows: list[Row]


def difference_text(first: float, second: float, interval: tuple[float, float] | None) -> str:
    """Write a difference, with its interval if it has one: "+1.2 (+0.4, +2.0)"."""
    return f"{second - first:+.1f}" + (" ({:+.1f}, {:+.1f})".format(*interval) if interval else "")


def shots_name(shots: int) -> str:
    """Name a number of demonstrations, as in the paper."""
    return {0: "zero-shot", 1: "one-shot"}.get(shots, f"few-shot ({shots})")


def shots_of(sections: Sequence[Section]) -> list[int]:
    """List the numbers of demonstrations, in order."""
    return sorted({shots for section in sections for row in section.rows for shots in row.cells})


def sections(pairs: Sequence[Pair]) -> list[Section]:
    """Arrange pairs, which are in the paper's order, by section and task."""
    by_place: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_place.setdefault(pair.first[0].place, []).append(pair)
    return [_section(place, group) for place, group in by_place.items()]


def _section(place: str, pairs: Sequence[Pair]) -> Section:
    tasks: dict[str, list[Pair]] = {}  # of one benchmark, split and metric → its numbers of demonstrations
    splits: dict[str, set[str]] = {}
    for pair in pairs:
        splits.setdefault(pair.title, set()).add(pair.first[0].split)
    for pair in pairs:
        split = f" ({pair.first[0].split})" if len(splits[pair.title]) > 1 else ""
        metric = "" if pair.metrics[0] == "accuracy" else f", {pair.metrics[0]}"
        tasks.setdefault(f"{pair.title}{split}{metric}", []).append(pair)
    rows = [Row(name, {pair.first[0].shots: _cell([pair]) for pair in task}) for name, task in tasks.items()]
    return Section(place or NOT_IN_THE_PAPER, [*rows, *(_averages(list(tasks.values())) if place else [])])


def _averages(tasks: Sequence[Sequence[Pair]]) -> list[Row]:
    """Average the tasks with the same metric, for each number of demonstrations that all of them have."""
    by_metric: dict[str, list[dict[int, Pair]]] = {}
    for task in tasks:
        if task[0].is_of_one_benchmark:
            by_metric.setdefault(task[0].metrics[0], []).append({pair.first[0].shots: pair for pair in task})
    rows = []
    for metric, averaged in by_metric.items():
        shots = sorted(set.intersection(*(set(task) for task in averaged)))
        if len(averaged) > 1 and shots:
            name = "Average" if len(averaged) == len(tasks) else f"Average, {metric}"
            rows.append(Row(name, {count: _cell([task[count] for task in averaged]) for count in shots}, True))
    return rows


def _cell(pairs: Sequence[Pair]) -> Cell:
    first, second = np.mean([pair.values(pair.metrics[0]) for pair in pairs], axis=0)
    if len(pairs) == 1:
        return Cell(float(first), float(second), pairs[0].interval)
    scores = [pair.scores for pair in pairs if pair.scores is not None]
    return Cell(float(first), float(second), difference_interval(scores) if len(scores) == len(pairs) else None)
