"""Records of WARC files: finding them, and undoing what HTTP did to their bodies."""

import contextlib
import io
import re
import zlib
from collections.abc import Iterator
from typing import IO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from kosmos_plugin.curation.pipeline.inputs import READ_ERRORS, open_bytes
from kosmos_plugin.curation.readers.content_encoding import decode_content
from kosmos_plugin.curation.readers.image_addresses import absolute

_CHARSET = re.compile(r""";\s*charset\s*=\s*["']?([^\s;"']+)""", re.IGNORECASE)
_REDIRECTS = (301, 302, 303, 307, 308)


def warc_records(path: str) -> Iterator[tuple[int, WarcRecord]]:
    """The responses, resources and revisits of a WARC file, each with its offset in bytes, still encoded.

    Raises:
        OSError: at the end, if the file ends in the middle of a record.
    """
    position = 0
    with open_bytes(path) as file:
        records = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.revisit
        for record in ArchiveIterator(file, record_types=records, auto_decode="none"):
            position = record.stream_pos
            yield position, record
    with open_bytes(path) as file:
        if _is_cut(file, position, path.lower().endswith(".gz")):
            raise OSError(f"the file ends in the middle of a record, at byte {position:,} or later")


def warc_record(file: IO[bytes], position: int) -> WarcRecord | None:
    """The record at an offset (bytes) of an open file."""
    file.seek(position)
    return next(iter(ArchiveIterator(file, auto_decode="none")), None)


def target_uri(record: WarcRecord) -> str:
    """The address that a record is of. Some writers put it in <>."""
    return (record.headers.get("WARC-Target-URI") or "").strip().strip("<>")


def is_success(record: WarcRecord) -> bool:
    """Whether a record has the whole of what was asked for."""
    status = record.http_headers.status_code if record.http_headers else None
    if status == 206:
        first, last, size = _range(record.http_headers.get("Content-Range") or "")
        return first == 0 and last + 1 == size
    return status in (200, 203, None)


def references(record: WarcRecord) -> list[str]:
    """Where the body of a record that has none is: addresses, and a record's ID or digest, to be tried in turn.

    A redirect gives an address. A revisit, which is written for a body that was there before, gives the address of the
    earlier record; older writers give only its ID or its digest.
    """
    found: list[str] = []
    if record.http_headers and record.http_headers.status_code in _REDIRECTS:
        found.append(absolute(target_uri(record), record.http_headers.get("Location") or ""))
    if record.record_type == WarcRecordType.revisit:
        earlier = (record.headers.get("WARC-Refers-To-Target-URI") or "").strip().strip("<>")
        digest = (record.headers.get("WARC-Payload-Digest") or "").strip()
        found += [earlier, (record.headers.get("WARC-Refers-To") or "").strip().strip("<>"), digest]
    return list(filter(None, found))


def decoded_body(record: WarcRecord, max_bytes: int) -> bytes:
    """The body of a response with HTTP's encodings undone, at most `max_bytes` + 1 bytes of it.

    As in browsers, a body that is not in the encoding that its header states is taken as it is. A copy of the record is
    read, because the file's reader stops after a body that it could not decode.
    """
    copy = io.BytesIO()
    record.write(copy)
    encoding = record.http_headers.get("Content-Encoding") if record.http_headers else None
    for transfer in ("transfer", "none"):
        copy.seek(0)
        with contextlib.suppress(*READ_ERRORS):
            body = next(iter(ArchiveIterator(copy, auto_decode=transfer))).reader.read()
            return decode_content(body, encoding or "", max_bytes)
    return b""


def media_type(record: WarcRecord) -> str:
    """The media type of a record ("text/html"), in lower case."""
    stated = record.http_content_type if record.is_http else record.headers.get("Content-Type")
    return (stated or "").partition(";")[0].strip().lower()


def _is_cut(file: IO[bytes], position: int, is_gzip: bool) -> bool:
    """Whether a WARC file ends in the middle of a record, starting at `position`; the reader does not report it."""
    file.seek(position)
    if not is_gzip:
        for record in ArchiveIterator(file, parse_http=False):
            length = record.content_length
            if record.consume() < length:
                return True
        return False
    member = None
    while chunk := file.read(2**16):
        while chunk:
            member = member or zlib.decompressobj(31)
            member.decompress(chunk)
            chunk, member = (member.unused_data, None) if member.eof else (b"", member)
    return member is not None


def charset(record: WarcRecord) -> str | None:
    """The charset that the header of a response states."""
    stated = record.http_headers.get("Content-Type") if record.http_headers else record.headers.get("Content-Type")
    match = _CHARSET.search(stated or "")
    return match[1] if match else None


def _range(value: str) -> tuple[int, int, int]:
    """(first byte, last byte, size) of a Content-Range; (-1, -1, -1) for another value."""
    match = re.fullmatch(r"\s*bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18})\s*", value)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (-1, -1, -1)
