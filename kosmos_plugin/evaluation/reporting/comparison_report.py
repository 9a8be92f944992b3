"""Reports a comparison for a terminal, as Markdown, and as a page: the table in the paper's form, then all metrics."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.files import write_text
from kosmos_plugin.evaluation.reporting import tables
from kosmos_plugin.evaluation.reporting.compare import Comparison, Pair
from kosmos_plugin.evaluation.reporting.task_table import (
    Section,
    difference_text,
    sections,
    shots_name,
    shots_of,
)
from kosmos_plugin.paper.results import Reported, reported
from kosmos_plugin.reporting.html import render
from kosmos_plugin.reporting.tables import Table
from kosmos_plugin.reporting.tables import as_markdown as table_as_markdown

TITLE = "Two models compared"
ALL_METRICS = "All metrics"
COLUMNS = ("first", "second", "difference (95%)")  # of each number of demonstrations
HEADER = ("section", "benchmark", "split", "shots", "metric", "first", "second", "difference (95%)", "reported")
NAME_WIDTH = 24  # of a task, in the terminal
REPORTED = (
    "Reported: the values in the paper, arXiv 2302.14045, of KOSMOS-1 without and with language-only instruction "
    "tuning, or of its text-only baseline and KOSMOS-1."
)

_TEMPLATE = Path(__file__).parent / "templates/comparison.html"


def as_text(comparison: Comparison) -> str:
    """Write a comparison for a terminal, at most 100 columns wide."""
    details = tables.as_text(all_metrics(comparison.pairs), _notes(comparison))
    return f"{TITLE}\n\n{_task_table(sections(comparison.pairs))}\n\n{details}"


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Write comparison.html and comparison.md into a folder; return the former's path.

    Raises:
        UserError: A file cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be created: {error.strerror}.") from None
    write_text(out / "comparison.md", markdown(comparison))
    arranged = sections(comparison.pairs)
    page = render(
        _TEMPLATE,
        title=TITLE,
        shots=[(count, shots_name(count)) for count in shots_of(arranged)],
        columns=COLUMNS,
        sections=arranged,
        details=all_metrics(comparison.pairs),
        notes=_notes(comparison),
    )
    path = out / "comparison.html"
    write_text(path, page)
    return path


def markdown(comparison: Comparison) -> str:
    """Write a comparison in Markdown."""
    arranged = sections(comparison.pairs)
    shots = shots_of(arranged)
    lines = []
    for section in arranged:
        for number, row in enumerate(section.rows):
            cells = [text for count in shots for text in (row.cells[count].texts if count in row.cells else [""] * 3)]
            lines.append(("" if number else section.title, row.name, *cells))
    header = ("section", "task", *(f"{shots_name(count)}, {column}" for count in shots for column in COLUMNS))
    by_task = table_as_markdown(Table(TITLE, header, lines), level=1)
    details = table_as_markdown(all_metrics(comparison.pairs))
    return "\n".join([by_task, "", details, "", *(f"{note}\n" for note in _notes(comparison))])


def _task_table(arranged: Sequence[Section]) -> str:
    """Write the table in the paper's form; what does not fit beside each other is written below."""
    rows = [row for section in arranged for row in section.rows]
    names = min(NAME_WIDTH, max(len(row.name) for row in rows))
    widths = {}  # number of demonstrations → widths of its columns
    for count in shots_of(arranged):
        texts = [COLUMNS, *(row.cells[count].texts for row in rows if count in row.cells)]
        widths[count] = [max(map(len, column)) for column in zip(*texts, strict=True)]
    blocks: list[list[int]] = []
    used = tables.WIDTH
    for count, of_columns in widths.items():
        width = sum(of_columns) + 2 * len(of_columns)
        if used + width > tables.WIDTH:
            blocks.append([])
            used = 2 + names
        blocks[-1].append(count)
        used += width
    return "\n\n".join(_block(arranged, shots, names, widths) for shots in blocks)


def _block(arranged: Sequence[Section], shots: Sequence[int], names: int, widths: dict[int, list[int]]) -> str:
    """Write the table with some of the numbers of demonstrations."""

    def line(name: str, cells: Sequence[Sequence[str]]) -> str:
        texts = [
            text.ljust(width) if number == len(COLUMNS) - 1 else text.rjust(width)
            for count, group in zip(shots, cells, strict=True)
            for number, (text, width) in enumerate(zip(group, widths[count], strict=True))
        ]
        return "  ".join([f"  {name.ljust(names)}", *texts]).rstrip()

    groups = (shots_name(count).center(sum(widths[count]) + 2 * len(COLUMNS) - 2) for count in shots)
    lines = ["  ".join([" " * (2 + names), *groups]).rstrip(), line("", [COLUMNS] * len(shots))]
    for section in arranged:
        rows = [row for row in section.rows if row.cells.keys() & set(shots)]
        lines += [section.title] if rows else []
        for row in rows:
            cells = [row.cells[count].texts if count in row.cells else ("", "", "") for count in shots]
            first, *rest = textwrap.wrap(row.name, names)
            lines += [line(first, cells), *(f"  {part}" for part in rest)]
    return "\n".join(lines)


def all_metrics(pairs: Sequence[Pair]) -> Table:
    """Make the table with a row for each metric, and what the paper reports."""
    lines: list[tuple[str, ...]] = []
    previous = ""
    for pair in pairs:
        result = pair.first[0]
        named = (result.place, pair.title) if pair.title != previous else ("", "")
        lines += [(*named, *line) if not number else ("", "", *line) for number, line in enumerate(_lines(pair))]
        previous = pair.title
    return Table(ALL_METRICS, HEADER, lines)


def _lines(pair: Pair) -> list[tuple[str, ...]]:
    """Write a row for each metric that all results have, the headline first, without section and title."""
    lines: list[tuple[str, ...]] = []
    result = pair.first[0]
    for metric in pair.metrics:
        value, other = pair.values(metric)
        interval = pair.interval if metric == result.headline else None
        cells = (metric, f"{value:.1f}", f"{other:.1f}", difference_text(value, other, interval))
        asked = (result.split, str(result.shots)) if not lines else ("", "")
        lines.append((*asked, *cells, _reported_pair(pair, metric)))
    return lines


def _reported_pair(pair: Pair, metric: str) -> str:
    first, second = _reported(pair, metric)
    before, after = first.untuned or first.llm, second.kosmos_1
    return f"{before.value:.1f} → {after.value:.1f}" if before and after else ""


def _reported(pair: Pair, metric: str) -> tuple[Reported, Reported]:
    one, other = (reported(side[0].benchmark, side[0].shots, metric) for side in (pair.first, pair.second))
    return one, other


def _notes(comparison: Comparison) -> list[str]:
    """Write the notes below the tables."""
    pairs = comparison.pairs
    seeds = len(pairs[0].first), len(pairs[0].second)
    if seeds == (1, 1):
        how = "a paired bootstrap over the items"
    else:
        how = (
            f"a hierarchical bootstrap over the seeds ({seeds[0]} of the first, {seeds[1]} of the second), then the "
            "items, widened as by Student's t for that few seeds"
        )
    notes = [*comparison.notes, f"Difference: second minus first, with the 95% interval of {how}."]
    if max(seeds) > 1:
        notes.append("Values are means over the seeds.")
        if min(seeds) == 1:
            notes.append("The interval knows nothing of how the side with one seed would differ with another.")
    if any(row.is_average for section in sections(pairs) for row in section.rows):
        notes.append("Average: of the section's tasks with the same metric; its interval resamples the items of each.")
    if any(_reported_pair(pair, metric) for pair in pairs for metric in pair.metrics):
        notes.append(REPORTED)
    return notes
