"""kosmos-prepare pages: WARC files with their images, folders of HTML, and the paper's rules."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from fastwarc.stream_io import GzipWriter
from fastwarc.warc import WarcRecord, WarcRecordType
from PIL import Image

from kosmos_plugin.data.documents import Text
from kosmos_plugin.data.shards import ShardedDocuments, interleaved_document
from kosmos_plugin.errors import UserError
from tests.curation.command import prepare

TEXTS = [
    "The old lighthouse stands on a rock in the middle of the bay, and ships have passed it for two hundred years.",
    "Every evening the keeper climbed the stairs with a can of oil, and lit the lamp before the sun had gone down.",
    "Visitors can reach the island by boat in summer, when the sea is calm and the museum in the house is open.",
]


def png(seed: int, size: tuple[int, int] = (80, 70), color=None) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    (Image.fromarray(pixels) if color is None else Image.new("RGB", size, color)).save(buffer, "PNG")
    return buffer.getvalue()


def html(*parts: str) -> str:
    """HTML of the parts: an image for each image address, a paragraph for any other text."""
    body = "".join(f'<img src="{part}">' if part.endswith(".png") else f"<p>{part}</p>" for part in parts)
    return f"<html><body><article>{body}</article></body></html>"


def write_folder(folder: Path, page: str, images: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "page.html").write_text(page)
    for name, data in images.items():
        (folder / name).write_bytes(data)
    return folder


def run(out: Path, *arguments: object) -> dict:
    """Run the command; return its counts. Pages with one image are kept unless the arguments say otherwise."""
    options = ["--workers", "1", "--valid-share", "0", "--duplicates", "none", "--drop-one-image", "0"]
    prepare(["pages", str(arguments[0]), *options, *map(str, arguments[1:]), "--out", str(out)])
    return counts(out)


def counts(out: Path) -> dict:
    return json.loads((out / "report.json").read_text("utf-8"))["counts"]


def kept(out: Path) -> list[list[str | bytes]]:
    documents = ShardedDocuments([str(tar) for tar in sorted(out.glob("train-*.tar"))], interleaved_document)
    return [[s.text if isinstance(s, Text) else s.read() for s in documents[i].segments] for i in range(len(documents))]


def http_head(content_type: str) -> str:
    """An HTTP header; `content_type` may include further header lines."""
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n"


def write_warc(path: Path, responses: list[tuple[str, str, bytes]]) -> None:
    with open(path, "wb") as file:
        writer = GzipWriter(file) if path.suffix == ".gz" else file
        for url, content_type, body in responses:
            record = WarcRecord()
            record.init_headers(WarcRecordType.response)
            record.headers["WARC-Target-URI"] = url
            record.is_http = True
            record.set_bytes_content(http_head(content_type).encode() + body)
            record.write(writer)
            if path.suffix == ".gz":
                writer.finish()
        if path.suffix == ".gz":
            writer.close()


@pytest.mark.parametrize("name", ["crawl.warc", "crawl.warc.gz"])
def test_warc_files_with_their_images(tmp_path, name):
    page = html(TEXTS[0], "/a.png", TEXTS[1], "b.png", TEXTS[2]).encode()
    responses = [("http://example.org/a.png", "image/png", png(1)), ("http://example.org/x/", "text/html", page)]
    write_warc(tmp_path / name, [*responses, ("https://example.org/x/b.png", "image/png", png(2))])
    run(tmp_path / "out", tmp_path / name)
    assert kept(tmp_path / "out") == [[TEXTS[0], png(1), TEXTS[1], png(2), TEXTS[2]]]


@pytest.mark.parametrize("name", ["crawl.warc", "crawl.warc.gz"])
def test_a_warc_file_that_is_cut_short(tmp_path, name):
    page = html(TEXTS[0], "/a.png", TEXTS[1]).encode()
    image = ("http://example.org/a.png", "image/png", png(1))
    write_warc(tmp_path / name, [image, *((f"http://example.org/{n}", "text/html", page) for n in range(3))])
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-60])
    assert run(tmp_path / "out", tmp_path / name)["left out"]["the rest of files that are cut short or broken"] >= 1
    assert len(kept(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    "bad, reason",
    [
        (png(9, (63, 80)), "image smaller than 64 by 64 pixels"),
        (png(9, color=(200, 10, 10)), "image of one color"),
        (png(1), "image repeated on the page"),
        (b"", "image of 0 bytes"),
        (b"<svg/>", "image that cannot be decoded"),
    ],
)
def test_images_that_cannot_be_used(tmp_path, bad, reason):
    folder = write_folder(
        tmp_path / "in", html(TEXTS[0], "a.png", TEXTS[1], "b.png", TEXTS[2]), {"a.png": png(1), "b.png": bad}
    )
    assert run(tmp_path / "out", folder)["left out"] == {reason: 1}
    assert kept(tmp_path / "out") == [[TEXTS[0], png(1), f"{TEXTS[1]}\n{TEXTS[2]}"]]


def test_five_images_and_all_of_the_text(tmp_path):
    names = [f"{number}.png" for number in range(6)]
    folder = write_folder(
        tmp_path / "in", html(TEXTS[0], *names, TEXTS[1]), {name: png(i) for i, name in enumerate(names)}
    )
    assert run(tmp_path / "out", folder)["left out"] == {"image after the first 5 of a page": 1}
    assert kept(tmp_path / "out") == [[TEXTS[0], *map(png, range(5)), TEXTS[1]]]


def test_gibberish_is_left_out(tmp_path):
    soup = "🔥🔥 BUY NOW 😍 #deal #sale https://example.org/buy"
    folder = write_folder(tmp_path / "in", html(TEXTS[0], "a.png", soup, TEXTS[1]), {"a.png": png(1)})
    run(tmp_path / "out", folder)
    assert kept(tmp_path / "out") == [[TEXTS[0], png(1), TEXTS[1]]]


SPANISH = "El viejo faro está sobre una roca en medio de la bahía y los barcos pasan por allí desde hace dos siglos."


@pytest.mark.parametrize(
    "page, reason", [(html(SPANISH, "a.png", SPANISH), "not English"), (html(*TEXTS), "no image in the text")]
)
def test_pages_that_are_dropped(tmp_path, page, reason):
    folder = write_folder(tmp_path / "in", page, {"a.png": png(1)})
    with pytest.raises(UserError, match="Nothing was kept"):
        run(tmp_path / "out", folder)
    assert counts(tmp_path / "out")["dropped"] == {reason: 1}


def test_half_of_the_pages_with_one_image_are_dropped_by_their_address(tmp_path):
    folder = write_folder(tmp_path / "in", html(TEXTS[0], "a.png", TEXTS[1]), {"a.png": png(1)})
    for number in range(39):
        (folder / f"{number}.html").write_text((folder / "page.html").read_text())
    for out in ("1", "2"):
        run(tmp_path / out, folder, "--drop-one-image", 0.5)
    assert 10 < len(kept(tmp_path / "1")) < 30
    assert kept(tmp_path / "1") == kept(tmp_path / "2")


@pytest.mark.parametrize("address", ["../secret.png", "%2e%2e/secret.png", "..%2fsecret.png"])
def test_no_file_outside_of_the_folder_is_read(tmp_path, address):
    (tmp_path / "secret.png").write_bytes(png(1))
    folder = write_folder(tmp_path / "in", html(TEXTS[0], address, TEXTS[1]), {})
    with pytest.raises(UserError, match="Nothing was kept"):
        run(tmp_path / "out", folder)
    assert counts(tmp_path / "out")["left out"] == {"missing image": 1}


def test_duplicate_and_near_duplicate_pages_are_dropped(tmp_path):
    """Crawls contain many pages twice: unchanged, with another date, or with another image."""
    other = " ".join(reversed(" ".join(TEXTS).split()))
    pages = {
        "a": html(*TEXTS[:2], "1.png", TEXTS[2]),
        "b": html(*TEXTS[:2], "2.png", TEXTS[2]),
        "c": html(*TEXTS[:2], "3.png", TEXTS[2].replace("open", "shut")),
        "d": html(other, "4.png"),
    }
    folder = write_folder(tmp_path / "in", "", {f"{n}.png": png(n) for n in range(1, 5)})
    (folder / "page.html").unlink()
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(page)
    found = {kind: run(tmp_path / kind, folder, "--duplicates", kind) for kind in ("near", "exact", "none")}
    dropped = {kind: report.get("dropped", {}) for kind, report in found.items()}
    reason = "duplicates and near-duplicates"
    assert dropped == {"near": {reason: 2}, "exact": {reason: 1}, "none": {}}
    assert [png(4)] == [page[1] for page in kept(tmp_path / "near") if page[0] == other]


@pytest.mark.parametrize("header", ["Content-Encoding: gzip", "Content-Encoding: br", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("broken", ["text/html", "text/css", "image/png"])
def test_a_wrong_encoding_affects_only_its_record(tmp_path, header, broken):
    bodies = {"text/html": html(TEXTS[2], "/a.png", TEXTS[2]).encode(), "text/css": b"p {}", "image/png": png(2)}
    page = html(TEXTS[0], "/a.png", TEXTS[1]).encode()
    responses = [("http://example.org/a.png", "image/png", png(1)), ("http://example.org/1", "text/html", page)]
    responses.append(("http://example.org/2", f"{broken}\r\n{header}", bodies[broken]))
    responses.append(("http://example.org/3", "text/html", page.replace(b"lighthouse", b"tower")))
    write_warc(tmp_path / "crawl.warc.gz", responses)
    assert "left out" not in run(tmp_path / "out", tmp_path / "crawl.warc.gz")
    assert len(kept(tmp_path / "out")) == (3 if broken == "text/html" else 2)


def test_a_warc_file_compressed_as_one_stream_has_pages_and_no_images(tmp_path):
    page = html(TEXTS[0], "/a.png", TEXTS[1], "/b.png", TEXTS[2]).encode()
    images = [(f"http://example.org/{name}.png", "image/png", png(n)) for n, name in enumerate("ab")]
    write_warc(tmp_path / "crawl.warc", [*images, ("http://example.org/", "text/html", page)])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "crawl.warc.gz").write_bytes(gzip.compress((tmp_path / "crawl.warc").read_bytes()))
    (tmp_path / "mirror" / "example.org").mkdir(parents=True)
    (tmp_path / "mirror" / "example.org" / "b.png").write_bytes(png(1))
    counts = run(tmp_path / "out", tmp_path / "in", "--images", tmp_path / "mirror")
    reason = "images of WARC files compressed as one stream; recompress record by record (warcio recompress)"
    assert counts["left out"][reason] == 1
    assert kept(tmp_path / "out")[0][-2:] == [png(1), TEXTS[2]]


@pytest.mark.parametrize("content_type", ["application/octet-stream", "binary/octet-stream", ""])
def test_images_without_a_media_type(tmp_path, content_type):
    page = html(TEXTS[0], "http://example.org:80/a.png", TEXTS[1]).encode()
    image = ("http://example.org/a.png", content_type, png(1))
    write_warc(tmp_path / "crawl.warc.gz", [("http://example.org/", "text/html", page), image])
    run(tmp_path / "out", tmp_path / "crawl.warc.gz")
    assert kept(tmp_path / "out") == [[TEXTS[0], png(1), TEXTS[1]]]
