"""Evaluation data in training text: a document that shares a long n-gram with an evaluation file is dropped.

§3.1: the datasets were "filtered to exclude downstream task data". The paper does not say how; this is the method of
GPT-3 and The Pile: n-grams of 13 words. A shorter evaluation text is matched as a whole if it has at least 8 words.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.writers.disk_base import DiskWriter

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.curation.dedup.ngrams import ngram_hashes, normalized_words
from kosmos_plugin.curation.pipeline.inputs import InputFile
from kosmos_plugin.curation.pipeline.steps import Filter
from kosmos_plugin.curation.readers.evaluation_files import evaluation_texts
from kosmos_plugin.images import IMAGE_EXTENSIONS

LONGEST_NGRAM = 13
SHORTEST_NGRAM = 8


class ContaminationFilter(Filter):
    """Drops documents that share an n-gram with the evaluation files.

    Args:
        ngrams: The file that `write_ngrams` wrote. Each task reads it once.
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


def write_ngrams(evaluation_files: Iterable[InputFile], target: Path) -> None:
    """Write the hashes of the n-grams of evaluation files (`readers.evaluation_files`) to a .npz file.

    Images among the files hold no text, and are not read. A file without a text of SHORTEST_NGRAM words, which removes
    nothing, is named on standard error.

    Raises:
        UserError: A file cannot be read.
    """
    found: dict[int, set[int]] = {n: set() for n in range(SHORTEST_NGRAM, LONGEST_NGRAM + 1)}
    for file in evaluation_files:
        if file.format in IMAGE_EXTENSIONS:
            continue
        is_used = False
        for text in evaluation_texts(file):
            words = normalized_words(text)
            n = min(len(words), LONGEST_NGRAM)
            if n >= SHORTEST_NGRAM:
                found[n].update(ngram_hashes(words, n).tolist())
                is_used = True
        if not is_used:
            print(f"{file.path} has no text of {SHORTEST_NGRAM} words, and removes nothing.", file=sys.stderr)
    hashes: dict[str, Any] = {str(n): np.array(sorted(hashes), np.uint64) for n, hashes in found.items() if hashes}
    with atomic_path(target) as path, path.open("wb") as archive:
        np.savez(archive, **hashes)
