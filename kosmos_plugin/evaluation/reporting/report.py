"""Reports all results in one table beside the paper's: for a terminal, as Markdown, and as a page with a plot.

results.json ─→ rows ─→ as_text | report.md | report.html, which also has the plot (report.png) and links to the pages
"""

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.evaluation.benchmarks import BENCHMARKS, benchmark_class
from kosmos_plugin.evaluation.files import write_text
from kosmos_plugin.evaluation.metrics.captions import FEW_IMAGES, cider_note
from kosmos_plugin.evaluation.reporting import tables
from kosmos_plugin.evaluation.reporting.page import PAGE_FILE
from kosmos_plugin.evaluation.reporting.plot import plot
from kosmos_plugin.evaluation.results import Result, read_results
from kosmos_plugin.paper.results import Reported, reported
from kosmos_plugin.reporting.html import data_uri, render
from kosmos_plugin.reporting.tables import Table

TITLE = "Evaluation results"
HEADER = ("section", "benchmark", "split", "shots", "metric", "measured (95%)", "reported", "items", "notes")
NOTES_WIDTH = 23  # the rest of a terminal's 100 columns
LEGEND = (
    "Reported: the value in the paper, arXiv 2302.14045, of KOSMOS-1, or of its text-only baseline (LLM in the notes)."
)
OTHER_SPLIT = "*"  # marks a value that was reported for another split
NO_BREAK = "\xa0"

_TEMPLATE = Path(__file__).parent / "templates/report.html"


def as_text(results: Sequence[Result]) -> str:
    """Write the table for a terminal, at most 100 columns wide."""
    return tables.as_text(_table(tables.in_order(results)), _notes(results)) if results else "There are no results yet."


def write_report(out: Path) -> None:
    """Write report.md, report.png and report.html for the results in a folder into it.

    Raises:
        UserError: A file cannot be written, or matplotlib is not installed.
    """
    results = tables.in_order(read_results(out))
    table, notes = _table(results), _notes(results)
    write_text(out / "report.md", tables.as_markdown(table, notes))
    picture = plot(results)
    with atomic_path(out / "report.png") as path:
        path.write_bytes(picture)
    lines = iter(table.lines)
    page = render(
        _TEMPLATE,
        title=TITLE,
        header=HEADER[tables.NAMES :],
        numeric=table.numeric[tables.NAMES :],
        results=[
            (f"{quote(result.folder)}/{PAGE_FILE}", list(itertools.islice(lines, len(_lines(result)))))
            for result in results
        ],
        names=tables.NAMES,
        plot=data_uri(picture, "image/png"),
        notes=[*notes, "The name of a split links to its answers."],
    )
    write_text(out / "report.html", page)


def _table(results: Sequence[Result]) -> Table:
    lines, previous = [], ""
    for result in results:
        for number, line in enumerate(_lines(result)):
            named = (result.place, result.title) if not number and result.benchmark != previous else ("", "")
            lines.append((*named, *line))
        previous = result.benchmark
    return Table(TITLE, HEADER, lines)


def _lines(result: Result) -> list[tuple[str, ...]]:
    """Write a result's rows, without section and title.

    Metrics that the paper reports have a row each; the others are among the notes in the last column.
    """
    first = (result.split, str(result.shots))
    metrics, others = [], []
    for name, value in result.metrics.items():
        is_headline = name == result.headline
        if is_headline or reported(result.benchmark, 0, name) != Reported():
            interval = " ({:.1f}–{:.1f})".format(*result.interval) if is_headline and result.interval else ""
            items = f"{result.items:,}" if is_headline else ""
            metrics.append((name, f"{value:5.1f}{interval}", _reported_cell(result, name), items))
        else:
            others.append(f"{name.removeprefix(f'{result.headline}, ')} {value:.1f}".replace(" ", NO_BREAK))
    paper = reported(result.benchmark, result.shots, result.headline)
    wrapped = textwrap.wrap(", ".join(others), NOTES_WIDTH, break_on_hyphens=False)
    notes = [line.replace(NO_BREAK, " ") for line in wrapped]
    notes += [f"chance (reported) {paper.chance.value:.1f}"] if paper.chance else []
    notes += ["reported for the LLM"] if paper.llm and not paper.kosmos_1 else []
    notes += [f"{result.problems:,} did not fit"] if result.problems else []
    notes += [f"first {result.limit:,} items only"] if result.limit else []
    # Test servers measure accuracy.
    metrics = metrics or [("", "no public answers", _reported_cell(result, "accuracy"), f"{result.items:,}")]
    lines = itertools.zip_longest(metrics, notes)
    return [
        (*(first if not number else ("", "")), *(metric or ("", "", "", "")), note or "")
        for number, (metric, note) in enumerate(lines)
    ]


def _reported_cell(result: Result, metric: str) -> str:
    paper = reported(result.benchmark, result.shots, metric)
    value = paper.kosmos_1 or paper.llm
    if value is None:
        return ""
    mark = "" if result.split == _papers_split(result) else OTHER_SPLIT
    return f"{value.value:5.1f}{mark} {value.where}"


def _papers_split(result: Result) -> str:
    return benchmark_class(result.benchmark).splits[0] if result.benchmark in BENCHMARKS else result.split


def _notes(results: Sequence[Result]) -> list[str]:
    """Write the notes below the table."""
    checkpoints = ", ".join(dict.fromkeys(result.checkpoint for result in results))
    other_splits = [
        f"{result.title} on {_papers_split(result)}"
        for result in results
        if any(OTHER_SPLIT in _reported_cell(result, metric) for metric in result.metrics)
    ]
    unscored = [result for result in results if result.submission and not result.metrics]
    to_submit = [f"{result.folder}/{result.submission}" for result in unscored]
    notes = [f"Checkpoint: {checkpoints}"]
    if any(result.benchmark in BENCHMARKS for result in results):
        notes.append(LEGEND)
    if other_splits:
        notes.append(f"{OTHER_SPLIT} The paper measured another split: {', '.join(dict.fromkeys(other_splits))}.")
    partly = [result for result in results if "CIDEr" in result.metrics and (result.limit or result.items < FEW_IMAGES)]
    notes += dict.fromkeys(cider_note(result.items) for result in partly)
    if any(result.problems for result in results):
        notes.append("Items that did not fit in the model's context count as wrong.")
    if to_submit:
        notes.append(f"Files to submit to test servers: {', '.join(to_submit)}")
    return notes
