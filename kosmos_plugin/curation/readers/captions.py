"""Image–caption pairs as they are published → documents of an image and its caption.

webdataset   img2dataset's tars; they are used in place (`index_shards`)
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

import fsspec
from datatrove.data import Document

from kosmos_plugin.curation.filters.captions import MAX_IMAGE_BYTES, pair
from kosmos_plugin.curation.pipeline.inputs import InputFile, open_input
from kosmos_plugin.curation.pipeline.steps import Reader
from kosmos_plugin.curation.readers.texts import json_object
from kosmos_plugin.curation.writers.shards import RECORDS_PER_SHARD
from kosmos_plugin.images import IMAGE_EXTENSIONS

FORMATS = {
    "webdataset": ("tar",),
    "files": IMAGE_EXTENSIONS,
    "tsv": ("tsv",),
    "parquet": ("parquet",),
    "coco": ("json",),
}
# img2dataset puts tables and JSON about its shards beside tars, folders and tables; they are passed over.
FORMAT_GROUPS = (("webdataset", "files", "tsv"), ("parquet",), ("coco",))
# With base64 an image takes 4/3 of its bytes; beside it there is a caption.
MAX_LINE_BYTES = 2 * MAX_IMAGE_BYTES


class ReadPairs(Reader):
    """The pairs of files, in their order."""

    name = "pairs"

    def read(self, file: InputFile) -> Iterator[Document]:
        for number, found in enumerate(self.pairs(file)):
            self.count("read", "records")
            document = found if isinstance(found, str) else pair(*found, id=f"{file.name}/{number}")
            if isinstance(document, str):
                self.count("dropped", document)
            else:
                yield document

    @abstractmethod
    def pairs(self, file: InputFile) -> Iterator[tuple[object, object] | str]:
        """(caption, image's bytes) of each record, as they are there, or why it is dropped."""


class ReadFiles(ReadPairs):
    """Images, each with its caption beside it in a .txt, or else a .json. A task has as many as a shard."""

    files_per_task = RECORDS_PER_SHARD

    def pairs(self, file: InputFile) -> Iterator[tuple[object, object] | str]:
        with open_input(file.path) as image:
            yield _caption_beside(file.path.rpartition(".")[0]), image.read(MAX_IMAGE_BYTES + 1)


def _caption_beside(stem: str) -> object:
    """The caption in STEM.txt, or else STEM.json; None if there is no text in UTF-8."""
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
    """img2dataset's tables. The column of the image is named by its encoding, of the caption `txt` or `caption`."""

    def pairs(self, file: InputFile) -> Iterator[tuple[object, object] | str]:
        from pyarrow import parquet

        with open_input(file.path) as stream:
            table = parquet.ParquetFile(stream, buffer_size=2**20)  # or it reads columns whole
            columns = table.schema_arrow.names
            image = next((name for name in IMAGE_EXTENSIONS if name in columns), None)
            caption = next((name for name in ("txt", "caption") if name in columns), None)
            if image is None or caption is None:
                raise ValueError(f"no columns of images and captions, but {', '.join(columns)}")
            for batch in table.iter_batches(batch_size=16, columns=[image, caption]):
                for row in batch.to_pylist():
                    # img2dataset has a row for each address, whether there was an image or not
                    yield "not downloaded" if row[image] is None else (row[caption], row[image])


class ReadTsv(ReadPairs):
    """Lines of fields between tabs; `columns` names them in order, of which `caption` and `image` are read."""

    def __init__(self, files: Sequence[InputFile], columns: Sequence[str]):
        super().__init__(files)
        self.caption = columns.index("caption")
        self.image = columns.index("image")

    def pairs(self, file: InputFile) -> Iterator[tuple[object, object] | str]:
        with open_input(file.path) as stream:
            while line := stream.readline(MAX_LINE_BYTES):
                if len(line) == MAX_LINE_BYTES:
                    while not line.endswith(b"\n") and (line := stream.readline(MAX_LINE_BYTES)):
                        pass
                    yield "line that is too long"
                elif not line.isspace():
                    yield self._pair(line.rstrip(b"\r\n").split(b"\t"))

    def _pair(self, fields: list[bytes]) -> tuple[object, object] | str:
        if len(fields) <= max(self.caption, self.image):
            return "line without a caption or an image"
        try:
            return fields[self.caption].decode("utf-8"), base64.b64decode(fields[self.image], validate=True)
        except UnicodeDecodeError:
            return None, b""
        except ValueError:
            return "image that is not in base64"


class ReadCoco(ReadPairs):
    """COCO's annotations of captions, in their order, each with its image, which is in the folder `images`."""

    def __init__(self, files: Sequence[InputFile], images: str):
        super().__init__(files)
        self.images = images

    def pairs(self, file: InputFile) -> Iterator[tuple[object, object] | str]:
        with open_input(file.path) as stream:
            names, annotations = _coco_annotations(json.load(stream))
        filesystem, folder = fsspec.core.url_to_fs(self.images)
        for annotation in annotations:
            name = names.get(str(annotation.get("image_id")))
            if not isinstance(name, str):
                yield "no image"
            elif PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
                yield "image outside of the folder of images"
            else:
                try:
                    with filesystem.open(f"{folder}/{name}", "rb") as image:
                        yield annotation.get("caption"), image.read(MAX_IMAGE_BYTES + 1)
                except OSError:
                    yield "image that is not in the folder of images"


def _coco_annotations(about: object) -> tuple[dict[str, object], list[dict]]:
    """Image's id → its file's name, and the annotations."""
    images, annotations = (about.get(key) if isinstance(about, dict) else None for key in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise ValueError('no COCO captions, which have "images" and "annotations"')
    names = {str(image.get("id")): image.get("file_name") for image in images if isinstance(image, dict)}
    return names, [annotation for annotation in annotations if isinstance(annotation, dict)]
