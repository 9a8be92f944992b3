"""Duplicates and near-duplicates, found by datatrove's MinHash over any number of tasks.

Documents are near-duplicates if their sets of 5-word n-grams overlap by about 0.75 or more: 14 buckets of 8 hashes, as
for FineWeb, find an overlap of 0.8 with a probability of 92%. Exact duplicates, which have the same words, are always
found. One document of each cluster is kept.

    signatures   one task per reader task   the hashes of its documents, sorted
    buckets      14 tasks                   pairs of documents with equal hashes in a bucket
    clusters     one task                   the documents to drop; memory grows only with their number
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.writers.disk_base import DiskWriter
from datatrove.utils.hashing import HashConfig

from kosmos_plugin.curation.dedup.ngrams import WhitespaceTokenizer, ngram_hashes, normalized_words, text_hash
from kosmos_plugin.curation.pipeline.report import label
from kosmos_plugin.curation.pipeline.runner import Stage

DUPLICATE = "duplicates and near-duplicates"


def duplicate_stages(read: PipelineStep, tasks: int, folder: Path, kind: str) -> list[Stage]:
    """Make the stages that find duplicates.

    Args:
        read: The step that reads the documents.
        tasks: The number of tasks that this step is split into.
        folder: The folder for the duplicates found; `DuplicateFilter` reads it.
        kind: "near" (which includes exact duplicates) or "exact".
    """
    config = _config(kind)
    signatures, buckets, removed = (folder / name for name in ("signatures", "buckets", "removed"))
    return [
        Stage("sign documents", [read, Signatures(str(signatures), config)], tasks),
        Stage(
            "compare signatures",
            [MinhashDedupBuckets(str(signatures), str(buckets), config=config)],
            config.num_buckets,
        ),
        Stage("cluster duplicates", [MinhashDedupCluster(str(buckets), str(removed), config)], 1),
    ]


def _config(kind: str) -> MinhashConfig:
    if kind == "exact":  # a document has one n-gram, all of it
        return MinhashConfig(n_grams=0, num_buckets=1, hashes_per_bucket=1, hash_config=HashConfig(precision=64))
    return MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64))


class Signatures(MinhashDedupSignature):
    """datatrove's step with our words and n-grams. A document shorter than an n-gram is one n-gram."""

    def __init__(self, folder: str, config: MinhashConfig):
        super().__init__(folder, config, language=WhitespaceTokenizer())

    def get_shingles(self, text: str) -> np.ndarray:
        """Hashes of the document's n-grams: uint64 [N, 1]."""
        words, n = normalized_words(text), self.config.n_grams
        if not words:
            return np.empty((0, 1), np.uint64)
        return np.unique(ngram_hashes(words, n) if 0 < n <= len(words) else text_hash(words))[:, None]


class DuplicateFilter(MinhashDedupFilter):
    """Drops duplicates; one document of each cluster is kept.

    Args:
        folder: The folder of `duplicate_stages`.
        exclusion_writer: Writes the dropped documents. datatrove gives no reason here, so the writer's is DUPLICATE.
    """

    def __init__(self, folder: Path, exclusion_writer: DiskWriter | None = None):
        super().__init__(str(folder / "removed"), exclusion_writer)

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        yield from super().run(data, rank, world_size)
        self.stat_update(label("dropped", DUPLICATE), value=int(self.stats["dropped"].total))
