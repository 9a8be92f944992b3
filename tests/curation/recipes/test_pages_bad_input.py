"""Pages and images that are broken, hostile or merely unusual, and the ways in which pages refer to images."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.benchmarks.memory import memory, peak_memory, reset_peak
from tests.curation.recipes.test_pages import TEXTS, html, kept, png, run, write_folder, write_warc

PAGE = html(TEXTS[0], "a.png", TEXTS[1])


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    return Image.open(io.BytesIO(png(1))).convert(mode)


UNUSUAL = {
    "cmyk": lambda: encoded(noise("CMYK"), "JPEG"),
    "sixteen-bit": lambda: encoded(Image.fromarray(np.asarray(noise("L"), np.uint16) * 257), "PNG"),
    "palette": lambda: encoded(noise("P"), "PNG"),
    "animated": lambda: encoded(noise(), "GIF", save_all=True, append_images=[noise().rotate(90)]),
    "transparent": lambda: encoded(noise("RGBA"), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_images_are_used(tmp_path, kind):
    data = UNUSUAL[kind]()
    run(tmp_path / "out", write_folder(tmp_path / "in", PAGE, {"a.png": data}))
    assert kept(tmp_path / "out") == [[TEXTS[0], data, TEXTS[1]]]


def test_an_image_of_huge_dimensions_is_not_decoded(tmp_path):
    bomb = encoded(Image.new("L", (20_000, 20_000)), "PNG")
    pages = html(TEXTS[0], "a.png", TEXTS[1], "b.png", TEXTS[2])
    folder = write_folder(tmp_path / "in", pages, {"a.png": bomb, "b.png": png(1)})
    assert run(tmp_path / "out", folder)["left out"] == {"image of more than 24,000,000 pixels": 1}


@pytest.mark.parametrize(
    "page, reason",
    [
        (PAGE + " " * 200_000, "HTML of more than 100,000 bytes"),
        ("<div>" * 30_000 + PAGE, "HTML nested deeper than 500 elements"),
        ("", "empty text"),
    ],
)
def test_pages_that_are_dropped(tmp_path, page, reason):
    folder = write_folder(tmp_path / "in", PAGE, {"a.png": png(1)})
    (folder / "bad.html").write_text(page)
    limit = ["--max-html-bytes", "100000"] if "bytes" in reason else []
    counts = run(tmp_path / "out", folder, *limit)
    assert counts["dropped"][reason] == 1
    assert kept(tmp_path / "out") == [[TEXTS[0], png(1), TEXTS[1]]]


@pytest.mark.parametrize("name", ["crawl.warc.gz", "page.html"])
def test_html_of_100_megabytes_takes_little_memory(tmp_path, name):
    small, huge = PAGE.encode(), b"<p>a</p>" * 12_500_000
    (tmp_path / "in").mkdir()
    if name == "page.html":
        write_folder(tmp_path / "in", PAGE, {"a.png": png(1)})
        (tmp_path / "in" / "huge.html").write_bytes(huge)
    else:
        responses = [("http://a.example/huge", huge), ("http://a.example/", small)]
        image = ("http://a.example/a.png", "image/png", png(1))
        write_warc(tmp_path / "in" / name, [*((url, "text/html", body) for url, body in responses), image])
    run(tmp_path / "warm", write_folder(tmp_path / "small", PAGE, {"a.png": png(1)}))  # models and libraries are loaded
    del huge
    reset_peak()
    before = memory()
    counts = run(tmp_path / "out", tmp_path / "in")
    assert peak_memory() - before < 60 * 2**20
    assert counts["dropped"] == {"HTML of more than 10,000,000 bytes": 1}
    assert kept(tmp_path / "out") == [[TEXTS[0], png(1), TEXTS[1]]]


def test_invalid_bytes_are_left_out(tmp_path):
    folder = write_folder(tmp_path / "in", "", {"a.png": png(1)})
    (folder / "page.html").write_bytes(PAGE.encode().replace(b"lighthouse", b"light\0hou\xff\xfese"))
    run(tmp_path / "out", folder)
    ((text, image, _),) = kept(tmp_path / "out")
    assert text.startswith("The old light") and "\0" not in text
    assert image == png(1)


@pytest.mark.parametrize(
    "image",
    [
        '<img src="data:image/png;base64,{data}">',
        '<img src="" data-src="a.png">',
        '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" data-src="a.png">',
        '<img srcset="b.png 1x, a.png 2x">',
        '<picture><source srcset="a.png 800w, b.png"><img></picture>',
        '<img src="./sub/../a.png#part">',
    ],
)
def test_the_ways_to_name_an_image(tmp_path, image):
    image = image.format(data=base64.b64encode(png(1)).decode())
    page = html(TEXTS[0], "MARK", TEXTS[1]).replace("<p>MARK</p>", image)
    run(tmp_path / "out", write_folder(tmp_path / "in", page, {"a.png": png(1), "b.png": png(2)}))
    assert kept(tmp_path / "out") == [[TEXTS[0], png(1), TEXTS[1]]]


@pytest.mark.parametrize(
    "image, expected",
    [
        ('<img srcset="missing.png 900w, a.png 600w, b.png 300w">', 1),
        ('<img data-src="missing.png" src="a.png">', 1),
        ('<img data-src="small.png" src="a.png">', 1),
        ('<picture><source data-srcset="missing.webp 2x, a.png 1x"><img src="about:blank"></picture>', 1),
        ('<a href="a.png"><img src="missing.png"></a>', 1),
        ('<img data-src="b.png" src="a.png"><noscript><img src="a.png"></noscript>', 2),
    ],
)
def test_addresses_are_tried_in_turn(tmp_path, image, expected):
    page = html(TEXTS[0], "MARK", TEXTS[1]).replace("<p>MARK</p>", image)
    files = {"a.png": png(1), "b.png": png(2), "small.png": png(3, (20, 20))}
    counts = run(tmp_path / "out", write_folder(tmp_path / "in", page, files))
    assert kept(tmp_path / "out") == [[TEXTS[0], png(expected), TEXTS[1]]]
    assert "left out" not in counts


def test_the_base_of_a_pages_addresses(tmp_path):
    folder = write_folder(tmp_path / "in", PAGE.replace("<body>", '<head><base href="images/"></head><body>'), {})
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(png(1))
    run(tmp_path / "out", folder)
    assert kept(tmp_path / "out") == [[TEXTS[0], png(1), TEXTS[1]]]


def test_svg_images_are_left_out(tmp_path):
    page = html(TEXTS[0], "a.png", TEXTS[1]).replace("</article>", '<img src="b.svg"></article>')
    folder = write_folder(tmp_path / "in", page, {"a.png": png(1), "b.svg": b"<svg/>"})
    assert run(tmp_path / "out", folder)["left out"] == {"SVG image": 1}
