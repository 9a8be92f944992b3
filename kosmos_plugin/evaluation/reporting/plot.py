"""Plots measured values, with their intervals, and the paper's.

A benchmark measured with one number of demonstrations is a row of dots; one with several has a panel with lines.
"""

import io
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kosmos_plugin.errors import missing_package
from kosmos_plugin.evaluation.results import Result
from kosmos_plugin.paper.results import reported

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which color-blind readers can tell apart.
MEASURED, REPORTED, CHANCE, GRID = "#0072b2", "#d55e00", "#6b7280", "#e5e7eb"
REPORTED_MARK: dict[str, Any] = {
    "marker": "D",
    "color": REPORTED,
    "markerfacecolor": "none",
    "markersize": 6,
    "markeredgewidth": 1.5,
}
MEASURED_MARK: dict[str, Any] = {"marker": "o", "color": MEASURED, "markersize": 6}
CHANCE_MARK: dict[str, Any] = {"marker": "|", "color": CHANCE, "markersize": 12, "markeredgewidth": 2, "linestyle": ""}
CAP = 3
PANELS_PER_ROW = 4
WIDTH, ROW_HEIGHT, PANEL_HEIGHT, AXIS_HEIGHT, LEGEND_HEIGHT = 10.0, 0.36, 2.3, 0.6, 0.4  # inches


def check_tools() -> None:
    """Raise UserError if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_package("The plot", error, "evaluation") from None


def plot(results: Sequence[Result]) -> bytes:
    """Plot the headline metrics.

    Args:
        results: The results, in the order of the plot.

    Returns:
        A PNG.

    Raises:
        UserError: matplotlib is not installed.
    """
    buffer = io.BytesIO()
    draw(results).savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def draw(results: Sequence[Result]) -> "Figure":
    """Draw what `plot` saves."""
    check_tools()
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    measured = [result for result in results if result.metrics]
    groups = [list(group) for _, group in itertools.groupby(measured, key=lambda r: (r.benchmark, r.split))]
    dots = [result for group in groups if len(group) == 1 for result in group]
    lines = [group for group in groups if len(group) > 1]
    rows_of_panels = -(-len(lines) // PANELS_PER_ROW)
    heights = [ROW_HEIGHT * len(dots) + AXIS_HEIGHT if dots else 0, PANEL_HEIGHT * rows_of_panels]
    figure = Figure(figsize=(WIDTH, LEGEND_HEIGHT + sum(heights)), layout="constrained")
    marks = (
        (MEASURED_MARK, "measured, with 95% interval"),
        (REPORTED_MARK, "KOSMOS-1, as reported"),
        (CHANCE_MARK, "chance, as reported"),
    )
    handles = [Line2D([], [], label=label, **{**mark, "linestyle": ""}) for mark, label in marks]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[max(height, 0.01) for height in heights]).flat
    if dots:
        _plot_dots(upper.subplots(), dots)
    if lines:
        panels = lower.subplots(rows_of_panels, PANELS_PER_ROW, squeeze=False).flat
        for axes, group in itertools.zip_longest(panels, lines):
            _plot_lines(axes, group) if group else axes.set_visible(False)
    return figure


def _plot_dots(axes: "Axes", results: Sequence[Result]) -> None:
    """Draw a row for each result, from top to bottom."""
    for row, result in enumerate(results):
        paper = reported(result.benchmark, result.shots, result.headline)
        whiskers = [[length] for length in _whiskers(result)]
        axes.errorbar(result.metrics[result.headline], row, xerr=whiskers, capsize=CAP, **MEASURED_MARK)
        if paper.kosmos_1:
            axes.plot(paper.kosmos_1.value, row, **REPORTED_MARK)
        if paper.chance:
            axes.plot(paper.chance.value, row, **CHANCE_MARK)
    axes.set_yticks(range(len(results)), map(_name, results))
    axes.set_ylim(len(results) - 0.5, -0.5)
    highest = max(sum((result.metrics[result.headline], _whiskers(result)[1])) for result in results)
    axes.set_xlim(0, 1.01 * max(100, highest))
    axes.set_xlabel("%  (CIDEr × 100)")
    axes.grid(axis="both", color=GRID)
    _finish(axes)


def _plot_lines(axes: "Axes", results: Sequence[Result]) -> None:
    """Draw one benchmark over the number of demonstrations."""
    headline, benchmark = results[0].headline, results[0].benchmark
    shots = [result.shots for result in results]
    whiskers = list(zip(*map(_whiskers, results), strict=True))
    values = [result.metrics[headline] for result in results]
    axes.errorbar(shots, values, yerr=whiskers, capsize=CAP, **MEASURED_MARK)
    paper = [(count, reported(benchmark, count, headline).kosmos_1) for count in shots]
    known = [(count, value.value) for count, value in paper if value]
    if known:
        axes.plot(*zip(*known, strict=True), linestyle="--", **REPORTED_MARK)
    axes.set_title(_name(results[0]), fontsize=9)
    axes.set_xticks(shots)
    axes.set_xlabel("demonstrations")
    axes.grid(axis="y", color=GRID)
    _finish(axes)


def _whiskers(result: Result) -> tuple[float, float]:
    """Return the distances from the value down and up to the ends of its interval."""
    value = result.metrics[result.headline]
    low, high = result.interval or (value, value)
    return max(value - low, 0), max(high - value, 0)


def _name(result: Result) -> str:
    return f"{result.title} ({result.split}) · {result.headline}"


def _finish(axes: "Axes") -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
