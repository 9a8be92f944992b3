"""A training step beside the peers': captions and text beside *stock*, the three streams beside transformers.

`kosmos_base` with ViT-B/32, 64,007 words, dropout as in the paper; an update on a row of each stream, on more of them
on a GPU. The sides take turns, each a process of its own. Memory is the highest of a side's process during its updates,
with the libraries in it. What bounds a ratio is counted in `arithmetic`.
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.benchmarks import arithmetic
from tests.benchmarks.arithmetic import Rates, Way, update_cost
from tests.benchmarks.cores import Worker
from tests.benchmarks.memory import peak_memory
from tests.benchmarks.noise import write_data
from tests.benchmarks.result import Cell, Result
from tests.benchmarks.side_by_side import COLUMNS, side_by_side
from tests.benchmarks.training import Kosmos2, Ours, Stock, Work, our_model, samples_by_stream, warm_up

TURNS = 3


@dataclass(frozen=True)
class Measure:
    """Ours beside a peer on the same work."""

    name: str
    unit: str  # whose number a second is the speed: targets or tokens
    work: Work
    peer: Callable
    options: tuple[str, ...]  # more of the peer's
    way: Way  # the peer's
    at_least: float | None
    memory_at_least: float | None = None


def measures(data: Path) -> list[Measure]:
    gpu = torch.cuda.is_available()
    rows = 4 if gpu else 1
    options = "--vision-model ViT-B-32"
    captions = Work(data, "kosmos_base", options, captions=(rows, 2048))
    text = Work(data, "kosmos_base", "--vision-encoder none", text=(rows, 2048))
    # The paper's ratio of the streams' tokens, 5 : 5 : 2.
    geometry = "--decoder-layers 12 --decoder-embed-dim 768 --decoder-ffn-embed-dim 3072 --decoder-attention-heads 12"
    streams = {name: (5, 2048) for name in ("text", "captions")} | {"interleaved": (2, 2048)}
    if not gpu:
        streams = {name: (1, 1024) for name in ("text", "captions")} | {"interleaved": (1, 410)}
    mixed = Work(data, "kosmos_2", f"{geometry} {options}", **streams)
    stock, frozen = arithmetic.STOCK, arithmetic.STOCK_FROZEN_CLIP
    theirs = arithmetic.TRANSFORMERS_ON_GPU if gpu else arithmetic.TRANSFORMERS
    return [
        Measure("captions, stock", "targets", captions, Stock, (), stock, 2.5 if gpu else 1.5),
        Measure(
            "captions, stock with CLIP's frozen layers off the graph",
            "targets",
            captions,
            Stock,
            ("--freeze-clip",),
            frozen,
            None,
        ),
        Measure("text rows of 2,048, stock", "tokens", text, Stock, (), stock, 2.5 if gpu else 1.5, 2.0),
        Measure(
            "text, captions and interleaved 5 : 5 : 2, transformers",
            "targets",
            mixed,
            Kosmos2,
            (),
            theirs,
            2.0 if gpu else 1.5,
        ),
    ]


def peak(side) -> int:
    return peak_memory()


def row_of(measure: Measure, rates: Rates) -> tuple[list[list[Cell]], str]:
    """The measure's rows of the table, and what was counted."""
    work = measure.work
    with ExitStack() as stack:
        ours = stack.enter_context(Worker(Ours, work))
        peer = stack.enter_context(Worker(measure.peer, work, *measure.options))
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
        f"{measure.name}: {tokens:,} tokens, {targets:,} targets, {images} images; at least {least.flops / 1e12:.2f} "
        f"TFLOP and {least.bytes / 1e9:.1f} GB, the peer's way {theirs.flops / 1e12:.2f} and {theirs.bytes / 1e9:.1f}; "
        f"by FLOPs alone {theirs.flops / least.flops:.2f}; peak memory {memory[0]:.1f} and {memory[1]:.1f} GiB."
    )
    return rows, note


def run(out: Path) -> Result:
    rates = arithmetic.measured_rates()
    rows, notes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for measure in measures(write_data(Path(folder) / "data")):
            measured, note = row_of(measure, rates)
            rows += measured
            notes.append(note)
            print(measured, note, flush=True)  # XXX
    return Result(
        title="A training step beside the peers'",
        columns=COLUMNS,
        rows=rows,
        notes=[
            f"Ratios: median of {TURNS} turns (lowest to highest). The limit holds FLOPs at {rates.flops / 1e9:,.0f} "
            f"GFLOP/s and bytes at {rates.bytes / 1e9:,.1f} GB/s, what this machine reaches.",
            *notes,
        ],
    )
