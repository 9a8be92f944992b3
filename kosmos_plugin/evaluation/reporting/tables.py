"""Tables of results in words: in the paper's order, for a terminal or as Markdown.

Their first two columns are a benchmark's section and title, which stand in its first row alone.
"""

import textwrap
from collections.abc import Iterable, Sequence

from kosmos_plugin.evaluation.benchmarks import BENCHMARKS
from kosmos_plugin.evaluation.results import Result
from kosmos_plugin.inspection.micro_batch import Table, is_numeric, table_as_text

WIDTH = 100
NAMES = 2  # how many columns name the benchmark


def in_order(results: Iterable[Result]) -> list[Result]:
    """In the paper's order, then by split and number of demonstrations."""
    order = {name: number for number, name in enumerate(BENCHMARKS)}
    return sorted(results, key=lambda result: (order.get(result.benchmark, len(order)), *result.key))


def as_text(table: Table, notes: Sequence[str]) -> str:
    """For a terminal. Titles may be long: each stands in a line of its own, above its rows."""
    body = Table(table.title, table.header[NAMES:], [line[NAMES:] for line in table.lines])
    title, header, *lines = table_as_text(body).splitlines()
    shown = [title, "", header]
    for cells, line in zip(table.lines, lines, strict=True):
        if any(cells[:NAMES]):
            shown.append("  ".join(cells[:NAMES]))
        shown.append(line)
    return "\n".join([*shown, "", *(textwrap.fill(note, WIDTH, break_on_hyphens=False) for note in notes)])


def as_markdown(table: Table, notes: Sequence[str]) -> str:
    rule = ["---:" if numeric else "---" for numeric in numeric_columns(table)]
    lines = [f"| {' | '.join(map(str.strip, cells))} |" for cells in (table.header, rule, *table.lines)]
    return "\n".join([f"# {table.title}", "", *lines, "", *(f"{note}\n" for note in notes)])


def numeric_columns(table: Table) -> list[bool]:
    return [is_numeric(column) for column in zip(table.header, *table.lines, strict=True)]
