"""Decoded images against open_clip's own preprocessing, modes and formats, and bytes that are not an image."""

import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kosmos_plugin.images import FITS, MAX_PIXELS, BrokenImage, decode_image, normalize

SIZE = 48
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth shapes and noise, in color."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / draw.uniform(2, 30) + y / draw.uniform(2, 30)) for _ in range(3)]
    pixels = 127 + 90 * np.stack(waves, axis=-1) + draw.normal(0, 12, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def color(data: bytes) -> list[int]:
    """The color at the center."""
    return decode_image(data, SIZE)[:, SIZE // 2, SIZE // 2].tolist()


SIZES = st.one_of(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(SIZE - 2, SIZE + 2), st.integers(SIZE - 2, SIZE + 2)),
)


def by_open_clip(data: bytes, target: int, **options) -> torch.Tensor:
    """open_clip's pixels, from 0 to 255."""
    transform = open_clip.image_transform(target, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), **options)
    return transform(Image.open(io.BytesIO(data))) * 255


@settings(deadline=None, max_examples=40)
@given(size=SIZES, target=st.sampled_from([SIZE, 33, 224]), seed=st.integers(0, 1000))
def test_equals_open_clip(size, target, seed):
    width, height = size
    if max(width, height) > 16 * min(width, height):
        width = height
    data = encoded(picture(width, height, seed))
    pixels = decode_image(data, target)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, target, target) and pixels.is_contiguous()
    normalized = normalize(pixels.unsqueeze(0), torch.tensor(MEAN), torch.tensor(STD), torch.float32)[0]
    theirs = open_clip.image_transform(target, is_train=False)(Image.open(io.BytesIO(data)))
    torch.testing.assert_close(normalized, theirs, rtol=0, atol=1e-5)
    # torch's kernel uses 16-bit integer weights
    assert (decode_image(data, target, decoding="fast") - by_open_clip(data, target)).abs().max() <= 3


@pytest.mark.parametrize("width, height", [(341, 256), (700, 500), (800, 1200), (333, 1000), (48, 48)])
def test_exact_jpeg_equals_open_clip(width, height):
    data = encoded(picture(width, height), "JPEG", quality=90)
    torch.testing.assert_close(
        decode_image(data, SIZE, decoding="exact").float(), by_open_clip(data, SIZE), rtol=0, atol=1e-3
    )
    exact = decode_image(data, SIZE, "stretch", "exact").float()
    torch.testing.assert_close(exact, by_open_clip(data, SIZE, resize_mode="squash"), rtol=0, atol=1e-3)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("width, height", [(341, 256), (1000, 701), (8, 900), (2000, 10), (48, 48)])
def test_fast_is_a_draft_within_two_of_255(width, height, fit):
    data = encoded(picture(width, height), "JPEG", quality=90)
    difference = decode_image(data, SIZE, fit, "fast").float() - decode_image(data, SIZE, fit, "draft").float()
    assert difference.abs().max() <= 2 and difference.abs().mean() < 0.3


@pytest.mark.parametrize("width, height", [(700, 500), (33, 90), (224, 224)])
def test_stretched_equals_open_clip(width, height):
    data = encoded(picture(width, height))
    normalized = normalize(
        decode_image(data, SIZE, "stretch")[None], torch.tensor(MEAN), torch.tensor(STD), torch.float32
    )
    theirs = open_clip.image_transform(SIZE, is_train=False, resize_mode="squash")(Image.open(io.BytesIO(data)))
    torch.testing.assert_close(normalized[0], theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("decoding", ["draft", "fast"])
@pytest.mark.parametrize("width, height", [(700, 500), (800, 1200), (333, 1000), (48, 48), (90, 100)])
def test_jpeg_is_near_open_clip(width, height, decoding):
    """JPEGs are scaled down while they are decoded, which is faster and nearly the same."""
    data = encoded(picture(width, height), "JPEG", quality=90)
    difference = (decode_image(data, SIZE, decoding=decoding) - by_open_clip(data, SIZE)).abs() / 255
    assert difference.mean() < 0.01
    assert difference.max() < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalize(dtype):
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    result = normalize(images, torch.tensor(MEAN), torch.tensor(STD), dtype)
    assert result.dtype == dtype
    for n, c, y, x in np.ndindex(2, 3, 4, 4):
        expected = (images[n, c, y, x].item() / 255 - MEAN[c]) / STD[c]
        assert result[n, c, y, x].item() == pytest.approx(expected, abs=1e-5 if dtype == torch.float32 else 2e-2)


def test_strips_of_any_length():
    """Enlarging all of a strip before cropping it would take gigabytes."""
    for size in ((1, 1_000_000), (1_000_000, 1), (3, 4000)):
        image = Image.new("RGB", size, (10, 200, 30))
        tracemalloc.start()
        assert color(encoded(image)) == [10, 200, 30]
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()


def test_middle_of_a_strip():
    stripe = Image.new("RGB", (2000, 10), (255, 0, 0))
    stripe.paste((0, 0, 255), (995, 0, 1005, 10))
    pixels = decode_image(encoded(stripe), SIZE).permute(1, 2, 0)
    assert (pixels[:, 1:-1] == torch.tensor([0, 0, 255], dtype=torch.uint8)).float().mean() > 0.9


def test_transparent_is_white():
    clear_red = Image.new("RGBA", (60, 60), (255, 0, 0, 0))
    assert color(encoded(clear_red)) == [255, 255, 255]
    half_red = Image.new("RGBA", (60, 60), (255, 0, 0, 128))
    assert color(encoded(half_red)) == pytest.approx([255, 127, 127], abs=1)
    assert color(encoded(Image.new("RGBA", (60, 60), (255, 0, 0, 255)))) == [255, 0, 0]
    assert color(encoded(clear_red, "WEBP", lossless=True)) == [255, 255, 255]
    assert color(encoded(Image.new("LA", (60, 60), (0, 0)))) == [255, 255, 255]
    assert color(encoded(Image.new("LA", (60, 60), (77, 255)))) == [77, 77, 77]
    palette = Image.new("P", (60, 60), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    assert color(encoded(palette)) == [200, 100, 50]
    assert color(encoded(palette, transparency=1)) == [255, 255, 255]
    assert color(encoded(palette, transparency=0)) == [200, 100, 50]
    assert color(encoded(palette, "GIF", transparency=1)) == [255, 255, 255]
    # one color of an image without an alpha channel may be declared transparent
    assert color(encoded(Image.new("RGB", (60, 60), (9, 9, 9)), transparency=(9, 9, 9))) == [255, 255, 255]


def test_modes():
    assert color(encoded(Image.new("L", (60, 60), 77))) == [77, 77, 77]
    assert color(encoded(Image.new("1", (60, 60), 1))) == [255, 255, 255]
    assert color(encoded(Image.new("CMYK", (60, 60), (0, 255, 255, 0)), "TIFF")) == [255, 0, 0]
    cmyk_jpeg = color(encoded(Image.new("CMYK", (60, 60), (0, 255, 255, 0)), "JPEG"))
    assert cmyk_jpeg == pytest.approx([255, 0, 0], abs=6)
    sixteen_bits = Image.fromarray(np.full((60, 60), 128 * 257, dtype=np.uint16))
    assert color(encoded(sixteen_bits)) == [128, 128, 128]
    assert color(encoded(sixteen_bits, "TIFF")) == [128, 128, 128]


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (60, 60), shade) for shade in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    for kind in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(data)).n_frames == 3
        assert color(data) == [255, 0, 0]


def declared_png(width: int, height: int) -> bytes:
    """A PNG that declares more than it holds: a single row."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(min(3 * width, 100_000) + 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height", [(10_000, 5_000), (50_000_000, 1), (2**31 - 1, 2**31 - 1)])
def test_fifty_million_pixels_are_refused_unread(width, height):
    data = declared_png(width, height)
    tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(BrokenImage):
        decode_image(data, SIZE)
    seconds = time.perf_counter() - begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1 and peak < 10_000_000


def test_limit_of_pixels():
    data = encoded(Image.new("RGB", (100, 50)))
    assert decode_image(data, SIZE, max_pixels=5000).shape == (3, SIZE, SIZE)
    with pytest.raises(BrokenImage, match=r"^image of more than 4,999 pixels \(100x50\)$") as error:
        decode_image(data, SIZE, max_pixels=4999)
    assert (error.value.reason, error.value.detail) == ("image of more than 4,999 pixels", "100x50")
    assert MAX_PIXELS < 50_000_000


PNG, JPEG = encoded(picture(80, 60)), encoded(picture(80, 60), "JPEG")


@pytest.mark.parametrize(
    "data",
    [
        *[b"garbage", bytes(1000), b"<html>404 not found</html>", PNG[:8], PNG[:60], PNG[: len(PNG) // 2]],
        *[JPEG[:2], JPEG[:300], JPEG[: len(JPEG) // 2], JPEG[:20] + b"\xff" * 500],
    ],
)
def test_broken_bytes(data):
    with pytest.raises(BrokenImage) as error:
        decode_image(data, SIZE)
    assert error.value.reason == "image that cannot be decoded" and error.value.detail
    assert "0x" not in error.value.detail  # an address in memory


def test_no_bytes():
    with pytest.raises(BrokenImage, match=r"^image of 0 bytes$"):
        decode_image(b"", SIZE)


@settings(deadline=None, max_examples=150)
@given(
    data=st.sampled_from([PNG, JPEG, encoded(picture(60, 60), "WEBP"), encoded(picture(60, 60), "GIF")]),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_bytes_give_an_image_or_are_broken(data, damage):
    damaged = bytearray(data)
    for position, value in damage:
        damaged[min(int(position * len(data)), len(data) - 1)] = value
    try:
        assert decode_image(bytes(damaged), SIZE).shape == (3, SIZE, SIZE)
    except BrokenImage as error:
        assert str(error)
