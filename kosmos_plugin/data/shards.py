"""Documents from WebDataset tars in one of two layouts.

    captions      KEY.jpg (any image), KEY.txt or KEY.json with "caption"        img2dataset's naming
    interleaved   KEY.json, KEY.0.jpg, KEY.1.png, …                              a JSON of segments, numbered images

KEY is a name up to its first dot. An image has any of `image_files.IMAGE_EXTENSIONS`, and extensions are in any case.

The JSON of an interleaved record is {"segments": [{"text": "…"}, {"image": 0}, …]}; a text segment with
"in_loss": false (or, as in shards of version 0.1, "counted": false) is read by the model but is not in the loss.
"""

import functools
import json
from collections.abc import Callable, Iterable
from typing import Any

from torch.utils.data import Dataset

from kosmos_plugin.data.corpus_index import open_corpus_index
from kosmos_plugin.data.documents import BrokenRecord, Document, Image, Text
from kosmos_plugin.data.remote_files import RemoteFiles, is_remote
from kosmos_plugin.data.remote_records import RemoteRecords
from kosmos_plugin.data.shard_index import Record
from kosmos_plugin.data.tar_files import Pieces
from kosmos_plugin.image_files import IMAGE_EXTENSIONS

RecordReader = Callable[[Record], Document]


class ShardedDocuments(Dataset[Document]):
    """The documents of several tars as one sequence. Reading one reads its text, but none of its images.

    Indexing raises BrokenRecord, with the record's id, for a record that is not a usable document.

    Args:
        tars: Paths of the tars, or their addresses.
        read_record: Turns a record into a document: see `record_reader`.
        cache: Folder for files about the tars if their own is read-only or remote; None: the user's cache folder.
        block: Documents of a block of the order, if it is one of blocks.
        files: Reads remote files.

    Attributes:
        index: The index of the tars.
        remote: Reads their records, if they are remote.
    """

    def __init__(
        self,
        tars: Iterable[str],
        read_record: RecordReader,
        cache: str | None = None,
        block: int | None = None,
        files: RemoteFiles | None = None,
    ):
        self.read_record = read_record
        self.cache = cache
        tars, files = tuple(tars), files or RemoteFiles()
        self.files = files
        self.index = open_corpus_index(tars, cache, files)
        self.remote = RemoteRecords(self.index, files, block, cache) if is_remote(tars[0]) else None

    def __len__(self) -> int:
        return len(self.index)

    def prepare(self, numbers: Iterable[int], once: bool = False) -> None:
        """Make ready to read these documents: remote ones are fetched, all at the same time.

        Args:
            numbers: Numbers of the documents.
            once: Whether they are read only now, so that no block is kept for them.
        """
        if self.remote is not None:
            self.remote.prepare(numbers, once)

    def __getitem__(self, number: int) -> Document:
        record = self.index.record(number)
        if self.remote is not None:
            record = self.remote.with_reader(number, record)
        try:
            return self.read_record(record)
        except BrokenRecord as error:
            error.record = record.id
            raise


def record_reader(kind: str, caption_from: str = "txt") -> RecordReader:
    """What turns the records of a corpus of `kind` ("captions" or "interleaved") into documents."""
    if kind == "captions":
        return functools.partial(caption_document, caption_from=caption_from)
    return interleaved_document


def reading_name(kind: str, caption_from: str = "txt") -> str:
    """The name of a way of reading records, for files: captions, captions-json or interleaved."""
    return kind if caption_from == "txt" else f"{kind}-{caption_from}"


def caption_document(record: Record, caption_from: str = "txt") -> Document:
    """Read an image–caption pair: the image first, then the caption (Table 21).

    Args:
        record: The record.
        caption_from: "txt" or "json", where the caption is. The other is read if that one is missing or, for
            "json", has no caption.

    Raises:
        BrokenRecord: The image or the caption is missing, or the caption is empty or not valid UTF-8.
    """
    image = next((record.members[extension] for extension in IMAGE_EXTENSIONS if extension in record.members), None)
    if image is None:
        raise BrokenRecord("no image", _image_behind_a_dot(record))
    if not {"txt", "json"} & set(record.members):
        raise BrokenRecord("no caption")
    caption = _caption_in_json(record) if caption_from == "json" or "txt" not in record.members else ""
    if not caption and "txt" in record.members:
        caption = _utf8(record.read("txt")).strip()
        if not caption and caption_from == "txt" and _caption_in_json(record):
            raise BrokenRecord("empty text", "with a caption in the JSON: say caption_from: json, and it is read")
    if not caption:
        raise BrokenRecord("empty text")
    return Document(record.id, (_image(record, image), Text(caption)))


def _caption_in_json(record: Record) -> str:
    """The "caption" of the record's JSON; "" if there is none."""
    caption = (_json_object(record.read("json")).get("caption") or "") if "json" in record.members else ""
    if not isinstance(caption, str):
        raise BrokenRecord("caption is not text", f"{caption!r:.40}")
    return caption.strip()


def interleaved_document(record: Record) -> Document:
    """Read a document of text and images, in the order of its JSON's segments.

    Raises:
        BrokenRecord: The JSON is missing, invalid or in another format, or names an image that the record lacks.
    """
    if "json" not in record.members:
        raise BrokenRecord("no JSON")
    images = {
        extension.partition(".")[0]: pieces
        for extension, pieces in record.members.items()
        if extension.rpartition(".")[2] in IMAGE_EXTENSIONS
    }
    segments = _json_object(record.read("json")).get("segments")
    if not isinstance(segments, list):
        raise BrokenRecord("JSON in another format", 'no list of "segments"')
    parsed: list[Text | Image] = []
    for segment in segments:
        if not isinstance(segment, dict) or ("text" in segment) == ("image" in segment):
            raise BrokenRecord("segment is neither text nor image", f"{segment!r:.40}")
        if "text" in segment:
            if not isinstance(segment["text"], str):
                raise BrokenRecord("segment is neither text nor image", f"{segment!r:.40}")
            parsed.append(Text(segment["text"], bool(segment.get("in_loss", segment.get("counted", True)))))
        elif str(segment["image"]) in images:
            parsed.append(_image(record, images[str(segment["image"])]))
        else:
            raise BrokenRecord("missing image", f"image {segment['image']}")
    return Document(record.id, tuple(parsed))


def _image_behind_a_dot(record: Record) -> str:
    """What to say of a record without an image if it has one whose name has a dot, such as photo.2020.jpg."""
    named = next((name for name in record.members if name.rpartition(".")[2] in IMAGE_EXTENSIONS), None)
    return f"but {record.key}.{named}: a key ends at the first dot; rename the files" if named else ""


def _image(record: Record, pieces: Pieces) -> Image:
    return Image(functools.partial(record.read_pieces, record.tar, pieces))


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BrokenRecord("no text, or not valid UTF-8", str(error)) from None


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BrokenRecord("invalid JSON", str(error)) from None
    if not isinstance(value, dict):
        raise BrokenRecord("JSON in another format", "not an object")
    return value
