"""Benchmarks: `make benchmark` runs them, `python -m tests.benchmarks NAME …` only some.

A benchmark is a file in this folder with `run(out: Path) -> Result`, which writes its plots to `out`, and a line in
BENCHMARKS.
"""

import importlib
from pathlib import Path

# File name → description, for --list.
BENCHMARKS = {
    "training_speed": "a training step, against stock TorchScale and transformers",
    "generation": "captions, long contexts, candidates and a conversation, against transformers and TorchScale",
    "evaluation": "items per second of each type of benchmark, in batches against one by one",
    "loader": "images per second against bare decoding and webdataset, resuming, cores per GPU",
    "packing": "packing efficiency of the caption and interleaved streams",
    "full_size_gpu": "kosmos_1 on one GPU: tokens per second, MFU",
}
# Run only if named: variants, the model's behavior (which no change of speed should affect), and long ones.
LONG = {
    "growth": "time and memory of an update against lengths, images, rows and words",
    "corpora": "pages, captions, texts per second with one and two processes, against datasketch, …",
    "corpora_memory": "peak memory of kosmos-prepare with ten times the input",
    "training_speed_frozen_clip": "captions, against stock with CLIP's frozen layers out of the graph",
    "magneto_stability": "first updates of deep narrow decoders, with and without Magneto's gain",
    "length_extrapolation": "trained at 256 tokens, read at up to 1,024: xPos and sinusoidal positions",
    "full_size_update": "one update of the full kosmos_1 on the CPU: seconds, memory, FLOP/s",
}


def measure(name: str, out: Path):
    """Run one benchmark."""
    return importlib.import_module(f"tests.benchmarks.{name}").run(out)
