"""Shared by tests of remote corpora: opening them, reading their batches and comparing them."""

import shutil
from pathlib import Path

from kosmos_plugin.data.micro_batches import MicroBatches
from kosmos_plugin.fairseq_modules.open_corpora import open_corpora
from tests import tiny
from tests.data.updates import assert_same, loaded

UPDATES = 12


def opened(data: Path, **options: object):
    """Make what is made when a training starts, then load the data."""
    open_corpora(tiny.task(data).cfg)
    return loaded(data, **options)


def batches_of(data: Path, workers: int = 0, nodes: int = 1, updates: int = UPDATES) -> list:
    task, mixture = opened(data)
    micro_batches = MicroBatches(mixture, task.collator(), 0, 1, 1, nodes)
    return list(micro_batches.of_updates(range(updates), workers))


def assert_equal(first: list, second: list) -> None:
    for batch, expected in zip(first, second, strict=True):
        assert_same(batch, expected)


def corpus(mixture, name: str):
    """The corpus of the stream `name`."""
    return next(stream.corpora[0] for stream in mixture.streams if stream.config.name == name)


def uploaded(files: Path, folder: Path) -> Path:
    """The data with the indexes, lengths and row starts that are made when it is opened on the disk."""
    shutil.copytree(files.parent, folder)
    opened(folder / "data.yaml")
    return folder
