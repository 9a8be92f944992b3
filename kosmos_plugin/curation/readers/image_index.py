"""Where the image of an address lies, among those in WARC files and tars, in memory that does not grow with them.

    list images    one task a file     PARTS/images/lists/FILE.npy: its images' hashes and places, sorted by hash
    sort images    one task a bucket   PARTS/images/BUCKET.{hashes,places}.npy: of all files, those of a range of hashes

An image of a tar is known by the "url" of img2dataset's JSON beside it, or else by its name: HOST/PATH, as `wget
--mirror` makes it, or any name that a release has for it. Of several images with one address the first counts.
"""

import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import numpy as np
import xxhash
from datatrove.data import Document

from kosmos_plugin.curation.filters.captions import MAX_IMAGE_BYTES
from kosmos_plugin.curation.pipeline.inputs import BROKEN, InputFile, is_of_the_machine, open_bytes
from kosmos_plugin.curation.pipeline.intermediate import save_array
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import Step
from kosmos_plugin.curation.readers.texts import json_object
from kosmos_plugin.curation.readers.web_pages import decoded_body, media_type, warc_record, warc_records
from kosmos_plugin.data.shard_index import files_of

_NO_IMAGES = (".json", ".txt", ".html", ".htm", ".parquet")
PLACE = np.dtype([("file", "<u4"), ("offset", "<u8"), ("size", "<u8")])
ENTRY = np.dtype([("hash", "<u8"), *PLACE.descr])
# A file has about 100,000 images, so that a bucket takes some hundreds of megabytes while it is sorted.
FILES_PER_BUCKET = 64


def address_key(url: str) -> str:
    """HOST/PATH?QUERY of an address, by which images are found; "" if it is none. http and https are the same."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as http://[/
        return ""
    query = f"?{parts.query}" if parts.query else ""
    host = parts.netloc.lower().removesuffix(":80" if parts.scheme == "http" else ":443")
    return f"{host}{unquote(parts.path)}{query}"


def index_stages(files: Sequence[InputFile], folder: Path) -> list[Stage]:
    """The stages that make the index of the images in `files`."""
    buckets = -(-len(files) // FILES_PER_BUCKET)
    return [
        Stage("list images", [ListImages(files, folder / "lists")], len(files)),
        Stage("sort images", [SortImages(len(files), folder)], buckets),
    ]


class ListImages(Step):
    """Writes the list of the images of file i."""

    name = "images"

    def __init__(self, files: Sequence[InputFile], folder: Path):
        super().__init__()
        self.files = files
        self.folder = folder

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        file = self.files[rank]
        entries = []
        with self.until_it_breaks(file):
            for key, offset, size in tar_images(file.path) if file.format == "tar" else self._warc_images(file.path):
                entries.append((_hash(key), rank, offset, size))
        self.count("read", "images in WARC files and tars", len(entries))
        array = np.array(entries, ENTRY)
        save_array(self.folder / f"{rank}.npy", array[np.argsort(array["hash"], kind="stable")])
        yield from ()

    def _warc_images(self, path: str) -> Iterator[tuple[str, int, int]]:
        held = None  # until it is known that the next record has another place
        last = -1
        for position, record in warc_records(path):
            if position == last:
                raise ValueError(
                    "compressed as one stream, so that its images cannot be looked up; compress each record"
                )
            if held is not None:
                yield held
            last, held = position, None
            key = address_key(record.headers.get("WARC-Target-URI") or "")
            if key and _may_be_image(media_type(record)):
                held = key, position, 0
        if held is not None:
            yield held


def _may_be_image(media_type: str) -> bool:
    """Storages of files often do not say what they have; decoding will tell."""
    return media_type.startswith("image/") or media_type in ("", "application/octet-stream", "binary/octet-stream")


def tar_images(path: str) -> Iterator[tuple[str, int, int]]:
    """(key, offset, size) of each image in a tar, by its headers and img2dataset's JSON before or behind it."""
    with open_bytes(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        stem, images, url = None, [], None
        for member in files_of(archive):
            name = member.name.removeprefix("./")
            member_stem, ending = posixpath.splitext(name)
            if member_stem != stem:
                yield from _named(images, url)
                stem, images, url = member_stem, [], None
            if ending.lower() == ".json" and member.size <= MAX_IMAGE_BYTES:
                url = _url_of(archive.extractfile(member).read()) or url
            elif ending.lower() not in _NO_IMAGES:  # addresses end in anything
                images.append((name, member.offset_data, member.size))
        yield from _named(images, url)


def _named(images: list[tuple[str, int, int]], url: str | None) -> Iterator[tuple[str, int, int]]:
    for name, offset, size in images:
        yield address_key(url) if url else name, offset, size


def _url_of(data: bytes) -> str | None:
    url = json_object(data).get("url")
    return url if isinstance(url, str) else None


class SortImages(Step):
    """Writes a bucket of the index: the images of all lists whose hashes are in its range."""

    name = "images"

    def __init__(self, files: int, folder: Path):
        super().__init__()
        self.files = files
        self.folder = folder

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        bounds = [-(-(bucket << 64) // world_size) for bucket in (rank, rank + 1)]
        parts = []
        for file in range(self.files):
            entries = np.load(self.folder / "lists" / f"{file}.npy", mmap_mode="r")
            begin = np.searchsorted(entries["hash"], np.uint64(bounds[0]))
            last = np.uint64(bounds[1] - 1)
            parts.append(np.array(entries[begin : np.searchsorted(entries["hash"], last, side="right")]))
        entries = np.concatenate(parts)
        entries = entries[np.argsort(entries["hash"], kind="stable")]
        places = np.empty(len(entries), PLACE)
        for name in PLACE.names:
            places[name] = entries[name]
        save_array(self.folder / f"{rank}.places.npy", places)
        save_array(self.folder / f"{rank}.hashes.npy", np.ascontiguousarray(entries["hash"]))
        yield from ()


class ImageIndex:
    """The images of `files`, by the index that the stages made in `folder`. Buckets are mapped, not read."""

    def __init__(self, files: Sequence[InputFile], folder: Path):
        self.files = files
        self.folder = folder
        self.buckets = -(-len(files) // FILES_PER_BUCKET)
        self.mapped: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def read(self, key: str) -> bytes | None:
        """The bytes of the image of a key (`address_key`, or its name in a tar), one more than allowed at most."""
        value = _hash(key)
        hashes, places = self._bucket(value * self.buckets >> 64)
        number = int(np.searchsorted(hashes, np.uint64(value)))
        if number == len(hashes) or int(hashes[number]) != value:
            return None
        file, offset, size = (int(part) for part in places[number])
        with open_bytes(self.files[file].path) as stream:
            if self.files[file].format == "tar":
                stream.seek(offset)
                return stream.read(min(size, MAX_IMAGE_BYTES + 1))
            return self._of_warc(stream, offset, key)

    @staticmethod
    def _of_warc(stream: BinaryIO, offset: int, key: str) -> bytes | None:
        try:
            record = warc_record(stream, offset)
        except BROKEN as error:
            if is_of_the_machine(error):
                raise
            return None
        if record is None or address_key(record.headers.get("WARC-Target-URI") or "") != key:
            return None
        return decoded_body(record, MAX_IMAGE_BYTES) if record.content_length <= MAX_IMAGE_BYTES else None

    def _bucket(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        if number not in self.mapped:
            names = (f"{number}.hashes.npy", f"{number}.places.npy")
            self.mapped[number] = tuple(np.load(self.folder / name, mmap_mode="r") for name in names)
        return self.mapped[number]


def _hash(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogateescape"))
