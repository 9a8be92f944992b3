"""kosmos-prepare captions with img2dataset's tars: the tars stay as they are, and an index beside each lists its pairs.

    TAR.kosmos_index   the index of the pairs that are kept, and the options that selected them
    OUT/corpus.yaml    the corpus for a data YAML
    OUT/bad.jsonl      a line for each tar without an index, and why

filter shards ─→ a list of bad tars per task ─→ list shards
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import get_filter_result
from datatrove.pipeline.writers.disk_base import DiskWriter
from tqdm import tqdm

from kosmos_plugin.atomic import write_text
from kosmos_plugin.curation.filters.captions import check_pair, pair_document
from kosmos_plugin.curation.filters.images import FILE_TOO_LARGE, MAX_IMAGE_BYTES
from kosmos_plugin.curation.options import CaptionOptions
from kosmos_plugin.curation.pipeline.bad_records import BAD_FILE, JoinBadRecords, tars_without_bad
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.inputs import InputFile
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import DocumentStream, Filter, Step
from kosmos_plugin.curation.writers.index_shards import IndexShards
from kosmos_plugin.data.documents import BrokenRecord, Image, Text
from kosmos_plugin.data.shard_index import Record, selection_of
from kosmos_plugin.data.shards import caption_document
from kosmos_plugin.errors import UserError

CORPUS_FILE = "corpus.yaml"
# All other options select pairs; an index stores those.
_NOT_SELECTING = (
    "format",
    "images",
    "image_column",
    "caption_column",
    "tsv_columns",
    "valid_share",
    "valid_documents",
    "vocabulary",
    "keep_dropped",
)
_SELECTING = tuple(field.name for field in dataclasses.fields(CaptionOptions) if field.name not in _NOT_SELECTING)


def stages_in_place(run: Run[CaptionOptions], tars: Sequence[InputFile], filters: Sequence[Filter]) -> list[Stage]:
    """Make the stages that index the pairs of `tars` that pass `filters`."""
    selection = json.dumps({name: getattr(run.options, name) for name in _SELECTING})
    bad = run.intermediate / "bad"
    if run.report_file.is_file():
        _require_selection(tars_without_bad(tars, run.out / BAD_FILE), selection)
    caption_from = run.options.caption_from
    filter_shards = FilterShards(tars, bad, selection, filters, caption_from, run.dropped_writer("invalid"))
    return [
        Stage("filter shards", [filter_shards], len(tars)),
        Stage(
            "list shards",
            [JoinBadRecords(bad, run.out / BAD_FILE), WriteCorpus(tars, run.out, selection, caption_from)],
            1,
        ),
    ]


class FilterShards(IndexShards):
    """Writes indexes of the pairs that pass the filters.

    Args:
        tars: The tars of all tasks.
        bad: The folder of the lists of broken tars.
        selection: The options that select the pairs.
        filters: The filters, each with its own exclusion writer.
        caption_from: "txt" or "json", where the captions are.
        exclusion_writer: Writes the records that are not pairs.
    """

    name = "filter"

    def __init__(
        self,
        tars: Sequence[InputFile],
        bad: Path,
        selection: str,
        filters: Sequence[Filter],
        caption_from: str,
        exclusion_writer: DiskWriter | None = None,
    ):
        super().__init__(tars, bad, selection)
        self.filters = filters
        self.caption_from = caption_from
        self.exclusion_writer = exclusion_writer
        self._dropped: list[tuple[DiskWriter, Document]] = []

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with contextlib.ExitStack() as stack:
            for writer in (self.exclusion_writer, *(filter.exclusion_writer for filter in self.filters)):
                stack.enter_context(writer or contextlib.nullcontext())
            yield from super().run(data, rank, world_size)

    def index(self, tar: str, rank: int) -> None:
        self._dropped.clear()
        super().index(tar, rank)
        for writer, document in self._dropped:
            writer.write(document, rank)

    def check(self, record: Record) -> None:
        document = Document("", record.id)
        try:
            document = self._pair(record, document)
        except Dropped as error:
            self._drop(document, error.reason, self.exclusion_writer)
            raise
        for filter in self.filters:
            keep, reason = get_filter_result(filter.filter(document))
            if not keep:
                self._drop(document, reason, filter.exclusion_writer)
                raise Dropped(reason)

    def _drop(self, document: Document, reason: str, writer: DiskWriter | None) -> None:
        """Hold a document until its tar is known to be complete, without its image."""
        if writer is not None:
            self._dropped.append((writer, Document(document.text, document.id, metadata={"filter_reason": reason})))

    def _pair(self, record: Record, document: Document) -> Document:
        """The document of a pair. If the record is not one, `document` is given what is known of it."""
        if record.largest > MAX_IMAGE_BYTES:
            raise Dropped(FILE_TOO_LARGE)
        try:
            image, caption = caption_document(record, self.caption_from).segments
        except BrokenRecord as error:
            raise Dropped(error.reason, error.detail) from None
        assert isinstance(image, Image) and isinstance(caption, Text)  # the layout of a pair
        document.text = caption.text
        data = image.read()
        check_pair(caption.text, data)
        return pair_document(caption.text, data, record.id)


class WriteCorpus(Step):
    """Writes and prints the lines for a data YAML: the tars that have an index."""

    name = "corpus"

    def __init__(self, tars: Sequence[InputFile], out: Path, selection: str, caption_from: str):
        super().__init__()
        self.tars = tars
        self.out = out
        self.selection = selection
        self.caption_from = caption_from

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        yield from data
        tars = tars_without_bad(self.tars, self.out / BAD_FILE)
        _require_selection(tars, self.selection)
        corpus: dict[str, object] = {"name": self.out.resolve().name, "train": list(as_patterns(tars))}
        if self.caption_from != "txt":
            corpus["caption_from"] = self.caption_from
        lines = yaml.safe_dump([corpus], sort_keys=False, allow_unicode=True, width=1000)
        write_text(self.out / CORPUS_FILE, lines)
        tqdm.write(f"\nThe corpus for a data YAML, also in {self.out / CORPUS_FILE}:\n\n{lines}")


def _require_selection(tars: Iterable[str], selection: str) -> None:
    for tar in tars:
        if selection_of(tar) != selection:
            raise UserError(
                f"The index of {tar} is no longer the one that this run wrote: another run has filtered the tar since, "
                "or the index was removed. Filter the tars again, with another --out."
            )


def as_patterns(paths: Iterable[str]) -> Iterator[str]:
    """Shorten paths to patterns for a data YAML: consecutive ones, 00000.tar … 00041.tar, to {00000..00041}.tar."""
    for (before, after, *_), group in itertools.groupby(enumerate(map(_numbered, paths)), key=_series):
        numbers = [number for _, (_, number, _) in group]
        between = f"{{{numbers[0]}..{numbers[-1]}}}" if len(numbers) > 1 else numbers[0]
        yield f"{_escaped(before)}{between}{_escaped(after)}"


def _numbered(path: str) -> tuple[str, str, str]:
    """("a/laion-", "00012", ".tar") for "a/laion-00012.tar"."""
    stem, dot, extension = path.rpartition(".")
    before = stem.rstrip("0123456789")
    return before, stem[len(before) :], dot + extension


def _series(item: tuple[int, tuple[str, str, str]]) -> tuple[str, str, int, int]:
    """A key that is equal for paths that follow each other in the list and by their numbers."""
    position, (before, number, after) = item
    return before, after, len(number), int(number or 0) - position


def _escaped(text: str) -> str:
    """Escape the characters that a pattern of braces gives a meaning."""
    return "".join(f"\\{character}" if character in "\\{}" else character for character in text)
