"""Tables of text cells, for a terminal and in Markdown."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table whose cells are ready to print."""

    title: str
    header: tuple[str, ...]  # names of the columns
    lines: Sequence[tuple[str, ...]]  # a line whose first cell starts with two spaces is a part of the line above
    note: str = ""  # printed below the table

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether it holds only numbers, which are right-aligned."""
        columns = zip(self.header, *self.lines, strict=True)
        return [all(re.fullmatch(r"[\d,.%]*", cell) for cell in column[1:]) for column in columns]


def as_text(table: Table) -> str:
    """The table with aligned columns."""
    columns = list(zip(table.header, *table.lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = [table.title]
    for line in (table.header, *table.lines):
        cells = zip(line, widths, table.numeric, strict=True)
        lines.append("  " + "  ".join(cell.rjust(n) if right else cell.ljust(n) for cell, n, right in cells).rstrip())
    return "\n".join([*lines, f"  {table.note}"] if table.note else lines)


def as_markdown(table: Table, level: int = 2) -> str:
    """The table in Markdown, under a heading of `level`."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.strip().replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"

    rule = "| " + " | ".join("---:" if right else "---" for right in table.numeric) + " |"
    lines = [f"{'#' * level} {table.title}", "", line(table.header), rule, *map(line, table.lines)]
    return "\n".join([*lines, "", table.note] if table.note else lines)
