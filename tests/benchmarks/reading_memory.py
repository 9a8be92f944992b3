"""Host memory of a rank and of each of its workers while they read: how much, and whether it grows.

Two trainings are read, by the real iterator with two workers, without a model. *The paper's batches* are those of
`examples/kosmos_1` on 64 GPUs, with images of the loader's benchmark. *Many updates* are 10,000 of the paper's updates,
of which this rank of 512 reads about a row each, with images of 64 pixels and records in hundreds of tars, so that
everything that is kept for each tar, document or update would show.

The memory is PSS (/proc/PID/smaps_rollup): what a process has alone, and its part of what it shares with others.
"""

import itertools
import json
import multiprocessing
import os
import tempfile
from pathlib import Path
from random import Random

import matplotlib
import numpy as np

from kosmos_plugin.data.micro_batches import MicroBatches
from tests import tiny
from tests.benchmarks.loader import PAPERS, ROW, SIZE, SLOTS, photograph, training_task, write_data, write_yaml
from tests.benchmarks.memory import pss
from tests.benchmarks.result import Result, Spread

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WORKERS = 2
MIB = 2**20
# (ranks, --update-freq, updates, updates between measurements)
PAPER, MANY = (64, 2, 40, 4), (512, 1, 10_000, 250)
TARS, RECORDS = 200, 30


def write_many(folder: Path) -> Path:
    """The data of many updates: captions and pages in many tars."""
    rng, draw = Random(0), np.random.default_rng(0)
    vocabulary = tiny.write_vocabulary(folder / "vocabulary")
    images = [photograph(draw, 64, 64) for _ in range(50)]
    texts = [tiny.encoded_lines(vocabulary, tiny.sentence(rng, (200, 2000)).split()) for _ in range(500)]
    tiny.write_text(folder / "text", texts, None)
    for tar in range(TARS):
        captions, pages = [], []
        for i in range(RECORDS):
            key = f"{tar:04d}{i:04d}"
            captions += [(f"{key}.jpg", rng.choice(images)), (f"{key}.txt", tiny.sentence(rng, (7, 35)).encode())]
            segments = [{"image": 0}, {"text": tiny.sentence(rng, (100, 700))}, {"image": 1}]
            pages += [(f"{key}.json", json.dumps({"segments": segments}).encode())]
            pages += [(f"{key}.{number}.jpg", rng.choice(images)) for number in (0, 1)]
        tiny.write_tar(folder / f"captions-{tar}.tar", captions)
        tiny.write_tar(folder / f"pages-{tar}.tar", pages)
    paths = {"text": "text", "captions": "captions-*.tar", "interleaved": "pages-*.tar"}
    streams = {
        kind: {"kind": kind, "sequences_per_update": count, "corpora": [{"name": kind, "train": paths[kind]}]}
        for kind, count in PAPERS.items()
    }
    path = folder / "data.yaml"
    path.write_text(json.dumps({"vocabulary": "vocabulary", "streams": streams}))
    return path


def read(data: Path, ranks: int, update_freq: int, updates: int, every: int) -> dict[str, list[float]]:
    """Read the updates of rank 0; process → its MiB at each measurement."""
    task = training_task(data, update_freq)
    batches = MicroBatches(task.dataset("train"), task.collator(), 0, ranks, update_freq)
    found: dict[str, list[float]] = {}
    # More updates are planned than read, so that no process has ended at the last measurement.
    taken = itertools.islice(batches.of_updates(range(updates + every), WORKERS), updates * update_freq)
    for item, _ in enumerate(taken, 1):
        if item % (every * update_freq) == 0:
            # The planner starts last: its items are asked for by the loader that the workers belong to.
            *workers, planner = sorted(child.pid for child in multiprocessing.active_children())
            named = {f"worker {i}": pid for i, pid in enumerate(workers, 1)}
            for name, pid in {"rank": os.getpid(), **named, "planner": planner}.items():
                found.setdefault(name, []).append(pss(pid) / MIB)
    return found


def growth(values: list[float], every: int) -> float:
    """MiB per 1,000 updates, by the line through the second half of the measurements."""
    half = np.array(values[len(values) // 2 :])
    return float(np.polyfit(np.arange(len(half)) * every / 1000, half, 1)[0])


def plot(measured: dict[str, list[float]], every: int, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for name, values in measured.items():
        axes.plot(np.arange(1, len(values) + 1) * every, values, label=name)
    axes.set(xlabel="updates read", ylabel="PSS, MiB", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(out: Path) -> Result:
    multiprocessing.set_start_method("fork", force=True)  # of workers, as in a training; this process was spawned
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        paper = read(write_yaml(folder, PAPERS), *PAPER)
        (folder / "many").mkdir()
        many = read(write_many(folder / "many"), *MANY)
    plot(many, MANY[-1], out / "reading_memory.png")
    rows = []
    for what, measured in (("the paper's batches", paper), ("many updates", many)):
        for process, values in measured.items():
            late = Spread(tuple(values[len(values) // 2 :]))
            more = growth(values, MANY[-1]) if measured is many else "too few to tell"
            rows.append([what, process, values[0], late, more])
    return Result(
        title="Host memory of reading",
        columns=["training", "process", "MiB at first", "MiB in the second half", "MiB more per 1,000 updates"],
        rows=rows,
        notes=[
            f"The paper's batches: {PAPER[0]} ranks, --update-freq {PAPER[1]}, {PAPER[2]} updates; rows of {ROW:,} "
            f"tokens, images of {SIZE} pixels in {SLOTS} slots. Many updates: {MANY[0]} ranks, {MANY[2]:,} updates.",
            f"Rank 0 with --num-workers {WORKERS}. Batches in flight are in shared memory, and part of all processes.",
        ],
        plots=["reading_memory.png"],
    )
