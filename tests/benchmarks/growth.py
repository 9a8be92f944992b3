"""How time and memory of an update grow with row length, images, rows and vocabulary, for ours and *stock*.

The model is small, so that every size fits: two layers of width 256, and ViT-B/32. One quantity grows at a time. A
point is one update after a short warm-up: its time, and the memory it takes beyond model and optimizer. The slope is
that of a line through a curve's last three points on logarithmic axes: 1 is linear, 2 quadratic. *Stock* is left out
where it would need more than half of the free memory.
"""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import torch

from tests.benchmarks.cores import fresh_processes
from tests.benchmarks.memory import free_memory, memory, peak_memory
from tests.benchmarks.noise import write_data
from tests.benchmarks.result import Result
from tests.benchmarks.side_by_side import seconds_of
from tests.benchmarks.training import Ours, Stock, Work, warm_up

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

LENGTHS = (512, 1024, 2048, 4096, 8192)
IMAGES, IMAGES_ROW = (0, 1, 8, 16, 31), 2560  # 31 images take 2,046 tokens
ROWS = (1, 2, 4, 8)
PIECES = (8_000, 16_000, 32_000, 64_000)
SHORT = 512  # tokens per row where the length does not grow
LAYERS, HEADS = 2, 4
GEOMETRY = (
    f"--decoder-layers {LAYERS} --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024 --decoder-attention-heads {HEADS}"
)
WAYS = {"ours": (Ours, "#0072b2"), "stock": (Stock, "#d55e00")}  # colors of Okabe and Ito


def curves(folder: Path) -> dict[str, dict[int, Work]]:
    """Growing quantity → size → the work."""
    data = {pieces: write_data(folder / str(pieces), pieces) for pieces in PIECES}
    least, text = data[PIECES[0]], f"{GEOMETRY} --vision-encoder none"
    vision = f"{GEOMETRY} --vision-model ViT-B-32"
    with_images = {
        images: Work(least, "kosmos_1", vision, interleaved=(1, IMAGES_ROW), images=images) for images in IMAGES
    }
    return {
        "tokens in a row": {length: Work(least, "kosmos_1", text, text=(1, length)) for length in LENGTHS},
        f"images in a row of {IMAGES_ROW:,}": with_images,
        f"rows of {SHORT}": {rows: Work(least, "kosmos_1", text, text=(rows, SHORT)) for rows in ROWS},
        "words": {pieces: Work(data[pieces], "kosmos_1", text, text=(2, SHORT)) for pieces in PIECES},
    }


def point(way: str, work: Work) -> tuple[float, float]:
    """Seconds of an update, and the GiB it takes."""
    update = WAYS[way][0](work)
    warm_up(update, work)
    before = memory()
    seconds = seconds_of(update)
    return seconds, (peak_memory() - before) / 2**30


def fits(way: str, work: Work) -> bool:
    """Whether *stock*'s attention scores fit: per layer about eight copies of T² float32 values for each head."""
    rows, length = work.text if work.text[0] else work.interleaved
    return way == "ours" or 8 * 4 * LAYERS * HEADS * rows * length**2 < free_memory() / 2


def measure(processes: dict[str, ProcessPoolExecutor], works: dict[int, Work]) -> dict[str, dict[int, tuple]]:
    """Implementation → size → (seconds, GiB); the implementations alternate."""
    measured: dict[str, dict[int, tuple]] = {way: {} for way in WAYS}
    for size, work in works.items():
        for way, process in processes.items():
            if fits(way, work):
                measured[way][size] = process.submit(point, way, work).result()
    return measured


def slope(sizes: list[float], values: list[float]) -> float:
    """The slope of the line through the last three points on logarithmic axes."""
    x, y = (np.log(np.array(numbers[-3:], dtype=float)) for numbers in (sizes, values))
    return float(np.polyfit(x, y, 1)[0])


def plot(measured: dict[str, dict[str, dict[int, tuple]]], path: Path) -> None:
    figure, grid = plt.subplots(2, len(measured), figsize=(12, 5.6), sharex="col", layout="constrained")
    for column, (what, ways) in enumerate(measured.items()):
        for row, unit in enumerate(("seconds", "GiB")):
            axes = grid[row][column]
            for way, points in ways.items():
                sizes = [size for size in points if size]  # a logarithm has no 0
                values = [points[size][row] for size in sizes]
                label = f"{way} (slope {slope(sizes, values):.2f})"
                axes.plot(sizes, values, marker="o", color=WAYS[way][1], label=label)
            axes.set(xscale="log", yscale="log", ylabel=unit if column == 0 else None)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize="small")
        grid[1][column].set_xlabel(what)
        sizes = list(next(iter(ways.values())))
        grid[1][column].set_xticks([size for size in sizes if size], [f"{size:,}" for size in sizes if size])
        grid[1][column].minorticks_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(out: Path) -> Result:
    with tempfile.TemporaryDirectory() as folder, fresh_processes(1) as first, fresh_processes(1) as second:
        processes = dict(zip(WAYS, (first, second), strict=True))
        measured = {what: measure(processes, works) for what, works in curves(Path(folder)).items()}
    plot(measured, out / "growth.png")
    rows = []
    for what, ways in measured.items():
        for way, points in ways.items():
            sizes = list(points)
            seconds, gib = zip(*points.values(), strict=True)
            slopes = (slope(sizes, values) for values in (seconds, gib))
            spans = (f"{values[0]:.3g} to {values[-1]:.3g}" for values in (seconds, gib))
            rows.append([what, way, f"{sizes[0]:,} to {sizes[-1]:,}", *spans, *slopes])
    return Result(
        title="Growth of time and memory of an update",
        columns=["what grows", "implementation", "from, to", "seconds", "GiB", "slope of time", "slope of memory"],
        rows=rows,
        notes=[
            f"{LAYERS} layers of 256, {PIECES[0]:,} words where that does not grow; one update per point, "
            f"{'on the GPU in bf16' if torch.cuda.is_available() else 'float32'}.",
            "Slopes are those of log-log lines through the last three points.",
        ],
        plots=["growth.png"],
    )
