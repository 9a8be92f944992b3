"""Pages as datatrove documents: a text, media, and `metadata["segments"]`, which puts both in reading order.

A segment is {"text": "…"}, or {"text": "…", "in_loss": false} for text that is not in the loss, or {"image": i} for
`media[i]`, whose `media_bytes` are the encoded image once it has been read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from datatrove.data import Document, Media, MediaType

Segment = dict[str, Any]


@dataclass(frozen=True)
class PageImage:
    """An image of a page."""

    url: str  # absolute: http:, https:, file: or data:
    alt: str | None = None  # the alternative text
    other_urls: tuple[str, ...] = ()  # where it may also be, the best first


def page_document(parts: Sequence[str | PageImage], id: str, url: str) -> Document:
    """Make a document of a page's texts and images, in reading order. The images are not read yet."""
    segments: list[Segment] = []
    media: list[Media] = []
    for part in parts:
        if isinstance(part, str):
            segments.append({"text": part})
        else:
            segments.append({"image": len(media)})
            media.append(Media(str(len(media)), MediaType.IMAGE, part.url, part.alt))
            set_urls(media[-1], [part.url, *part.other_urls])
    return Document(text_of(segments), id, media, {"segments": segments, "url": url})


def urls_of(media: Media) -> list[str]:
    """The addresses where an image may be, the best first."""
    return [media.url, *media.metadata.get("other_urls", ())]


def set_urls(media: Media, urls: Sequence[str]) -> None:
    """Set the addresses where an image may be, the best first."""
    media.url = urls[0]
    media.metadata = {"other_urls": list(urls[1:])} if len(urls) > 1 else {}


def text_of(segments: Iterable[Segment]) -> str:
    """The text of all segments, without the images."""
    return "\n".join(segment["text"] for segment in segments if "text" in segment)


def set_segments(document: Document, segments: Iterable[Segment]) -> None:
    """Replace a document's segments by a subset of them; adjacent texts are merged and unused media removed."""
    media: list[Media] = []
    merged: list[Segment] = []
    for segment in segments:
        if "image" in segment:
            media.append(document.media[segment["image"]])
            merged.append({"image": len(media) - 1})
        elif merged and "text" in merged[-1]:
            merged[-1] = {"text": f"{merged[-1]['text']}\n{segment['text']}"}
        else:
            merged.append(segment)
    document.media = media
    document.metadata["segments"] = merged
    document.text = text_of(merged)
