"""Web pages of WARC files and of folders of HTML → documents of texts and images, which have no bytes yet."""

import itertools
import os
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from datatrove.data import Document
from datatrove.pipeline.writers.disk_base import DiskWriter
from fastwarc.warc import WarcRecord, WarcRecordType

from kosmos_plugin.curation.page_documents import page_document
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.inputs import InputFile, open_input
from kosmos_plugin.curation.pipeline.steps import Reader
from kosmos_plugin.curation.readers.html import decode_html
from kosmos_plugin.curation.readers.page_parser import page_parser
from kosmos_plugin.curation.readers.warc import charset, decoded_body, is_success, media_type, target_uri, warc_records

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
        if (
            record.record_type == WarcRecordType.revisit
            or not is_success(record)
            or media_type(record) not in HTML_TYPES
        ):
            return
        # A record that is too large is not read: decoding would not make it smaller.
        is_large = record.content_length > self.max_bytes + MAX_HEADER_BYTES
        data = bytes(self.max_bytes + 1) if is_large else decoded_body(record, self.max_bytes)
        yield from self.pages(data, target_uri(record), id, charset(record))


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
