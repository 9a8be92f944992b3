"""What was said on the page: turns of text and images, and their answers. It is one document, as in `kosmos-chat`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kosmos_plugin.data.documents import Document, Image, Text
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.prompt import IMAGE_MARK, parse_prompt
from kosmos_plugin.generation.template import Template

# Invisible. Gradio shows a text as HTML; one of these after each < and & leaves no tags and entities in it.
WORD_JOINER = "\N{WORD JOINER}"

NO_ANSWER = "(The model had nothing to say. Another template may suit it, or a temperature above 0.)"


@dataclass
class Turn:
    """What a user said, and the answer.

    Attributes:
        text: The text.
        images: The paths of its images. They come before the text, unless it has an `<image>` for each.
        template: How it is asked.
        answer: The answer so far.
        finished: Whether there will be no more of it. To set it is to stop the answer.
    """

    text: str
    images: tuple[str, ...]
    template: Template
    answer: str = ""
    finished: bool = False

    @property
    def prompt(self) -> str:
        """The turn as the model reads it, with an `<image>` for each image."""
        return self.template.turn(self.text, len(self.images))

    def document(self) -> Document:
        """The turn as the model reads it.

        Raises:
            UserError: It is empty, an image is not kept any longer, or it has more or fewer `<image>` than images.
        """
        for image in self.images:
            if not Path(image).is_file():
                raise UserError(f"The image {Path(image).name} is not kept any longer: send it again.")
        document = parse_prompt(self.prompt, list(self.images), "The message")
        if not document.segments:
            raise UserError("A message needs a text or an image.")
        return document


@dataclass
class Dialogue:
    """The turns so far."""

    turns: list[Turn] = field(default_factory=list)

    def document(self) -> Document:
        """All that was said, which the model continues.

        Raises:
            UserError: As for `Turn.document`.
        """
        segments: list[Text | Image] = []
        for turn in self.turns:
            segments += turn.document().segments
            if turn.answer:
                segments.append(Text(turn.answer))
        return Document("of the dialogue", tuple(segments))

    def prompt(self) -> tuple[str, list[str]]:
        """What the last answer continues: a text with an `<image>` for each image, and the images' paths."""
        said = [turn.prompt + " " + turn.answer.replace(IMAGE_MARK, "") for turn in self.turns[:-1]]
        images = [image for turn in self.turns for image in turn.images]
        return " ".join([*map(str.strip, said), self.turns[-1].prompt]), images

    def messages(self) -> list[dict[str, Any]]:
        """The dialogue as Gradio shows it. A turn's text is a message of its own, so that it can be edited."""
        return [message for turn in self.turns for message in _messages(turn)]

    def number_of(self, message: int) -> int | None:
        """The turn that one of `messages` belongs to."""
        turns = [number for number, turn in enumerate(self.turns) for _ in _messages(turn)]
        return turns[message] if 0 <= message < len(turns) else None


def _messages(turn: Turn) -> list[dict[str, Any]]:
    texts = [("user", turn.text), ("assistant", turn.answer or (NO_ANSWER if turn.finished else ""))]
    messages: list[dict[str, Any]] = [
        {"role": role, "content": [{"type": "text", "text": _not_html(text)}]} for role, text in texts if text
    ]
    images = [{"path": image} for image in turn.images]
    return [{"role": "user", "content": images}, *messages] if images else messages


def _not_html(text: str) -> str:
    return text.replace("<", f"<{WORD_JOINER}").replace("&", f"&{WORD_JOINER}")
