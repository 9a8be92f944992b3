"""Examples of instructions → documents in which only the answers are in the loss.

An example's turns become segments: the prompt's texts and images, not in the loss, and the answer. A prompt ends with a
line feed.
"""

from collections.abc import Iterator, Sequence

from datatrove.data import Document, Media
from datatrove.pipeline.writers.disk_base import DiskWriter

from kosmos_plugin.curation.filters.text import check_text
from kosmos_plugin.curation.page_documents import Segment
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.inputs import InputFile, open_input
from kosmos_plugin.curation.pipeline.steps import Reader
from kosmos_plugin.curation.readers import json_values
from kosmos_plugin.curation.readers.image_values import image_folder, image_media
from kosmos_plugin.curation.readers.instruction_forms import IMAGE_MARK, Example, examples
from kosmos_plugin.curation.readers.tables import csv_records, json_records, parquet_records, tsv_records

EXTENSIONS = ("jsonl", "json", "ndjson", "parquet", "csv", "tsv", "zip")


class ReadInstructions(Reader):
    """The examples of files: documents with `metadata["segments"]` (`page_documents`). Images are not read yet.

    Args:
        files: The input files.
        images: The folder of images that are given by name; None for the folder of each file.
        exclusion_writer: Writes the examples that cannot be used.
    """

    name = "instructions"

    def __init__(
        self, files: Sequence[InputFile], images: str | None = None, exclusion_writer: DiskWriter | None = None
    ):
        super().__init__(files, exclusion_writer)
        self.images = images

    def read(self, file: InputFile) -> Iterator[Document]:
        folder = image_folder(file, self.images)
        number = 0
        for record in _records(file):
            for example in _examples(record):
                self.count("read", "documents")
                unusable = Document("", f"{file.name}/{number}")
                number += 1
                with self.dropping(unusable):
                    if isinstance(example, Dropped):
                        raise example
                    document = instruction_document(example, folder, unusable.id)
                    unusable.text = document.text
                    check_text(document.text)
                    yield document


def _records(file: InputFile) -> Iterator[object]:
    if file.format == "parquet":
        with open_input(file.path) as stream:
            yield from parquet_records(stream, rows=16)
    elif file.format in ("csv", "tsv"):
        read = csv_records if file.format == "csv" else tsv_records
        yield from read(file, lambda header: None, json_values.MAX_BYTES)
    else:
        yield from json_records(file)


def _examples(record: object) -> Iterator[Example | Dropped]:
    try:
        yield from examples(record)
    except Dropped as error:
        yield error


def instruction_document(example: Example, folder: str, id: str) -> Document:
    """The document of an example. Raises Dropped if an image is not one, or is outside of `folder`."""
    media: list[Media] = []
    segments: list[Segment] = []
    for prompt, answer in example.turns:
        for number, text in enumerate(prompt.split(IMAGE_MARK)):
            if number > 0:
                segments.append({"image": len(media)})
                media.append(image_media(example.images[len(media)], folder, str(len(media))))
            if text.strip():
                segments.append({"text": _stripped(text), "in_loss": False})
        if answer:
            segments.append({"text": answer})
    text = "".join(segment["text"] for segment in segments if "text" in segment)
    return Document(text, id, media, {"segments": segments})


def _stripped(text: str) -> str:
    return text.lstrip() if text.endswith("\n") else text.strip()
