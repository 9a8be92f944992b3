"""Images as users have them all give the model the same pixels, and what is no image is one line."""

import base64
import io

import numpy as np
import PIL.Image
import pytest
import torch

from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.image_sources import image_of, several_images
from kosmos_plugin.generation.prompt import parse_prompt
from kosmos_plugin.images import decode_image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(buffer, format)
    return buffer.getvalue()


def pixels_of(source) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(image_of(source).read())) as image:
        return np.asarray(image.convert("RGB"))


class Upload:
    """A file object of a web framework: it can be read, and no more."""

    def read(self) -> bytes:
        return encoded()

    def seekable(self) -> bool:
        return False


SOURCES = {
    "bytes": encoded,
    "bytearray": lambda: bytearray(encoded()),
    "memoryview": lambda: memoryview(encoded()),
    "file": lambda: io.BytesIO(encoded()),
    "upload": Upload,
    "data URI": lambda: "data:image/png;base64," + base64.b64encode(encoded()).decode(),
    "data URI, escaped": lambda: "DATA:image/png;base64," + base64.b64encode(encoded()).decode().replace("+", "%2B"),
    "Pillow": lambda: PIL.Image.fromarray(PIXELS),
    "Pillow, lazy": lambda: PIL.Image.open(io.BytesIO(encoded())),
    "NumPy": lambda: PIXELS,
    "NumPy, channels first": lambda: PIXELS.transpose(2, 0, 1),
    "NumPy, floats": lambda: PIXELS / 255,
    "NumPy, not contiguous": lambda: np.repeat(PIXELS, 2, axis=0)[::2],
    "tensor": lambda: torch.from_numpy(PIXELS).permute(2, 0, 1),
    "tensor, floats": lambda: (torch.from_numpy(PIXELS).permute(2, 0, 1) / 255).requires_grad_(),
    "tensor, channels last": lambda: torch.from_numpy(PIXELS),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_the_pixels_are_the_same(kind):
    assert np.array_equal(pixels_of(SOURCES[kind]()), PIXELS)


def test_paths(tmp_path, monkeypatch):
    (tmp_path / "cat.png").write_bytes(encoded())
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "cat.png", str(tmp_path / "cat.png"), "cat.png"):
        assert np.array_equal(pixels_of(path), PIXELS)


def test_a_file_that_was_read_before_is_read_whole():
    file = io.BytesIO(encoded())
    file.read()
    assert np.array_equal(pixels_of(file), PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_all_modes_of_pillow(mode):
    image = PIL.Image.fromarray(PIXELS).convert(mode if mode != "I;16" else "I")
    image = image.convert(mode) if mode == "I;16" else image
    assert decode_image(image_of(image).read(), 16).shape == (3, 16, 16)


def test_a_photo_of_pillow_is_upright():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(buffer, "PNG", exif=exif)
    assert np.array_equal(pixels_of(PIL.Image.open(buffer)), np.rot90(PIXELS, -1))


def test_gray_and_transparent_pixels():
    assert pixels_of(PIXELS[..., 0]).shape == (20, 30, 3)
    assert pixels_of(PIXELS[..., :1]).shape == (20, 30, 3)
    assert pixels_of(torch.rand(1, 5, 7)).shape == (5, 7, 3)
    assert pixels_of(np.zeros((5, 7, 4), np.uint8)).shape == (5, 7, 3)


def test_one_image_need_not_be_in_a_list():
    assert several_images(None) == []
    assert several_images("cat.png") == ["cat.png"]
    assert len(several_images(PIXELS)) == len(several_images(b"GIF")) == len(several_images(io.BytesIO())) == 1
    assert len(several_images(np.stack([PIXELS] * 3))) == len(several_images((PIXELS,) * 3)) == 3
    assert len(several_images(PIL.Image.fromarray(PIXELS))) == 1


def test_a_url_is_read_where_that_is_allowed():
    asked = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return encoded()

    image = image_of("https://example.org/cat.png", fetch=fetch)
    assert not asked, "when it is needed"
    assert image.read() == encoded() and asked == ["https://example.org/cat.png"]
    for url in ("https://example.org/cat.png", "HTTP://[::1", "ftp://example.org/cat.png", "file:///etc/passwd"):
        with pytest.raises(UserError, match="is a URL, which is not read here"):
            image_of(url)
    with pytest.raises(UserError, match="is a URL"):
        image_of("file:///etc/passwd", fetch=fetch)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (7, "is of type int; an image is a path"),
        (["cat.png"], "is of type list"),
        ({"bytes": b""}, "is of type dict"),
        (io.StringIO("text"), "in text mode: open it with mode 'rb'"),
        ("data:image/png;base64", "is not a valid data URI: it has no comma"),
        ("data:image/png;base64,A", "is not a valid data URI"),
        ("data:image/png;base64,é!", "is not a valid data URI"),
        ("gone.png", r"The image gone\.png does not exist"),
        ("", r"The image \. is not a file"),
        (np.zeros((2, 3, 5), np.uint8), r"has the shape \(2, 3, 5\)"),
        (np.zeros(3, np.uint8), r"has the shape \(3,\)"),
        (np.zeros((0, 3, 3), np.uint8), r"has the shape \(0, 3, 3\)"),
        (np.full((4, 4, 3), 255.0), "has numbers from 255 to 255: give 0 to 1"),
        (np.full((4, 4, 3), np.nan), "has numbers from nan to nan"),
        (np.zeros((4, 4, 3), np.int64), "pixels of type int64"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), "pixels of type bool"),
    ],
)
def test_what_is_no_image_is_one_line(source, message):
    with pytest.raises(UserError, match=message) as error:
        image_of(source)
    assert "\n" not in str(error.value)


def test_a_closed_file_is_one_line():
    file = io.BytesIO(encoded())
    file.close()
    with pytest.raises(UserError, match=r"image 1 cannot be read: .*closed"):
        parse_prompt("<image>", file)


def test_a_prompt_needs_its_images():
    assert len(parse_prompt("<image> a <image> b", [PIXELS, encoded()]).segments) == 4
    for text, images in (("<image>", None), ("a", PIXELS), ("<image>", [PIXELS] * 2)):
        with pytest.raises(UserError, match="each image needs its <image>"):
            parse_prompt(text, images)
    with pytest.raises(UserError, match="a prompt is a text, not of type int"):
        parse_prompt(3)
