"""Documents of WebDataset tars: two layouts, which are read as they are.

    captions      KEY.jpg (any image), KEY.txt (or KEY.json with "caption")      img2dataset's naming
    interleaved   KEY.json, KEY.0.jpg, KEY.1.png, …                              a JSON of segments, numbered images

The JSON of an interleaved record is {"segments": [{"text": "…"}, {"image": 0}, …]}; a text segment with
"in_loss": false (or, as in shards of version 0.1, "counted": false) is read by the model but is not in the loss.
"""

import functools
import json
from collections.abc import Iterable

import numpy as np

from kosmos_plugin.data.documents import BrokenRecord, Document, Image, Text
from kosmos_plugin.data.shard_index import Record, open_index, read_bytes
from kosmos_plugin.images import IMAGE_EXTENSIONS


def caption_document(record: Record) -> Document:
    """An image–caption pair: `<image>` first, then the caption (Table 21)."""
    image = next((record.members[extension] for extension in IMAGE_EXTENSIONS if extension in record.members), None)
    if image is None:
        raise BrokenRecord("no image")
    if "txt" in record.members:
        caption = _utf8(record.read("txt"))
    elif "json" in record.members:
        caption = _json_object(record.read("json")).get("caption") or ""
        if not isinstance(caption, str):
            raise BrokenRecord("caption is not text", f"{caption!r:.40}")
    else:
        raise BrokenRecord("no caption")
    if not caption.strip():
        raise BrokenRecord("empty text")
    return Document(record.id, (_image(record, image), Text(caption.strip())))


def interleaved_document(record: Record) -> Document:
    """A document of text and images in the order of its JSON's segments."""
    if "json" not in record.members:
        raise BrokenRecord("no JSON")
    images = {
        extension.partition(".")[0]: span
        for extension, span in record.members.items()
        if extension.rpartition(".")[2] in IMAGE_EXTENSIONS
    }
    segments = _json_object(record.read("json")).get("segments")
    if not isinstance(segments, list):
        raise BrokenRecord("JSON in another format", 'no list of "segments"')
    parsed = []
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


def _image(record: Record, span: tuple[int, int]) -> Image:
    return Image(functools.partial(read_bytes, record.tar, *span))


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BrokenRecord("no text, or not valid UTF-8", str(error)) from None


def _json_object(data: bytes) -> dict:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BrokenRecord("invalid JSON", str(error)) from None
    if not isinstance(value, dict):
        raise BrokenRecord("JSON in another format", "not an object")
    return value


class ShardedDocuments:
    """The documents of several tars as one sequence: `len`, and `documents[i]` (a read of the text alone)."""

    def __init__(self, tars: Iterable[str], read_record):
        self.tars = list(tars)
        self.read_record = read_record
        self.ends = np.cumsum([len(open_index(tar)) for tar in self.tars])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, i: int) -> Document:
        """Raises BrokenRecord (with the record's name) for a record that is no usable document."""
        shard = int(np.searchsorted(self.ends, i, side="right"))
        record = open_index(self.tars[shard]).record(int(i - (self.ends[shard - 1] if shard else 0)))
        try:
            return self.read_record(record)
        except BrokenRecord as error:
            raise BrokenRecord(error.reason, error.detail, record.id) from None
