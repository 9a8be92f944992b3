"""The messages of a chat as one document, which the model continues.

KOSMOS-1 is not trained on roles: a conversation is one document of texts and images in their order, the answers among
them, as in Figures 2 and 3 of the paper. So the beginning of a longer conversation is the whole of a shorter one, and
the engine has it in its cache. A template puts a user's text in the form of the training; images and all other texts
stay as they are. If the last message is an answer, it is continued.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kosmos_plugin.generation.template import PLACE, Template
from kosmos_plugin.serving.errors import ApiError
from kosmos_plugin.serving.protocol import Message


@dataclass(frozen=True)
class ImageReference:
    """An image that a message names."""

    url: str
    param: str  # its field in the request, for messages


def segments_of(messages: Sequence[Message], template: Template) -> list[str | ImageReference]:
    """Texts and images of a chat in their order; texts are not empty.

    Args:
        messages: The messages.
        template: The form of a user's text.

    Raises:
        ApiError: A message has a part that is neither text nor an image.
    """
    segments: list[str | ImageReference] = []
    for number, message in enumerate(messages):
        parts = _parts(message.content, f"messages[{number}].content")
        if message.role == "user":
            parts = _in_form(parts, template)
        segments += parts
    return segments


def _parts(content: str | list[dict[str, Any]] | None, param: str) -> list[str | ImageReference]:
    """The parts of a message."""
    if content is None or isinstance(content, str):
        content = [{"type": "text", "text": content or ""}]
    parts: list[str | ImageReference] = []
    for number, part in enumerate(content):
        where = f"{param}[{number}]"
        kind = part.get("type")
        if kind in ("text", "refusal"):
            text = part.get(kind)
            if not isinstance(text, str):
                raise ApiError(400, f"{where}.{kind} must be a text.", f"{where}.{kind}")
            if text.strip():
                parts.append(text.strip())
        elif kind == "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if not isinstance(url, str) or not url:
                message = f"{where}.image_url must be an object with the image's URL as its url."
                raise ApiError(400, message, f"{where}.image_url")
            parts.append(ImageReference(url, f"{where}.image_url"))
        else:
            message = f"{where}: a part is of type text or image_url, not {str(kind)[:50]!r}."
            raise ApiError(400, message, f"{where}.type", "unsupported_content_type")
    return parts


def _in_form(parts: list[str | ImageReference], template: Template) -> list[str | ImageReference]:
    """A turn in the form of a template: what is before `{text}` before its first text, what is after it at its end.

    An image alone is a caption to be written, and a turn that has the form already stays as it is.
    """
    before, after = (text.strip() for text in template.form.split(PLACE))
    texts = [number for number, part in enumerate(parts) if isinstance(part, str)]
    last = parts[-1] if parts else None
    if not texts or (after and isinstance(last, str) and last.endswith(after)):
        return parts
    first = parts[texts[0]]
    assert isinstance(first, str)
    if not first.startswith(before):
        parts[texts[0]] = f"{before} {first}"
    if after:
        parts[-1:] = [f"{parts[-1]} {after}"] if isinstance(last, str) else [parts[-1], after]
    return parts
