"""Random access to the records of a WebDataset tar, by an index beside it.

A record is a run of tar members with one key (the name up to the first dot).

`SHARD.tar.index.npz` holds, for the records of SHARD.tar, where each member's bytes are. It is written on first use.
One that lists chosen records alone (kosmos-prepare captions) is kept until it is made anew by what has chosen them.
"""

import contextlib
import functools
import io
import itertools
import math
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.errors import UserError

INDEX_SUFFIX = ".index.npz"


class BrokenShard(UserError):
    """A file that is no tar, or not a whole one."""


@dataclass(frozen=True)
class Record:
    """The members of one record: name → (offset, size) in the tar, in bytes."""

    tar: str
    key: str
    members: dict[str, tuple[int, int]]

    @property
    def id(self) -> str:
        return f"{os.path.basename(self.tar)}/{self.key}"

    def read(self, member: str) -> bytes:
        return read_bytes(self.tar, *self.members[member])


class ShardIndex:
    """The records of a tar. Of a corpus of many shards each batch meets most, so a record is read from the file, when
    it is asked for, and nothing is held but where the arrays lie in it:

    keys        str [R]        the records' keys
    starts      int64 [R + 1]  record i has the members starts[i] … starts[i + 1]
    extensions  str [M]        such as "txt" or "0.jpg"
    offsets     int64 [M]      bytes
    sizes       int64 [M]      bytes
    """

    def __init__(self, tar: str, path: str):
        self.tar = tar
        self.path = path
        with open(path, "rb") as file:
            self.arrays = {name: _stored_array(file, info) for name, info in _stored_files(file).items()}
            (tar_size,) = self._read(file.fileno(), "tar_size", 0, 1)
        if int(tar_size) != os.path.getsize(tar):
            raise ValueError("the index of a tar of another size")
        self._records = self.arrays["keys"].count

    def __len__(self) -> int:
        return self._records

    def record(self, number: int) -> Record:
        assert 0 <= number < len(self)
        with _opened(self.path) as file:
            (key,) = self._read(file, "keys", number, number + 1)
            begin, end = self._read(file, "starts", number, number + 2)
            extensions, offsets, sizes = (
                self._read(file, name, begin, end) for name in ("extensions", "offsets", "sizes")
            )
        return Record(self.tar, key, dict(zip(extensions, zip(offsets, sizes, strict=True), strict=True)))

    def _read(self, file: int, name: str, begin: int, end: int) -> list:
        array = self.arrays[name]
        size = array.dtype.itemsize
        data = os.pread(file, (end - begin) * size, array.offset + begin * size)
        return np.frombuffer(data, array.dtype).tolist()


@dataclass(frozen=True)
class _StoredArray:
    offset: int  # bytes
    dtype: np.dtype
    count: int


def _stored_files(file) -> dict[str, zipfile.ZipInfo]:
    """The arrays of an .npz, by name."""
    with zipfile.ZipFile(file) as archive:
        return {info.filename.removesuffix(".npy"): info for info in archive.infolist()}


def _stored_array(file, info: zipfile.ZipInfo) -> _StoredArray:
    """Where the entries of an array of an uncompressed .npz lie: behind the zip's header of it and NumPy's own."""
    file.seek(info.header_offset + 26)
    lengths = struct.unpack("<HH", file.read(4))
    file.seek(sum(lengths), os.SEEK_CUR)
    version = np.lib.format.read_magic(file)
    if version != (1, 0) or info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("not as build_index writes it")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return _StoredArray(file.tell(), dtype, math.prod(shape))


def read_bytes(path: str, offset: int, size: int) -> bytes:
    """`size` bytes of the file at `offset`."""
    with _opened(path) as file:
        return os.pread(file, size, offset)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """A file descriptor: Python's own file objects take longer to make than a small piece takes to read."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def build_index(tar: str | Path, keep: Callable[[Record], bool] | None = None, selection: str = "") -> Path:
    """Write `tar`'s index beside it (atomically) and return its path. BrokenShard if the tar is cut short.

    With `keep` it lists the records of which that is true; `selection`, if any, says what they were chosen by.
    """
    tar = Path(tar)
    keys, starts, extensions, offsets, sizes = [], [], [], [], []
    for record in tar_records(tar):
        if keep is not None and not keep(record):
            continue
        keys.append(record.key)
        starts.append(len(offsets))
        for extension, (offset, size) in record.members.items():
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
        **({"selection": np.array(selection)} if selection else {}),
    )
    index = Path(f"{tar}{INDEX_SUFFIX}")
    try:
        with atomic_path(index) as path:
            path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise UserError(f"Cannot write the index {index}: {error}. Index the shards where you may write.") from None
    return index


def selection_of(tar: str | Path) -> str | None:
    """What the records in `tar`'s index were chosen by; None if it lists all of them, is missing or is broken."""
    try:
        with zipfile.ZipFile(f"{tar}{INDEX_SUFFIX}") as arrays, arrays.open("selection.npy") as file:
            return str(np.lib.format.read_array(file))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def tar_records(tar: str | Path) -> Iterator[Record]:
    """The records of `tar` in their order, by its headers alone. Ends in BrokenShard if it is cut short or no tar."""
    for key, members in itertools.groupby(_tar_members(Path(tar)), key=lambda member: member[0]):
        yield Record(str(tar), key, {extension: (offset, size) for _, extension, offset, size in members})


def files_of(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files among the members of an open tar, in memory that does not grow with it."""
    for member in iter(archive.next, None):
        archive.members.clear()  # or it would keep them all
        if member.size < 0:  # a header can say so, and tarfile would go round in circles
            raise tarfile.ReadError(f"a member of {member.size:,} bytes")
        if member.isfile():
            yield member


def _tar_members(tar: Path) -> Iterator[tuple[str, str, int, int]]:
    """(key, extension, offset, size) of each file in `tar`, reading its headers alone."""
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in files_of(archive):
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if not stem or not extension:  # README, .DS_Store, ._0001.jpg: of no record, as for webdataset
                    continue
                yield f"{folder}/{stem}" if folder else stem, extension.lower(), member.offset_data, member.size
            end = archive.offset
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:  # headers can say anything
        raise BrokenShard(f"{tar} is cut short or is no tar file ({error}); fetch it again.") from None
    # A whole tar ends in two blocks of zeros; tarfile itself is silent when they are missing, and at a broken header.
    if read_bytes(str(tar), end, 1024) != bytes(1024):
        raise BrokenShard(f"{tar} is cut short or broken at byte {end:,}; fetch it again.")


@functools.cache
def open_index(tar: str) -> ShardIndex:
    """The index of `tar`, built first if it is missing, or older than the tar, or that of a file of another size."""
    if not os.path.isfile(tar):
        raise UserError(f"The shard {tar} does not exist.")
    index = f"{tar}{INDEX_SUFFIX}"
    # A tar written anew often has the same size: tars are padded to multiples of 10,240 bytes.
    if not os.path.isfile(index) or os.path.getmtime(index) < os.path.getmtime(tar):
        _index_anew(tar)
    try:
        return ShardIndex(tar, index)
    except (ValueError, KeyError, EOFError, struct.error, zipfile.BadZipFile):  # of another size, or no index at all
        _index_anew(tar)
        return ShardIndex(tar, index)


def _index_anew(tar: str) -> None:
    """Build the index of all records; UserError if that would undo a selection."""
    if selection_of(tar) is not None:
        raise UserError(
            f"The shard {tar} has changed since kosmos-prepare captions filtered it. Prepare it again, with another "
            f"--out, or remove {tar}{INDEX_SUFFIX} to use all of its records."
        )
    build_index(tar)
