"""The ways of attention on a GPU, by the lengths of documents: captions, text, and the paper's mix.

An update of a shallow `kosmos_1` with each `--attention`, and by the profiler what its attention takes: its own
kernels, and those that gather rows for it and put results back.
"""

import dataclasses
import tempfile
from pathlib import Path

import torch

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.config import KosmosConfig
from tests.benchmarks import time_limit
from tests.benchmarks.breakdown import breakdown
from tests.benchmarks.noise import write_data
from tests.benchmarks.result import Cell, Result
from tests.benchmarks.training import Ours, Work

TITLE = "Attention by the lengths of documents, on one GPU"
COLUMNS = ["documents", "--attention", "update, ms", "attention, ms", "gathering rows, ms"]
ROW, LAYERS = 2048, 4
MIXES = {
    "captions only": {"captions": (12, ROW)},
    "text only": {"text": (12, ROW)},
    "the paper's mix": {"text": (5, ROW), "captions": (5, ROW), "interleaved": (2, ROW)},
}


def ways() -> tuple[str, ...]:
    """The choices of `--attention` that are not a choice between others."""
    [field] = [field for field in dataclasses.fields(KosmosConfig) if field.name == "attention"]
    return tuple(str(choice) for choice in field.metadata["choices"] if choice != "auto")


def run(out: Path) -> Result:
    if not torch.cuda.is_available():
        return Result(TITLE, COLUMNS, [["", "not measured on a GPU", "", "", ""]], ["This machine has no CUDA device."])
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder) / "data")
        options = f"--decoder-layers {LAYERS} --vision-model ViT-B-32"
        return measured({mix: Work(data, "kosmos_1", options, **rows, images=5) for mix, rows in MIXES.items()})


def measured(works: dict[str, Work]) -> Result:
    """The table of some updates, by the name of their lengths."""
    rows: list[list[Cell]] = []
    notes = [f"Decoder of {LAYERS} layers of kosmos_1's width, not compiled, dropout 0.1, in one micro-batch."]
    for way in ways():
        update = None
        for mix, work in works.items():
            if time_limit.left() < 0:
                notes.append(f"{mix}, {way}: not measured, since no time was left.")
                continue
            if update is None:
                try:
                    with_way = dataclasses.replace(work, options=f"{work.options} --attention {way}")
                    update = Ours(with_way, compiled=False)
                except UserError as error:  # this device lacks it
                    notes.append(f"{way}: {error}")
                    break
            update.load(work)
            update()
            seconds, parts = breakdown(update)
            rows.append([mix, way, *(1e3 * each for each in (seconds, parts["attention"], parts["gathering rows"]))])
    return Result(TITLE, COLUMNS, rows, notes)
