"""The paper's full model on one GPU: `--arch kosmos_1` in bf16 on the three streams at the paper's ratio, and its MFU.

24 layers of 2,048, ViT-L/14 with its last block trained (random weights, which cost the same as pretrained ones), a
vocabulary of 64,007. An update has five rows of text, five of captions and two of interleaved documents with five
images, each of 2,048 tokens.

    MFU = useful FLOPs of an update / (its seconds · the GPU's peak in bf16)

Useful FLOPs are the minimum that `arithmetic` computes, as a training logs it: 6 per weight and token, attention
of each token to earlier tokens of its document, the output matrix for tokens in the loss, and images, forward through
vision tower and resampler and backward through their trained parts. Recomputation (`--checkpoint-activations`) is not
included. (`kosmos-inspect --plan` counts slightly more: attention over whole rows, and the output matrix for all text.)

A second table has the seconds of each part of an update, from torch's profiler (`breakdown`).
"""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from kosmos_plugin.gpus import find_gpu
from kosmos_plugin.models.flops import image_flops
from tests.benchmarks import time_limit
from tests.benchmarks.arithmetic import LEAST, measured_rates, update_cost
from tests.benchmarks.breakdown import breakdown
from tests.benchmarks.memory import peak_memory, reset_peak
from tests.benchmarks.noise import write_data
from tests.benchmarks.result import Cell, Result, Spread
from tests.benchmarks.side_by_side import seconds_of
from tests.benchmarks.training import Ours, Work, our_model, our_options, samples_by_stream

TITLE = "kosmos_1 at full size on one GPU: training"
ROW = 2048
MICRO_BATCHES = 12, 4  # rows: all in one micro-batch, and three of them
WARM_UP, TURNS = 3, 5
AT_LEAST = 0.5


def peak_flops(device: str) -> tuple[float, str]:
    """The GPU's peak FLOP/s in bf16, and its source."""
    if gpu := find_gpu(device):
        return gpu.tflops * 1e12, "from its data sheet, dense"
    return measured_rates().flops, "measured in one large matrix product"


def run(out: Path) -> Result:
    if not torch.cuda.is_available():
        row: list[Cell] = ["MFU, vision included", "not measured on a GPU", AT_LEAST]
        return Result(TITLE, ["measure", "value", "target"], [row], ["This machine has no CUDA device."])
    streams = {"text": (5, ROW), "captions": (5, ROW), "interleaved": (2, ROW)}
    with tempfile.TemporaryDirectory() as folder:
        work = Work(write_data(Path(folder) / "data"), "kosmos_1", **streams, images=5)
        return measured(work, MICRO_BATCHES)


def measured(work: Work, micro_batches: Sequence[int]) -> Result:
    """The tables of an update, in micro-batches of at most so many rows."""
    update, rows, parts = None, [], {}
    for size in micro_batches:
        begin = time.monotonic()
        work = dataclasses.replace(work, micro_batch=size)
        if update is None:
            update = Ours(work)
        else:
            update.load(work)
        for _ in range(WARM_UP):
            update()
        warm_up = time.monotonic() - begin
        reset_peak()
        seconds = Spread(tuple(seconds_of(update) for _ in range(TURNS)))
        rows.append((size, warm_up, seconds, peak_memory()))
        if not parts:
            whole, parts = breakdown(update)
        if time_limit.left() < warm_up:
            break
    with torch.device("meta"):
        task, model = our_model(work)
    batches = samples_by_stream(work, task)
    samples = [sample for stream in batches for sample in stream]
    tokens, images = sum(map(len, samples)), sum(len(sample.images) for sample in samples)
    flops = update_cost(model, batches, task.vocabulary.pad, LEAST).flops
    vision = images * sum(image_flops(model))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    peak, source = peak_flops(device)
    table: list[list[Cell]] = []
    for size, warm_up, seconds, memory in rows:
        at = f", micro-batches of {size} rows"
        table += [
            [f"seconds of the update{at}", seconds, ""],
            [f"tokens per second{at}", Spread(tuple(tokens / each for each in seconds.values)), ""],
            [f"MFU, vision included{at}", Spread(tuple(flops / each / peak for each in seconds.values)), AT_LEAST],
            [f"peak memory, GiB{at}", memory / 2**30, ""],
            [f"seconds until it is warm{at}", warm_up, ""],
        ]
    return Result(
        title=TITLE,
        columns=["measure", "value", "target"],
        rows=[
            ["device", device, ""],
            ["its peak in bf16, TFLOP/s", peak / 1e12, ""],
            ["tokens in the update, images' embeddings included", tokens, ""],
            ["images", images, ""],
            ["useful TFLOP in the update", flops / 1e12, ""],
            ["of which vision and resampler", f"{vision / flops:.0%}", ""],
            *table,
        ],
        notes=[
            f"MFU = useful FLOPs / (seconds · peak); the peak is {source}. Useful FLOPs are the least that "
            "tests/benchmarks/arithmetic.py counts.",
            f"Ours trains with `{our_options()}`. {TURNS} updates (median, lowest to highest) after {WARM_UP}, the "
            "first of which compiles.",
        ],
        more=[
            Result(
                title=f"Where the time of an update goes, micro-batches of {rows[0][0]} rows",
                columns=["part", "milliseconds", "share"],
                rows=[[part, 1e3 * of, f"{of / sum(parts.values()):.0%}"] for part, of in parts.items()],
                notes=[f"By torch's profiler; without it the update takes {1e3 * whole:,.0f} ms."],
            )
        ],
    )
