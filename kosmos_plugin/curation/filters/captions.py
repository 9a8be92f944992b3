"""What makes an image–caption pair unfit: rules (`steps.Rules`) for documents of an image and its caption.

They are the same for pairs that are copied into shards and for those of tars that are used in place.
"""

import io
import re
import warnings
from dataclasses import dataclass

from datatrove.data import Document, Media, MediaType
from PIL import Image

from kosmos_plugin.curation.readers.texts import problem_of
from kosmos_plugin.images import MAX_PIXELS, BrokenImage, decode_image

# §B.1.2: "we discard pairs whose captions contain special tags such as <PERSON>", which stand for what was made
# anonymous. They are in capitals; HTML that was left in a caption, such as <b>, is none.
TAG = re.compile(r"<[A-Z][A-Z0-9_]*>")
# An image of MAX_PIXELS has about as many bytes without any compression; a larger file is no picture.
MAX_IMAGE_BYTES = 64 * 1024 * 1024

_TOO_MANY_PIXELS = f"image of more than {MAX_PIXELS:,} pixels"
_TOO_MANY_BYTES = f"image of more than {MAX_IMAGE_BYTES // 2**20} MiB"
_UNDECODABLE = "image that cannot be decoded"


def pair(caption: object, image: bytes | None, id: str) -> Document | str:
    """The document of an image and its caption, or why there is none."""
    if not isinstance(image, bytes):
        return "no image"
    if problem := problem_of(caption):
        return problem
    return Document(caption.strip(), id, [Media(id, MediaType.IMAGE, url="", media_bytes=image)])


def has_tag(document: Document) -> str | None:
    """Against captions with a tag such as <PERSON>."""
    return "caption with a tag such as <PERSON>" if TAG.search(document.text) else None


@dataclass(frozen=True)
class Length:
    """Against captions of fewer than `least` or more than `most` of `unit`: words or characters."""

    unit: str
    least: int
    most: int | None

    def __call__(self, document: Document) -> str | None:
        length = len(document.text.split() if self.unit == "words" else document.text)
        if length < self.least:
            return f"caption of fewer than {self.least:,} {self.unit}"
        if self.most is not None and length > self.most:
            return f"caption of more than {self.most:,} {self.unit}"
        return None


@dataclass(frozen=True)
class Picture:
    """Against images that are broken, smaller than `min_side` pixels, or longer than `max_aspect` times the other side.

    They are judged by their headers alone, or with `decode` by decoding them whole.
    """

    min_side: int
    max_aspect: float | None
    decode: bool

    def __call__(self, document: Document) -> str | None:
        (image,) = document.media
        try:
            sides = sorted(image_size(image.media_bytes))
        except BrokenImage as error:
            return str(error)
        if sides[0] < self.min_side:
            return f"image side of fewer than {self.min_side:,} pixels"
        if self.max_aspect is not None and sides[1] > self.max_aspect * sides[0]:
            return f"image of sides of more than {self.max_aspect:g} to 1"
        return undecodable(image.media_bytes) if self.decode else None


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) of an encoded image, by its header.

    Raises BrokenImage for what training could not use; its message is a reason to be counted.
    """
    if not data:
        raise BrokenImage("image of 0 bytes")
    if len(data) > MAX_IMAGE_BYTES:
        raise BrokenImage(_TOO_MANY_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning: the limit is checked below
            width, height = Image.open(io.BytesIO(data)).size
    except Image.DecompressionBombError:
        raise BrokenImage(_TOO_MANY_PIXELS) from None
    except Exception:  # decoders raise anything from OSError to struct.error on broken bytes
        raise BrokenImage(_UNDECODABLE) from None
    if width * height > MAX_PIXELS:
        raise BrokenImage(_TOO_MANY_PIXELS)
    if width < 1 or height < 1:
        raise BrokenImage(_UNDECODABLE)
    return width, height


def undecodable(data: bytes) -> str | None:
    """Why an encoded image cannot be decoded as training decodes it, or None."""
    try:
        image_size(data)
    except BrokenImage as error:
        return str(error)
    try:
        decode_image(data, size=224)
    except BrokenImage:
        return _UNDECODABLE
    return None
