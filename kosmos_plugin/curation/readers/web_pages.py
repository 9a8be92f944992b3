"""Web pages of WARC files and of folders of HTML → documents of texts and images, by their addresses."""

import contextlib
import io
import itertools
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO
from urllib.parse import quote

from datatrove.data import Document
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from kosmos_plugin.curation.pipeline.inputs import BROKEN, InputFile, open_bytes, open_input
from kosmos_plugin.curation.pipeline.steps import Reader
from kosmos_plugin.curation.readers.html import decode_html, page_document, parse_page

FORMATS = {"warc": ("warc",), "html": ("html", "htm", "xhtml"), "mmc4": ("jsonl", "zip"), "obelics": ("parquet",)}
FORMAT_GROUPS = (("warc", "html"), ("mmc4", "obelics"))
HTML_TYPES = ("text/html", "application/xhtml+xml")
MOST_HEADER_BYTES = 2**16  # of HTTP


class ReadPages(Reader):
    """Pages as documents. `max_bytes` bounds the HTML of one."""

    name = "pages"

    def __init__(self, files: Sequence[InputFile], max_bytes: int):
        super().__init__(files)
        self.max_bytes = max_bytes

    def page(self, data: bytes, url: str, id: str, charset: str | None = None) -> Document | None:
        """The document of a page; None, and counted, if there is none. `data` may be cut at more than `max_bytes`."""
        self.count("read", "pages")
        if len(data) > self.max_bytes:
            self.count("dropped", f"HTML of more than {self.max_bytes:,} bytes")
            return None
        parts = parse_page(decode_html(data, charset), url)
        if isinstance(parts, str):
            self.count("dropped", parts)
            return None
        return page_document(parts, id, url)


class ReadWarc(ReadPages):
    """The HTML responses of WARC files, in their order. A record that is cut short is left out with what follows."""

    def read(self, file: InputFile) -> Iterator[Document]:
        held: Document | None = None  # until it is known that its record is whole
        for position, record in warc_records(file.path):
            if held is not None:
                yield held
            held = self._of_record(record, f"{file.name}/{position}")
        if held is not None:
            yield held

    def _of_record(self, record: WarcRecord, id: str) -> Document | None:
        if media_type(record) not in HTML_TYPES:
            return None
        url = record.headers.get("WARC-Target-URI") or ""
        # Of what is too large no more is read; whatever its encoding, it does not become smaller.
        is_large = record.content_length > self.max_bytes + MOST_HEADER_BYTES
        data = bytes(self.max_bytes + 1) if is_large else decoded_body(record, self.max_bytes)
        return self.page(data, url.strip("<>"), id, record.http_charset)


class ReadHtml(ReadPages):
    """Files of HTML. A page's address is file:///PATH, by its path in the folder `root`; so are those of its images."""

    files_per_task = 200

    def __init__(self, files: Sequence[InputFile], max_bytes: int, root: str):
        super().__init__(files, max_bytes)
        self.root = root

    def read(self, file: InputFile) -> Iterator[Document]:
        name = file.path[len(self.root) :].lstrip("/")
        with open_input(file.path) as stream:
            data = stream.read(self.max_bytes + 1)
        # A name that is no UTF-8 is quoted by its bytes.
        url = f"file:///{quote(os.fsencode(name))}"
        if document := self.page(data, url, url.removeprefix("file:///")):
            yield document


def folder_of(files: Sequence[InputFile]) -> str:
    """The folder that all files are in."""
    folders = [file.path.split("/")[:-1] for file in files]
    shared = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))
    return "/".join(names[0] for names in shared)


def warc_records(path: str) -> Iterator[tuple[int, WarcRecord]]:
    """(its offset in bytes, a record) of each successful response and resource, as it is. OSError if it is cut."""
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
            raise OSError(f"it ends in the middle of a record, at byte {position:,} or later")


def warc_record(file: BinaryIO, position: int) -> WarcRecord | None:
    """The record at an offset of an open file."""
    file.seek(position)
    return next(iter(ArchiveIterator(file, auto_decode="none")), None)


def decoded_body(record: WarcRecord, most: int) -> bytes:
    """The body of a response, of which HTTP's encodings are undone, `most` + 1 bytes at most.

    A body that is not in the encoding that its header names is given as it is, as browsers have it. It is read from a
    copy of the record: the reader of a file does not go on behind one that it could not decode.
    """
    copy = io.BytesIO()
    record.write(copy)
    for decode in ("all", "none"):
        copy.seek(0)
        with contextlib.suppress(*BROKEN):
            return next(iter(ArchiveIterator(copy, auto_decode=decode))).reader.read(most + 1)
    return b""


def media_type(record: WarcRecord) -> str:
    """Such as "text/html", in lower case; of a resource its own."""
    stated = record.http_content_type if record.is_http else record.headers.get("Content-Type")
    return (stated or "").partition(";")[0].strip().lower()


def _is_cut(file: BinaryIO, position: int, is_gzip: bool) -> bool:
    """Whether a WARC file ends in the middle of a record; the reader is silent about it. From `position` on."""
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
