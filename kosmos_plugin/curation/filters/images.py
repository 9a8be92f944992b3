"""Checks of whether training can use an image. They raise Dropped with a reason, which the report counts."""

from PIL import Image

from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.image_files import open_image
from kosmos_plugin.images import MAX_PIXELS, BrokenImage, decode_image

# About the size of MAX_PIXELS pixels without compression; a larger file is not an image.
MAX_IMAGE_BYTES = 64 * 1024 * 1024
FILE_TOO_LARGE = f"file of more than {MAX_IMAGE_BYTES // 2**20} MiB"
TRAINING_SIZE = 224  # pixels

_TOO_MANY_PIXELS = f"image of more than {MAX_PIXELS:,} pixels"
_TOO_MANY_BYTES = f"image of more than {MAX_IMAGE_BYTES // 2**20} MiB"
_UNDECODABLE = "image that cannot be decoded"


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) of an encoded image in pixels, from its header. Raises Dropped if training could not use it."""
    if not data:
        raise Dropped("image of 0 bytes")
    if len(data) > MAX_IMAGE_BYTES:
        raise Dropped(_TOO_MANY_BYTES)
    try:
        width, height = open_image(data).size
    except Image.DecompressionBombError:
        raise Dropped(_TOO_MANY_PIXELS) from None
    except Exception:  # decoders raise anything from OSError to struct.error on broken bytes
        raise Dropped(_UNDECODABLE) from None
    if width * height > MAX_PIXELS:
        raise Dropped(_TOO_MANY_PIXELS)
    if width < 1 or height < 1:
        raise Dropped(_UNDECODABLE)
    return width, height


def check_decodes(data: bytes) -> None:
    """Raise Dropped if an encoded image cannot be decoded as training decodes it."""
    image_size(data)
    try:
        decode_image(data, size=TRAINING_SIZE)
    except BrokenImage:
        raise Dropped(_UNDECODABLE) from None


def check_page_image(data: bytes, min_side: int, allow_one_color: bool) -> None:
    """Raise Dropped if an image of a web page cannot be used (§B.1.3).

    Args:
        data: The encoded image.
        min_side: Minimum length of a side in pixels.
        allow_one_color: Whether images of one color can be used. Colors are compared as training sees them: at
            224 × 224, with transparent pixels white.
    """
    if min(image_size(data)) < min_side:
        raise Dropped(f"image smaller than {min_side} by {min_side} pixels")
    try:
        pixels = decode_image(data, size=TRAINING_SIZE, fit="stretch")
    except BrokenImage:
        raise Dropped(_UNDECODABLE) from None
    if not allow_one_color and bool((pixels == pixels[:, :1, :1]).all()):
        raise Dropped("image of one color")
