"""Remote tars: bytes fetched for bytes used, how a block order mixes, resuming, and the time that a training waits.

The storage is a web server on loopback, in its own process where time is measured, that answers each request after a
delay, as an object store does. Records are of random bytes, about as large as img2dataset's captions at 256 pixels.
Images are read, but not decoded: that costs the same wherever they come from.
"""

import contextlib
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import torch
import yaml

from kosmos_plugin.data.micro_batches import MicroBatches
from kosmos_plugin.data.order import WINDOW_BLOCKS, block_shuffled, shuffled
from kosmos_plugin.fairseq_modules.open_corpora import open_corpora
from tests import tiny
from tests.benchmarks.result import Result, Spread
from tests.data.remote_server import ServerProcess, web_server

TARS, RECORDS, IMAGE_BYTES = 20, 512, (8_000, 40_000)
BLOCK, PER_UPDATE = 64, 1024
UPDATES = TARS * RECORDS // PER_UPDATE  # an epoch
ORDERS_AND_NODES = ((BLOCK, 1, 1), (BLOCK, 1, 4), (BLOCK, 2, 2), (BLOCK, 8, 8), (None, 1, 1), (None, 8, 8))
FAR, TURNS = 300_000, 5
STEP_SECONDS, STEPS, WORKERS, DELAY = 1.0, 12, 2, 0.03
# A corpus as large as LAION-400M in img2dataset's tars, for the arithmetic of mixing.
LARGE_TARS, LARGE_RECORDS, LARGE_UPDATE = 41_455, 10_000, 6_144
BLOCKS = (64, 128, 512)


def run(out: Path) -> Result:
    multiprocessing.set_start_method("fork", force=True)  # of workers, as in a training; this process was spawned
    warnings.filterwarnings("ignore", ".*DataLoader will create.*|.*is multi-threaded.*")
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder) / "storage"
        write_storage(storage)
        fetched = fetched_bytes(storage, Path(folder))
        fetched.more = [mixing(), resuming(storage, Path(folder)), waiting(storage, Path(folder))]
    return fetched


# ---- Data ----


def write_storage(folder: Path) -> None:
    """Tars of captions, with the indexes that they are uploaded with."""
    tiny.write_vocabulary(folder / "vocabulary")
    draw = Random(0)
    for tar in range(TARS):
        members = []
        for record in range(RECORDS):
            key = f"{tar:05d}{record:05d}"
            image = draw.randbytes(draw.randint(*IMAGE_BYTES))
            members += [
                (f"{key}.jpg", image),
                (f"{key}.txt", tiny.sentence(draw).encode()),
                (f"{key}.json", b"{}" * 400),
            ]
        tiny.write_tar(folder / "captions" / f"{tar:05d}.tar", members)
    open_corpora(tiny.task(data_yaml(folder, folder / "local", str(folder), None)).cfg)


def data_yaml(storage: Path, folder: Path, address: str, block: int | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    corpus = {"name": "a", "train": f"{address}/captions/{{00000..{TARS - 1:05d}}}.tar"}
    if block is not None:
        corpus["shuffle_block"] = block
    stream = {"kind": "captions", "sequences_per_update": PER_UPDATE, "corpora": [corpus]}
    content = {
        "vocabulary": str(storage / "vocabulary"),
        "streams": {"captions": stream},
        "cache": str(folder / "cache"),
    }
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


class Reader:
    """In the place of a collator: reads all images, and gives their bytes."""

    def __call__(self, rows: list) -> torch.Tensor:
        return torch.tensor(sum(len(image.read()) for row in rows for sample in row.samples for image in sample.images))


def micro_batches(data: Path, rank: int = 0, ranks: int = 1, nodes: int = 1) -> MicroBatches:
    task = tiny.task(data)
    open_corpora(task.cfg)
    task.load_dataset("train")
    return MicroBatches(task.dataset("train"), Reader(), rank, ranks, 1, nodes)


# ---- Bytes ----


def fetched_bytes(storage: Path, folder: Path) -> Result:
    """An epoch on every node, each with a cache of its own, one rank a node; and with four ranks on one."""
    used = sum(path.stat().st_size for path in storage.glob("captions/*.tar"))
    rows: list[list] = []
    for block, nodes, ranks in ORDERS_AND_NODES:
        rows.append(fetched_row(storage, folder, used, block, nodes, ranks))
    notes = [
        f"{TARS} tars of {RECORDS} captions, {used / 1e6:,.0f} MB; blocks of {BLOCK}, windows of {WINDOW_BLOCKS} "
        f"blocks, {PER_UPDATE:,} captions an update, one epoch. Bytes used: those of the tars, each once.",
        "Bytes of all nodes together; each node has its own cache, which its ranks share.",
    ]
    columns = ["order", "nodes", "ranks", "bytes fetched / used", "requests for 1,000 captions"]
    return Result("Remote tars: bytes fetched", columns, rows, notes)


def fetched_row(storage: Path, folder: Path, used: int, block: int | None, nodes: int, ranks: int) -> list:
    with web_server(storage) as server, tempfile.TemporaryDirectory(dir=folder) as caches:
        for rank in range(ranks):
            data = data_yaml(storage, Path(caches) / str(rank * nodes // ranks), server.url, block)
            for _ in micro_batches(data, rank, ranks, nodes).of_updates(range(UPDATES), 0):
                pass
        settle(server)
        answers = [size for path, size in server.requests if path.endswith(".tar") and size > 1]
    name = "documents" if block is None else f"blocks of {block}"
    return [name, nodes, ranks, sum(answers) / used, len(answers) / (TARS * RECORDS / 1000)]


def settle(server: object) -> None:
    """Wait for what is being fetched ahead: also the next epoch's first window, which counts."""
    before = -1
    while before != len(server.requests):
        before = len(server.requests)
        time.sleep(1)


# ---- Mixing ----


def mixing() -> Result:
    """From how many tars the captions of an update come, by arithmetic alone."""
    size = LARGE_TARS * LARGE_RECORDS
    rows: list[list] = []
    for block in (*BLOCKS, None):
        tars, effective, common = [], [], []
        before: np.ndarray | None = None
        for update in (*range(20), *range(FAR, FAR + 20)):
            numbers = np.arange(update * LARGE_UPDATE, (update + 1) * LARGE_UPDATE)
            documents = shuffled(numbers, size, 1) if block is None else block_shuffled(numbers, size, block, 1)
            found, counts = np.unique(documents // LARGE_RECORDS, return_counts=True)
            tars.append(float(len(found)))
            effective.append(float(LARGE_UPDATE**2 / (counts**2).sum()))
            if before is not None and update != FAR:
                common.append(float(np.isin(documents // LARGE_RECORDS, before).mean()))
            before = found
        name = "documents" if block is None else f"blocks of {block:,}"
        rows.append([name, Spread(tuple(tars)), Spread(tuple(effective)), f"{statistics.median(common):.0%}"])
    notes = [
        f"{LARGE_TARS:,} tars of {LARGE_RECORDS:,} captions, {LARGE_UPDATE:,} an update; 20 updates from 0 on, and 20 "
        f"from {FAR:,} on.",
        "Effective: one by the sum of the squares of the tars' shares, as many tars of equal shares would give.",
    ]
    columns = ["order", "tars in an update", "effective", "captions of tars that the update before had"]
    return Result("How a block order mixes", columns, rows, notes)


# ---- Time ----


@contextlib.contextmanager
def slow_server(storage: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(storage, DELAY)
    try:
        yield server
    finally:
        server.kill()


def resuming(storage: Path, folder: Path) -> Result:
    """Seconds from building the iterator to the first batch, with an empty cache for blocks and with a filled one."""
    seconds: dict[tuple[str, int], list[float]] = {}
    with slow_server(storage) as server:
        data = data_yaml(storage, folder / "resumed", server.url, BLOCK)
        for _ in range(TURNS):
            for cache in ("empty", "filled"):
                for update in (0, FAR):
                    made = micro_batches(data)
                    if cache == "empty":
                        for piece in (folder / "resumed" / "cache" / "blocks").glob("??/*"):
                            piece.unlink(missing_ok=True)
                    begin = time.perf_counter()
                    next(iter(made.of_updates(range(update, update + 1), 0)))
                    seconds.setdefault((cache, update), []).append(time.perf_counter() - begin)
    rows = [[cache, f"{update:,}", Spread(tuple(values))] for (cache, update), values in seconds.items()]
    notes = [f"{PER_UPDATE:,} captions, from storage that answers after {DELAY * 1000:.0f} ms; no worker processes."]
    return Result("First batch of an update", ["cache", "update", "seconds"], rows, notes)


def waiting(storage: Path, folder: Path) -> Result:
    """Seconds that a training waits for batches, if the rest of an update takes STEP_SECONDS. The ways take turns."""
    rows: list[list] = []
    with slow_server(storage) as server:
        for nodes, read in ((1, "blocks"), (8, "records")):
            ways: dict[str, list[list[float]]] = {str(storage): [], server.url: []}
            for turn in range(TURNS):
                for number, (address, turns) in enumerate(ways.items()):
                    data = data_yaml(storage, folder / f"waiting-{nodes}-{turn}-{number}", address, BLOCK)
                    turns.append(waits(micro_batches(data, 0, nodes, nodes)))
            seconds = [[STEPS * STEP_SECONDS + sum(each) for each in turns] for turns in ways.values()]
            for address, turns, mine in zip(("local", f"remote: {read}"), ways.values(), seconds, strict=True):
                ratios = Spread(tuple(local / own for local, own in zip(seconds[0], mine, strict=True)))
                rows.append([nodes, address, Spread(tuple(value for each in turns for value in each)), ratios])
    notes = [
        f"{STEPS} updates of {PER_UPDATE:,} captions after two, with an empty cache, {WORKERS} workers, "
        f"{STEP_SECONDS:g} s of other work an update, storage that answers after {DELAY * 1000:.0f} ms; {TURNS} turns. "
        "Rank 0 of a rank on each node.",
        "Images are read, not decoded.",
    ]
    return Result("Waiting for batches", ["nodes", "tars", "seconds an update", "updates/s / local"], rows, notes)


def waits(batches: MicroBatches) -> list[float]:
    """Seconds that each of STEPS updates, after two, waited for its batch."""
    found = []
    iterator = iter(batches.of_updates(range(STEPS + 2), WORKERS))
    for _ in range(STEPS + 2):
        begin = time.perf_counter()
        next(iterator)
        found.append(time.perf_counter() - begin)
        time.sleep(STEP_SECONDS)
    assert next(iterator, None) is None
    return found[2:]
