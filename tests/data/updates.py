"""Shared by tests of micro-batches and of the epoch iterator: loading a split, comparing batches and updates."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch

from kosmos_plugin.data.batch import Batch
from kosmos_plugin.data.mixture import Mixture
from kosmos_plugin.fairseq_modules.task import KosmosMultimodalTask
from tests import tiny


def loaded(data: Path, update_freq: int = 1, split: str = "train", **options) -> tuple[KosmosMultimodalTask, Mixture]:
    """The task on tiny data, and one of its splits."""
    task = tiny.task(data, update_freq, **options)
    task.load_dataset("train")
    task.load_dataset(split)
    return task, task.dataset(split)


def assert_same(first: Batch, second: Batch) -> None:
    """Assert that batches are equal bit for bit."""
    assert first.keys() == second.keys()
    for key in first:
        assert first[key].dtype == second[key].dtype
        assert torch.equal(first[key], second[key])


def update_rows(batches: Iterable[Batch]) -> tuple[Counter, int]:
    """The rows of an update regardless of order, as (tokens, document ids, stream), and the sum of all pixels."""
    rows, pixels = Counter(), 0
    for batch in batches:
        for tokens, documents, stream in zip(batch["tokens"], batch["document_ids"], batch["streams"], strict=True):
            if (documents > 0).any():
                rows[tuple(tokens.tolist()), tuple(documents.tolist()), int(stream)] += 1
        pixels += int(batch["images"].long().sum())
    return rows, pixels
