"""Evaluation data in training text: a document that shares a long n-gram with an evaluation file is dropped.

§3.1: the datasets were "filtered to exclude downstream task data". The paper does not say how; this is the method of
GPT-3 and The Pile: n-grams of 13 words. A shorter evaluation text is matched as a whole if it has at least 8 words.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.writers.disk_base import DiskWriter

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.curation.dedup.ngrams import ngram_hashes, normalized_words
from kosmos_plugin.curation.pipeline.inputs import InputFile, open_input
from kosmos_plugin.curation.pipeline.steps import Filter
from kosmos_plugin.errors import UserError

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
    """Write the hashes of the n-grams of evaluation files.

    Args:
        evaluation_files: Every string of JSON and JSON lines is read, and every line of other files.
        target: The .npz file.

    Raises:
        UserError: A file cannot be read.
    """
    found: dict[int, set[int]] = {n: set() for n in range(SHORTEST_NGRAM, LONGEST_NGRAM + 1)}
    for file in evaluation_files:
        for text in _strings(file):
            words = normalized_words(text)
            n = min(len(words), LONGEST_NGRAM)
            if n >= SHORTEST_NGRAM:
                found[n].update(ngram_hashes(words, n).tolist())
    hashes: dict[str, Any] = {str(n): np.array(sorted(hashes), np.uint64) for n, hashes in found.items() if hashes}
    with atomic_path(target) as path, path.open("wb") as archive:
        np.savez(archive, **hashes)


def _strings(file: InputFile) -> Iterator[str]:
    try:
        with open_input(file.path) as stream:
            if file.format == "json":
                yield from _strings_in(json.load(stream))
            else:
                for line in stream:
                    yield from _strings_in(json.loads(line)) if file.format == "jsonl" else [line.decode("utf-8")]
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"Cannot read the evaluation file {file.path}: {error}") from None


def _strings_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings_in(part)
