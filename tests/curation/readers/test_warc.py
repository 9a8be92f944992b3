"""WARC files as crawlers write them, by warcio: redirects, revisits, statuses and encodings."""

import base64
import gzip
import hashlib
import io
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kosmos_plugin.curation.readers.content_encoding import decode_content
from tests.curation.recipes.test_pages import TEXTS, html, kept, png, run

warcio_writer = pytest.importorskip("warcio.warcwriter")
StatusAndHeaders = pytest.importorskip("warcio.statusandheaders").StatusAndHeaders

IMAGE, PAGE = png(1), html(TEXTS[0], "/a.png", TEXTS[1]).encode()
A, B = "http://example.org/a.png", "https://cdn.example.net/b.png"


class Crawl:
    """A WARC file; each method adds a record."""

    def __init__(self, path: Path, **options: object):
        self.file = path.open("wb")
        self.writer = warcio_writer.WARCWriter(self.file, gzip=path.suffix == ".gz", **options)
        self.response("http://example.org/", PAGE, content_type="text/html")

    def response(self, url: str, body: bytes, status: str = "200 OK", **headers: str):
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        record = self.writer.create_warc_record(
            url,
            "response",
            payload=io.BytesIO(body),
            http_headers=StatusAndHeaders(status, named, protocol="HTTP/1.1"),
        )
        self.writer.write_record(record)
        return record.rec_headers

    def image(self, url: str, **options: str):
        return self.response(url, IMAGE, content_type="image/png", **options)

    def redirect(self, url: str, location: str, status: str = "301 Moved Permanently") -> None:
        self.response(url, b"moved", status, content_type="text/html", Location=location)

    def revisit(self, url: str, digest: str, refers_to: str | None, headers: dict | None = None) -> None:
        head = StatusAndHeaders("200 OK", [("Content-Type", "image/png")], protocol="HTTP/1.1")
        record = self.writer.create_revisit_record(
            url, digest, refers_to or "", "2020-01-01T00:00:00Z", http_headers=head
        )
        if refers_to is None:
            record.rec_headers.remove_header("WARC-Refers-To-Target-URI")
        for name, value in (headers or {}).items():
            record.rec_headers.add_header(name, value)
        self.writer.write_record(record)

    def images_of_the_page(self, folder: Path) -> list[bytes]:
        self.file.close()
        try:
            run(folder / "out", folder)
        except ValueError:  # nothing was kept
            return []
        return [part for page in kept(folder / "out") for part in page if isinstance(part, bytes)]


@pytest.fixture(params=["crawl.warc.gz", "crawl.warc"])
def crawl(tmp_path, request):
    return Crawl(tmp_path / request.param)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
@pytest.mark.parametrize("location", [B, "//cdn.example.net/b.png", "HTTPS://CDN.example.net:443/b.png#x"])
def test_redirects(crawl, tmp_path, status, location):
    crawl.redirect(A, location, status)
    crawl.image(B)
    assert crawl.images_of_the_page(tmp_path) == [IMAGE]


def test_a_chain_of_redirects_in_any_order_with_relative_addresses(crawl, tmp_path):
    crawl.image("http://example.org/new/b.png")
    crawl.redirect("http://example.org/x/a.png", "../new/b.png")
    crawl.redirect("https://example.org/a.png", "x/a.png")
    crawl.redirect("http://example.org/a.png", "https://example.org/a.png")  # to itself but for its scheme
    assert crawl.images_of_the_page(tmp_path) == [IMAGE]


@pytest.mark.parametrize("targets", [[A, A], ["/b.png", "/a.png"], [f"/a.png?{n}" for n in range(40)]])
def test_redirects_without_an_end(crawl, tmp_path, targets):
    address = A
    for target in targets:
        crawl.redirect(address, target)
        address = target if "://" in target else f"http://example.org{target}"
    assert crawl.images_of_the_page(tmp_path) == []


def test_a_redirect_to_another_file(tmp_path):
    first = Crawl(tmp_path / "1.warc.gz")
    first.redirect(A, B)
    first.file.close()
    second = Crawl(tmp_path / "2.warc.gz")
    second.image(B)
    assert second.images_of_the_page(tmp_path)[0] == IMAGE


@pytest.mark.parametrize("by", ["address", "same address", "id", "digest"])
@pytest.mark.parametrize("is_first", [True, False])
def test_revisits(crawl, tmp_path, by, is_first):
    if is_first and by in ("id", "same address"):
        pytest.skip("what is revisited has been written")
    digest = f"sha1:{base64.b32encode(hashlib.sha1(IMAGE).digest()).decode()}"
    url = A if by == "same address" else B
    headers = None if is_first else crawl.image(url)
    refers_to = url if "address" in by else None
    more = {"WARC-Refers-To": headers.get_header("WARC-Record-ID")} if by == "id" else None
    crawl.revisit(A, "sha1:OTHER" if by == "id" else digest, refers_to, more)
    if is_first:
        crawl.image(url)
    assert crawl.images_of_the_page(tmp_path) == [IMAGE]


@pytest.mark.parametrize(
    "status, headers, is_kept",
    [
        ("203 Non-Authoritative Information", {}, True),
        ("206 Partial Content", {"Content_Range": f"bytes 0-{len(IMAGE) - 1}/{len(IMAGE)}"}, True),
        ("206 Partial Content", {"Content_Range": f"bytes 0-{len(IMAGE) - 1}/{len(IMAGE) + 9}"}, False),
        ("206 Partial Content", {}, False),
        ("404 Not Found", {}, False),
    ],
)
def test_statuses(crawl, tmp_path, status, headers, is_kept):
    crawl.image(A, status=status, **headers)
    assert crawl.images_of_the_page(tmp_path) == ([IMAGE] if is_kept else [])


def test_addresses_in_angle_brackets(crawl, tmp_path):
    """As wget wrote them."""
    crawl.image(f"<{A}>")
    assert crawl.images_of_the_page(tmp_path) == [IMAGE]


def raw_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(data) + encoder.flush()


ENCODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZip;q=1": lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]) + b"\0junk",
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor(write_content_size=False).compress,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
    "identity": bytes,
    "utf-8": bytes,
    "": bytes,
}


@pytest.mark.parametrize("encoding", ENCODERS)
@given(data=st.binary(max_size=300), repeats=st.sampled_from([1, 1000]))
def test_encodings(encoding, data, repeats):
    data *= repeats
    encoded = ENCODERS[encoding](data)
    if data or encoded == data:
        assert decode_content(encoded, encoding, 10**6) == data
        assert decode_content(encoded, encoding, 100) == data[:101]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "Deflate", "br", "zstd"])
def test_what_comes_before_a_cut_is_kept(encoding):
    data = b"".join(b"%d " % (n * n % 15_485_863) for n in range(150_000))
    encoded = ENCODERS[encoding](data)
    found = decode_content(encoded[: len(encoded) // 2], encoding, 10**7)
    assert data.startswith(found) and len(found) > len(data) // 10


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "br", "zstd"])
def test_a_body_that_is_not_encoded_is_taken_as_it_is(encoding):
    assert decode_content(PAGE, encoding, 10**6) == PAGE


@pytest.mark.parametrize("encoding", ["x-gzip", "Deflate", "zstd"])
def test_pages_in_other_encodings(tmp_path, encoding):
    crawl = Crawl(tmp_path / "crawl.warc.gz")
    page = html(TEXTS[2], "/a.png", TEXTS[0]).encode()
    crawl.response(
        "http://example.org/2", ENCODERS[encoding](page), content_type="text/html", content_encoding=encoding
    )
    crawl.image(A)
    assert crawl.images_of_the_page(tmp_path) == [IMAGE, IMAGE]
