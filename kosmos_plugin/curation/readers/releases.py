"""Interleaved corpora as they are published → documents of texts and images, by their addresses.

MMC4     JSON lines, also in .zip; a document has text_list, its sentences; url; and image_info, of each image its
         raw_url, image_name (what its download is called) and matched_text_index, the sentence that it goes before
OBELICS  Parquet; a row has the lists images and texts, of which one has None where the other has something; metadata,
         a JSON list with an image's alt_text; and general_metadata, a JSON object with the page's url
"""

import itertools
from collections.abc import Iterator
from typing import BinaryIO

from datatrove.data import Document

from kosmos_plugin.curation.pipeline.inputs import InputFile, open_input
from kosmos_plugin.curation.pipeline.steps import Reader
from kosmos_plugin.curation.readers.html import PageImage, page_document
from kosmos_plugin.curation.readers.texts import json_lines, json_object, json_value

_NO_DOCUMENT = "no record of its format"


class ReadRelease(Reader):
    """The documents of files, in their order. `records` are those of an open file."""

    def read(self, file: InputFile) -> Iterator[Document]:
        with open_input(file.path) as stream:
            for number, record in enumerate(self.records(stream)):
                self.count("read", "pages")
                document = self.document(record, f"{file.name}/{number}") if isinstance(record, dict) else None
                if document is None:
                    self.count("dropped", _NO_DOCUMENT)
                else:
                    yield document


class ReadMmc4(ReadRelease):
    """MMC4's documents; an image goes before its sentence."""

    name = "MMC4"

    def records(self, stream: BinaryIO) -> Iterator[object]:
        return json_lines(stream)

    def document(self, record: dict, id: str) -> Document | None:
        sentences, images = record.get("text_list"), record.get("image_info")
        if not isinstance(sentences, list) or not isinstance(images, list):
            return None
        before: dict[object, list[dict]] = {}
        for image in images:
            if isinstance(image, dict) and isinstance(image.get("raw_url"), str):
                before.setdefault(image.get("matched_text_index"), []).append(image)
        parts, paths = [], []
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
    """OBELICS' documents."""

    name = "OBELICS"

    def records(self, stream: BinaryIO) -> Iterator[object]:
        from pyarrow import parquet

        columns = ["images", "texts", "metadata", "general_metadata"]
        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=64, columns=columns):
            yield from batch.to_pylist()

    def document(self, record: dict, id: str) -> Document | None:
        images, texts = record.get("images"), record.get("texts")
        if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
            return None
        about = json_value(record.get("metadata"))
        about = about if isinstance(about, list) else []
        parts: list[str | PageImage] = []
        for image, text, details in itertools.zip_longest(images, texts, about[: len(images)]):
            if isinstance(image, str):
                alt = details.get("alt_text") if isinstance(details, dict) else None
                parts.append(PageImage(_string(image), _string(alt) or None))
            elif isinstance(text, str) and text.strip():
                parts.append(text.strip())
        return page_document(parts, id, _string(json_object(record.get("general_metadata")).get("url")))


def _joined(parts: list[str | PageImage]) -> Iterator[str | PageImage]:
    """Sentences that follow each other as one text."""
    for are_text, group in itertools.groupby(parts, key=lambda part: isinstance(part, str)):
        if are_text:
            yield " ".join(group)
        else:
            yield from group


def _string(value: object) -> str:
    """A string that can be written; "" for what is none. JSON can spell half a surrogate pair."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else ""
