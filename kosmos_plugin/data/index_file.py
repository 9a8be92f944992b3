"""The file format of an index: names of records, and where the bytes of their members are.

    8 bytes     MAGIC, which ends in the version
    4, 4        length of the header, its CRC-32
    header      JSON: {"records": R, "blocks": B, …}, and what else the writer gives
    8 (B + 1)   where each block begins, and the last one ends
    block 0     4 bytes, the CRC-32 of the block's number and of the rest of it
                its records: RECORDS_PER_BLOCK of them, fewer in the last block
    block 1 …

Nothing but the header is read when an index is opened, and one block for a record, so that an index may be of any size
and on any disk. A record is in block i // RECORDS_PER_BLOCK. Whatever bit is wrong is found: in the header when it is
opened, in a block or where it begins when one of its records is read. Numbers are little-endian.

A block of n records with m pieces (`tar_files.Pieces`) in all, as arrays:

    uint32 [n]     end of each record's key in the names
    uint32 [n]     end of each record's pieces
    uint32 [m]     end of each piece's file extension in the names
    int64  [m]     offset of each piece in the tar
    int64  [m]     size of each piece
    names          the keys, then the extensions, in UTF-8. The second and further pieces of a member have none.

(m itself is the last end of pieces.)
"""

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.data.tar_files import Pieces, read_bytes

MAGIC = b"KOSMOS\0\2"
RECORDS_PER_BLOCK = 64
_START = len(MAGIC) + 8

Members = dict[str, Pieces]  # by their extensions


class DamagedIndex(ValueError):
    """A file that is not an index, or with bytes that are not those that were written."""


def write_index(path: Path, records: Iterable[tuple[str, Members]], header: dict[str, Any]) -> None:
    """Write an index of (key, members) atomically. Raises OSError if that is not possible."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(index_bytes(records, header))


def index_bytes(records: Iterable[tuple[str, Members]], header: dict[str, Any]) -> bytes:
    """The bytes of an index of (key, members)."""
    records = list(records)
    blocks = [
        _block(number, records[start : start + RECORDS_PER_BLOCK])
        for number, start in enumerate(range(0, len(records), RECORDS_PER_BLOCK))
    ]
    described = json.dumps({"records": len(records), "blocks": len(blocks), **header}).encode()
    first = _START + len(described) + 8 * (len(blocks) + 1)
    begins = first + np.cumsum([0, *map(len, blocks)], dtype="<u8")
    start = MAGIC + np.array([len(described), zlib.crc32(described)], "<u4").tobytes()
    return b"".join([start, described, begins.tobytes(), *blocks])


def records_in(index: bytes) -> int:
    """The number of records of an index, from its bytes."""
    (length,) = np.frombuffer(index, "<u4", 1, len(MAGIC)).tolist()
    return json.loads(index[_START : _START + length])["records"]


def _block(number: int, records: Sequence[tuple[str, Members]]) -> bytes:
    keys = [key.encode("utf-8", "surrogateescape") for key, _ in records]
    extensions: list[bytes] = []
    pieces: list[tuple[int, int]] = []
    ends = []
    for _, members in records:
        for extension, parts in members.items():
            extensions += [extension.encode("utf-8", "surrogateescape"), *[b""] * (len(parts) - 1)]
            pieces += parts
        ends.append(len(pieces))
    lengths = np.cumsum([len(name) for name in (*keys, *extensions)])
    offsets_and_sizes = np.array(pieces, dtype="<i8").reshape(-1, 2).T
    arrays = (lengths[: len(keys)], np.array(ends), lengths[len(keys) :])
    content = b"".join(
        [*(array.astype("<u4").tobytes() for array in arrays), offsets_and_sizes.tobytes(), *keys, *extensions]
    )
    return _checksum(number, content) + content


def _checksum(number: int, content: bytes) -> bytes:
    return zlib.crc32(content, zlib.crc32(number.to_bytes(8, "little"))).to_bytes(4, "little")


class IndexFile:
    """An index, read one block at a time.

    Args:
        path: Path of the file.
        at: Where the index begins in the file.
        size: Its size in bytes; None: up to the end of the file.

    Attributes:
        header: What the writer gave, and the number of "records" and "blocks".

    Raises:
        DamagedIndex: It is not an index, or its header is damaged.
    """

    def __init__(self, path: str, at: int = 0, size: int | None = None):
        self.path = path
        self.at = at
        self.size = os.path.getsize(path) if size is None else size
        start = self._read(0, _START)
        if len(start) < _START or not start.startswith(MAGIC):
            raise DamagedIndex("not an index of this version")
        length, checksum = np.frombuffer(start, "<u4", offset=len(MAGIC)).tolist()
        header = self._read(_START, min(length, self.size))
        if len(header) < length or zlib.crc32(header) != checksum:
            raise DamagedIndex("a damaged header")
        self.header: dict[str, Any] = json.loads(header)
        self.begins = _START + length
        self._last = -1, b""  # the block that was read last, and its content: records are often read in order

    def __len__(self) -> int:
        return self.header["records"]

    def record(self, number: int) -> tuple[str, Members]:
        """The key and the members of record `number`. Raises DamagedIndex if they are not those that were written."""
        assert 0 <= number < len(self)
        number, i = divmod(number, RECORDS_PER_BLOCK)
        content = self._block(number)
        n = min(RECORDS_PER_BLOCK, len(self) - number * RECORDS_PER_BLOCK)
        key_ends, piece_ends = np.frombuffer(content, "<u4", 2 * n).reshape(2, n)
        m = int(piece_ends[-1])
        extension_ends = np.frombuffer(content, "<u4", m, offset=8 * n)
        offsets, sizes = np.frombuffer(content, "<i8", 2 * m, offset=8 * n + 4 * m).reshape(2, m)
        names = content[8 * n + 20 * m :]
        key = names[key_ends[i - 1] if i else 0 : key_ends[i]].decode("utf-8", "surrogateescape")
        members: dict[str, list[tuple[int, int]]] = {}
        for piece in range(piece_ends[i - 1] if i else 0, piece_ends[i]):
            begin = extension_ends[piece - 1] if piece else key_ends[-1]
            if extension := names[begin : extension_ends[piece]].decode("utf-8", "surrogateescape"):
                pieces = members[extension] = []
            pieces.append((int(offsets[piece]), int(sizes[piece])))
        return key, {extension: tuple(pieces) for extension, pieces in members.items()}

    def pieces(self, first: int, last: int) -> np.ndarray:
        """Offset and size of each piece of records first … last − 1, int64 [pieces, 2]. Raises DamagedIndex."""
        found = [np.empty((0, 2), np.int64)]
        for number in range(first // RECORDS_PER_BLOCK, -(-last // RECORDS_PER_BLOCK)):
            content = self._block(number)
            start = number * RECORDS_PER_BLOCK
            n = min(RECORDS_PER_BLOCK, len(self) - start)
            ends = np.frombuffer(content, "<u4", n, offset=4 * n)
            places = np.frombuffer(content, "<i8", 2 * int(ends[-1]), offset=8 * n + 4 * int(ends[-1])).reshape(2, -1).T
            before, after = max(first - start, 0), min(last - start, n)
            found.append(places[ends[before - 1] if before else 0 : ends[after - 1]])
        return np.concatenate(found)

    def check(self) -> None:
        """Read all blocks. Raises DamagedIndex if one is damaged."""
        for number in range(self.header["blocks"]):
            self._block(number)

    def _block(self, number: int) -> bytes:
        """The content of a block."""
        if self._last[0] != number:
            place = self._read(self.begins + 8 * number, 16).ljust(16, b"\0")
            begin, end = np.frombuffer(place, "<u8").tolist()
            if not begin + 4 <= end <= self.size:
                raise DamagedIndex(f"a damaged block {number}")
            block = self._read(begin, end - begin)
            if block[:4] != _checksum(number, block[4:]):
                raise DamagedIndex(f"a damaged block {number}")
            self._last = number, block[4:]
        return self._last[1]

    def _read(self, offset: int, size: int) -> bytes:
        return read_bytes(self.path, self.at + offset, size)
