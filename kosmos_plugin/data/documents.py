"""Documents: the form that all content takes between a corpus and the tokenizer."""

from collections.abc import Callable
from dataclasses import dataclass

from kosmos_plugin.errors import UnusableData


@dataclass(frozen=True)
class Text:
    """A piece of text."""

    text: str
    in_loss: bool = True  # whether its tokens are training targets (False for instructions, §3.3)


@dataclass(frozen=True)
class Image:
    """An encoded image."""

    read: Callable[[], bytes]  # reads the bytes on demand, so that planning a batch reads no image
    name: str = "an image"  # for messages


@dataclass(frozen=True)
class Document:
    """Text and images in reading order."""

    id: str  # for messages and pages, e.g. SHARD.tar/KEY
    segments: tuple[Text | Image, ...]


class BrokenRecord(UnusableData):
    """A record of a corpus is not a usable document.

    Attributes:
        record: The record's id, or "" where it is not known.
    """

    def __init__(self, reason: str, detail: str = "", record: str = ""):
        super().__init__(reason, detail)
        self.args = (reason, detail, record)  # for pickle
        self.record = record

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.record}: {message}" if self.record else message
