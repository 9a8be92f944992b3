"""Documents: the only form in which content travels, whatever corpus it comes from."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """A piece of text. `counted` says whether its tokens are targets of the loss (instructions are not, §3.3)."""

    text: str
    counted: bool = True


@dataclass(frozen=True)
class Image:
    """An encoded image. Its bytes are read on demand, so that planning a batch touches no image.

    `name` is what messages call it.
    """

    read: Callable[[], bytes]
    name: str = "an image"


@dataclass(frozen=True)
class Document:
    """Text and images in reading order. `id` names it in messages and pages (corpus, shard, key)."""

    id: str
    segments: tuple[Text | Image, ...]


class BrokenRecord(ValueError):
    """A record of a corpus that is no usable document; the message says why."""
