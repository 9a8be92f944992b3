"""Photos that say how to be turned: EXIF in every format that has it, against Pillow's `ImageOps.exif_transpose`."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from kosmos_plugin.evaluation.harnesses.adapter import make_prompt
from kosmos_plugin.images import DECODINGS, FITS, decode_image

SIZE = 48
TAG = 0x0112
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}
LOSSY = {"JPEG": {"quality": 95}, "AVIF": {"quality": 95}, "MPO": {"quality": 95}}
FORMATS = LOSSLESS | LOSSY


def picture(width: int, height: int) -> Image.Image:
    """Each corner in another color, and shapes."""
    small = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def photo(kind: str, orientation: object, width: int = 301, height: int = 203, **options) -> bytes:
    exif = Image.Exif()
    exif[TAG] = orientation
    buffer = io.BytesIO()
    picture(width, height).save(buffer, kind, exif=exif, **FORMATS[kind], **options)
    return buffer.getvalue()


def without_exif(data: bytes) -> bytes:
    """The picture as Pillow turns it, without loss and without EXIF."""
    buffer = io.BytesIO()
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    Image.fromarray(np.asarray(upright)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("kind", FORMATS)
def test_exact_equals_pillow(kind, fit):
    upright = [decode_image(without_exif(photo(kind, turn)), SIZE, fit, "exact") for turn in range(1, 9)]
    for turn, expected in enumerate(upright, start=1):
        assert torch.equal(decode_image(photo(kind, turn), SIZE, fit, "exact"), expected)
    assert len({pixels.numpy().tobytes() for pixels in upright}) == 8


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("width, height", [(301, 203), (203, 301), (701, 500), (3000, 91)])
def test_every_decoding_is_as_near_as_without_turning(width, height, decoding):
    """Drafts of odd sizes end within a pixel, which a turned image has at its other side."""

    def difference(turn: int, fit: str) -> float:
        data = photo("JPEG", turn, width, height)
        exact = decode_image(without_exif(data), SIZE, fit, "exact").float()
        return (decode_image(data, SIZE, fit, decoding).float() - exact).abs().mean().item()

    for fit in FITS:
        unturned = difference(1, fit)
        for turn in range(2, 9):
            assert difference(turn, fit) < 1.3 * unturned + 0.15  # half a pixel would be 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_in_xmp(kind):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    buffer = io.BytesIO()
    picture(64, 40).save(buffer, kind, xmp=xmp, **FORMATS[kind])
    data = buffer.getvalue()
    expected = decode_image(without_exif(data), SIZE, "stretch", "exact")
    assert torch.equal(decode_image(data, SIZE, "stretch", "exact"), expected)
    buffer = io.BytesIO()
    picture(64, 40).save(buffer, kind, **FORMATS[kind])
    turned = not torch.equal(decode_image(buffer.getvalue(), SIZE, "stretch", "exact"), expected)
    assert turned == (kind != "PNG" or b"tiff:Orientation" in data)


def test_transparency_and_sixteen_bits_are_turned_too():
    for mode in ("RGBA", "I;16", "P", "1"):
        image = Image.new(mode, (60, 40))
        exif = Image.Exif()
        exif[TAG] = 8
        image.paste((1, 2, 3, 255) if mode == "RGBA" else 1, (0, 0, 20, 30))
        buffer = io.BytesIO()
        image.save(buffer, "PNG", exif=exif)
        turned = decode_image(buffer.getvalue(), SIZE, "stretch", "exact")
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        expected = decode_image(buffer.getvalue(), SIZE, "stretch", "exact").rot90(1, (1, 2))
        # Pillow before 13 rounds and clips after it has resized the width: at a hard corner the order shows.
        assert (turned.int() - expected.int()).abs().max() <= 8


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_orientation_that_does_not_exist(value):
    data = photo("JPEG", value)
    assert torch.equal(decode_image(data, SIZE), decode_image(photo("JPEG", 1), SIZE))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_break_an_image(kind):
    """500 damaged ones: the picture itself is whole."""
    draw = random.Random(0)
    exif = Image.Exif()
    exif.update({TAG: 6, 0x010F: "maker", 0x011A: 72.0, 0x8769: {0x9003: "2020:01:01 00:00:00"}})
    whole = exif.tobytes()
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            damaged[draw.randrange(6, len(damaged))] = draw.randrange(256)
        damaged = bytes(damaged[: draw.choice([len(damaged), draw.randrange(6, len(damaged))])])
        buffer = io.BytesIO()
        picture(24, 16).save(buffer, kind, exif=damaged)
        assert decode_image(buffer.getvalue(), 8).shape == (3, 8, 8)


def test_images_of_harness_tasks_are_upright():
    """Tasks hand over Pillow's images, whose EXIF a PNG would lose."""
    opened = Image.open(io.BytesIO(photo("JPEG", 6)))
    image, _ = make_prompt("a", [opened])
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(photo("JPEG", 6))))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(image.read()))), np.asarray(expected))
