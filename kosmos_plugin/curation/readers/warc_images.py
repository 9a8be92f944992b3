"""The images of WARC files: listing them with their offsets, and reading one at its offset."""

from collections.abc import Callable, Iterator
from typing import IO

from fastwarc.warc import WarcRecord, WarcRecordType

from kosmos_plugin.curation.filters.images import MAX_IMAGE_BYTES
from kosmos_plugin.curation.pipeline.inputs import READ_ERRORS, is_system_error
from kosmos_plugin.curation.readers.warc import (
    decoded_body,
    is_success,
    media_type,
    references,
    target_uri,
    warc_record,
    warc_records,
)

ONE_STREAM = "images of WARC files compressed as one stream; recompress record by record (warcio recompress)"
REFERENCE = 1  # in place of a size: the record is a redirect or a revisit


class OneStream(Exception):
    """A WARC file is compressed as one stream, in which images cannot be located."""


def warc_images(path: str, key_of: Callable[[str], str]) -> Iterator[tuple[str, int, int]]:
    """(key, offset, 0 or REFERENCE) of each record of a WARC file that may be an image, or may lead to one.

    Args:
        path: The file.
        key_of: Address → key.

    Raises:
        OneStream: The file is compressed as one stream.
    """
    held: list[tuple[str, int, int]] = []  # until it is known that the next record has another offset
    last = -1
    by_name: dict[str, int] = {}  # ID or digest of an image → offset
    wanted: list[str] = []  # IDs and digests that revisits refer to
    for position, record in warc_records(path):
        if position == last:
            raise OneStream(path)
        yield from held
        last, held = position, []
        key = key_of(target_uri(record))
        if not key:
            continue
        if names := references(record):
            if record.record_type != WarcRecordType.revisit or _may_be_image(record):
                held = [(key, position, REFERENCE)]
                wanted += names
        elif is_success(record) and _may_be_image(record):
            held = [(key, position, 0)]
            for name in _names(record):
                by_name.setdefault(name, position)
    yield from held
    for name in dict.fromkeys(wanted):
        if name in by_name:
            yield name, by_name[name], REFERENCE


def warc_image(stream: IO[bytes], offset: int, key: str, key_of: Callable[[str], str]) -> bytes | list[str]:
    """Read an image.

    Args:
        stream: A WARC file.
        offset: The offset of a record (bytes).
        key: The key that the record must have.
        key_of: Address → key.

    Returns:
        At most MAX_IMAGE_BYTES + 1 bytes of it; for a redirect or a revisit, the keys to look for instead, in turn;
        none if the record is broken or another.
    """
    try:
        record = warc_record(stream, offset)
    except READ_ERRORS as error:
        if is_system_error(error):
            raise
        return []
    if record is None or key not in (key_of(target_uri(record)), *_names(record)):
        return []
    if names := references(record):
        return [name for reference in names for name in (key_of(reference), reference) if name]
    return decoded_body(record, MAX_IMAGE_BYTES) if record.content_length <= MAX_IMAGE_BYTES else []


def _names(record: WarcRecord) -> list[str]:
    """What revisits may refer to a record by, besides its address."""
    found = (record.headers.get("WARC-Record-ID"), record.headers.get("WARC-Payload-Digest"))
    return [name.strip().strip("<>") for name in found if name]


def _may_be_image(record: WarcRecord) -> bool:
    """Whether a media type may be an image's. File storage often does not know the type; decoding will tell."""
    stated = media_type(record)
    return stated.startswith("image/") or stated in ("", "application/octet-stream", "binary/octet-stream")
