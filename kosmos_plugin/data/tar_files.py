"""The files of a tar and where their bytes are, from its headers only: what `tar -x` would leave behind.

Read are v7, ustar, GNU and pax tars, sparse files in all of their forms, hard and symbolic links to files of the same
tar, and tars joined by `cat`. A later file replaces an earlier one of the same name.
"""

import contextlib
import io
import os
import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kosmos_plugin.errors import UserError

# (offset in the tar, size) of the parts of a file in order, in bytes. Only sparse files have more than one.
Pieces = tuple[tuple[int, int], ...]
# The offset of zeros that are not stored.
HOLE = -1
_END_OF_TAR = bytes(2 * tarfile.BLOCKSIZE)
# A sparse file may say that it is of any size.
_MAX_SPARSE_BYTES = 2**30
_MAX_LINKS = 40  # in a chain, as in Linux
# First bytes → what decompresses them.
_COMPRESSIONS = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}


class BrokenShard(UserError):
    """A file that is not a tar, or is cut short."""


def size_of(pieces: Pieces) -> int:
    """The size of a file in bytes."""
    return sum(size for _, size in pieces)


def read_pieces(path: str, pieces: Pieces) -> bytes:
    """Read a file of the tar at `path`."""
    with _opened(path) as file:
        return b"".join(bytes(size) if offset == HOLE else os.pread(file, size, offset) for offset, size in pieces)


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


def files_of_tar(tar: str | Path, file: Any = None) -> Iterator[tuple[str, Pieces]]:
    """(name, pieces) of each file of a tar, in order, links to others last.

    Args:
        tar: Its path.
        file: The tar itself, open, if it is not a file of this machine.

    Raises:
        BrokenShard: The tar is cut short, compressed, or not a tar. The files before the damage are yielded first.
        OSError: It cannot be read.
    """
    with open(tar, "rb") if file is None else file as file:
        start = file.read(8)
        for magic, command in _COMPRESSIONS.items():
            if start.startswith(magic):
                raise BrokenShard(f"{tar} is compressed, so that no record of it can be read alone: {command} it.")
        try:
            yield from tar_files(file)
        except tarfile.TarError as error:
            raise BrokenShard(f"{tar} is cut short or is not a tar file ({error}); fetch it again.") from None


def tar_files(file: IO[bytes]) -> Iterator[tuple[str, Pieces]]:
    """As `files_of_tar`, of an open file. Raises tarfile.TarError for anything that is wrong with it."""
    files: dict[str, Pieces] = {}
    links: dict[str, tuple[str, str]] = {}  # path → (name, path of the target)
    try:
        for member, pieces in _members(file):
            path = posixpath.normpath(member.name)
            links.pop(path, None)
            if member.islnk():
                pieces = files.get(posixpath.normpath(member.linkname))
            elif member.issym():
                target = posixpath.join(posixpath.dirname(path), member.linkname)
                links[path] = member.name, posixpath.normpath(target)
            if pieces is not None:
                files[path] = pieces
                yield member.name, pieces
    except (ValueError, OverflowError, RecursionError, IndexError) as error:  # headers can say anything
        raise tarfile.ReadError(str(error)) from None
    for name, target in links.values():
        for _ in range(_MAX_LINKS):
            if target not in links:
                break
            target = links[target][1]
        if target in files and target not in links:
            yield name, files[target]


def _members(file: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, Pieces | None]]:
    """The members of all tars in a file, one after the other; pieces only of regular files."""
    start: int | None = 0
    while start is not None:
        file.seek(start)
        with tarfile.open(fileobj=_File(file), mode="r:", encoding="utf-8") as archive:
            for member in iter(archive.next, None):
                archive.members.clear()  # type: ignore[attr-defined]  # not in typeshed; tarfile would keep them all
                if member.size < 0:  # a header can say so, and tarfile would never end
                    raise tarfile.ReadError(f"a member of {member.size:,} bytes")
                yield member, _pieces(member, archive.offset) if member.isfile() else None
            end = archive.offset
        if end == start > 0:
            raise tarfile.ReadError(f"what follows the end of a tar, at byte {start:,}, is not another one")
        # tarfile does not report that the two blocks of zeros at the end are missing, nor a broken header.
        file.seek(end)
        if file.read(len(_END_OF_TAR)) != _END_OF_TAR:
            raise tarfile.ReadError(f"broken at byte {end:,}")
        start = _after_zeros(file)


class _File(io.RawIOBase):
    """A file that ends: tarfile would look for the rest of the map of a sparse file behind the end forever."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.reads_at_end = 0

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.reads_at_end = 0 if data or size == 0 else self.reads_at_end + 1
        if self.reads_at_end > 3:
            raise tarfile.ReadError("unexpected end of data")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


def _after_zeros(file: IO[bytes]) -> int | None:
    """The offset of the next block that is not zeros; None at the end of the file."""
    while block := file.read(2**20):
        if rest := block.lstrip(b"\0"):
            offset = file.tell() - len(rest)
            return offset - offset % tarfile.BLOCKSIZE
    return None


def _pieces(member: tarfile.TarInfo, end: int) -> Pieces:
    """Where a file's bytes are; those of a sparse file are stored without its holes, and end before `end`."""
    if member.sparse is None:
        return ((member.offset_data, member.size),)
    if member.size > _MAX_SPARSE_BYTES:
        raise tarfile.ReadError(f"a sparse file of {member.size:,} bytes")
    pieces: list[tuple[int, int]] = []
    position, offset = 0, member.offset_data
    stored: Any = member.sparse  # a list of (start, size), which typeshed does not know
    parts: list[tuple[int, int]] = [*(part for part in stored if part[1] != 0), (member.size, 0)]
    for start, size in parts:
        if start < position or size < 0:
            raise tarfile.ReadError("a sparse file with a broken map")
        if start > position:
            pieces.append((HOLE, start - position))
        if size > 0:
            pieces.append((offset, size))
        position, offset = start + size, offset + size
    if offset > end:
        raise tarfile.ReadError("a sparse file with a broken map")
    return tuple(pieces) or ((member.offset_data, 0),)
