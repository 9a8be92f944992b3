"""Texts of any form → documents: JSON lines, Parquet, The Pile's JSON lines, plain text; each may be compressed."""

import json
from collections.abc import Iterator
from typing import BinaryIO

from datatrove.data import Document

from kosmos_plugin.curation.pipeline.inputs import InputFile, open_input
from kosmos_plugin.curation.pipeline.steps import Reader

FORMATS = ("jsonl", "json", "ndjson", "parquet", "txt")
# Of The Pile's records: {"text": …, "meta": {"pile_set_name": "Pile-CC"}}.
PILE_SUBSET = "pile_set_name"
# A line of JSON, or a plain text, that is longer is no document but a mistake, or meant to fill the memory.
MAX_BYTES = 64 * 1024 * 1024


class ReadTexts(Reader):
    """The documents of text files, in their order.

    JSON lines and Parquet: `text_key` is the text; The Pile's name of its subset is kept as metadata. A .json file may
    also be one array of records. Plain text: a file is one document, or with `separator` what stands between lines that
    are just that ("" for empty lines).
    """

    name = "texts"

    def __init__(self, files: list[InputFile], text_key: str = "text", separator: str | None = None):
        super().__init__(files)
        self.text_key = text_key
        self.separator = separator

    def read(self, file: InputFile) -> Iterator[Document]:
        for number, (text, metadata) in enumerate(self._texts(file)):
            self.count("read", "documents")
            if problem := problem_of(text):
                self.count("dropped", problem)
            else:
                yield Document(text, f"{file.name}/{number}", metadata=metadata)

    def _texts(self, file: InputFile) -> Iterator[tuple[object, dict]]:
        """(text, metadata) of each record; what is no text is left to the caller."""
        records = {"parquet": self._parquet, "txt": self._plain}.get(file.format, self._json_lines)
        if file.format == "json" and _is_array(file):
            records = self._json_array
        with open_input(file.path) as stream:
            yield from records(stream)

    def _json_lines(self, stream: BinaryIO) -> Iterator[tuple[object, dict]]:
        for record in json_lines(stream):
            yield from self.texts_of(record)

    def _json_array(self, stream: BinaryIO) -> Iterator[tuple[object, dict]]:
        data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"an array of more than {MAX_BYTES:,} bytes; JSON lines can be of any size")
        for record in json.loads(data):
            yield from self.texts_of(record)

    def _parquet(self, stream: BinaryIO) -> Iterator[tuple[object, dict]]:
        from pyarrow import parquet

        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=256):
            for record in batch.to_pylist():
                yield from self.texts_of(record)

    def texts_of(self, record: object) -> Iterator[tuple[object, dict]]:
        """(text, metadata) of each text that a record of JSON or Parquet holds, which is one; what is none is None."""
        if not isinstance(record, dict):
            yield None, {}
            return
        text, about = record.get(self.text_key), record.get("meta")
        subset = about.get(PILE_SUBSET) if isinstance(about, dict) else None
        yield _decoded(text), {PILE_SUBSET: subset} if isinstance(subset, str) else {}

    def _plain(self, stream: BinaryIO) -> Iterator[tuple[object, dict]]:
        lines: list[bytes] = []
        size = 0
        while line := stream.readline(MAX_BYTES):
            if self.separator is not None and line.rstrip(b"\r\n").decode("utf-8", "replace") == self.separator:
                yield from self._joined(lines, size)
                lines, size = [], 0
                continue
            size += len(line)
            if size <= MAX_BYTES:
                lines.append(line)
        yield from self._joined(lines, size)

    @staticmethod
    def _joined(lines: list[bytes], size: int) -> Iterator[tuple[object, dict]]:
        if size > MAX_BYTES:
            yield None, {}
        elif text := b"".join(lines).strip():
            try:
                yield text.decode("utf-8"), {}
            except UnicodeDecodeError:
                yield None, {}


def _decoded(text: object) -> object:
    """Parquet has text as bytes too."""
    if isinstance(text, bytes):
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            return None
    return text


def _is_array(file: InputFile) -> bool:
    with open_input(file.path) as stream:
        return stream.read(64).lstrip().startswith(b"[")


def json_lines(stream: BinaryIO) -> Iterator[object]:
    """The values of lines of JSON; None for one that is broken or longer than MAX_BYTES, of which no more is held."""
    while line := stream.readline(MAX_BYTES):
        if len(line) == MAX_BYTES:
            while not line.endswith(b"\n") and (line := stream.readline(MAX_BYTES)):
                pass
            yield None
        elif not line.isspace():
            yield json_value(line)


def json_value(data: object) -> object:
    """The value of JSON; None for what is broken, or no JSON at all."""
    try:
        return json.loads(data)
    except (TypeError, ValueError, RecursionError):
        return None


def json_object(data: object) -> dict:
    """The object that JSON is of; empty for what is none."""
    value = json_value(data)
    return value if isinstance(value, dict) else {}


def problem_of(text: object) -> str | None:
    """Why a value is no text to train on, or None."""
    if not isinstance(text, str):
        return "no text, or not valid UTF-8"
    if not text.strip():
        return "empty text"
    if "\0" in text:
        return "NUL bytes"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # JSON can spell it: "\ud83d"
        return "half a surrogate pair"
    return None
