"""Image bytes → a decoded, resized uint8 tensor; uint8 → normalized float on the device.

As CLIP's preprocessing: the shorter side is resized to the target (bicubic), the center is cropped, channels are RGB.
KOSMOS-2 was trained on whole images instead, stretched to a square, so that boxes can be told anywhere in them.
"""

import io
import warnings

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
FITS = ("crop", "stretch")
# How exactly, the fastest last; see `decode_image`.
DECODINGS = ("exact", "draft", "fast")
# Twelve times the pixels of a full-HD frame; more is a decompression bomb rather than a picture of the web.
MAX_PIXELS = 24_000_000
# Of a longer strip only the middle is enlarged: of one pixel by a million it would else make fifty billion.
_LONGEST_SIDE = 16


class BrokenImage(ValueError):
    """The bytes are not an image that can be used; the message says why."""


def decode_image(
    data: bytes, size: int, fit: str = "crop", decoding: str = "draft", max_pixels: int = MAX_PIXELS
) -> torch.Tensor:
    """Decode `data` (any format Pillow reads) to a uint8 tensor [3, size, size], made square by `fit` (FITS).

    `decoding`: "exact" gives the pixels of open_clip's preprocessing. "draft" lets the JPEG decoder scale down by a
    power of two while it decodes, to twice the target at least: JPEGs of that size in half the time, pixels off by 0.3
    of 255 on average. "fast" is "draft" with torch's resize instead of Pillow's: nearly any image in half the time,
    pixels off by 2 more at most, and of photographs by 0.01 on average.

    Transparent pixels become white. Raises BrokenImage for anything that cannot be decoded, and for an image that
    declares more than `max_pixels` pixels, before any of them is decoded.
    """
    resize = _resize_by_torch if decoding == "fast" else _resize_by_pillow
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning: the limit is checked below
            image = Image.open(io.BytesIO(data))
            width, height = image.size
            if width * height > max_pixels:
                raise BrokenImage(f"{width}x{height} is more than {max_pixels:,} pixels")
            drafted = image.draft("RGB", (2 * size, 2 * size)) if decoding != "exact" else None
            extent = drafted[1][2:] if drafted else image.size  # of the picture within the drafted pixels
            return (_stretch if fit == "stretch" else _resize_and_crop)(resize, _to_rgb(image), extent, size)
    except BrokenImage:
        raise
    except Exception as error:  # decoders raise anything from OSError to struct.error on broken bytes
        raise BrokenImage(f"{type(error).__name__}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a channel: scale them down, since convert() would clip
        image = Image.fromarray((np.asarray(image, dtype=np.float32) / 257.0).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _resize_and_crop(resize, image: Image.Image, extent: tuple[float, float], size: int) -> torch.Tensor:
    """torchvision's Resize and CenterCrop, pixel for pixel, of the first `extent` (width, height) of the pixels."""
    shorter = min(extent)
    kept = [min(side, _LONGEST_SIDE * shorter) for side in extent]
    left, top = ((side - keep) / 2 for side, keep in zip(extent, kept, strict=True))
    width, height = (int(size * keep // shorter) for keep in kept)
    pixels = resize(image, (width, height), (left, top, left + kept[0], top + kept[1]))
    left, top = round((width - size) / 2), round((height - size) / 2)
    return pixels[:, top : top + size, left : left + size].contiguous()


def _stretch(resize, image: Image.Image, extent: tuple[float, float], size: int) -> torch.Tensor:
    return resize(image, (size, size), (0, 0, *extent)).contiguous()


def _resize_by_pillow(image: Image.Image, size: tuple[int, int], box: tuple[float, ...]) -> torch.Tensor:
    """The pixels of `box` (left, top, right, bottom) at `size` (width, height): a view [3, height, width]."""
    return _view(image.resize(size, Image.Resampling.BICUBIC, box))


def _resize_by_torch(image: Image.Image, size: tuple[int, int], box: tuple[float, ...]) -> torch.Tensor:
    """As `_resize_by_pillow`, which it leaves a box of fractions of pixels to: drafts of odd sizes have them."""
    if any(side != int(side) for side in box):
        return _resize_by_pillow(image, size, box)
    left, top, right, bottom = map(int, box)
    pixels = _view(image)[None, :, top:bottom, left:right]
    return functional.interpolate(pixels, size[::-1], mode="bicubic", antialias=True)[0]


def _view(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def normalize(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """uint8 images [N, 3, S, S] → `dtype`, (x / 255 − mean) / std with mean and std [3] a channel."""
    scaled = images.to(torch.float32) / 255.0
    return ((scaled - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)).to(dtype)
