"""WebDataset tars as random-access documents: an index beside each tar, and one reader for each layout.

A record is a run of tar members with one key (the name up to the first dot). Two layouts are read as they are:

    captions      KEY.jpg (any image), KEY.txt (or KEY.json with "caption")      img2dataset's naming
    interleaved   KEY.json, KEY.0.jpg, KEY.1.png, …                              a JSON of segments, numbered images

The JSON of an interleaved record is {"segments": [{"text": "…"}, {"image": 0}, …]}; a text segment with
"counted": false is read by the model but is no target of the loss.

`SHARD.tar.index.npz` holds, for the records of SHARD.tar, where each member's bytes are. It is written on first use.
"""

import functools
import io
import json
import os
import tarfile
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from kosmos_plugin.data.documents import BrokenRecord, Document, Image, Text
from kosmos_plugin.errors import UserError

INDEX_SUFFIX = ".index.npz"
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_OPEN_INDEXES = 256


class ShardIndex:
    """The members of a tar: for record i, names `members(i)` → (offset, size) in the file."""

    def __init__(self, tar: str, keys, starts, extensions, offsets, sizes):
        self.tar = tar
        self.keys = keys  # [R] the records' keys
        self.starts = starts  # [R + 1] record i has the members starts[i] … starts[i + 1]
        self.extensions = extensions  # [M] such as "txt" or "0.jpg"
        self.offsets = offsets  # [M] bytes
        self.sizes = sizes  # [M] bytes

    def __len__(self) -> int:
        return len(self.keys)

    def members(self, record: int) -> dict[str, tuple[int, int]]:
        span = range(int(self.starts[record]), int(self.starts[record + 1]))
        return {str(self.extensions[i]): (int(self.offsets[i]), int(self.sizes[i])) for i in span}

    def read(self, span: tuple[int, int]) -> bytes:
        return read_bytes(self.tar, *span)


def read_bytes(path: str, offset: int, size: int) -> bytes:
    """`size` bytes of the file at `offset`."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def build_index(tar: str | Path) -> Path:
    """Write `tar`'s index beside it (atomically) and return its path. UserError if the tar is cut short."""
    tar = Path(tar)
    keys, starts, extensions, offsets, sizes = [], [], [], [], []
    for key, extension, offset, size in _tar_members(tar):
        if not keys or keys[-1] != key:
            keys.append(key)
            starts.append(len(offsets))
        extensions.append(extension)
        offsets.append(offset)
        sizes.append(size)
    starts.append(len(offsets))
    buffer = io.BytesIO()
    np.savez(
        buffer,
        tar_size=np.int64(tar.stat().st_size),
        keys=np.array(keys, dtype=np.str_),
        starts=np.array(starts, dtype=np.int64),
        extensions=np.array(extensions, dtype=np.str_),
        offsets=np.array(offsets, dtype=np.int64),
        sizes=np.array(sizes, dtype=np.int64),
    )
    index = Path(f"{tar}{INDEX_SUFFIX}")
    temporary = Path(f"{index}.{uuid.uuid4().hex}.tmp")  # processes of two machines may have one id
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, index)
    except OSError as error:
        raise UserError(f"Cannot write the index {index}: {error}. Index the shards where you may write.") from None
    return index


def _tar_members(tar: Path) -> Iterator[tuple[str, str, int, int]]:
    """(key, extension, offset, size) of each file in `tar`, reading its headers alone."""
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if not stem or not extension:  # README, .DS_Store, ._0001.jpg: of no record, as for webdataset
                    continue
                yield f"{folder}/{stem}" if folder else stem, extension.lower(), member.offset_data, member.size
            end = archive.offset
    except tarfile.TarError as error:
        raise UserError(f"{tar} is cut short or is no tar file ({error}); fetch it again.") from None
    # A whole tar ends in two blocks of zeros; tarfile itself is silent when they are missing, and at a broken header.
    if read_bytes(str(tar), end, 1024) != bytes(1024):
        raise UserError(f"{tar} is cut short or broken at byte {end:,}; fetch it again.")


@functools.lru_cache(maxsize=_OPEN_INDEXES)
def open_index(tar: str) -> ShardIndex:
    """The index of `tar`, built first if it is missing, or older than the tar, or that of a file of another size."""
    if not os.path.isfile(tar):
        raise UserError(f"The shard {tar} does not exist.")
    index = f"{tar}{INDEX_SUFFIX}"
    # A tar written anew often has the same size: tars are padded to multiples of 10,240 bytes.
    if not os.path.isfile(index) or os.path.getmtime(index) < os.path.getmtime(tar):
        build_index(tar)
    try:
        return _read_index(tar, index)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):  # of another size, or no index at all
        build_index(tar)
        return _read_index(tar, index)


def _read_index(tar: str, index: str) -> ShardIndex:
    with np.load(index) as arrays:
        if int(arrays["tar_size"]) != os.path.getsize(tar):
            raise ValueError("the index of a tar of another size")
        names = ("keys", "starts", "extensions", "offsets", "sizes")
        return ShardIndex(tar, *(arrays[name] for name in names))


def caption_document(index: ShardIndex, record: int) -> Document:
    """An image–caption pair: `<image>` first, then the caption (Table 21)."""
    members = index.members(record)
    image = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
    if image is None:
        raise BrokenRecord("no image")
    if "txt" in members:
        caption = _utf8(index.read(members["txt"]))
    elif "json" in members:
        caption = _json_object(index.read(members["json"])).get("caption") or ""
        if not isinstance(caption, str):
            raise BrokenRecord(f"its caption is no text but {caption!r:.40}")
    else:
        raise BrokenRecord("no caption")
    if not caption.strip():
        raise BrokenRecord("the caption is empty")
    return Document(_id(index, record), (_image(index, image), Text(caption.strip())))


def interleaved_document(index: ShardIndex, record: int) -> Document:
    """A document of text and images in the order of its JSON's segments."""
    members = index.members(record)
    if "json" not in members:
        raise BrokenRecord("no json")
    images = {
        extension.partition(".")[0]: span
        for extension, span in members.items()
        if extension.rpartition(".")[2] in IMAGE_EXTENSIONS
    }
    segments = _json_object(index.read(members["json"])).get("segments")
    if not isinstance(segments, list):
        raise BrokenRecord('its json has no list of "segments"')
    parsed = []
    for segment in segments:
        if not isinstance(segment, dict) or ("text" in segment) == ("image" in segment):
            raise BrokenRecord('a segment is neither {"text": …} nor {"image": …}')
        if "text" in segment:
            if not isinstance(segment["text"], str):
                raise BrokenRecord(f"the text of a segment is no text but {segment['text']!r:.40}")
            parsed.append(Text(segment["text"], bool(segment.get("counted", True))))
        elif str(segment["image"]) in images:
            parsed.append(_image(index, images[str(segment["image"])]))
        else:
            raise BrokenRecord(f"image {segment['image']} is missing")
    return Document(_id(index, record), tuple(parsed))


def _id(index: ShardIndex, record: int) -> str:
    return f"{os.path.basename(index.tar)}/{index.keys[record]}"


def _image(index: ShardIndex, span: tuple[int, int]) -> Image:
    return Image(functools.partial(read_bytes, index.tar, *span))


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BrokenRecord(f"not UTF-8: {error}") from None


def _json_object(data: bytes) -> dict:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BrokenRecord(f"broken json: {error}") from None
    if not isinstance(value, dict):
        raise BrokenRecord("its json is no object")
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
        index = open_index(self.tars[shard])
        record = int(i - (self.ends[shard - 1] if shard else 0))
        try:
            return self.read_record(index, record)
        except BrokenRecord as error:
            raise BrokenRecord(f"{_id(index, record)}: {error}") from None
