"""kosmos-prepare captions: what is dropped."""

import io

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.curation.recipes.caption_releases import PAIRS, documents_of, encoded, jpeg, kept, run, tsv


@pytest.mark.parametrize(
    "caption, dropped",
    [
        ("<PERSON> at the beach", True),
        ("portrait of <PERSON>.", True),
        ("<LOCATION>, <DATE_2> in winter", True),
        ("3 < 4 > 2 and a <b>bold</b> <3 word", False),
        ("PERSON at the beach", False),
    ],
)
def test_captions_with_tags(tmp_path, caption, dropped):
    file = tsv(tmp_path, [PAIRS[0], (jpeg(), caption)])
    counts = run(tmp_path / "out", file, "--valid-share", 0)
    assert len(kept(tmp_path / "out")) == 2 - dropped
    assert counts.get("dropped", {}) == ({"caption with a tag such as <PERSON>": 1} if dropped else {})
    run(tmp_path / "all", file, "--valid-share", 0, "--keep-tags")
    assert len(kept(tmp_path / "all")) == 2


@pytest.mark.parametrize(
    "option, bad, reason",
    [
        (["--min-words", 3], (jpeg(), "two words"), "caption with fewer than 3 words"),
        (["--max-words", 6], (jpeg(), "a b c d e f g"), "caption with more than 6 words"),
        (["--min-characters", 5], (jpeg(), "café"), "caption with fewer than 5 characters"),
        (["--max-characters", 30], (jpeg(), "é" * 31), "caption with more than 30 characters"),
        (["--min-side", 30], (jpeg(size=(40, 29)), "small"), "image side shorter than 30 pixels"),
        (["--max-aspect", 3], (jpeg(size=(91, 30)), "wide"), "aspect ratio of more than 3 to 1"),
        (["--max-aspect", 3], (jpeg(size=(30, 91)), "high"), "aspect ratio of more than 3 to 1"),
        (["--decode"], (jpeg()[:-300], "cut"), "image that cannot be decoded"),
        (
            ["--english"],
            (jpeg(), "La vieja casa junto al río se vendió el año pasado, y nadie sabe quién vive allí hoy."),
            "not English",
        ),
    ],
)
def test_filters(tmp_path, option, bad, reason):
    good = (jpeg(9), "a house by the sea")
    file = tsv(tmp_path, [good, bad])
    assert run(tmp_path / "out", file, "--valid-share", 0, *option)["dropped"] == {reason: 1}
    assert kept(tmp_path / "out") == [good]
    run(tmp_path / "all", file, "--valid-share", 0)
    assert kept(tmp_path / "all") == [good, bad]


def png_of_declared_size(side: int) -> bytes:
    """A PNG of one pixel that declares a larger size, with a valid checksum."""
    import zlib

    data = bytearray(encoded("PNG", size=(1, 1)))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def jpeg_of_declared_size(side: int) -> bytes:
    data = bytearray(jpeg())
    position = data.index(b"\xff\xc0") + 5  # height and width in the header of the frame
    data[position : position + 4] = side.to_bytes(2, "big") * 2
    return bytes(data)


BAD_IMAGES = {
    "image of 0 bytes": b"",
    "image that cannot be decoded": b"<html>not found</html>",
    "image of more than 24,000,000 pixels": jpeg_of_declared_size(65_500),
}
UNUSUAL_IMAGES = {
    "animated GIF": encoded(
        "GIF", "P", save_all=True, append_images=[Image.new("P", (40, 30), shade) for shade in (9, 99)]
    ),
    "animated WebP": encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (40, 30), "red")]),
    "CMYK": encoded("JPEG", "CMYK"),
    "palette": encoded("PNG", "P"),
    "grey and alpha": encoded("PNG", "LA"),
    "bits": encoded("PNG", "1"),
    "TIFF": encoded("TIFF"),
}


def sixteen_bits() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(buffer, "PNG")
    return buffer.getvalue()


UNUSUAL_IMAGES["16 bits"] = sixteen_bits()


@pytest.mark.parametrize("decode", [[], ["--decode"]], ids=["header", "decode"])
@pytest.mark.parametrize("in_place", [False, True], ids=["copied", "in place"])
def test_images_of_all_kinds(tmp_path, decode, in_place):
    good = [(image, f"a picture, {kind}") for kind, image in UNUSUAL_IMAGES.items()]
    bombs = [(png_of_declared_size(20_000), "a bomb"), (png_of_declared_size(5_000), "one that Pillow lets through")]
    pairs = [*good, *((image, reason) for reason, image in BAD_IMAGES.items()), *bombs]
    expected = {reason: 1 for reason in BAD_IMAGES} | {"image of more than 24,000,000 pixels": 3}
    if in_place:
        members = [m for n, (image, caption) in enumerate(pairs) for m in tiny.caption_members(f"{n}", caption, image)]
        tiny.write_tar(tmp_path / "0.tar", members)
        assert run(tmp_path / "out", tmp_path / "0.tar", *decode)["dropped"] == expected
        assert documents_of(tmp_path / "0.tar") == good
    else:
        assert run(tmp_path / "out", tsv(tmp_path, pairs), "--valid-share", 0, *decode)["dropped"] == expected
        assert kept(tmp_path / "out") == good
