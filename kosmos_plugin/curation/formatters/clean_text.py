"""Removes gibberish and repeated images from pages, before any image is read."""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from datatrove.data import Document

from kosmos_plugin.curation.filters.pages import gibberish_share
from kosmos_plugin.curation.page_documents import Segment, set_segments, set_urls, urls_of
from kosmos_plugin.curation.pipeline.steps import Step

REPEATED_IMAGE = "image repeated on the page"


class CleanText(Step):
    """Removes paragraphs of gibberish, SVG images, and images one of whose addresses occurs earlier on the page.

    Args:
        max_gibberish: Maximum share of a paragraph's words that are emoji, hashtags or links.
    """

    name = "clean text"

    def __init__(self, max_gibberish: float):
        super().__init__()
        self.max_gibberish = max_gibberish

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data:
            seen: set[str] = set()
            segments = (self._cleaned(segment, document, seen) for segment in document.metadata["segments"])
            set_segments(document, [segment for segment in segments if segment is not None])
            yield document

    def _cleaned(self, segment: Segment, document: Document, seen: set[str]) -> Segment | None:
        """The cleaned segment, or None if nothing remains; `seen` holds the page's image addresses so far."""
        if "text" in segment:
            lines = segment["text"].split("\n")
            kept = [line for line in lines if gibberish_share(line) <= self.max_gibberish]
            if len(kept) < len(lines):
                self.count("left out", "paragraph of emoji, hashtags and links", len(lines) - len(kept))
            return {"text": "\n".join(kept)} if kept else None
        media = document.media[segment["image"]]
        urls = [url for url in urls_of(media) if not _is_svg(url)]
        if not urls:
            self.count("left out", "SVG image")
        elif not seen.isdisjoint(urls):
            self.count("left out", REPEATED_IMAGE)
        else:
            seen.update(urls)
            set_urls(media, urls)
            return segment
        return None


def _is_svg(url: str) -> bool:
    if url.startswith("data:"):
        return url.lower().startswith("data:image/svg")
    try:
        return PurePosixPath(urlsplit(url).path).suffix.lower() in (".svg", ".svgz")
    except ValueError:
        return False
