"""kosmos-prepare index: the index of a corpus of tars and, with a vocabulary, how long each of its records is.

    TAR.kosmos_index            the index of a tar (`data/shard_index`); a broken tar gets none
    ….DIGEST.kosmos_index       the index of all of them (`data/corpus_index`)
    ….DIGEST….kosmos_lengths    the lengths of their records (`data/record_lengths`)
    OUT/bad.jsonl               a line for each tar without an index, and why

The tars are one corpus: give those that a split of a corpus in the data YAML names.

index shards ─→ a list of bad tars per task ─→ list shards, index corpus ─→ count tokens ─→ arrays ─→ write lengths
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from datatrove.data import Document

from kosmos_plugin.curation.options import IndexOptions
from kosmos_plugin.curation.pipeline.bad_records import BAD_FILE, JoinBadRecords, tars_without_bad
from kosmos_plugin.curation.pipeline.inputs import InputFile
from kosmos_plugin.curation.pipeline.intermediate import save_array
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import DocumentStream, Step
from kosmos_plugin.curation.writers.index_shards import IndexShards, tars_of
from kosmos_plugin.data.corpus_index import open_corpus_index
from kosmos_plugin.data.record_lengths import LengthsFile
from kosmos_plugin.data.shards import ShardedDocuments, reading_name, record_reader
from kosmos_plugin.image_files import IMAGE_EXTENSIONS
from kosmos_plugin.vocabulary import Vocabulary


def stages(run: Run[IndexOptions]) -> list[Stage]:
    """Make the stages of a run. UserError for wrong inputs."""
    tars, bad, bad_file = tars_of(run.inputs), run.intermediate / "bad", run.out / BAD_FILE
    indexed = [
        Stage("index shards", [IndexShards(tars, bad)], len(tars)),
        Stage("list shards", [JoinBadRecords(bad, bad_file), IndexCorpus(tars, bad_file)], 1),
    ]
    if run.options.vocabulary is None:
        return indexed
    Vocabulary.load(run.options.vocabulary)
    counted = Counted(tars, bad_file, run.options.vocabulary, run.options.caption_from, run.intermediate / "lengths")
    return [
        *indexed,
        Stage("count tokens", [CountTokens(counted)], len(tars)),
        Stage("write lengths", [WriteLengths(counted)], 1),
    ]


class IndexCorpus(Step):
    """Writes the index of all tars that have one."""

    name = "index corpus"

    def __init__(self, tars: Sequence[InputFile], bad_file: Path):
        super().__init__()
        self.tars = tars
        self.bad_file = bad_file

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        yield from data or ()
        if tars := tars_without_bad(self.tars, self.bad_file):
            open_corpus_index(tars)


class Counted:
    """The corpus whose records are counted, opened where a task needs it."""

    def __init__(self, tars: Sequence[InputFile], bad_file: Path, vocabulary: str, caption_from: str, folder: Path):
        self.tars = tars
        self.bad_file = bad_file
        self.vocabulary = vocabulary
        self.caption_from = caption_from
        self.folder = folder  # of the tasks' arrays

    def open(self) -> LengthsFile | None:
        """None for a corpus without tars."""
        tars = tars_without_bad(self.tars, self.bad_file)
        return _lengths_file(tuple(tars), self.vocabulary, self.caption_from) if tars else None

    def array(self, tar: int) -> Path:
        """The file of the lengths of a tar, by its number among those that are indexed."""
        return self.folder / f"{tar:06d}.npy"


@functools.lru_cache(maxsize=1)  # for the tasks of a worker
def _lengths_file(tars: tuple[str, ...], vocabulary: str, caption_from: str) -> LengthsFile:
    index = open_corpus_index(tars)
    members = index.record(0).members if len(index) else {}
    kind = "captions" if any(name == "txt" or name in IMAGE_EXTENSIONS for name in members) else "interleaved"
    caption_from = caption_from if kind == "captions" else "txt"
    documents = ShardedDocuments(tars, record_reader(kind, caption_from))
    return LengthsFile(documents, reading_name(kind, caption_from), Vocabulary.load(vocabulary))


class CountTokens(Step):
    """Counts the tokens and images of the records of tars."""

    name = "count"

    def __init__(self, counted: Counted):
        super().__init__()
        self.counted = counted

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        lengths = self.counted.open()
        for tar in range(rank, len(lengths.index.tars) if lengths else 0, world_size):
            assert lengths is not None
            save_array(self.counted.array(tar), lengths.count_tar(tar))
        yield from ()


class WriteLengths(Step):
    """Joins the arrays of all tars."""

    name = "write"

    def __init__(self, counted: Counted):
        super().__init__()
        self.counted = counted

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        if lengths := self.counted.open():
            arrays = (np.load(self.counted.array(tar)) for tar in range(len(lengths.index.tars)))
            lengths.write(lengths.file.beside, arrays)
        yield from ()
