"""A turn of a conversation, and its answer."""

from dataclasses import dataclass

import torch

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.generation.image_sources import ImageSource


@dataclass(eq=False)
class Turn:
    """What was said, and its answer.

    Attributes:
        text: What the user said.
        images: The images that belong to it, as the user gave them.
        segments: Both as the model reads them.
        answer: The answer; a part of it if it was cancelled.
        finish_reason: "stop" or "length"; None while it is generated, and if it was cancelled.
        is_introduction: Whether it asks for the rationale of the turn after it.
    """

    text: str
    images: list[ImageSource]
    segments: tuple[Text | Image, ...]
    answer: str = ""
    finish_reason: str | None = None
    is_introduction: bool = False
    end: int = 0  # positions of the transcript up to the answer
    in_cache: int = 0  # tokens of the answer that are in the cache
    last: torch.Tensor | None = None  # the hidden state [1, E] that predicts the answer's first token

    def said(self) -> tuple[Text | Image, ...]:
        """The turn and its answer as the model reads them."""
        return (*self.segments, *self.said_in_answer())

    def said_in_answer(self) -> tuple[Text, ...]:
        """The answer as the model reads it; nothing if it is empty."""
        return (Text(self.answer),) if self.answer else ()
