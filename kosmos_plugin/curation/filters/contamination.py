"""Evaluation data in training text: a document that shares a long n-gram with an evaluation file is dropped.

§3.1: the datasets were "filtered to exclude downstream task data". The paper does not say how; this is the way of GPT-3
and of The Pile: n-grams of 13 words (an evaluation text of fewer words counts as a whole, if it has 8 at least).
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document

from kosmos_plugin.curation.dedup.ngrams import ngram_hashes, words
from kosmos_plugin.curation.pipeline.inputs import InputFile, open_input
from kosmos_plugin.errors import UserError

LONGEST = 13
SHORTEST = 8
REASON = "text of an evaluation file"


class EvaluationTexts:
    """The n-grams of evaluation files, as a rule for documents.

    Made once, by `build`; a task of a stage reads them from `file` when it meets its first document.
    """

    def __init__(self, file: Path):
        self.file = str(file)
        self._hashes: dict[int, np.ndarray] | None = None

    @classmethod
    def build(cls, evaluation_files: list[InputFile], file: Path) -> "EvaluationTexts":
        """Read the files (JSON, JSON lines: every string in them; anything else: its lines) and write their n-grams."""
        found: dict[int, set[int]] = {n: set() for n in range(SHORTEST, LONGEST + 1)}
        for evaluation_file in evaluation_files:
            for text in _strings(evaluation_file):
                of = words(text)
                n = min(len(of), LONGEST)
                if n >= SHORTEST:
                    found[n].update(ngram_hashes(of, n).tolist())
        hashes = {str(n): np.array(sorted(hashes), np.uint64) for n, hashes in found.items() if hashes}
        np.savez(file, **hashes)
        return cls(file)

    def __call__(self, document: Document) -> str | None:
        """A rule for `Rules`."""
        if self._hashes is None:
            with np.load(self.file) as hashes:
                self._hashes = {int(n): hashes[n] for n in hashes.files}
        of = words(document.text)
        for n, known in self._hashes.items():
            hashes = ngram_hashes(of, n)
            places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            if (known[places] == hashes).any():
                return REASON
        return None


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
