"""A heat map drawn over the picture that it belongs to."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from kosmos_plugin.image_files import open_image, orientation, upright
from kosmos_plugin.images import decode_image

if TYPE_CHECKING:
    from PIL import Image

# Colors from low to high, at equal distances: matplotlib's "inferno", which is perceptually uniform, without its nearly
# black and nearly white ends.
_COLORS = (0x1B0C41, 0x4A0C6B, 0x781C6D, 0xA52C60, 0xCF4446, 0xED6925, 0xFB9B06, 0xF7D13D)
_OPACITY = 0.75  # of the highest value


def seen_picture(encoded: bytes, size: int, fit: str) -> "Image.Image":
    """The part of a picture that the model sees, upright and in its own proportions.

    Args:
        encoded: The bytes of an image.
        size: The longer side of the result, in pixels.
        fit: How the model's input is made square, one of `kosmos_plugin.images.FITS`: of a cropped picture the square
            in the middle is seen, of a stretched one everything.
    """
    from PIL import Image

    picture = Image.fromarray(decode_image(encoded, size, fit).permute(1, 2, 0).numpy())
    if fit == "crop":
        return picture
    whole = open_image(encoded)
    width, height = upright(whole, orientation(whole)).size
    longer = max(width, height)
    return picture.resize((max(round(size * width / longer), 1), max(round(size * height / longer), 1)))


def draw_over(picture: "Image.Image", heat: np.ndarray) -> "Image.Image":
    """Draw a map over a picture: the higher a value, the warmer and the less transparent.

    Args:
        picture: The picture, RGB.
        heat: Values from 0 to 1 on a grid, float32 [rows, columns], which is stretched over the picture.
    """
    from PIL import Image

    values = np.asarray(Image.fromarray(heat).resize(picture.size, Image.Resampling.BILINEAR)).clip(0, 1)
    opacity = _OPACITY * values[..., np.newaxis]
    mixed = (1 - opacity) * np.asarray(picture) + opacity * _colors()[(values * 255).round().astype(np.uint8)]
    return Image.fromarray(mixed.round().astype(np.uint8))


@functools.cache
def _colors() -> np.ndarray:
    """Red, green and blue of 256 values, [256, 3]."""
    known = np.array([(color >> 16, color >> 8 & 255, color & 255) for color in _COLORS])
    places, values = np.linspace(0, 1, len(known)), np.linspace(0, 1, 256)
    return np.stack([np.interp(values, places, channel) for channel in known.T], axis=1)
