"""An index of the images in WARC files and tars by their addresses, in memory that does not grow with their number.

    list images    one task per file     FOLDER/lists/FILE.npy: hashes and locations of its images, sorted by hash
    sort images    one task per bucket   FOLDER/BUCKET.{hashes,locations}.npy: all images of a range of hashes

The key of an image in a tar is the "url" in img2dataset's JSON beside it. Without one it is its name: HOST/PATH, as
written by `wget --mirror`, or its name in a release. If several images have the same key, the first is used. Redirects
and revisits of WARC files are in the index too, and are followed when an image is read.
"""

import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import xxhash
from datatrove.data import Document

from kosmos_plugin.curation.filters.images import MAX_IMAGE_BYTES
from kosmos_plugin.curation.pipeline.inputs import InputFile, open_bytes
from kosmos_plugin.curation.pipeline.intermediate import save_array
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import DocumentStream, Step
from kosmos_plugin.curation.readers.json_values import json_object
from kosmos_plugin.curation.readers.warc_images import ONE_STREAM, REFERENCE, OneStream, warc_image, warc_images
from kosmos_plugin.data.tar_files import HOLE, Pieces, tar_files

_NOT_IMAGES = (".json", ".txt", ".html", ".htm", ".parquet")
# Number of the file, then offset and size in bytes (of a WARC record, which knows its own: 0, or REFERENCE).
LOCATION = np.dtype([("file", "<u4"), ("offset", "<u8"), ("size", "<u8")])
ENTRY = np.dtype([("hash", "<u8"), *LOCATION.descr])
# With about 100,000 images per file, sorting a bucket takes a few hundred megabytes.
FILES_PER_BUCKET = 64
# As in browsers; an address that redirects to itself has no end.
MAX_REDIRECTS = 20


def address_key(url: str) -> str:
    """The key of an image: HOST/PATH?QUERY of its address, the same for http and https; "" for an invalid address."""
    try:
        parts = urlsplit(url)
    except ValueError:  # http://[/
        return ""
    query = f"?{parts.query}" if parts.query else ""
    host = parts.netloc.lower().removesuffix(":80" if parts.scheme == "http" else ":443")
    return f"{host}{unquote(parts.path)}{query}"


def index_stages(files: Sequence[InputFile], folder: Path) -> list[Stage]:
    """The stages that index the images of `files` in `folder`."""
    buckets = -(-len(files) // FILES_PER_BUCKET)
    return [
        Stage("list images", [ListImages(files, folder / "lists")], len(files)),
        Stage("sort images", [SortImages(len(files), folder)], buckets),
    ]


class ListImages(Step):
    """Lists the images of file i."""

    name = "images"

    def __init__(self, files: Sequence[InputFile], folder: Path):
        super().__init__()
        self.files = files
        self.folder = folder

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        file = self.files[rank]
        entries = []
        is_tar = file.format == "tar"
        references = 0
        try:
            with self.stop_where_broken(file):
                for key, offset, size in tar_images(file.path) if is_tar else warc_images(file.path, address_key):
                    entries.append((_hash(key), rank, offset, size))
                    references += not is_tar and size == REFERENCE
        except OneStream:
            self.count("left out", ONE_STREAM)
        self.count("read", "images in WARC files and tars", len(entries) - references)
        array = np.array(entries, ENTRY)
        save_array(self.folder / f"{rank}.npy", array[np.argsort(array["hash"], kind="stable")])
        yield from ()


def tar_images(path: str) -> Iterator[tuple[str, int, int]]:
    """(key, offset, size) of each image in a tar, from its headers and img2dataset's JSON with the image's name.

    Raises tarfile.TarError, after the images that could be located, if the tar is broken or some images are sparse.
    """
    images: dict[str, tuple[str, Pieces]] = {}  # by name; a later file replaces an earlier one
    urls: dict[str, str | None] = {}  # by name without extension
    error: tarfile.TarError | None = None
    with open_bytes(path) as file:
        try:
            for name, pieces in tar_files(file):
                name = posixpath.normpath(name)
                stem, extension = posixpath.splitext(name)
                if len(pieces) > 1 or pieces[0][0] == HOLE:
                    error = tarfile.ReadError(f"{name} is a sparse file; write the tar again without --sparse")
                elif extension.lower() == ".json" and pieces[0][1] <= MAX_IMAGE_BYTES:
                    file.seek(pieces[0][0])
                    urls[stem] = _url_of(file.read(pieces[0][1]))
                elif extension.lower() not in _NOT_IMAGES:  # addresses end in anything
                    images[name] = stem, pieces
        except tarfile.TarError as raised:
            error = raised
    for name, (stem, pieces) in images.items():
        url = urls.get(stem)
        yield address_key(url) if url else name, *pieces[0]
    if error is not None:
        raise error


def _url_of(data: bytes) -> str | None:
    url = json_object(data).get("url")
    return url if isinstance(url, str) else None


class SortImages(Step):
    """Writes a bucket of the index: the images of all lists whose hashes are in a range."""

    name = "images"

    def __init__(self, files: int, folder: Path):
        super().__init__()
        self.files = files
        self.folder = folder

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        bounds = [-(-(bucket << 64) // world_size) for bucket in (rank, rank + 1)]
        parts = []
        for file in range(self.files):
            entries = np.load(self.folder / "lists" / f"{file}.npy", mmap_mode="r")
            start = np.searchsorted(entries["hash"], np.uint64(bounds[0]))
            last = np.uint64(bounds[1] - 1)
            parts.append(np.array(entries[start : np.searchsorted(entries["hash"], last, side="right")]))
        entries = np.concatenate(parts)
        entries = entries[np.argsort(entries["hash"], kind="stable")]
        locations = np.empty(len(entries), LOCATION)
        for name in LOCATION.names or ():
            locations[name] = entries[name]
        save_array(self.folder / f"{rank}.locations.npy", locations)
        save_array(self.folder / f"{rank}.hashes.npy", np.ascontiguousarray(entries["hash"]))
        yield from ()


class ImageIndex:
    """Reads images by their keys, from the index that the stages made. Its buckets are memory-mapped.

    Args:
        files: The indexed WARC files and tars.
        folder: The folder of the index.
    """

    def __init__(self, files: Sequence[InputFile], folder: Path):
        self.files = files
        self.folder = folder
        self.buckets = -(-len(files) // FILES_PER_BUCKET)
        self.mapped: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def read(self, key: str) -> bytes | None:
        """Read an image.

        Args:
            key: Its `address_key`, or its name in a tar.

        Returns:
            At most MAX_IMAGE_BYTES + 1 bytes of it; None if it is not in the index or its record is broken.
        """
        keys = [key]
        for number in range(MAX_REDIRECTS + 1):
            if number >= len(keys):
                break
            for file, offset, size in self._locations(keys[number]):
                with open_bytes(self.files[file].path) as stream:
                    if self.files[file].format == "tar":
                        stream.seek(offset)
                        return stream.read(min(size, MAX_IMAGE_BYTES + 1))
                    found = warc_image(stream, offset, keys[number], address_key)
                if isinstance(found, bytes):
                    return found
                keys += [key for key in found if key not in keys]
        return None

    def _locations(self, key: str) -> list[tuple[int, int, int]]:
        """(file, offset, size) of the first images with a key."""
        value = _hash(key)
        hashes, locations = self._bucket(value * self.buckets >> 64)
        start = int(np.searchsorted(hashes, np.uint64(value)))
        found = []
        for number in range(start, min(start + MAX_REDIRECTS, len(hashes))):
            if int(hashes[number]) != value:
                break
            file, offset, size = locations[number].tolist()
            found.append((file, offset, size))
        return found

    def _bucket(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        if number not in self.mapped:
            names = (f"{number}.hashes.npy", f"{number}.locations.npy")
            self.mapped[number] = tuple(np.load(self.folder / name, mmap_mode="r") for name in names)
        return self.mapped[number]


def _hash(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogateescape"))
