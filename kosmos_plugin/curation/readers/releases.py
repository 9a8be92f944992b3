"""Interleaved corpora as they are published → documents of texts and images, which have addresses and no bytes yet.

MMC4     JSON lines, also in .zip. A document has `text_list`, its sentences; `url`; and `image_info`, which gives for
         each image its `raw_url`, its `image_name` (the file name of the download) and its `matched_text_index`, the
         sentence that it precedes
OBELICS  Parquet. A row has the lists `images` and `texts`, one of which holds None where the other holds a value;
         `metadata`, a JSON list with the images' `alt_text`; and `general_metadata`, a JSON object with the `url`.
         Other data sets have the images themselves, as Hugging Face's {bytes, path}; where both lists hold a value, the
         image comes first. Or they have a `text`, with an `<image>` for each image or with the images before it
"""

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import IO, Any

from datatrove.data import Document

from kosmos_plugin.curation.page_documents import PageImage, page_document
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.inputs import READ_ERRORS, InputFile, OtherForm, open_input
from kosmos_plugin.curation.pipeline.steps import Reader
from kosmos_plugin.curation.readers.instruction_forms import IMAGE_MARK
from kosmos_plugin.curation.readers.json_values import json_lines, json_object, json_value
from kosmos_plugin.curation.readers.tables import parquet_columns, parquet_records


class ReadRelease(Reader):
    """The documents of a release's files, in order."""

    def read(self, file: InputFile) -> Iterator[Document]:
        with open_input(file.path) as stream:
            for number, record in enumerate(self.records(stream)):
                self.count("read", "pages")
                id = f"{file.name}/{number}"
                with self.dropping(Document("", id)):
                    yield self.document(record if isinstance(record, dict) else {}, id)

    @abstractmethod
    def records(self, stream: IO[bytes]) -> Iterator[object]:
        """The records of an open file."""

    @abstractmethod
    def document(self, record: dict[str, Any], id: str) -> Document:
        """The document of a record. Raises Dropped if it is not in the release's format."""


class ReadMmc4(ReadRelease):
    """The documents of MMC4; an image precedes its sentence."""

    name = "MMC4"

    def records(self, stream: IO[bytes]) -> Iterator[object]:
        return json_lines(stream)

    def document(self, record: dict[str, Any], id: str) -> Document:
        sentences, images = record.get("text_list"), record.get("image_info")
        if not isinstance(sentences, list) or not isinstance(images, list):
            raise _wrong_format()
        before: dict[object, list[dict[str, Any]]] = {}
        for image in images:
            if isinstance(image, dict) and isinstance(image.get("raw_url"), str):
                index = image.get("matched_text_index")
                before.setdefault(index if isinstance(index, int | float) else None, []).append(image)
        parts: list[str | PageImage] = []
        paths = []
        for number, sentence in enumerate(sentences):
            for image in before.get(number, []):
                parts.append(PageImage(_string(image["raw_url"])))
                paths.append(image.get("image_name"))
            if isinstance(sentence, str) and sentence.strip():
                parts.append(sentence.strip())
        document = page_document(list(_joined(parts)), id, _string(record.get("url")))
        for media, path in zip(document.media, paths, strict=True):
            media.path = _string(path) or None
        return document


class ReadObelics(ReadRelease):
    """The documents of OBELICS."""

    name = "OBELICS"

    def records(self, stream: IO[bytes]) -> Iterator[object]:
        known = ("images", "texts", "text", "metadata", "general_metadata")
        names = [name for name, _ in parquet_columns(stream)]
        if "images" not in names or not {"texts", "text"} & set(names):
            raise OtherForm(f"no columns images and texts, but {', '.join(names)}")
        yield from parquet_records(stream, [name for name in known if name in names], rows=16)

    def document(self, record: dict[str, Any], id: str) -> Document:
        images, texts = record.get("images"), record.get("texts")
        if isinstance(images, list) and isinstance(record.get("text"), str):
            images, texts = _placed(images, record["text"])
        if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
            raise _wrong_format()
        metadata = json_value(record.get("metadata"))
        metadata = metadata if isinstance(metadata, list) else []
        parts: list[str | PageImage] = []
        given: list[bytes | None] = []  # the images' bytes
        for image, text, details in itertools.zip_longest(images, texts, metadata[: len(images)]):
            data = image.get("bytes") if isinstance(image, dict) else image
            if isinstance(data, bytes):
                parts.append(PageImage(f"image:{len(given)}"))
                given.append(data)
            elif isinstance(data, str):
                alt = details.get("alt_text") if isinstance(details, dict) else None
                parts.append(PageImage(_string(data), _string(alt) or None))
                given.append(None)
            if isinstance(text, str) and text.strip():
                parts.append(text.strip())
        document = page_document(parts, id, _string(json_object(record.get("general_metadata")).get("url")))
        for media, data in zip(document.media, given, strict=True):
            media.media_bytes = data
        return document


def holds_images(file: InputFile) -> bool:
    """Whether a Parquet file has the images themselves and not their addresses."""
    from pyarrow import types

    try:
        with open_input(file.path) as stream:
            kind = dict(parquet_columns(stream)).get("images")
    except READ_ERRORS:
        return False
    value = getattr(kind, "value_type", None)
    return value is not None and (types.is_struct(value) or types.is_binary(value) or types.is_large_binary(value))


def _placed(images: list[Any], text: str) -> tuple[list[Any], list[Any]]:
    """The images at the marks of a text, as lists of which one holds None where the other holds a value."""
    pieces = text.split(IMAGE_MARK)
    if len(pieces) == 1:
        pieces = [*[""] * len(images), text]
    if len(pieces) != len(images) + 1:
        raise Dropped("<image> marks and images differ in number", f"{len(pieces) - 1} and {len(images)}")
    return [None, *images], pieces


def _wrong_format() -> Dropped:
    return Dropped("record not in the release's format")


def _joined(parts: Sequence[str | PageImage]) -> Iterator[str | PageImage]:
    """Join adjacent sentences to one text."""
    for are_text, group in itertools.groupby(parts, key=lambda part: isinstance(part, str)):
        if are_text:
            yield " ".join(map(str, group))
        else:
            yield from group


def _string(value: object) -> str:
    """A string that can be encoded; "" for another value. JSON can spell half a surrogate pair."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else ""
