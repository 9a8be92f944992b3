"""Duplicates and near-duplicates of documents, found by datatrove's MinHash over any number of tasks.

Documents are near-duplicates if their sets of 5-word n-grams overlap by about 0.75 or more (14 buckets of 8 hashes, as
FineWeb's: at an overlap of 0.8 they are found with a probability of 92%). Exact ones are always found: texts are equal
if their words are. Of each cluster one document is kept.

    signatures   one task a part     its documents' hashes, sorted
    buckets      14 tasks            pairs of documents with equal hashes in a bucket
    clusters     one task            which documents are to go; its memory grows with the number of duplicates alone
"""

from collections.abc import Iterator
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
from datatrove.utils.hashing import HashConfig

from kosmos_plugin.curation.dedup.ngrams import Words, ngram_hashes, text_hash, words
from kosmos_plugin.curation.pipeline.report import label
from kosmos_plugin.curation.pipeline.runner import Stage

KINDS = ("near", "exact", "none")


def duplicate_stages(parts: PipelineStep, tasks: int, folder: Path, kind: str) -> list[Stage]:
    """The stages that find the duplicates among the documents that `parts` reads in `tasks` tasks."""
    config = _config(kind)
    signatures, buckets, removed = (folder / name for name in ("signatures", "buckets", "removed"))
    return [
        Stage("sign documents", [parts, Signatures(str(signatures), config)], tasks),
        Stage(
            "compare signatures",
            [MinhashDedupBuckets(str(signatures), str(buckets), config=config)],
            config.num_buckets,
        ),
        Stage("cluster duplicates", [MinhashDedupCluster(str(buckets), str(removed), config)], 1),
    ]


def _config(kind: str) -> MinhashConfig:
    if kind == "exact":  # a document has one n-gram, itself
        return MinhashConfig(n_grams=0, num_buckets=1, hashes_per_bucket=1, hash_config=HashConfig(precision=64))
    return MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64))


class Signatures(MinhashDedupSignature):
    """With our words and n-grams. A document shorter than an n-gram is one as a whole."""

    def __init__(self, folder: str, config: MinhashConfig):
        super().__init__(folder, config, language=Words())

    def get_shingles(self, text: str) -> np.ndarray:
        """Hashes of the document's n-grams: uint64 [N, 1]."""
        of, n = words(text), self.config.n_grams
        if not of:
            return np.empty((0, 1), np.uint64)
        return np.unique(ngram_hashes(of, n) if 0 < n <= len(of) else text_hash(of))[:, None]


class DropDuplicates(MinhashDedupFilter):
    """Drops the documents that the stages found to be duplicates of one that is kept."""

    def __init__(self, folder: Path):
        super().__init__(str(folder / "removed"))

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        yield from super().run(data, rank, world_size)
        self.stat_update(label("dropped", "duplicates and near-duplicates"), value=int(self.stats["dropped"].total))
