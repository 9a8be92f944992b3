"""Fixtures of the evaluation tests: miniature releases, and a checkpoint with a long context."""

import pytest

from kosmos_plugin.evaluation.benchmarks import BENCHMARKS, benchmark_class
from kosmos_plugin.generation.generator import load
from tests import tiny
from tests.evaluation.releases import write_release


@pytest.fixture(scope="session")
def releases(tmp_path_factory):
    """The folder of all benchmarks' releases, with a few dozen items each. Tests must not write in it."""
    folder = tmp_path_factory.mktemp("releases")
    for name in BENCHMARKS:
        write_release(folder, benchmark_class(name).release, count=24)
    return folder


@pytest.fixture(scope="session")
def checkpoint(data, tmp_path_factory):
    """A tiny model after one update, with a context of 512 tokens."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return tiny.train(data, folder, "--max-update", 1, "--tokens-per-sample", 512, "--no-epoch-checkpoints")


@pytest.fixture(scope="session")
def kosmos(checkpoint):
    """The checkpoint's model with larger embeddings: an untrained model would only repeat itself."""
    kosmos = load(checkpoint)
    kosmos.model.decoder.embed_tokens.weight.data *= 3
    return kosmos
