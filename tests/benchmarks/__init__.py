"""Benchmarks: `make benchmark` runs them, `python -m tests.benchmarks NAME …` only some.

A benchmark is a file in this folder with `run(out: Path) -> Result`, which writes its plots to `out`, and a line in
BENCHMARKS.
"""

import importlib
import math
from pathlib import Path

from tests.benchmarks import time_limit

# File name → description, for --list.
BENCHMARKS = {
    "training_speed": "a training step, against stock TorchScale and transformers",
    "generation": "captions, long contexts, candidates and a conversation, against transformers and TorchScale",
    "serving": "captions of 16 clients at the same time and one after the other, beside transformers serve",
    "evaluation": "items per second of each type of benchmark, in batches against one by one",
    "loader": "images per second against bare decoding and webdataset, resuming, cores per GPU",
    "packing": "packing efficiency of the caption and interleaved streams",
    "full_size_gpu": "kosmos_1 on one GPU: tokens per second, MFU, where the time goes",
}
# On a machine with a CUDA GPU these run instead, in ten minutes: name → its seconds of them.
ON_A_GPU = {"full_size_gpu": 170, "generation_gpu": 120, "attention_gpu": 60, "generation": 50, "training_speed": 190}
# Run only if named or in ON_A_GPU: variants, the model's behavior (which no change of speed should affect), long ones.
LONG = {
    "generation_gpu": "kosmos_1 on one GPU: tokens per second against transformers",
    "attention_gpu": "the ways of attention on one GPU, by the lengths of documents",
    "growth": "time and memory of an update against lengths, images, rows and words",
    "checkpoints": "updates per second with checkpoints, at once and --async-save; the price of verifying them",
    "soak": "an hour of killed ranks, full disks and failing servers: the same weights as without",
    "reading_memory": "host memory of a rank and its workers over 10,000 updates of reading",
    "remote": "remote tars: bytes fetched, how blocks mix, resuming, waiting, beside local ones",
    "corpora": "pages, captions, texts per second with one and two processes, against datasketch, …",
    "corpora_memory": "peak memory of kosmos-prepare with ten times the input",
    "training_speed_frozen_clip": "captions, against stock with CLIP's frozen layers out of the graph",
    "magneto_stability": "first updates of deep narrow decoders, with and without Magneto's gain",
    "length_extrapolation": "trained at 256 tokens, read at up to 1,024: xPos and sinusoidal positions",
    "full_size_update": "one update of the full kosmos_1 on the CPU: seconds, memory, FLOP/s",
}


def measure(name: str, out: Path, seconds: float = math.inf):
    """Run one benchmark, in so many seconds if it can leave something out."""
    time_limit.start(seconds)
    return importlib.import_module(f"tests.benchmarks.{name}").run(out)
