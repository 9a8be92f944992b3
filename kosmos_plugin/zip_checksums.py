"""Checks a zip archive against the checksums and the redundancy in it, which `torch.load` ignores.

    local header | data | data descriptor      for each record, one after the other from the first byte of the file
    central directory                          an entry for each record: CRC-32, size, where it begins
    zip64 end | its locator | end              where the directory begins, to the last byte of the file

The CRC-32 of a record covers its data. All that is said twice must agree, and nothing may lie between the parts, so a
single wrong byte is found wherever it is.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20  # bytes read at a time: they stay in a core's cache
MAX_THREADS = 8

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_ZIP64_END = struct.Struct("<4sQ2H2I4Q")
_ZIP64_VERSIONS = 0x031E, 45  # "made by" in the zip64 end of torch's writer, and of Python's
_ZIP64, _PADDING = 1, 0x4246  # kinds of extra fields
_HAS_DESCRIPTOR = 8  # a flag
_ABSENT_16, _ABSENT_32 = 0xFFFF, 0xFFFFFFFF  # the value is in the zip64 field


class Damaged(ValueError):
    """An archive that is not as it was written. The message says where, without the name of the file."""


@dataclass(frozen=True)
class _Record:
    name: str
    method: int  # 0: not compressed
    crc: int
    size: int  # bytes of its data
    header: int  # where its local header begins
    described: tuple[int, ...]  # version needed, flags, method, time and date, which its local header repeats
    unused: tuple[int, ...]  # what torch and zipfile write alike for all records


@dataclass(frozen=True)
class _Data:
    record: _Record
    start: int


def verify(path: str | Path) -> bool:
    """Check an archive that `torch.save` wrote, with several threads, in a few megabytes of memory.

    Returns:
        Whether it has checksums. torch leaves them out after `torch.serialization.set_crc32_options(False)`.

    Raises:
        Damaged: It is not as it was written.
        OSError: It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        try:
            records, end = _directory(descriptor, size)
            data = list(_data(descriptor, records, end))
        except (struct.error, OverflowError, UnicodeDecodeError):
            raise Damaged("its directory is damaged") from None
        if not any(each.record.crc for each in data):
            return False
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
            # the largest first, so that no thread is left with one at the end
            for _ in pool.map(lambda each: _check(descriptor, each), sorted(data, key=lambda each: -each.record.size)):
                pass
        return True
    finally:
        os.close(descriptor)


def _check(descriptor: int, data: _Data) -> None:
    """Compare the CRC-32 of a record's data."""
    buffer = memoryview(bytearray(min(CHUNK, data.record.size)))
    crc, done = 0, 0
    while done < data.record.size:
        count = os.preadv(descriptor, [buffer[: data.record.size - done]], data.start + done)
        if count == 0:
            raise Damaged("it is cut short")
        crc = zlib.crc32(buffer[:count], crc)
        done += count
    if crc != data.record.crc:
        raise Damaged(f"its record {data.record.name} ({data.record.size:,} bytes) does not match its checksum")


def _directory(descriptor: int, size: int) -> tuple[list[_Record], int]:
    """The records as the central directory lists them, and where that begins."""
    at = size - _END.size
    kind, disk, first_disk, here, count, length, start, comment = _unpack(_END, descriptor, at)
    _require(kind == b"PK\x05\x06" and not (disk or first_disk or comment), "its end is missing or damaged")
    claimed = here, count, length, start
    locator, first, zip64, disks = _unpack(_LOCATOR, descriptor, at - _LOCATOR.size)
    if locator == b"PK\x06\x07":
        at -= _LOCATOR.size + _ZIP64_END.size
        _require((first, zip64, disks) == (0, at, 1))
        kind, rest, made, needed, disk, first_disk, here, count, length, start = _unpack(_ZIP64_END, descriptor, at)
        _require((kind, rest, needed, disk, first_disk) == (b"PK\x06\x06", _ZIP64_END.size - 12, 45, 0, 0))
        _require(made in _ZIP64_VERSIONS)
        limits = _ABSENT_16, _ABSENT_16, _ABSENT_32, _ABSENT_32
        _require(claimed == tuple(map(min, (here, count, length, start), limits)))
    _require(here == count and start + length == at)
    entries = _read(descriptor, start, length)
    records, place = [], 0
    while place < length:
        record, place = _entry(entries, place)
        records.append(record)
    _require(len(records) == count and len({record.unused for record in records}) <= 1)
    return records, start


def _entry(entries: bytes, place: int) -> tuple[_Record, int]:
    """The entry at a place of the central directory, and the place behind it."""
    kind, made, needed, flags, method, time, date, crc, packed, size, *lengths, disk, inner, outer, header = (
        _ENTRY.unpack_from(entries, place)
    )
    names, extras, comments = lengths
    _require(kind == b"PK\x01\x02")
    begin = place + _ENTRY.size
    name, extra = entries[begin : begin + names], entries[begin + names : begin + names + extras]
    behind = begin + names + extras + comments
    _require(behind <= len(entries))
    wide = iter(struct.iter_unpack("<Q", dict(_fields(extra)).get(_ZIP64, b"")))
    values = [next(wide, (0,))[0] if value == _ABSENT_32 else value for value in (size, packed, header)]
    _require(next(wide, None) is None)
    size, packed, header = values
    _require(method != 0 or size == packed)
    described, unused = (needed, flags, method, time, date), (made, disk, inner, outer, comments)
    return _Record(name.decode(), method, crc, packed, header, described, unused), behind


def _data(descriptor: int, records: list[_Record], end: int) -> Iterator[_Data]:
    """Where each record's data is, with what is around it checked; `end` is where the central directory begins."""
    records = sorted(records, key=lambda record: record.header)
    behind = 0
    for record, following in zip(records, [*(record.header for record in records[1:]), end], strict=True):
        _require(record.header == behind)
        kind, *described, crc, packed, size, names, extras = _unpack(_LOCAL, descriptor, record.header)
        rest = _read(descriptor, record.header + _LOCAL.size, names + extras)
        _require(kind == b"PK\x03\x04" and tuple(described) == record.described)
        _require(rest[:names] == record.name.encode())
        if record.method:
            raise Damaged(f"its record {record.name} is compressed, which torch.save never does")
        start = record.header + _LOCAL.size + names + extras
        behind = following
        room = following - start - record.size
        if described[1] & _HAS_DESCRIPTOR:
            _require((crc, packed, size) == (0, 0, 0) and room in (16, 24))
            form = "<4sI2I" if room == 16 else "<4sI2Q"
            expected = struct.pack(form, b"PK\x07\x08", record.crc, record.size, record.size)
            _require(_read(descriptor, following - room, room) == expected)
        else:
            _require(crc == record.crc and room == 0)
            _require(packed == size and size in (record.size, _ABSENT_32))
        for field, content in _fields(rest[names:]):
            _require(field in (_PADDING, _ZIP64))
            if field == _PADDING:
                _require(not content.strip(b"Z"))
            else:
                _require({value for (value,) in struct.iter_unpack("<Q", content)} <= {0, record.size, record.header})
        yield _Data(record, start)


def _fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and content of each extra field."""
    place = 0
    while place < len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        place += 4 + length
        _require(place <= len(extra))
        yield kind, extra[place - length : place]


def _unpack(form: struct.Struct, descriptor: int, at: int) -> tuple:
    return form.unpack(_read(descriptor, at, form.size))


def _read(descriptor: int, at: int, count: int) -> bytes:
    _require(at >= 0)
    return os.pread(descriptor, count, at)


def _require(agrees: bool, problem: str = "its directory is damaged") -> None:
    if not agrees:
        raise Damaged(problem)
