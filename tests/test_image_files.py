"""Which formats are opened: those of the table, under any of their names, and nothing else that Pillow could open."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from kosmos_plugin import image_files
from kosmos_plugin.curation.filters.images import image_size
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.data.shard_index import tar_records
from kosmos_plugin.data.shards import caption_document
from kosmos_plugin.image_files import IMAGE_EXTENSIONS, IMAGE_FORMATS, image_extension, open_image
from kosmos_plugin.images import BrokenImage, decode_image
from tests import tiny

Image.init()
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((64, 64))


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, kind)
    return buffer.getvalue()


def writable() -> list[str]:
    """The formats that Pillow can both write and open."""
    found = []
    for kind in sorted(set(Image.SAVE) & set(Image.OPEN) - {"IM"}):  # IM warns that it will go
        try:
            Image.open(io.BytesIO(encoded(kind)))
            found.append(kind)
        except Exception:
            continue
    return found


OTHERS = [kind for kind in writable() if kind not in IMAGE_FORMATS]


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_formats_of_the_table(kind):
    data = encoded(kind)
    pixels = decode_image(data, 64, decoding="exact").permute(1, 2, 0).numpy()
    theirs = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.abs(pixels.astype(int) - np.asarray(theirs)).max() == 0
    assert image_size(data) == (64, 64)
    assert image_extension(data) == IMAGE_FORMATS[kind][0]


def test_file_extensions_are_those_that_pillow_knows():
    for extension, kind in Image.registered_extensions().items():
        if kind in IMAGE_FORMATS and extension != ".pfm":  # floating-point maps
            assert extension.removeprefix(".") in IMAGE_FORMATS[kind]
    assert len(set(IMAGE_EXTENSIONS)) == len(IMAGE_EXTENSIONS)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_formats_are_not_opened(kind):
    assert "EPS" in OTHERS
    with pytest.raises(BrokenImage, match="unknown format"):
        decode_image(encoded(kind), 64)
    with pytest.raises(Dropped, match="cannot be decoded"):
        image_size(encoded(kind))


def test_no_program_is_run(tmp_path):
    """Pillow hands EPS to `gs`; here is one that leaves a file. It is left by Pillow alone, and not by us."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-$$\nexit 0\n")
    (tmp_path / "gs").chmod(0o755)
    (tmp_path / "x.jpg").write_bytes(encoded("EPS"))
    program = (
        "import sys\n"
        "from PIL import Image\n"
        "from kosmos_plugin.images import decode_image\n"
        "try:\n"
        "    Image.open(sys.argv[1]).load() if sys.argv[2] == 'theirs' else "
        "decode_image(open(sys.argv[1], 'rb').read(), 8)\n"
        "except Exception:\n"
        "    pass\n"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for whose, runs in (("ours", False), ("theirs", True)):
        subprocess.run([sys.executable, "-c", program, tmp_path / "x.jpg", whose], env=environment, check=True)
        assert any(path.name.startswith("ran-") for path in tmp_path.iterdir()) == runs


def test_multi_picture_jpeg():
    buffer = io.BytesIO()
    PICTURE.save(buffer, "MPO", save_all=True, append_images=[ImageOps.invert(PICTURE)])
    data = buffer.getvalue()
    assert open_image(data).format == "MPO" and image_extension(data) == "jpg"
    for decoding in ("exact", "draft", "fast"):
        pixels = decode_image(data, 64, decoding=decoding).permute(1, 2, 0).numpy()
        assert np.abs(pixels.astype(int) - np.asarray(PICTURE)).mean() < 20


def test_png_in_an_icon_is_refused_undecoded():
    """It has one row of many, so that decoding it would fail."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 8_000, 1, 0, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1251))) + chunk(b"IEND", b"")
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png
    with pytest.raises(BrokenImage, match="10000x8000"):
        decode_image(icon, 64)
    with pytest.raises(Dropped, match="more than 24,000,000 pixels"):
        image_size(icon)


def test_format_that_this_pillow_lacks(monkeypatch):
    """Older Pillow does not know AVIF by name, and `Image.open` would fail on any other image too."""
    monkeypatch.delitem(Image.OPEN, "AVIF")
    image_files._readable_formats.cache_clear()
    try:
        with pytest.raises(BrokenImage, match="unknown format"):
            decode_image(encoded("AVIF"), 64)
        assert decode_image(encoded("ICO"), 64).shape == (3, 64, 64)
    finally:
        image_files._readable_formats.cache_clear()


@pytest.mark.parametrize("extension", [*IMAGE_EXTENSIONS, "AVIF", "Jfif", "JPG", "TiFF"])
def test_every_extension_is_found_in_tars(tmp_path, extension):
    tiny.write_tar(tmp_path / "0.tar", [(f"0.{extension}", b"image"), ("0.TXT", b"a dog")])
    ((record,), _) = tar_records(tmp_path / "0.tar")
    image, text = caption_document(record).segments
    assert image.read() == b"image" and text.text == "a dog"
