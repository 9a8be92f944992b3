"""Image bytes → a decoded, upright, resized uint8 tensor; uint8 → normalized float on the device.

As in CLIP's preprocessing, the shorter side is resized to the target (bicubic), the center is cropped, and channels are
RGB. KOSMOS-2 was trained on whole images stretched to a square, so that a box can lie anywhere in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from kosmos_plugin.errors import UnusableData
from kosmos_plugin.image_files import open_image, orientation, upright

if TYPE_CHECKING:  # Pillow takes a fifth of the time that the plugin adds to `import fairseq`
    from PIL import Image

FITS = ("crop", "stretch")
# From the most exact to the fastest; see `decode_image`.
DECODINGS = ("exact", "draft", "fast")
# Twelve full-HD frames; more is a decompression bomb rather than a web image.
MAX_PIXELS = 24_000_000
# The longest side, in multiples of the shorter one. Only the middle of a longer strip is resized: a strip of one by a
# million pixels would become fifty billion.
_LONGEST_SIDE = 16

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Resize = Callable[["Image.Image", tuple[int, int], Box], torch.Tensor]


class BrokenImage(UnusableData):
    """Bytes that are not a usable image."""


def decode_image(
    data: bytes, size: int, fit: str = "crop", decoding: str = "draft", max_pixels: int = MAX_PIXELS
) -> torch.Tensor:
    """Decode an image, turn it by its EXIF orientation, and resize it to a square. Transparent pixels become white.

    Args:
        data: An image in one of `image_files.IMAGE_FORMATS`.
        size: Side of the square, in pixels.
        fit: How it is made square, one of FITS: "crop" as CLIP does, or "stretch" as KOSMOS-2 does.
        decoding: One of DECODINGS. "exact" gives the pixels of open_clip's preprocessing. "draft" lets the JPEG decoder
            scale down by a power of two, to no less than twice the target: large JPEGs take half the time, and pixels
            differ by 0.3 of 255 on average. "fast" is "draft" with torch's resize instead of Pillow's: nearly any image
            takes half the time, and pixels differ by at most 2 more (in photographs by 0.01 on average).
        max_pixels: An image with more is rejected before any pixel is decoded.

    Returns:
        uint8 [3, size, size].

    Raises:
        BrokenImage: The image cannot be decoded or has too many pixels.
    """
    from PIL import UnidentifiedImageError

    if not data:
        raise BrokenImage("image of 0 bytes")
    resize = _resize_by_torch if decoding == "fast" else _resize_by_pillow
    try:
        image = open_image(data)
        width, height = image.size
        if width * height > max_pixels:
            raise BrokenImage(f"image of more than {max_pixels:,} pixels", f"{width}x{height}")
        drafted = image.draft("RGB", (2 * size, 2 * size)) if decoding != "exact" else None
        turn = orientation(image)
        box: Box = drafted[1] if drafted else (0, 0, *image.size)  # of the picture within the decoded pixels
        box = _upright_box(box, image.size, turn)
        return (_stretch if fit == "stretch" else _resize_and_crop)(resize, upright(_to_rgb(image), turn), box, size)
    except BrokenImage:
        raise
    except Exception as error:  # decoders raise anything from OSError to struct.error on broken bytes
        # Pillow's message for an unknown format is the address of our buffer
        detail = "" if isinstance(error, UnidentifiedImageError) else f"{type(error).__name__}: {error}"
        raise BrokenImage("image that cannot be decoded", detail or "unknown format") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits per channel: scale them down, since convert() would clip
        image = Image.fromarray((np.asarray(image, dtype=np.float32) / 257.0).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Where `box` of an image of `size` (width, height) is once the image is upright."""
    left, top, right, bottom = box
    if orientation in (2, 3, 7, 8):
        left, right = size[0] - right, size[0] - left
    if orientation in (3, 4, 6, 7):
        top, bottom = size[1] - bottom, size[1] - top
    return (top, left, bottom, right) if orientation >= 5 else (left, top, right, bottom)


def _resize_and_crop(resize: Resize, image: Image.Image, box: Box, size: int) -> torch.Tensor:
    """torchvision's Resize and CenterCrop, pixel for pixel, of the part `box` of the image."""
    extent = box[2] - box[0], box[3] - box[1]
    shorter = min(extent)
    kept = [min(side, _LONGEST_SIDE * shorter) for side in extent]
    left, top = (start + (side - keep) / 2 for start, side, keep in zip(box, extent, kept, strict=False))
    width, height = (int(size * keep // shorter) for keep in kept)
    pixels = resize(image, (width, height), (left, top, left + kept[0], top + kept[1]))
    left, top = round((width - size) / 2), round((height - size) / 2)
    return pixels[:, top : top + size, left : left + size].contiguous()


def _stretch(resize: Resize, image: Image.Image, box: Box, size: int) -> torch.Tensor:
    return resize(image, (size, size), box).contiguous()


def _resize_by_pillow(image: Image.Image, size: tuple[int, int], box: Box) -> torch.Tensor:
    """Resize the pixels of `box` to `size` (width, height). Returns a view [3, height, width]."""
    from PIL import Image

    return _view(image.resize(size, Image.Resampling.BICUBIC, box))


def _resize_by_torch(image: Image.Image, size: tuple[int, int], box: Box) -> torch.Tensor:
    """As `_resize_by_pillow`, which still handles boxes with fractional pixels, as drafts of odd sizes have."""
    if any(side != int(side) for side in box):
        return _resize_by_pillow(image, size, box)
    left, top, right, bottom = map(int, box)
    pixels = _view(image)[None, :, top:bottom, left:right]
    return functional.interpolate(pixels, size[::-1], mode="bicubic", antialias=True)[0]


def _view(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def normalize(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Normalize uint8 images [N, 3, S, S] to (x / 255 − mean) / std in `dtype`, with `mean` and `std` [3]."""
    scaled = images.to(torch.float32) / 255.0
    return ((scaled - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)).to(dtype)
