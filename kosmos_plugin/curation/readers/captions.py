"""Image–caption pairs as they are published → documents of an image and its caption.

webdataset   img2dataset's tars; they are used in place (`recipes.captions_in_place`)
files        img2dataset's folders: 00000/000000000.jpg, .txt, .json
parquet      img2dataset's tables: a row has key, caption, the image's bytes as jpg, png or webp, …
tsv          a line is key, caption, image (base64), width, height: microsoft/unilm's kosmos-2
coco         COCO's captions_*.json, with its images in a folder; a pair for each annotation
"""

import base64
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import fsspec
from datatrove.data import Document
from datatrove.pipeline.writers.disk_base import DiskWriter

from kosmos_plugin.curation.filters.captions import check_pair, pair_document
from kosmos_plugin.curation.filters.images import MAX_IMAGE_BYTES
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.inputs import InputFile, open_input
from kosmos_plugin.curation.pipeline.steps import Reader
from kosmos_plugin.curation.readers.json_values import json_object, lines_of
from kosmos_plugin.curation.writers.shards import RECORDS_PER_SHARD
from kosmos_plugin.image_files import IMAGE_EXTENSIONS

# Format → file extensions.
FORMATS = {
    "webdataset": ("tar",),
    "files": IMAGE_EXTENSIONS,
    "tsv": ("tsv",),
    "parquet": ("parquet",),
    "coco": ("json",),
}
# img2dataset writes tables and statistics in JSON beside its tars, folders and tables; these are ignored.
FORMAT_GROUPS = (("webdataset", "files", "tsv"), ("parquet",), ("coco",))
# base64 takes 4/3 of an image's bytes, and the caption comes on top.
MAX_LINE_BYTES = 2 * MAX_IMAGE_BYTES


class ReadPairs(Reader):
    """Reads the pairs of files, in order. A subclass knows the format."""

    name = "pairs"

    def read(self, file: InputFile) -> Iterator[Document]:
        for number, record in enumerate(self.records(file)):
            self.count("read", "records")
            unusable = Document("", f"{file.name}/{number}")
            with self.dropping(unusable):
                caption, image = self.pair(record)
                unusable.text = caption if isinstance(caption, str) else ""
                check_pair(caption, image)
                yield pair_document(caption, image, unusable.id)

    @abstractmethod
    def records(self, file: InputFile) -> Iterator[Any]:
        """The records of a file, in the form that `pair` takes."""

    @abstractmethod
    def pair(self, record: Any) -> tuple[Any, Any]:
        """The caption and the image's bytes of a record, unchecked. Raises Dropped for a record without them."""


class ReadFiles(ReadPairs):
    """Images, each with its caption beside it in a .txt or .json file. A task reads enough for one shard."""

    files_per_task = RECORDS_PER_SHARD

    def records(self, file: InputFile) -> Iterator[InputFile]:
        yield file

    def pair(self, record: InputFile) -> tuple[Any, Any]:
        with open_input(record.path) as image:
            return _caption_beside(record.path.rpartition(".")[0]), image.read(MAX_IMAGE_BYTES + 1)


def _caption_beside(stem: str) -> object:
    """The caption in STEM.txt or, without that file, in STEM.json; None if there is none in UTF-8."""
    try:
        with open_input(f"{stem}.txt") as file:
            return file.read(MAX_IMAGE_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        return None
    except FileNotFoundError:
        pass
    try:
        with open_input(f"{stem}.json") as file:
            return json_object(file.read(MAX_IMAGE_BYTES)).get("caption")
    except FileNotFoundError:
        return None


class ReadParquet(ReadPairs):
    """img2dataset's tables. The image's column is named after its encoding, the caption's `txt` or `caption`."""

    def records(self, file: InputFile) -> Iterator[tuple[object, bytes | None]]:
        from pyarrow import parquet

        with open_input(file.path) as stream:
            table = parquet.ParquetFile(stream, buffer_size=2**20)  # or it reads whole columns
            columns = table.schema_arrow.names
            image = next((name for name in IMAGE_EXTENSIONS if name in columns), None)
            caption = next((name for name in ("txt", "caption") if name in columns), None)
            if image is None or caption is None:
                raise ValueError(f"no columns of images and captions, but {', '.join(columns)}")
            for batch in table.iter_batches(batch_size=16, columns=[image, caption]):
                for row in batch.to_pylist():
                    yield row[caption], row[image]

    def pair(self, record: tuple[object, bytes | None]) -> tuple[Any, Any]:
        if record[1] is None:  # img2dataset writes a row for each address, with or without an image
            raise Dropped("not downloaded")
        return record


class ReadTsv(ReadPairs):
    """Lines of tab-separated fields.

    Args:
        files: The input files.
        columns: The names of the fields in order; `caption` and `image` are read.
        exclusion_writer: Writes the records that cannot be used.
    """

    def __init__(self, files: Sequence[InputFile], columns: Sequence[str], exclusion_writer: DiskWriter | None = None):
        super().__init__(files, exclusion_writer)
        self.caption = columns.index("caption")
        self.image = columns.index("image")

    def records(self, file: InputFile) -> Iterator[bytes | None]:
        with open_input(file.path) as stream:
            for line in lines_of(stream, MAX_LINE_BYTES):
                if line is None or not line.isspace():
                    yield line

    def pair(self, record: bytes | None) -> tuple[Any, Any]:
        if record is None:
            raise Dropped("line that is too long")
        fields = record.rstrip(b"\r\n").split(b"\t")
        if len(fields) <= max(self.caption, self.image):
            raise Dropped("line without a caption or an image")
        try:
            return fields[self.caption].decode("utf-8"), base64.b64decode(fields[self.image], validate=True)
        except UnicodeDecodeError:
            return None, b""
        except ValueError:
            raise Dropped("image that is not in base64") from None


class ReadCoco(ReadPairs):
    """COCO's caption annotations in order, each with its image.

    Args:
        files: The input files.
        images: The folder of the images.
        exclusion_writer: Writes the records that cannot be used.
    """

    def __init__(self, files: Sequence[InputFile], images: str, exclusion_writer: DiskWriter | None = None):
        super().__init__(files, exclusion_writer)
        self.images = images

    def records(self, file: InputFile) -> Iterator[tuple[object, object]]:
        """(the image's file name, the caption) of each annotation."""
        with open_input(file.path) as stream:
            names, annotations = _coco_annotations(json.load(stream))
        for annotation in annotations:
            yield names.get(str(annotation.get("image_id"))), annotation.get("caption")

    def pair(self, record: tuple[object, object]) -> tuple[Any, Any]:
        name, caption = record
        if not isinstance(name, str):
            raise Dropped("no image")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise Dropped("image outside of the folder of images")
        filesystem, folder = fsspec.core.url_to_fs(self.images)
        try:
            with filesystem.open(f"{folder}/{name}", "rb") as image:
                return caption, image.read(MAX_IMAGE_BYTES + 1)
        except OSError:
            raise Dropped("image that is not in the folder of images") from None


def _coco_annotations(value: object) -> tuple[dict[str, object], list[dict[str, Any]]]:
    """The file names of the images by their ids, and the annotations."""
    images, annotations = (value.get(key) if isinstance(value, dict) else None for key in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise ValueError('not COCO captions, which have "images" and "annotations"')
    names = {str(image.get("id")): image.get("file_name") for image in images if isinstance(image, dict)}
    return names, [annotation for annotation in annotations if isinstance(annotation, dict)]
