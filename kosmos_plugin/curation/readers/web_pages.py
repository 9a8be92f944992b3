"""Web pages of WARC files and of folders of HTML → documents of texts and images, which have no bytes yet."""

import contextlib
import io
import itertools
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import IO
from urllib.parse import quote

from datatrove.data import Document
from datatrove.pipeline.writers.disk_base import DiskWriter
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from kosmos_plugin.curation.page_documents import page_document
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.inputs import READ_ERRORS, InputFile, open_bytes, open_input
from kosmos_plugin.curation.pipeline.steps import Reader
from kosmos_plugin.curation.readers.html import decode_html
from kosmos_plugin.curation.readers.page_parser import page_parser

# Format → file extensions.
FORMATS = {"warc": ("warc",), "html": ("html", "htm", "xhtml"), "mmc4": ("jsonl", "zip"), "obelics": ("parquet",)}
FORMAT_GROUPS = (("warc", "html"), ("mmc4", "obelics"))
HTML_TYPES = ("text/html", "application/xhtml+xml")
MAX_HEADER_BYTES = 2**16  # of HTTP


class ReadPages(Reader):
    """Pages as documents.

    Args:
        files: The input files.
        max_bytes: The largest page, in bytes of HTML.
        exclusion_writer: Writes the pages that cannot be parsed, without their text.
    """

    name = "pages"

    def __init__(self, files: Sequence[InputFile], max_bytes: int, exclusion_writer: DiskWriter | None = None):
        super().__init__(files, exclusion_writer)
        self.max_bytes = max_bytes

    def pages(self, data: bytes, url: str, id: str, charset: str | None = None) -> Iterator[Document]:
        """The document of a page, if it can be parsed. `data` may be cut after `max_bytes` + 1 bytes."""
        self.count("read", "pages")
        with self.dropping(Document("", id, metadata={"url": url})):
            if len(data) > self.max_bytes:
                raise Dropped(f"HTML of more than {self.max_bytes:,} bytes")
            yield page_document(page_parser().parse(decode_html(data, charset), url), id, url)


class ReadWarc(ReadPages):
    """The HTML responses of WARC files, in order. A record that is cut short ends the file."""

    def read(self, file: InputFile) -> Iterator[Document]:
        held: list[Document] = []  # until it is known that its record is complete
        for position, record in warc_records(file.path):
            yield from held
            held = list(self._pages_of(record, f"{file.name}/{position}"))
        yield from held

    def _pages_of(self, record: WarcRecord, id: str) -> Iterator[Document]:
        if media_type(record) not in HTML_TYPES:
            return
        url = record.headers.get("WARC-Target-URI") or ""
        # A record that is too large is not read: decoding would not make it smaller.
        is_large = record.content_length > self.max_bytes + MAX_HEADER_BYTES
        data = bytes(self.max_bytes + 1) if is_large else decoded_body(record, self.max_bytes)
        yield from self.pages(data, url.strip("<>"), id, record.http_charset)


class ReadHtml(ReadPages):
    """HTML files. The address of a page is file:///PATH, with its path in `root`; so are those of its images.

    Args:
        files: The input files.
        max_bytes: The largest page, in bytes of HTML.
        root: The folder that all files are in.
        exclusion_writer: Writes the pages that cannot be parsed, without their text.
    """

    files_per_task = 200

    def __init__(
        self, files: Sequence[InputFile], max_bytes: int, root: str, exclusion_writer: DiskWriter | None = None
    ):
        super().__init__(files, max_bytes, exclusion_writer)
        self.root = root

    def read(self, file: InputFile) -> Iterator[Document]:
        with open_input(file.path) as stream:
            data = stream.read(self.max_bytes + 1)
        # Quoting makes a valid address even if the name is not UTF-8.
        path = quote(os.fsencode(file.path[len(self.root) :].lstrip("/")))
        yield from self.pages(data, f"file:///{path}", path)


def folder_of(files: Sequence[InputFile]) -> str:
    """The innermost folder that all files are in."""
    folders = [file.path.split("/")[:-1] for file in files]
    shared = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))
    return "/".join(names[0] for names in shared)


def warc_records(path: str) -> Iterator[tuple[int, WarcRecord]]:
    """The successful responses and the resources of a WARC file, each with its offset in bytes, still encoded.

    Raises:
        OSError: at the end, if the file ends in the middle of a record.
    """
    position = 0
    with open_bytes(path) as file:
        records = WarcRecordType.response | WarcRecordType.resource
        for record in ArchiveIterator(file, record_types=records, auto_decode="none"):
            position = record.stream_pos
            status = record.http_headers.status_code if record.http_headers else 200
            if status in (200, None):
                yield position, record
    with open_bytes(path) as file:
        if _is_cut(file, position, path.lower().endswith(".gz")):
            raise OSError(f"the file ends in the middle of a record, at byte {position:,} or later")


def warc_record(file: IO[bytes], position: int) -> WarcRecord | None:
    """The record at an offset (bytes) of an open file."""
    file.seek(position)
    return next(iter(ArchiveIterator(file, auto_decode="none")), None)


def decoded_body(record: WarcRecord, max_bytes: int) -> bytes:
    """The body of a response with HTTP's encodings undone, at most `max_bytes` + 1 bytes of it.

    As in browsers, a body that is not in the encoding that its header states is taken as it is. A copy of the record is
    read, because the file's reader stops after a body that it could not decode.
    """
    copy = io.BytesIO()
    record.write(copy)
    for decode in ("all", "none"):
        copy.seek(0)
        with contextlib.suppress(*READ_ERRORS):
            return next(iter(ArchiveIterator(copy, auto_decode=decode))).reader.read(max_bytes + 1)
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
