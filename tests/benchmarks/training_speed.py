"""A training step: captions and text against *stock*, the three streams against transformers.

The model is `kosmos_base` with ViT-B/32 (with half its layers against transformers on a CPU), a vocabulary of 64,007
and the paper's dropout. An update has one row of each stream, more on a GPU. The two sides alternate, each in its own
process. Memory is the peak of a side's process during its updates, libraries included. `arithmetic` has the theoretical
limits.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.benchmarks import arithmetic, time_limit
from tests.benchmarks.arithmetic import Cost, Rates, Way, update_cost
from tests.benchmarks.cores import Worker
from tests.benchmarks.memory import peak_memory
from tests.benchmarks.noise import write_data
from tests.benchmarks.result import Cell, Result
from tests.benchmarks.side_by_side import COLUMNS, side_by_side
from tests.benchmarks.training import (
    Kosmos2,
    Ours,
    Stock,
    Work,
    our_model,
    our_options,
    preset_options,
    samples_by_stream,
    warm_up,
)

TURNS = 3


@dataclass(frozen=True)
class Measure:
    """Ours against a baseline on the same work."""

    name: str
    unit: str  # of work, for the speed: targets or tokens
    work: Work
    peer: Callable
    way: Way  # of the baseline, for its cost
    at_least: float | None
    memory_at_least: float | None = None


def measures(data: Path) -> list[Measure]:
    """The measures; on a CPU small ones: a row of text, half a row of captions, and half a row of each with pages."""
    gpu = torch.cuda.is_available()
    vision, geometry = "--vision-model ViT-B-32", preset_options("kosmos_base")
    captions = Work(data, "kosmos_base", vision, captions=(4, 2048) if gpu else (1, 1024))
    text = Work(data, "kosmos_base", "--vision-encoder none", text=(4 if gpu else 1, 2048))
    # The paper's ratio of the streams' tokens, 5 : 5 : 2.
    text_and_captions, interleaved = ((5, 2048), (2, 2048)) if gpu else ((1, 1024), (1, 410))
    streams = {"text": text_and_captions, "captions": text_and_captions, "interleaved": interleaved}
    half = "" if gpu else " --decoder-layers 6"
    mixed = Work(data, "kosmos_2", f"{geometry} {vision}{half}", **streams)
    transformers = arithmetic.TRANSFORMERS_ON_GPU if gpu else arithmetic.TRANSFORMERS
    fast, faster = (2.0, 2.5) if gpu else (1.5, 1.5)
    return [
        Measure("captions, against stock", "targets", captions, Stock, arithmetic.STOCK, faster),
        Measure("text, against stock", "tokens", text, Stock, arithmetic.STOCK, faster, memory_at_least=2.0),
        Measure("three streams 5 : 5 : 2, against transformers", "targets", mixed, Kosmos2, transformers, fast),
    ]


def peak(side) -> int:
    return peak_memory()


def counts(cost: Cost) -> str:
    return (
        f"{cost.flops / 1e12:.2f} TFLOP, {cost.bytes / 1e9:.1f} GB in place, {cost.new_bytes / 1e9:.1f} GB into new "
        f"memory, {cost.random / 1e6:,.0f} million random numbers"
    )


def row_of(measure: Measure, rates: Rates) -> tuple[list[list[Cell]], str]:
    """Rows of the table for a measure, and a note on what was computed."""
    work = measure.work
    with ExitStack() as stack:
        ours = stack.enter_context(Worker(Ours, work))
        peer = stack.enter_context(Worker(measure.peer, work))
        for side in (ours, peer):
            side.ask(warm_up, work)
        timed = side_by_side(ours, peer, TURNS, warm_up=0)
        memory = [side.ask(peak) / 2**30 for side in (ours, peer)]
    with torch.device("meta"):
        task, model = our_model(work)
    batches, pad = samples_by_stream(work, task), task.vocabulary.pad
    least, theirs = (update_cost(model, batches, pad, way) for way in (arithmetic.LEAST, measure.way))
    tokens = sum(len(sample) for samples in batches for sample in samples)
    targets = sum(int((sample.targets != pad).sum()) for samples in batches for sample in samples)
    limit = rates.seconds(theirs) / rates.seconds(least)
    counted = {"targets": targets, "tokens": tokens}[measure.unit]
    rows = [timed.row(measure.name, counted, f"{measure.unit}/s", measure.at_least, limit)]
    if measure.memory_at_least:
        shown = [f"{gib:.1f} GiB" for gib in memory]
        rows.append([f"{measure.name}: peak memory", *shown, memory[1] / memory[0], measure.memory_at_least, ""])
    images = sum(len(sample.images) for samples in batches for sample in samples)
    note = (
        f"{measure.name}: {tokens:,} tokens, {targets:,} targets, {images} images; ours needs {counts(least)}, "
        f"the baseline {counts(theirs)}; by FLOPs only {theirs.flops / least.flops:.2f}; peak memory {memory[0]:.1f} "
        f"and {memory[1]:.1f} GiB."
    )
    if images and measure.way.vision_graph:
        without = update_cost(model, batches, pad, measure.way._replace(vision_graph=False))
        note += (
            f" The backward pass through CLIP's frozen layers is {1 - without.flops / theirs.flops:.0%} of the "
            f"baseline's FLOPs; without it the limit would be {rates.seconds(without) / rates.seconds(least):.2f}."
        )
    return rows, note


def run(out: Path) -> Result:
    return measured(measures)


def measured(measures: Callable[[Path], list[Measure]]) -> Result:
    """The table of `measures(data)`, where `data` is the path of `noise`'s data YAML."""
    rates = arithmetic.measured_rates()
    rows: list[list[Cell]] = []
    notes: list[str] = []
    longest = 0.0  # seconds of a measure, most of which compile
    with tempfile.TemporaryDirectory() as folder:
        for measure in measures(write_data(Path(folder) / "data")):
            if time_limit.left() < longest:
                notes.append(f"{measure.name}: not measured, since no time was left.")
                continue
            begin = time.monotonic()
            more, note = row_of(measure, rates)
            longest = max(longest, time.monotonic() - begin)
            rows += more
            notes.append(note)
    return Result(
        title="Training step against the baselines",
        columns=COLUMNS,
        rows=rows,
        notes=[
            f"Ratios: median of {TURNS} turns (lowest to highest). Theoretical limits use the rates of this machine: "
            f"{rates.flops / 1e9:,.0f} GFLOP/s, {rates.bytes / 1e9:.1f} GB/s in place and {rates.new_bytes / 1e9:.1f} "
            f"into new memory, {rates.random / 1e6:,.0f} million random numbers per second.",
            f"Ours trains with `{our_options()}` (bfloat16 where this machine multiplies faster in it).",
            *notes,
        ],
    )
