"""Filters of image–caption pairs (§B.1.2), for pairs that are copied and for tars that are used in place."""

import re

from datatrove.data import Document, Media, MediaType
from datatrove.pipeline.writers.disk_base import DiskWriter

from kosmos_plugin.curation.filters.images import check_decodes, image_size
from kosmos_plugin.curation.filters.text import check_text
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.steps import Filter

# Anonymization replaces names with such tags. They are in capitals, unlike HTML left in a caption (<b>).
TAG = re.compile(r"<[A-Z][A-Z0-9_]*>")


def check_pair(caption: object, image: object) -> None:
    """Raise Dropped if the caption is not valid text or the image is not bytes."""
    if not isinstance(image, bytes):
        raise Dropped("no image")
    check_text(caption)


def pair_document(caption: str, image: bytes, id: str) -> Document:
    """The document of an image and its caption."""
    return Document(caption.strip(), id, [Media(id, MediaType.IMAGE, url="", media_bytes=image)])


class TagFilter(Filter):
    """Drops captions with a tag: "we discard pairs whose captions contain special tags such as <PERSON>"."""

    name = "tags"

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        return (False, "caption with a tag such as <PERSON>") if TAG.search(document.text) else True


class CaptionLengthFilter(Filter):
    """Drops captions that are too short or too long.

    Args:
        words: (minimum, maximum) number of words; a maximum of None is no limit.
        characters: (minimum, maximum) number of characters.
        exclusion_writer: Writes the dropped documents.
    """

    name = "length"

    def __init__(
        self,
        words: tuple[int, int | None],
        characters: tuple[int, int | None],
        exclusion_writer: DiskWriter | None = None,
    ):
        super().__init__(exclusion_writer)
        self.words = words
        self.characters = characters

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        lengths = {"words": len(document.text.split()), "characters": len(document.text)}
        for unit, (least, most) in {"words": self.words, "characters": self.characters}.items():
            if lengths[unit] < least:
                return False, f"caption with fewer than {least:,} {unit}"
            if most is not None and lengths[unit] > most:
                return False, f"caption with more than {most:,} {unit}"
        return True


class ImageFilter(Filter):
    """Drops images that are broken, smaller than `min_side` pixels or more elongated than `max_aspect`.

    Args:
        min_side: Minimum length of the shorter side in pixels.
        max_aspect: Maximum ratio of the longer side to the shorter one; None for no limit.
        decode: Decode each image; otherwise only its header is read.
        exclusion_writer: Writes the dropped documents.
    """

    name = "images"

    def __init__(
        self, min_side: int, max_aspect: float | None, decode: bool, exclusion_writer: DiskWriter | None = None
    ):
        super().__init__(exclusion_writer)
        self.min_side = min_side
        self.max_aspect = max_aspect
        self.decode = decode

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        (image,) = document.media
        try:
            shorter, longer = sorted(image_size(image.media_bytes))
            if shorter < self.min_side:
                return False, f"image side shorter than {self.min_side:,} pixels"
            if self.max_aspect is not None and longer > self.max_aspect * shorter:
                return False, f"aspect ratio of more than {self.max_aspect:g} to 1"
            if self.decode:
                check_decodes(image.media_bytes)
        except Dropped as error:
            return False, error.reason
        return True
