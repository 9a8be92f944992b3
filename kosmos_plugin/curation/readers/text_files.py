"""Text files → documents: JSON lines, Parquet, The Pile's JSON lines, plain text; each may be compressed."""

from collections.abc import Iterator, Sequence
from typing import IO, Any

from datatrove.data import Document
from datatrove.pipeline.writers.disk_base import DiskWriter

from kosmos_plugin.curation.filters.text import INPUT_FOLDER, PILE_SUBSET, check_text
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.inputs import InputFile, OtherForm, open_input
from kosmos_plugin.curation.pipeline.steps import Reader
from kosmos_plugin.curation.readers import json_values
from kosmos_plugin.curation.readers.tables import json_records, parquet_columns, parquet_records

EXTENSIONS = ("jsonl", "json", "ndjson", "parquet", "txt")


class ReadTexts(Reader):
    """The documents of text files.

    Each record of JSON lines, of an array in JSON, or of Parquet is a document. A plain text file
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
        for number, record in enumerate(self._records(file)):
            self.count("read", "documents")
            document = Document("", f"{file.name}/{number}", metadata=_source(record, file))
            with self.dropping(document):
                text = self._text(record)
                document.text = text if isinstance(text, str) else ""
                check_text(text)
                yield document

    def _records(self, file: InputFile) -> Iterator[object]:
        """The records of a file: objects, or the texts of plain text (None for one that is too long)."""
        if file.format not in ("txt", "parquet"):
            yield from json_records(file)
            return
        with open_input(file.path) as stream:
            if file.format == "txt":
                yield from self._plain(stream)
            else:
                names = [name for name, _ in parquet_columns(stream)]
                if self.text_key not in names:
                    raise OtherForm(f"no column {self.text_key} (--text-key), but {', '.join(names)}")
                yield from parquet_records(stream, [name for name in (self.text_key, "meta") if name in names])

    def _text(self, record: object) -> object:
        """The text of a record, which may be any value. Raises Dropped if it is missing."""
        if isinstance(record, dict):
            if self.text_key not in record:
                fields = ", ".join(map(str, list(record)[:20])) or "none"
                raise Dropped(f"no field {self.text_key} (--text-key)", f"but {fields}")
            record = record[self.text_key]
        elif record is None:
            raise Dropped("not valid JSON, or too long")
        elif not isinstance(record, bytes):
            raise Dropped("not a JSON object")
        return _decoded(record)

    def _plain(self, stream: IO[bytes]) -> Iterator[bytes | None]:
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


def _source(record: object, file: InputFile) -> dict[str, Any]:
    """The subset of The Pile that a record is from; else the folder of its file."""
    meta = record.get("meta") if isinstance(record, dict) else None
    subset = meta.get(PILE_SUBSET) if isinstance(meta, dict) else None
    return {PILE_SUBSET: subset} if isinstance(subset, str) else {INPUT_FOLDER: file.folder}


def _joined(lines: list[bytes], size: int) -> Iterator[bytes | None]:
    """The text of the lines between two separators, if any; None if it is too long."""
    if size > json_values.MAX_BYTES:
        yield None
    elif text := b"".join(lines).strip():
        yield text


def _decoded(text: object) -> object:
    """Decode bytes, which Parquet and plain text hold; None if they are not UTF-8. Other values stay as they are."""
    if isinstance(text, bytes):
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            return None
    return text
