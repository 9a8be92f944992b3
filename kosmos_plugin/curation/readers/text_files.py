"""Text files → documents: JSON lines, Parquet, The Pile's JSON lines, plain text; each may be compressed."""

import json
from collections.abc import Iterator, Sequence
from typing import IO, Any

from datatrove.data import Document
from datatrove.pipeline.writers.disk_base import DiskWriter

from kosmos_plugin.curation.filters.text import PILE_SUBSET, check_text
from kosmos_plugin.curation.pipeline.inputs import InputFile, open_input
from kosmos_plugin.curation.pipeline.steps import Reader
from kosmos_plugin.curation.readers import json_values
from kosmos_plugin.curation.readers.json_values import json_lines

EXTENSIONS = ("jsonl", "json", "ndjson", "parquet", "txt")


class ReadTexts(Reader):
    """The documents of text files.

    Each record of JSON lines or Parquet is a document. A .json file may also be one array of records. A plain text file
    is one document, or several between separator lines.

    Args:
        files: The input files.
        text_key: The field of JSON and Parquet that holds the text.
        separator: Plain text: the line between documents, "" for empty lines; None for one document per file.
        exclusion_writer: Writes the records that are not valid text.
    """

    name = "texts"

    def __init__(
        self,
        files: Sequence[InputFile],
        text_key: str = "text",
        separator: str | None = None,
        exclusion_writer: DiskWriter | None = None,
    ):
        super().__init__(files, exclusion_writer)
        self.text_key = text_key
        self.separator = separator

    def read(self, file: InputFile) -> Iterator[Document]:
        for number, (text, metadata) in enumerate(self._texts(file)):
            self.count("read", "documents")
            document = Document(text if isinstance(text, str) else "", f"{file.name}/{number}", metadata=metadata)
            with self.dropping(document):
                check_text(text)
                yield document

    def texts_of(self, record: object) -> Iterator[tuple[object, dict[str, Any]]]:
        """The texts of a record, each with metadata; None for a text that is missing. Here a record has one."""
        if not isinstance(record, dict):
            yield None, {}
            return
        text, meta = record.get(self.text_key), record.get("meta")
        subset = meta.get(PILE_SUBSET) if isinstance(meta, dict) else None
        yield _decoded(text), {PILE_SUBSET: subset} if isinstance(subset, str) else {}

    def _texts(self, file: InputFile) -> Iterator[tuple[object, dict[str, Any]]]:
        """The texts of all records, which may be any value."""
        if file.format == "txt":
            records = self._plain
        elif file.format == "parquet":
            records = self._parquet
        else:
            records = self._json_array if file.format == "json" and _is_array(file) else self._json_lines
        with open_input(file.path) as stream:
            yield from records(stream)

    def _json_lines(self, stream: IO[bytes]) -> Iterator[tuple[object, dict[str, Any]]]:
        for record in json_lines(stream):
            yield from self.texts_of(record)

    def _json_array(self, stream: IO[bytes]) -> Iterator[tuple[object, dict[str, Any]]]:
        data = stream.read(json_values.MAX_BYTES + 1)
        if len(data) > json_values.MAX_BYTES:
            raise ValueError(f"an array of more than {json_values.MAX_BYTES:,} bytes; JSON lines can be of any size")
        for record in json.loads(data):
            yield from self.texts_of(record)

    def _parquet(self, stream: IO[bytes]) -> Iterator[tuple[object, dict[str, Any]]]:
        from pyarrow import parquet

        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=256):
            for record in batch.to_pylist():
                yield from self.texts_of(record)

    def _plain(self, stream: IO[bytes]) -> Iterator[tuple[object, dict[str, Any]]]:
        lines: list[bytes] = []
        size = 0
        while line := stream.readline(json_values.MAX_BYTES):
            if self.separator is not None and line.rstrip(b"\r\n").decode("utf-8", "replace") == self.separator:
                yield from _joined(lines, size)
                lines, size = [], 0
                continue
            size += len(line)
            if size <= json_values.MAX_BYTES:
                lines.append(line)
        yield from _joined(lines, size)


def _joined(lines: list[bytes], size: int) -> Iterator[tuple[object, dict[str, Any]]]:
    """The text of the lines between two separators, if any; None if it is too long or not UTF-8."""
    if size > json_values.MAX_BYTES:
        yield None, {}
    elif text := b"".join(lines).strip():
        yield _decoded(text), {}


def _decoded(text: object) -> object:
    """Decode bytes, which Parquet may hold; None if they are not UTF-8. Other values stay as they are."""
    if isinstance(text, bytes):
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            return None
    return text


def _is_array(file: InputFile) -> bool:
    with open_input(file.path) as stream:
        return stream.read(64).lstrip().startswith(b"[")
