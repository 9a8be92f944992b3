"""Measurements: `make benchmark`, or `python -m tests.benchmarks NAME …` for some of them.

A benchmark is a file here with `run(out: Path) -> Result` and a line in BENCHMARKS. It writes its plots to `out`.
"""

import importlib
from pathlib import Path

# Name of the file → what it measures, for --list.
BENCHMARKS = {
    "training_speed": "a training step beside stock's and transformers'",
    "generation": "captions, long contexts, candidates and a conversation, beside transformers and TorchScale",
    "evaluation": "items a second of each type of benchmark, in batches beside one by one",
    "loader": "images a second beside bare decoding and webdataset, resuming, cores for each GPU",
    "packing": "share of positions filled on the caption and interleaved streams",
    "full_size_gpu": "kosmos_1 on one GPU: tokens a second, MFU",
}
# Not run unless named: variants, the model's behavior, which no change of speed should move, and what takes long.
LONG = {
    "growth": "time and memory of an update against lengths, images, rows and words",
    "corpora": "pages, captions, texts a second with one and two processes, beside datasketch, fairseq-preprocess, …",
    "corpora_memory": "peak memory of kosmos-prepare with ten times the input",
    "training_speed_frozen_clip": "captions beside stock whose CLIP is off the graph",
    "magneto_stability": "first updates of deep narrow decoders, with Magneto's gain and without",
    "length_extrapolation": "trained at 256 tokens, read at up to 1,024: xPos and sinusoidal positions",
    "full_size_update": "one update of the full kosmos_1 on the CPU: seconds, memory, FLOP/s",
}


def measure(name: str, out: Path):
    """The Result of one benchmark."""
    return importlib.import_module(f"tests.benchmarks.{name}").run(out)
