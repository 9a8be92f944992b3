"""Evaluation data in training text: a document that shares a long n-gram with an evaluation file is dropped.

§3.1: the datasets were "filtered to exclude downstream task data". The paper does not say how; this is the method of
GPT-3 and The Pile: n-grams of 13 words. A shorter evaluation text is matched as a whole if it has at least 8 words, or
7 if it is a sentence, as the shortest of Winograd's schemas are ("Lily spoke to Donna, breaking her silence.").
"""

from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.writers.disk_base import DiskWriter

from kosmos_plugin.curation.dedup.ngrams import ngram_hashes, normalized_words
from kosmos_plugin.curation.pipeline.steps import Filter

LONGEST_NGRAM = 13
SHORTEST_NGRAM = 8
SHORTEST_SENTENCE = 7


class ContaminationFilter(Filter):
    """Drops documents that share an n-gram with the evaluation files.

    Args:
        ngrams: The file that `readers.evaluation_files` wrote. Each task reads it once.
        exclusion_writer: Writes the dropped documents.
    """

    name = "evaluation data"

    def __init__(self, ngrams: Path, exclusion_writer: DiskWriter | None = None):
        super().__init__(exclusion_writer)
        self.ngrams = ngrams
        self._hashes: dict[int, np.ndarray] | None = None  # n → the sorted hashes of n-grams, uint64

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        if self._hashes is None:
            with np.load(self.ngrams) as hashes:
                self._hashes = {int(n): hashes[n] for n in hashes.files}
        words = normalized_words(document.text)
        for n, known in self._hashes.items():
            hashes = ngram_hashes(words, n)
            nearest = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            if (known[nearest] == hashes).any():
                return False, "text of an evaluation file"
        return True
