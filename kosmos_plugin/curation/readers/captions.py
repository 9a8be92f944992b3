"""Image–caption pairs as they are published → documents of an image and its caption.

webdataset   img2dataset's tars; they are used in place (`recipes.captions_in_place`)
files        img2dataset's folders: 00000/000000000.jpg, .txt, .json
parquet, arrow, csv, tsv, json   tables (`caption_tables`)
coco         COCO's captions_*.json, or Karpathy's dataset_*.json (coco, flickr8k, flickr30k), with the images in a
             folder; a pair for each annotation. Of Karpathy's splits, the training images: train and restval
"""

import contextlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.writers.disk_base import DiskWriter

from kosmos_plugin.curation.filters.captions import check_pair, pair_document
from kosmos_plugin.curation.filters.images import MAX_IMAGE_BYTES
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.inputs import InputFile, OtherForm, open_input
from kosmos_plugin.curation.pipeline.steps import Reader
from kosmos_plugin.curation.readers.image_values import image_folder, image_media, read_image
from kosmos_plugin.curation.readers.json_values import json_lines, json_object
from kosmos_plugin.curation.readers.tables import holds_array
from kosmos_plugin.curation.writers.shards import RECORDS_PER_SHARD
from kosmos_plugin.image_files import IMAGE_EXTENSIONS

# Format → file extensions. JSON that is not COCO's may end in .json too (`is_coco`).
FORMATS = {
    "webdataset": ("tar",),
    "files": IMAGE_EXTENSIONS,
    "tsv": ("tsv",),
    "csv": ("csv",),
    "json": ("jsonl", "ndjson"),
    "parquet": ("parquet",),
    "arrow": ("arrow",),
    "coco": ("json",),
}
# A table may name the images beside it. img2dataset writes tables and statistics in JSON and Parquet beside its tars
# and files; these are ignored.
FORMAT_GROUPS = (("webdataset", "tsv", "csv", "json"), ("files",), ("parquet", "arrow"), ("coco",))
_KARPATHY_TRAINING = ("train", "restval")
# imagefolder's: the table is of more use than the images, whatever its format.
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


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
    """Images, each with its caption beside it in a .txt or .json file. A task reads enough for one shard.

    Args:
        files: The images.
        caption_from: "txt" or "json", which of these files has the caption. The other is read if there is no such
            file or, for "json", no caption in it.
        exclusion_writer: Writes the records that cannot be used.
    """

    files_per_task = RECORDS_PER_SHARD

    def __init__(self, files: Sequence[InputFile], caption_from: str, exclusion_writer: DiskWriter | None = None):
        super().__init__(files, exclusion_writer)
        self.caption_from = caption_from

    def records(self, file: InputFile) -> Iterator[InputFile]:
        yield file

    def pair(self, record: InputFile) -> tuple[Any, Any]:
        with open_input(record.path) as image:
            return self._caption_beside(record.path.rpartition(".")[0]), image.read(MAX_IMAGE_BYTES + 1)

    def _caption_beside(self, stem: str) -> object:
        """The caption of STEM; None if there is none in UTF-8."""
        in_json = None
        if self.caption_from == "json":
            in_json = _caption_in_json(stem)
            if in_json and (not isinstance(in_json, str) or in_json.strip()):
                return in_json
        text = _beside(stem, ".txt")
        if text is None:
            return in_json if self.caption_from == "json" else _caption_in_json(stem)
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            return None


def _caption_in_json(stem: str) -> object:
    data = _beside(stem, ".json")
    return None if data is None else json_object(data).get("caption")


def _beside(stem: str, extension: str) -> bytes | None:
    """The content of STEM.txt, or of STEM.TXT if there is no such file; None without either."""
    for name in (stem + extension, stem + extension.upper()):
        with contextlib.suppress(FileNotFoundError), open_input(name) as file:
            return file.read(MAX_IMAGE_BYTES)
    return None


class ReadCoco(ReadPairs):
    """COCO's or Karpathy's caption annotations in order, each with its image.

    Args:
        files: The input files.
        images: The folder of the images.
        exclusion_writer: Writes the records that cannot be used.
    """

    def __init__(self, files: Sequence[InputFile], images: str, exclusion_writer: DiskWriter | None = None):
        super().__init__(files, exclusion_writer)
        self.images = image_folder(files[0], images)

    def records(self, file: InputFile) -> Iterator[tuple[object, object]]:
        """(the image's file name, the caption) of each annotation."""
        with open_input(file.path) as stream:
            content = json.load(stream)
        if is_karpathy(content):
            yield from _karpathy_pairs(content)
            return
        names, annotations = _coco_annotations(content)
        for annotation in annotations:
            yield names.get(str(annotation.get("image_id"))), annotation.get("caption")

    def pair(self, record: tuple[object, object]) -> tuple[Any, Any]:
        name, caption = record
        if isinstance(name, Dropped):
            raise name
        return caption, read_image(image_media(name, self.images, ""))


def is_coco(file: InputFile) -> bool:
    """Whether a JSON file is COCO's annotations, one object, rather than an array or lines of records."""
    if holds_array(file):
        return False
    with open_input(file.path) as stream:
        first = next(json_lines(stream), None)
    return not isinstance(first, dict) or "annotations" in first or is_karpathy(first)


def is_karpathy(value: object) -> bool:
    """Whether a JSON value is Karpathy's splits: images, each with its sentences."""
    images = value.get("images") if isinstance(value, dict) else None
    return isinstance(images, list) and any(isinstance(image, dict) and "sentences" in image for image in images)


def _karpathy_pairs(value: dict[str, Any]) -> Iterator[tuple[object, object]]:
    """(the image's file name, the caption) of each sentence; in place of the name, why it is not used."""
    for image in value["images"]:
        if not isinstance(image, dict):
            continue
        name, folder = image.get("filename"), image.get("filepath")  # of COCO: train2014 or val2014
        path: object = f"{folder}/{name}" if isinstance(folder, str) and folder and isinstance(name, str) else name
        if (split := image.get("split")) not in _KARPATHY_TRAINING:
            path = Dropped("image of a split for evaluation", str(split)[:80])
        sentences = image.get("sentences")
        for sentence in sentences if isinstance(sentences, list) else []:
            yield path, sentence.get("raw") if isinstance(sentence, dict) else None


def _coco_annotations(value: object) -> tuple[dict[str, object], list[dict[str, Any]]]:
    """The file names of the images by their ids, and the annotations."""
    images, annotations = (value.get(key) if isinstance(value, dict) else None for key in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise OtherForm('not COCO captions, which have "images" and "annotations"')
    names = {str(image.get("id")): image.get("file_name") for image in images if isinstance(image, dict)}
    return names, [annotation for annotation in annotations if isinstance(annotation, dict)]
