"""The result of a benchmark: a table, notes and plots, written as Markdown and JSON."""

import dataclasses
import math
import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Spread:
    """A measurement repeated over seeds or runs, shown as the median with the smallest and the largest value."""

    values: tuple[float, ...]

    def __str__(self) -> str:
        median, low, high = (
            shown(value) for value in (statistics.median(self.values), min(self.values), max(self.values))
        )
        return f"{median} ({low} to {high})"


Cell = str | int | float | Spread


@dataclass
class Result:
    """A table with its title, notes that help to judge it, and the file names of its plots."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)
    more: list["Result"] = field(default_factory=list)  # further tables of the same measurement

    def markdown(self) -> str:
        table = [self.columns, ["---"] * len(self.columns), *([shown(cell) for cell in row] for row in self.rows)]
        lines = [f"## {self.title}", "", *(f"| {' | '.join(row)} |" for row in table), ""]
        lines += [f"- {note}" for note in self.notes]
        lines += ["", *(f"![{self.title}]({plot})" for plot in self.plots)] if self.plots else []
        return "\n".join(["\n".join(lines).rstrip() + "\n", *(result.markdown() for result in self.more)])

    def json(self) -> dict:
        """Plain values, a Spread as a list. Infinity and NaN, which JSON lacks, are written as text."""
        rows = [[_plain(cell) for cell in row] for row in self.rows]
        return {**dataclasses.asdict(self), "rows": rows, "more": [result.json() for result in self.more]}


def shown(cell: Cell) -> str:
    """A cell as text: numbers with three significant digits, large ones whole with commas."""
    if not isinstance(cell, float):
        return f"{cell:,}" if isinstance(cell, int) else str(cell)
    if not math.isfinite(cell):
        return str(cell)
    if abs(cell) >= 1e6:
        return f"{cell:.2e}"
    if abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:#.3g}" if cell else "0"


def _plain(cell: Cell):
    if isinstance(cell, Spread):
        return [_plain(value) for value in cell.values]
    return str(cell) if isinstance(cell, float) and not math.isfinite(cell) else cell
