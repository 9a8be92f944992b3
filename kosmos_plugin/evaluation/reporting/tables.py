"""Tables of results in words: in the paper's order, for a terminal or as Markdown.

Their first two columns are a benchmark's section and title, which stand in its first row alone.
"""

import textwrap
from collections.abc import Iterable, Sequence

from kosmos_plugin.evaluation.benchmarks import BENCHMARKS
from kosmos_plugin.evaluation.results import Result
from kosmos_plugin.reporting import tables
from kosmos_plugin.reporting.tables import Table

WIDTH = 100
NAMES = 2  # how many columns name the benchmark


def in_order(results: Iterable[Result]) -> list[Result]:
    """In the paper's order, then by split and number of demonstrations."""
    order = {name: number for number, name in enumerate(BENCHMARKS)}
    return sorted(results, key=lambda result: (order.get(result.benchmark, len(order)), *result.key))


def as_text(table: Table, notes: Sequence[str]) -> str:
    """For a terminal. Titles may be long: each stands in a line of its own, above its rows."""
    body = Table(table.title, table.header[NAMES:], [line[NAMES:] for line in table.lines])
    title, header, *lines = tables.as_text(body).splitlines()
    shown = [title, "", header]
    for cells, line in zip(table.lines, lines, strict=True):
        if any(cells[:NAMES]):
            shown.append("  ".join(cells[:NAMES]))
        shown.append(line)
    return "\n".join([*shown, "", *(textwrap.fill(note, WIDTH, break_on_hyphens=False) for note in notes)])


def as_markdown(table: Table, notes: Sequence[str]) -> str:
    return "\n".join([tables.as_markdown(table, level=1), "", *(f"{note}\n" for note in notes)])
