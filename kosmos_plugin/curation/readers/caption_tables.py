"""Tables of images and captions → pairs. The columns are found by their usual names, or named by options.

parquet   img2dataset (the image's column is named after its encoding); Hugging Face's `image: {bytes, path}`
arrow     a data set that Hugging Face's `save_to_disk` has written
csv, tsv  with a header; or without one a file name and a caption (Flickr's), or the columns of unilm's kosmos-2:
          key, caption, image in base64, width, height
json      JSON lines or an array of objects; imagefolder's metadata.jsonl

Several captions of an image make several pairs.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datatrove.pipeline.writers.disk_base import DiskWriter

from kosmos_plugin.curation.filters.images import MAX_IMAGE_BYTES
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.inputs import InputFile, OtherForm, open_input
from kosmos_plugin.curation.readers.captions import ReadPairs
from kosmos_plugin.curation.readers.image_values import IMAGE_NAME, image_folder, image_media, read_image
from kosmos_plugin.curation.readers.tables import (
    Record,
    arrow_columns,
    arrow_records,
    csv_records,
    json_records,
    parquet_columns,
    parquet_records,
    tsv_records,
)
from kosmos_plugin.image_files import IMAGE_EXTENSIONS

# The usual names, in lower case and in the order of preference.
IMAGE_COLUMNS = (
    "image", *IMAGE_EXTENSIONS, "img", "image_bytes", "image_path", "img_path", "filepath", "file_path", "file_name",
    "filename", "image_name", "image_file", "path", "file",
)  # fmt: skip
CAPTION_COLUMNS = (
    "txt", "caption", "captions", "text", "texts", "title", "description", "sentence", "sentences", "comment",
    "alt_text", "alt", "prompt", "raw",
)  # fmt: skip
ADDRESS_COLUMNS = ("url", "image_url", "img_url", "image_link")
KOSMOS_2_COLUMNS = ("key", "caption", "image", "width", "height")
# base64 takes 4/3 of an image's bytes, and the caption comes on top.
MAX_LINE_BYTES = 2 * MAX_IMAGE_BYTES
_NUMBERED_NAME = re.compile(r"#\d+$")  # Flickr's 1000092795.jpg#0: the image's first caption


@dataclass(frozen=True)
class PairColumns:
    """How the columns of images and captions are named.

    Attributes:
        image: The image's column; None for the first of IMAGE_COLUMNS that a table has.
        caption: Likewise, of CAPTION_COLUMNS.
        order: The names of all columns of tables without a header; None to tell from the first row.
    """

    image: str | None = None
    caption: str | None = None
    order: Sequence[str] | None = None

    def find(self, names: Sequence[str]) -> tuple[str, str]:
        """The names of the image's and the caption's columns. OtherForm if there are none."""
        for option, name in (("--image-column", self.image), ("--caption-column", self.caption)):
            if name is not None and name not in names:
                raise OtherForm(f"no column {name} ({option}), but {_listed(names)}")
        usual = {name.strip().lower(): name for name in reversed(names)}
        image = self.image or next((usual[name] for name in IMAGE_COLUMNS if name in usual), None)
        caption = self.caption or next((usual[n] for n in CAPTION_COLUMNS if n in usual and usual[n] != image), None)
        if image is None or caption is None:
            hint = "; name them with --image-column and --caption-column"
            if "conversations" in usual or "messages" in usual:
                hint = "; conversations are for kosmos-prepare instructions"
            elif image is None and any(name in usual for name in ADDRESS_COLUMNS):
                hint = "; the images of addresses are downloaded with img2dataset"
            elif "images" in usual:
                hint = "; lists of images are for kosmos-prepare pages (documents) or instructions (conversations)"
            raise OtherForm(f"no columns of images and captions, but {_listed(names)}{hint}")
        return image, caption

    def of_first_row(self, row: Sequence[str]) -> Sequence[str] | None:
        """The columns of a table, from its first row; None if the row is a header. OtherForm if it cannot be told."""
        if self.order is not None:
            return self.order
        try:
            self.find(row)
            return None
        except OtherForm:
            if self.image is not None or self.caption is not None:
                raise
            are_names = [bool(IMAGE_NAME.search(_without_number(field))) for field in row]
            if sorted(are_names) == [False, True]:
                return ("image", "caption") if are_names[0] else ("caption", "image")
            if len(row) >= 3 and len(row[2]) >= len(row[1]) and not are_names[0]:
                return KOSMOS_2_COLUMNS
            raise


class ReadTable(ReadPairs):
    """The pairs of tables.

    Args:
        files: The input files.
        format: "parquet", "arrow", "csv", "tsv" or "json".
        columns: How the columns are named.
        images: The folder of images that are given by name; None for the folder of each file.
        exclusion_writer: Writes the records that cannot be used.
    """

    def __init__(
        self,
        files: Sequence[InputFile],
        format: str,
        columns: PairColumns,
        images: str | None = None,
        exclusion_writer: DiskWriter | None = None,
    ):
        super().__init__(files, exclusion_writer)
        self.format = format
        self.columns = columns
        self.images = images

    def records(self, file: InputFile) -> Iterator[tuple[object, object, str]]:
        """(the caption, the image's field, the folder of images) of each pair."""
        folder = image_folder(file, self.images)
        for caption, image in getattr(self, f"_{self.format}")(file):
            captions = caption if isinstance(caption, list) and caption else [caption]
            for one in captions:
                yield (one.get("raw") or one.get("caption") if isinstance(one, dict) else one), image, folder

    def pair(self, record: tuple[object, object, str]) -> tuple[Any, Any]:
        caption, image, folder = record
        if isinstance(image, Dropped):
            raise image
        if isinstance(image, str):
            image = _without_number(image)
        return _utf8(caption), read_image(image_media(image, folder, ""))

    def _parquet(self, file: InputFile) -> Iterator[tuple[object, object]]:
        with open_input(file.path) as stream:
            columns = [name for name, _ in parquet_columns(stream)]
        return self._columnar(file, columns, parquet_records)

    def _arrow(self, file: InputFile) -> Iterator[tuple[object, object]]:
        with open_input(file.path) as stream:
            columns = arrow_columns(stream)
        return self._columnar(file, columns, arrow_records)

    def _columnar(
        self, file: InputFile, names: Sequence[str], records: Callable[..., Iterator[Record]]
    ) -> Iterator[tuple[object, object]]:
        image, caption = self.columns.find(names)
        with open_input(file.path) as stream:
            for row in records(stream, [image, caption], rows=16):
                # img2dataset writes a row for each address, with or without an image
                yield row[caption], row[image] if row[image] is not None else Dropped("not downloaded")

    def _csv(self, file: InputFile) -> Iterator[tuple[object, object]]:
        return self._rows(csv_records(file, self.columns.of_first_row, MAX_LINE_BYTES))

    def _tsv(self, file: InputFile) -> Iterator[tuple[object, object]]:
        return self._rows(tsv_records(file, self.columns.of_first_row, MAX_LINE_BYTES))

    def _rows(self, records: Iterator[dict[str, Any] | None]) -> Iterator[tuple[object, object]]:
        columns: tuple[str, str] | None = None
        for row in records:
            if row is None:
                yield None, Dropped("line that is too long")
                continue
            image, caption = columns = columns or self.columns.find(list(row))
            is_short = row[image] is None or row[caption] is None
            yield row[caption], Dropped("line without a caption or an image") if is_short else row[image]

    def _json(self, file: InputFile) -> Iterator[tuple[object, object]]:
        for number, record in enumerate(json_records(file)):
            if not isinstance(record, dict):
                yield None, Dropped("not a JSON object")
                continue
            try:
                image, caption = self.columns.find(list(record))
                yield record[caption], record[image]
            except OtherForm as error:
                if number == 0:
                    raise
                yield None, Dropped("no image and caption", str(error))


def _without_number(name: str) -> str:
    return _NUMBERED_NAME.sub("", name)


def _utf8(text: object) -> object:
    """The text; None if it holds bytes that were not UTF-8."""
    return None if isinstance(text, str) and any("\udc80" <= character <= "\udcff" for character in text) else text


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name if len(name) <= 40 else f"{name[:40]}…" for name in names[:20]) or "none"
