"""Checkpoints: updates per second with a save in every turn, at once and with --async-save, and the price of verifying.

A turn is a save through fairseq's function, under two names, and the updates after it; with --async-save it ends when
the files are written. The three ways take turns, in one process. Reading is `torch.load` of a file in the operating
system's memory, with and without its checksums.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from omegaconf import open_dict

from kosmos_plugin.checkpoints import background
from kosmos_plugin.fairseq_modules import saving
from kosmos_plugin.tensor_files import read_pt
from kosmos_plugin.zip_checksums import verify
from tests.benchmarks.noise import write_data
from tests.benchmarks.result import Result, Spread
from tests.benchmarks.side_by_side import seconds_of
from tests.benchmarks.training import Ours, Work

UPDATES, TURNS = 50, 5
WAYS = ("no checkpoint", "written at once", "--async-save")


@dataclass(frozen=True)
class Position:
    """Stands for fairseq's epoch iterator, of which a checkpoint needs the position."""

    epoch: int = 1

    def end_of_epoch(self) -> bool:
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": 1, "iterations_in_epoch": 1}


def turn(ours: Ours, way: str, pauses: dict[str, list[float]]) -> None:
    """A save in one of WAYS, and UPDATES updates."""
    trainer = ours.update.trainer
    trainer.task.cfg.async_save = way == "--async-save"
    begin = time.perf_counter()
    if way != "no checkpoint":
        checkpoint_utils.save_checkpoint(trainer.cfg.checkpoint, trainer, Position(), None)
    pauses[way].append(time.perf_counter() - begin)
    for _ in range(UPDATES):
        ours()
    background.wait()


def run(out: Path) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        options = "--vision-encoder none --dropout 0"
        ours = Ours(Work(write_data(Path(folder) / "data"), "kosmos_tiny", options, text=(1, 256)))
        config = ours.update.trainer.cfg
        with open_dict(config):
            config.checkpoint.update(no_save=False, save_dir=folder, save_interval_updates=1, keep_interval_updates=1)
        saving.apply()
        pauses: dict[str, list[float]] = {way: [] for way in WAYS}
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        turn(ours, WAYS[1], {way: [] for way in WAYS})  # warm-up
        for number in range(TURNS):
            for way in WAYS[number % 3 :] + WAYS[: number % 3]:
                seconds[way].append(seconds_of(partial(turn, ours, way, pauses)))
        file = Path(folder) / "checkpoint_last.pt"
        size = file.stat().st_size
        rows = [
            [
                way,
                UPDATES / statistics.median(seconds[way]),
                Spread(tuple(none / mine for none, mine in zip(seconds[WAYS[0]], seconds[way], strict=True))),
                Spread(tuple(pauses[way])),
            ]
            for way in WAYS
        ]
        reading = _reading(file, size)
    return Result(
        title="Training with checkpoints",
        columns=["checkpoints", "updates/s", "of the speed without", "pause of a save, s"],
        rows=rows,
        notes=[
            f"A save every {UPDATES} updates, of {size / 1e6:,.0f} MB under two names; median of {TURNS} turns (lowest "
            "to highest).",
        ],
        more=[reading],
    )


def _reading(file: Path, size: int) -> Result:
    ways: dict[str, Callable[[], object]] = {
        "read alone": lambda: read_pt(file, mmap=False, verify=False),
        "checksums": lambda: verify(file),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(TURNS + 1):
        for way, function in ways.items():
            taken = seconds_of(function)
            if number:
                seconds[way].append(taken)
    return Result(
        title="Reading a checkpoint",
        columns=["what", "GB/s"],
        rows=[[way, Spread(tuple(size / 1e9 / each for each in seconds[way]))] for way in ways],
        notes=[f"Checksums are compared by up to {min(8, torch.get_num_threads())} threads, before the file is read."],
    )
