"""Random access to the records of a WebDataset tar, by an index beside it.

A record is a run of tar members with one key (the name up to the first dot).

`SHARD.tar.index.npz` says where the bytes of each member of SHARD.tar are. It is written on first use. An index of
selected records only (written by `kosmos-prepare captions`) is never replaced by one of all records.
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
from typing import IO, Any

import numpy as np

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.errors import UserError

INDEX_SUFFIX = ".index.npz"


class BrokenShard(UserError):
    """A file that is not a tar, or is cut short."""


@dataclass(frozen=True)
class Record:
    """The members of one record."""

    tar: str  # path
    key: str
    members: dict[str, tuple[int, int]]  # extension ("txt", "0.jpg") → (offset, size) in the tar, in bytes

    @property
    def id(self) -> str:
        """The record's name in messages: SHARD.tar/KEY."""
        return f"{os.path.basename(self.tar)}/{self.key}"

    def read(self, member: str) -> bytes:
        """The bytes of the member with this extension."""
        return read_bytes(self.tar, *self.members[member])


class ShardIndex:
    """The records of a tar, read from its index one at a time.

    A batch of a large corpus draws from most of its shards, so only the offsets of the index's arrays are in memory:

    keys        str [R]        key of each record
    starts      int64 [R + 1]  record i has the members starts[i] … starts[i + 1] − 1
    extensions  str [M]        of each member, e.g. "txt" or "0.jpg"
    offsets     int64 [M]      in the tar, in bytes
    sizes       int64 [M]      in bytes

    Args:
        tar: Path of the tar.
        path: Path of its index.

    Raises:
        ValueError: The index is of another tar, or was not written by `build_index`.
    """

    def __init__(self, tar: str, path: str):
        self.tar = tar
        self.path = path
        with open(path, "rb") as file:
            self.arrays = {name: _stored_array(file, info) for name, info in _stored_files(file).items()}
            (tar_size,) = self._read(file.fileno(), "tar_size", 0, 1)
        if int(tar_size) != os.path.getsize(tar):
            raise ValueError("the tar has another size than when it was indexed")

    def __len__(self) -> int:
        return self.arrays["keys"].count

    def record(self, number: int) -> Record:
        """Record `number`, without reading any of its members."""
        assert 0 <= number < len(self)
        with _opened(self.path) as file:
            (key,) = self._read(file, "keys", number, number + 1)
            start, end = self._read(file, "starts", number, number + 2)
            extensions, offsets, sizes = (
                self._read(file, name, start, end) for name in ("extensions", "offsets", "sizes")
            )
        return Record(self.tar, key, dict(zip(extensions, zip(offsets, sizes, strict=True), strict=True)))

    def _read(self, file: int, name: str, start: int, end: int) -> list[Any]:
        array = self.arrays[name]
        size = array.dtype.itemsize
        data = os.pread(file, (end - start) * size, array.offset + start * size)
        return np.frombuffer(data, array.dtype).tolist()


@dataclass(frozen=True)
class _StoredArray:
    """An array within an .npz."""

    offset: int  # of its first entry in the file, in bytes
    dtype: np.dtype
    count: int  # entries


def _stored_files(file: IO[bytes]) -> dict[str, zipfile.ZipInfo]:
    """The members of an .npz by the names of their arrays."""
    with zipfile.ZipFile(file) as archive:
        return {info.filename.removesuffix(".npy"): info for info in archive.infolist()}


def _stored_array(file: IO[bytes], info: zipfile.ZipInfo) -> _StoredArray:
    """Locate an array's entries in an uncompressed .npz: they follow the zip's header and NumPy's own."""
    file.seek(info.header_offset + 26)
    lengths = struct.unpack("<HH", file.read(4))
    file.seek(sum(lengths), os.SEEK_CUR)
    version = np.lib.format.read_magic(file)
    if version != (1, 0) or info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("the index was not written by build_index")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return _StoredArray(file.tell(), dtype, math.prod(shape))


def read_bytes(path: str, offset: int, size: int) -> bytes:
    """Read `size` bytes of the file at `offset`."""
    with _opened(path) as file:
        return os.pread(file, size, offset)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open a file descriptor: creating Python's file object takes longer than a small read."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def build_index(tar: str | Path, keep: Callable[[Record], bool] | None = None, selection: str = "") -> Path:
    """Write a tar's index beside it, atomically.

    Args:
        tar: Path of the tar.
        keep: If given, only the records for which it returns True are listed.
        selection: How those records were selected; see `selection_of`.

    Returns:
        The path of the index.

    Raises:
        BrokenShard: The tar is cut short, or is not a tar.
        UserError: The index cannot be written.
    """
    tar = Path(tar)
    keys: list[str] = []
    starts: list[int] = []
    extensions: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
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
    arrays = {
        "tar_size": np.array(tar.stat().st_size, dtype=np.int64),
        "keys": np.array(keys, dtype=np.str_),
        "starts": np.array(starts, dtype=np.int64),
        "extensions": np.array(extensions, dtype=np.str_),
        "offsets": np.array(offsets, dtype=np.int64),
        "sizes": np.array(sizes, dtype=np.int64),
    }
    if selection:
        arrays["selection"] = np.array(selection)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # mypy takes the arrays for savez's own option
    index = Path(f"{tar}{INDEX_SUFFIX}")
    try:
        with atomic_path(index) as path:
            path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise UserError(f"Cannot write the index {index}: {error}. Index the shards where you may write.") from None
    return index


def selection_of(tar: str | Path) -> str | None:
    """How the records in `tar`'s index were selected; None if it lists all of them, is missing or is broken."""
    try:
        with zipfile.ZipFile(f"{tar}{INDEX_SUFFIX}") as arrays, arrays.open("selection.npy") as file:
            return str(np.lib.format.read_array(file))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def tar_records(tar: str | Path) -> Iterator[Record]:
    """Read the records of `tar` in order, from its headers only.

    Raises:
        BrokenShard: The tar is cut short, or is not a tar. The records before the damage are yielded first.
    """
    for key, members in itertools.groupby(_tar_members(Path(tar)), key=lambda member: member[0]):
        yield Record(str(tar), key, {extension: (offset, size) for _, extension, offset, size in members})


def files_of(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Iterate over the files in an open tar, in constant memory."""
    for member in iter(archive.next, None):
        archive.members.clear()  # type: ignore[attr-defined]  # not in typeshed; tarfile would keep them all
        if member.size < 0:  # a header can say so, and tarfile would never end
            raise tarfile.ReadError(f"a member of {member.size:,} bytes")
        if member.isfile():
            yield member


def _tar_members(tar: Path) -> Iterator[tuple[str, str, int, int]]:
    """(key, extension, offset, size) of each file in `tar`, from its headers only."""
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in files_of(archive):
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if not stem or not extension:  # e.g. README, .DS_Store, ._0001.jpg: webdataset skips them too
                    continue
                yield f"{folder}/{stem}" if folder else stem, extension.lower(), member.offset_data, member.size
            end = archive.offset
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:  # headers can say anything
        raise BrokenShard(f"{tar} is cut short or is not a tar file ({error}); fetch it again.") from None
    # A complete tar ends in two blocks of zeros. tarfile does not report that they are missing, nor a broken header.
    if read_bytes(str(tar), end, 1024) != bytes(1024):
        raise BrokenShard(f"{tar} is cut short or broken at byte {end:,}; fetch it again.")


@functools.cache
def open_index(tar: str) -> ShardIndex:
    """Open the index of `tar`. It is built first if it is missing, broken, older than the tar, or of another size.

    Raises:
        UserError: The tar is missing or broken, or its index cannot be written, or would replace one that lists only
            selected records.
    """
    if not os.path.isfile(tar):
        raise UserError(f"The shard {tar} does not exist.")
    index = f"{tar}{INDEX_SUFFIX}"
    # Comparing sizes is not enough: tars are padded to multiples of 10,240 bytes, so a rewritten one is often as large.
    if not os.path.isfile(index) or os.path.getmtime(index) < os.path.getmtime(tar):
        _rebuild_index(tar)
    try:
        return ShardIndex(tar, index)
    except (ValueError, KeyError, EOFError, struct.error, zipfile.BadZipFile):  # of another tar, or broken
        _rebuild_index(tar)
        return ShardIndex(tar, index)


def _rebuild_index(tar: str) -> None:
    """Index all records. Raises UserError if the present index is of selected ones."""
    if selection_of(tar) is not None:
        raise UserError(
            f"The shard {tar} has changed since kosmos-prepare captions filtered it. Prepare it again, with another "
            f"--out, or remove {tar}{INDEX_SUFFIX} to use all of its records."
        )
    build_index(tar)
