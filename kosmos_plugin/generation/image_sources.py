"""Images as users have them: paths, bytes, file objects, data URIs, Pillow's, NumPy's and torch's → `Image`."""

import base64
import binascii
import functools
import io
import os
import re
import sys
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from kosmos_plugin.data.documents import Image
from kosmos_plugin.data.tar_files import read_bytes
from kosmos_plugin.errors import UserError, require_file
from kosmos_plugin.image_files import orientation, upright

if TYPE_CHECKING:
    import PIL.Image
    import torch

ImageSource = Any
"""A path, bytes, a file object, a data URI, a Pillow image, or an array or tensor of pixels."""

FetchUrl = Callable[[str], bytes]
"""Reads the image at a URL."""

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_CHANNELS = (1, 3, 4)
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


def several_images(images: ImageSource | Sequence[ImageSource] | None) -> list[ImageSource]:
    """The images of one prompt as a list: none for None, and one that is not in a list as the only one."""
    if images is None:
        return []
    if isinstance(images, np.ndarray) or _is_tensor(images):
        return list(images) if images.ndim == 4 else [images]
    return list(images) if isinstance(images, list | tuple) else [images]


def image_of(source: ImageSource, name: str = "an image", fetch: FetchUrl | None = None) -> Image:
    """Make an image of a document from one of a user.

    Args:
        source: A path; bytes of a file; a file object in binary mode; a data URI; a Pillow image; or pixels as a NumPy
            array [H, W, channels] or a tensor [channels, H, W], of bytes or of numbers from 0 to 1. A gray one needs no
            channels.
        name: What error messages call it, unless it is a path.
        fetch: What reads the image at a URL; None: a URL is an error.

    Raises:
        UserError: There is no such file, or it is none of these.
    """
    if isinstance(source, str) and (scheme := _SCHEME.match(source)):
        if fetch is None or scheme[1].lower() not in ("http", "https"):
            raise UserError(f"{name} is a URL, which is not read here: {source[:200]}. Download it, and give its path.")
        return Image(functools.partial(fetch, source), source)
    if isinstance(source, str) and source[:5].lower() == "data:":
        data = _of_data_uri(source, name)
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        require_file(path, "The image")
        return Image(functools.partial(read_bytes, str(path), 0, path.stat().st_size), str(path))
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif isinstance(source, np.ndarray) or _is_tensor(source):
        data = png(_of_pixels(source, name))
    elif callable(getattr(source, "read", None)):
        data = _of_file(source, name)
    elif hasattr(source, "convert") and hasattr(source, "getexif"):  # Pillow's, without importing it
        data = png(source)
    else:
        kind = type(source).__name__
        raise UserError(f"{name} is of type {kind}; an image is a path, bytes, a file, Pillow's, an array or a tensor.")
    return Image(lambda: data, name)


def png(image: "PIL.Image.Image") -> bytes:
    """Encode an image of Pillow losslessly, upright: PNG would not keep the orientation of its EXIF."""
    from PIL import Image

    image = upright(image, orientation(image))
    if image.mode == "I":  # pixels of 32 bits, of which Pillow reads and writes files with 16
        image = Image.fromarray(np.asarray(image).clip(0, 65535).astype(np.uint16))
    if image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _of_data_uri(uri: str, name: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma:
        raise UserError(f"{name} is not a valid data URI: it has no comma.")
    data = urllib.parse.unquote_to_bytes(body)
    if not head.lower().endswith(";base64"):
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error as error:
        raise UserError(f"{name} is not a valid data URI: {error}.") from None


def _of_file(file: Any, name: str) -> bytes:
    """All of a file, whatever was read of it before."""
    try:
        if file.seekable():
            file.seek(0)
        data = file.read()
    except (AttributeError, OSError, ValueError) as error:  # ValueError: it was closed
        raise UserError(f"{name} cannot be read: {error}") from None
    if not isinstance(data, bytes):
        raise UserError(f"{name} is a file in text mode: open it with mode 'rb'.")
    return data


def _is_tensor(source: Any) -> "TypeGuard[torch.Tensor]":
    """Whether it is torch's; without importing torch, which takes seconds: `kosmos-evaluate --list` comes here."""
    return "torch" in sys.modules and isinstance(source, sys.modules["torch"].Tensor)


def _of_pixels(source: "np.ndarray | torch.Tensor", name: str) -> "PIL.Image.Image":
    from PIL import Image

    shape = tuple(source.shape)
    first = _is_tensor(source)
    if _is_tensor(source):
        tensor = source.detach().cpu()
        pixels: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    else:
        pixels = np.asarray(source)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    elif pixels.ndim == 3 and shape[0] in _CHANNELS and (first or shape[2] not in _CHANNELS):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] not in _CHANNELS or 0 in shape:
        raise UserError(f"{name} has the shape {shape}; an image is [H, W, 3], or [3, H, W] as a tensor.")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise UserError(f"{name} has numbers from {pixels.min():g} to {pixels.max():g}: give 0 to 1, or bytes.")
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise UserError(f"{name} has pixels of type {pixels.dtype}: give bytes (uint8), or numbers from 0 to 1.")
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
