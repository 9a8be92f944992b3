"""Tables of results, in the paper's order, for a terminal or in Markdown.

The first two columns are a benchmark's section and title, which only its first row has.
"""

import textwrap
from collections.abc import Iterable, Sequence

from kosmos_plugin.evaluation.benchmarks import BENCHMARKS
from kosmos_plugin.evaluation.results import Result
from kosmos_plugin.reporting import tables
from kosmos_plugin.reporting.tables import Table

WIDTH = 100
NAMES = 2  # number of columns that name the benchmark


def in_order(results: Iterable[Result]) -> list[Result]:
    """Sort results: in the paper's order, then by split and number of demonstrations."""
    order = {name: number for number, name in enumerate(BENCHMARKS)}
    return sorted(results, key=lambda result: (order.get(result.benchmark, len(order)), *result.key))


def as_text(table: Table, notes: Sequence[str]) -> str:
    """Write a table for a terminal. Each benchmark's title, which may be long, is on a line of its own."""
    body = Table(table.title, table.header[NAMES:], [line[NAMES:] for line in table.lines])
    title, header, *lines = tables.as_text(body).splitlines()
    shown = [title, "", header]
    for cells, line in zip(table.lines, lines, strict=True):
        if any(cells[:NAMES]):
            shown.append("  ".join(filter(None, cells[:NAMES])))
        shown.append(line)
    return "\n".join([*shown, "", *(textwrap.fill(note, WIDTH, break_on_hyphens=False) for note in notes)])


def as_markdown(table: Table, notes: Sequence[str]) -> str:
    """Write a table and its notes in Markdown."""
    return "\n".join([tables.as_markdown(table, level=1), "", *(f"{note}\n" for note in notes)])
