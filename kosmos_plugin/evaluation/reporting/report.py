"""All results in one table, with the paper's figures beside: for a terminal, as Markdown, and as a page with a plot.

results.json ─→ rows ─→ as_text | report.md | report.html, which also has the plot (report.png) and links to the pages
"""

import base64
import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from kosmos_plugin.evaluation.benchmarks import BENCHMARKS, benchmark_class
from kosmos_plugin.evaluation.files import write_text
from kosmos_plugin.evaluation.reporting import tables
from kosmos_plugin.evaluation.reporting.page import PAGE_FILE, render
from kosmos_plugin.evaluation.reporting.plot import plot
from kosmos_plugin.evaluation.results import Result, read_results
from kosmos_plugin.paper.results import Figures, reported
from kosmos_plugin.reporting.tables import Table

TITLE = "Results on the benchmarks of KOSMOS-1"
HEADER = ("section", "benchmark", "split", "shots", "metric", "measured (95%)", "reported", "items", "also")
ALSO_WIDTH = 23  # what is left of a terminal's 100 columns
LEGEND = "Reported: of KOSMOS-1 (of its text-only baseline where it says LLM), by the paper, arXiv 2302.14045."
ELSEWHERE = "*"
TOGETHER = "\xa0"  # no place for a new line


def as_text(results: Sequence[Result]) -> str:
    """The table for a terminal, 100 columns wide: a line for each benchmark's title, below it what was measured."""
    return tables.as_text(_table(tables.in_order(results)), _notes(results)) if results else "There are no results yet."


def write_report(out: Path) -> None:
    """Write report.md, report.png and report.html, of the results in the folder `out`, into it."""
    results = tables.in_order(read_results(out))
    table, notes = _table(results), _notes(results)
    write_text(out / "report.md", tables.as_markdown(table, notes))
    picture = plot(results)
    (out / "report.png").write_bytes(picture)
    lines = iter(table.lines)
    page = render(
        "report.html",
        title=TITLE,
        header=HEADER[tables.NAMES :],
        numeric=table.numeric[tables.NAMES :],
        results=[
            (f"{quote(result.folder)}/{PAGE_FILE}", list(itertools.islice(lines, len(_lines(result)))))
            for result in results
        ],
        names=tables.NAMES,
        plot=base64.b64encode(picture).decode(),
        notes=[*notes, "A split's name leads to its answers."],
    )
    write_text(out / "report.html", page)


def _table(results: Sequence[Result]) -> Table:
    lines, previous = [], ""
    for result in results:
        for number, line in enumerate(_lines(result)):
            named = (f"§{result.section}", result.title) if not number and result.benchmark != previous else ("", "")
            lines.append((*named, *line))
        previous = result.benchmark
    return Table(TITLE, HEADER, lines)


def _lines(result: Result) -> list[tuple[str, ...]]:
    """A result's cells, without section and title: a line for each metric that the paper reports, and the others in
    the last column."""
    first = (result.split, str(result.shots))
    metrics, also = [], []
    for name, value in result.metrics.items():
        is_headline = name == result.headline
        if is_headline or reported(result.benchmark, 0, name) != Figures():
            interval = " ({:.1f}–{:.1f})".format(*result.interval) if is_headline and result.interval else ""
            items = f"{result.items:,}" if is_headline else ""
            metrics.append((name, f"{value:5.1f}{interval}", _reported_cell(result, name), items))
        else:
            also.append(f"{name.removeprefix(f'{result.headline}, ')} {value:.1f}".replace(" ", TOGETHER))
    figures = reported(result.benchmark, result.shots, result.headline)
    wrapped = textwrap.wrap(", ".join(also), ALSO_WIDTH, break_on_hyphens=False)
    notes = [line.replace(TOGETHER, " ") for line in wrapped]
    notes += [f"reported by chance {figures.chance.value:.1f}"] if figures.chance else []
    notes += ["reported of the LLM"] if figures.llm and not figures.kosmos_1 else []
    notes += [f"{result.problems:,} did not fit"] if result.problems else []
    notes += [f"the first {result.limit:,} items at most"] if result.limit else []
    # Test servers measure accuracy.
    metrics = metrics or [("", "no public answers", _reported_cell(result, "accuracy"), f"{result.items:,}")]
    lines = itertools.zip_longest(metrics, notes)
    return [
        (*(first if not number else ("", "")), *(metric or ("", "", "", "")), note or "")
        for number, (metric, note) in enumerate(lines)
    ]


def _reported_cell(result: Result, metric: str) -> str:
    figures = reported(result.benchmark, result.shots, metric)
    figure = figures.kosmos_1 or figures.llm
    if figure is None:
        return ""
    return f"{figure.value:5.1f}{_elsewhere(result)} {figure.where}"


def _elsewhere(result: Result) -> str:
    """The mark of a figure that was reported of another split."""
    return "" if result.split == _papers_split(result) else ELSEWHERE


def _papers_split(result: Result) -> str:
    return benchmark_class(result.benchmark).splits[0] if result.benchmark in BENCHMARKS else result.split


def _notes(results: Sequence[Result]) -> list[str]:
    """What stands below the table."""
    checkpoints = ", ".join(dict.fromkeys(result.checkpoint for result in results))
    elsewhere = [
        f"{result.title} on {_papers_split(result)}"
        for result in results
        if _elsewhere(result) and any(_reported_cell(result, metric) for metric in result.metrics)
    ]
    to_submit = [f"{result.folder}/{result.submission}" for result in results if not result.metrics]
    notes = [f"Checkpoint: {checkpoints}", LEGEND]
    if elsewhere:
        notes.append(f"{ELSEWHERE} The paper measured another split: {', '.join(dict.fromkeys(elsewhere))}.")
    if any(result.problems for result in results):
        notes.append("Items that did not fit in the model are counted as wrong.")
    if to_submit:
        notes.append(f"To be submitted to test servers: {', '.join(to_submit)}")
    return notes
