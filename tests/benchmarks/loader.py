"""The loader: images per second against bare decoding and webdataset, resuming, and the CPU cores that a GPU needs.

Both sides decode in two processes. One turn of ours is an update of a mixture in the paper's ratio (an eighth of Table
18's), taken from the real iterator in the way fairseq does. Its time includes reading, tokenizing, packing, decoding,
and the transfer of tensors into this process; a third process plans, on the same cores. Workers are started in advance,
and batches that they prepared during the baseline's turns are discarded. The baselines:

bare decoding    `decode_image` over the same number of images in memory, half of them in each of two processes
webdataset       its own pipeline over the same captions: tars read in order, PIL, torchvision's Resize, CenterCrop and
                 PILToTensor, the same batch size, torch's DataLoader with two workers; no text is tokenized

The images are noise with a photograph's spectrum, compressed as img2dataset does (shorter side 256, quality 90; pages
have larger ones too): the sum over s = 1, 2, 4, … of s^0.5 · (normal noise of w/s × h/s pixels, enlarged).

The theoretical limit is 1 for bare decoding, which the loader has to do too.
"""

import contextlib
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
import torch
import webdataset
from PIL import Image
from torchvision import transforms

from kosmos_plugin.fairseq_modules.epoch_iterator import EpochIterator
from kosmos_plugin.fairseq_modules.open_corpora import open_corpora
from kosmos_plugin.fairseq_modules.task import KosmosMultimodalTask
from kosmos_plugin.images import decode_image
from kosmos_plugin.planning.command import read_training_command
from kosmos_plugin.planning.plan import Assumptions, make_plan
from tests import tiny
from tests.benchmarks.cores import fresh_processes
from tests.benchmarks.result import Result
from tests.benchmarks.side_by_side import COLUMNS, in_turns

WORKERS, TURNS = 2, 5
SIZE, SLOTS, ROW = 224, 64, 2048
# Sequences of an update, an eighth of the paper's: its 8 ranks × 16 micro-batches of 5 rows are 16 of 5 rows here.
SEQUENCES, UPDATE_FREQ = {"text": 32, "captions": 768, "interleaved": 16}, 16
PAPERS = {"text": 256, "captions": 6144, "interleaved": 128}
CAPTION_SIZE, PAGE_SIZES = (341, 256), ((640, 480), (720, 360), (1024, 768))
SHARDS, RECORDS, PAGES = 4, 100, 100  # captions are drawn again and again; the operating system has them in memory
FAR, RANKS = 300_000, 8
H100_FLOPS, UTILIZATION = 989.4e12, 0.5  # dense bf16, of NVIDIA's data sheet
CORES_PER_GPU = "12 to 28 (8-GPU hosts with 96 to 224)"

# ---- Data ----


def photograph(draw: np.random.Generator, width: int, height: int) -> bytes:
    pixels, step = np.zeros((height, width, 3)), 1
    while step < min(width, height):
        noise = draw.normal(size=(-(-height // step), -(-width // step), 3)).astype(np.float32)
        bands = [Image.fromarray(noise[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
        pixels += step**0.5 * np.stack([np.asarray(band) for band in bands], axis=-1)
        step *= 2
    buffer = BytesIO()
    pixels = 128 + 50 * pixels / pixels.std()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_data(folder: Path) -> None:
    """A vocabulary, a binarized text, and tars of captions and of pages."""
    vocabulary = tiny.write_vocabulary(folder / "vocabulary")
    rng, draw = Random(0), np.random.default_rng(0)
    texts = [tiny.encoded_lines(vocabulary, tiny.sentence(rng, (200, 2000)).split()) for _ in range(200)]
    tiny.write_text(folder / "text", texts, None)
    for shard in range(SHARDS):
        members = []
        for i in range(RECORDS):
            members.append((f"{i:04d}.jpg", photograph(draw, *CAPTION_SIZE)))
            members.append((f"{i:04d}.txt", tiny.sentence(rng, (7, 35)).encode()))
        tiny.write_tar(folder / f"captions-{shard}.tar", members)
    photographs = [photograph(draw, *size) for size in PAGE_SIZES for _ in range(10)]
    pages = []
    for i in range(PAGES):
        images = rng.randint(1, 5)
        words = min(int(draw.lognormal(np.log(700) - 0.32, 0.8)), 1500) // images
        segments = []
        for j in range(images):
            segments += [{"image": j}, {"text": tiny.sentence(rng, (words, words))}]
        pages.append((f"{i:04d}.json", json.dumps({"segments": segments}).encode()))
        pages += [(f"{i:04d}.{j}.jpg", rng.choice(photographs)) for j in range(images)]
    tiny.write_tar(folder / "pages.tar", pages)


def write_yaml(folder: Path, sequences: dict[str, int]) -> Path:
    # Each tar is named many times, so that no epoch, which restarts the workers, ends during a measurement.
    tars = {"captions": f"captions-{{0..{SHARDS - 1}}}.tar", "interleaved": "pages.tar"}
    paths = {"text": ["text"], **{kind: [name] * 40 for kind, name in tars.items()}}
    streams = {
        kind: {"kind": kind, "sequences_per_update": sequences[kind], "corpora": [{"name": kind, "train": path}]}
        for kind, path in paths.items()
        if kind in sequences
    }
    path = folder / f"{'-'.join(map(str, sequences.values()))}.yaml"
    path.write_text(json.dumps({"vocabulary": "vocabulary", "streams": streams}))  # JSON is YAML
    return path


# ---- Sides ----


def training_task(data: Path, update_freq: int, decoding: str = "draft") -> KosmosMultimodalTask:
    task = tiny.task(
        data, update_freq, image_tokens=SLOTS, image_size=SIZE, tokens_per_sample=ROW, image_decoding=decoding
    )
    open_corpora(task.cfg)  # as before a training
    task.load_dataset("train")
    return task


def iterator(data: Path, update_freq: int, decoding: str = "draft") -> EpochIterator:
    """The iterator that fairseq's trainer gets."""
    task = training_task(data, update_freq, decoding)
    return task.get_batch_iterator(task.dataset("train"), num_workers=WORKERS)


class Running:
    """A loader whose workers keep running between turns: at most `ahead` batches are ready when a turn starts."""

    def __init__(self, batches: Iterator, images_of: Callable, ahead: int):
        self.batches = batches
        self.images_of = images_of
        self.ahead = ahead
        self.take(ahead)  # the workers have begun

    def take(self, count: int) -> int:
        """The number of images in the next `count` batches."""
        return sum(len(self.images_of(next(self.batches))) for _ in range(count))

    def seconds(self, images: int) -> float:
        """Seconds for `images` images, measured on batches that were not prepared before the turn."""
        self.take(self.ahead)
        begin, done = time.perf_counter(), 0
        while done < images:
            done += self.take(1)
        return (time.perf_counter() - begin) * images / done


def ours(data: Path, decoding: str) -> Running:
    epochs = iterator(data, UPDATE_FREQ, decoding)
    batches = itertools.chain.from_iterable(epochs.next_epoch_itr() for _ in itertools.count())
    return Running(batches, lambda batch: batch["images"], 2 * WORKERS + 1)


def by_webdataset(folder: Path, images: int) -> Running:
    """Batches of `images` images, with the exact pixels of CLIP's preprocessing."""
    bicubic = transforms.InterpolationMode.BICUBIC
    resize = transforms.Compose(
        [transforms.Resize(SIZE, bicubic), transforms.CenterCrop(SIZE), transforms.PILToTensor()]
    )
    shards = [str(path) for path in sorted(folder.glob("captions-*.tar"))]
    dataset = webdataset.WebDataset(shards, resampled=True, shardshuffle=False).decode("pil").to_tuple("jpg", "txt")
    dataset = dataset.map_tuple(resize, lambda text: text).batched(images)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=WORKERS)
    return Running(iter(loader), lambda batch: batch[0], 2 * WORKERS + 1)


_IMAGES: list[bytes] = []  # of a process that decodes and does nothing else


def read_images(images: list[bytes]) -> None:
    _IMAGES[:] = images


def decode_all(decoding: str) -> float:
    """Decode images; return the seconds it took."""
    begin = time.perf_counter()
    for data in _IMAGES:
        decode_image(data, SIZE, decoding=decoding)
    return time.perf_counter() - begin


def images_of_update(data: Path) -> list[bytes]:
    """The encoded images of the first update."""
    micro_batches = iterator(data, UPDATE_FREQ).micro_batches
    update = [micro_batches.rows(item) for item in range(UPDATE_FREQ)]
    return [image.read() for rows in update for row in rows for sample in row.samples for image in sample.images]


# ---- Cores that a GPU needs ----


def images_per_gpu_second() -> tuple[float, float]:
    """Images per second that an H100 at half its peak needs in the paper's pretraining, and the seconds of an update.

    Both follow from the FLOPs that `kosmos-inspect --plan` counts, for the eight GPUs of the script.
    """
    command = read_training_command(str(Path(__file__).parents[2] / "examples/kosmos_1/pretrain.yaml"))
    averages = Assumptions(
        caption_tokens=92,
        page_tokens=900,
        page_images=3,
        instruction_tokens=100,
        vocabulary_size=64_007,
        utilization=UTILIZATION,
        gpu_tflops=H100_FLOPS / 1e12,
    )
    plan = make_plan(command, averages)
    return plan.images / (plan.seconds_per_update * command.ranks), plan.seconds_per_update


# ---- The benchmark ----


def run(out: Path) -> Result:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of workers, as in a training; this process was spawned
    warnings.filterwarnings("ignore", ".*DataLoader will create.*")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_data(folder)
        mixed, captions = write_yaml(folder, SEQUENCES), write_yaml(folder, {"captions": SEQUENCES["captions"]})
        images = images_of_update(mixed)
        decoders = [stack.enter_context(fresh_processes(1, threads=1)) for _ in range(WORKERS)]
        for i, decoder in enumerate(decoders):
            decoder.submit(read_images, images[i::WORKERS]).result()

        def bare(decoding: str) -> float:
            jobs = [decoder.submit(decode_all, decoding) for decoder in decoders]
            return statistics.mean(job.result() for job in jobs)

        rows, speeds = [], {}
        for decoding in ("draft", "fast"):
            measured = in_turns(partial(ours(mixed, decoding).seconds, len(images)), partial(bare, decoding), TURNS)
            what = f"loader, `--image-decoding {decoding}`, vs the same decoding in a bare loop"
            rows.append(measured.row(what, len(images), "images/s", 0.9, 1.0))
            speeds[decoding] = len(images) / statistics.median(measured.ours) / WORKERS
        peer = by_webdataset(folder, SEQUENCES["captions"] // UPDATE_FREQ)
        for decoding in ("exact", "fast"):
            loader = ours(captions, decoding)
            measured = in_turns(*(partial(side.seconds, SEQUENCES["captions"]) for side in (loader, peer)), TURNS)
            what = f"captions only, `--image-decoding {decoding}`, vs webdataset with PIL"
            rows.append(measured.row(what, SEQUENCES["captions"], "images/s", None, None))
        whole = write_yaml(folder, PAPERS)
        resumed = in_turns(partial(seconds_to_first_batch, whole, FAR), partial(seconds_to_first_batch, whole, 0), 3)
        rows.append(resumed.row(f"first batch at update {FAR:,}, vs at update 0", 1, "batches/s", None, 1.0))
        each = time_plan(whole)
    late, early = statistics.median(resumed.ours), statistics.median(resumed.peer)
    needed, update = images_per_gpu_second()
    cores = {decoding: needed / speed + each / update for decoding, speed in speeds.items()}
    kilobytes = statistics.mean(map(len, images)) / 1e3
    notes = [
        f"{len(images)} JPEGs in a turn, {kilobytes:.0f} kB on average: most {CAPTION_SIZE[0]} × {CAPTION_SIZE[1]}, "
        "those of pages up to 1,024 × 768. Two processes decode; ours has a third, which plans, on the same cores.",
        f"First batch at the paper's numbers of sequences, rank 0 of {RANKS}: {late:.2f} s at update {FAR:,} and "
        f"{early:.2f} s at update 0, from building the iterator; {late - early:+.2f} s.",
        f"An H100 at {UTILIZATION:.0%} of {H100_FLOPS / 1e12:,.0f} TFLOP/s takes {needed:.0f} images per second of the "
        f"paper's pretraining. By the rates above, and {each:.2f} s of planning an update on each rank, that is "
        + " or ".join(f"{count:.2f} cores ({decoding})" for decoding, count in cores.items())
        + f" for each GPU; hosts with eight have {CORES_PER_GPU}. So the GPU never waits.",
    ]
    return Result("Loader: images per second, resuming, cores per GPU", COLUMNS, rows, notes)


def seconds_to_first_batch(data: Path, update: int) -> float:
    """Seconds until rank 0 has its first batch as fairseq resumes: build the iterator, load its state, get a batch."""
    task = training_task(data, UPDATE_FREQ)
    begin = time.perf_counter()
    epochs = task.get_batch_iterator(task.dataset("train"), num_shards=RANKS, num_workers=WORKERS)
    length = epochs.updates
    epochs.load_state_dict(epochs.state_dict() | {"epoch": update // length + 1, "updates_in_epoch": update % length})
    next(epochs.next_epoch_itr())
    return time.perf_counter() - begin


def time_plan(data: Path) -> float:
    """CPU seconds that a rank needs to plan an update."""
    micro_batches = iterator(data, UPDATE_FREQ).micro_batches
    begin = time.process_time()
    micro_batches.plan(1)
    return time.process_time() - begin
