"""Encoded images: the formats that are read, their file extensions, how one is opened, and which side of it is up."""

from __future__ import annotations

import functools
import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Pillow takes a fifth of the time that the plugin adds to `import fairseq`
    from PIL import Image

# Pillow's name of each format → file extensions in lower case, the usual one first. Pillow opens some 30 formats more;
# they are no images of the web, and EPS among them runs Ghostscript. Photos of phones in Multi-Picture Format are JPEG.
IMAGE_FORMATS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "jif", "jfi", "pjpeg", "pjp", "mpo"),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp", "dib"),
    "TIFF": ("tif", "tiff"),
    "AVIF": ("avif", "avifs"),
    "JPEG2000": ("jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "jpg2"),
    "ICO": ("ico",),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
}
IMAGE_EXTENSIONS = tuple(extension for extensions in IMAGE_FORMATS.values() for extension in extensions)
# EXIF orientation → the name in PIL.Image.Transpose.
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_ORIENTATION_TAG = 0x0112


def open_image(data: bytes) -> Image.Image:
    """Open an image in one of IMAGE_FORMATS, whatever its name was. No pixel is decoded yet.

    Raises:
        PIL.UnidentifiedImageError: It is in no format that is read, or in one that this Pillow was built without.
        Exception: Its header is broken. Decoders raise anything from OSError to struct.error.
    """
    from PIL import Image

    with warnings.catch_warnings():
        # Pillow warns of large images, for which each caller has its own limit, and of formats it was built without
        warnings.simplefilter("ignore")
        if data.startswith(b"\0\0\1\0"):
            return _open_icon(data)
        return Image.open(io.BytesIO(data), formats=_readable_formats())  # noqa: TID251


def _open_icon(data: bytes) -> Image.Image:
    """The largest picture of an icon. `Image.open` would decode it at once, be it a PNG of any size."""
    from PIL.IcoImagePlugin import IcoFile

    picture = IcoFile(io.BytesIO(data)).frame(0)
    picture.format = "ICO"
    return picture


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    """Those of IMAGE_FORMATS that the installed Pillow knows; `Image.open` fails on the name of another."""
    from PIL import Image

    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


def orientation(image: Image.Image) -> int:
    """How an image is to be turned: 1 … 8, as in EXIF. 1, not at all, if it does not say or its EXIF is broken.

    The image is decoded first: a TIFF turns itself then, and a PNG may say so only after its pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd palettes and of broken EXIF
        image.load()
        try:
            value = image.getexif().get(_ORIENTATION_TAG)
            return value if value in _TURNS else 1
        except Exception:  # broken EXIF raises anything from SyntaxError to struct.error
            return 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image by its EXIF orientation."""
    from PIL import Image

    return image if orientation == 1 else image.transpose(Image.Transpose[_TURNS[orientation]])


def image_extension(data: bytes) -> str:
    """The usual file extension for an encoded image; `jpg` if its format is not known."""
    try:
        with open_image(data) as image:
            return IMAGE_FORMATS[image.format or ""][0]
    except Exception:  # MPO, or a broken image
        return "jpg"
