"""Pages longer than a row → documents that fit, cut between paragraphs and images.

Training skips a document that is longer than a row (`data/samples`), and of real pages many are.
"""

import copy
from collections.abc import Iterator

from datatrove.data import Document

from kosmos_plugin.curation.filters.pages import rebuild
from kosmos_plugin.curation.pipeline.steps import Step


class FitRows(Step):
    """Cuts pages into documents of `max_tokens` tokens at most, an image taking `image_tokens` and its two borders.

    A part without an image, or without text, is left out, and so is a paragraph that is longer than a row.
    """

    name = "fit rows"

    def __init__(self, vocabulary: str, max_tokens: int, image_tokens: int):
        super().__init__()
        self.vocabulary = vocabulary
        self.max_tokens = max_tokens
        self.image_tokens = image_tokens

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        from kosmos_plugin.vocabulary import Vocabulary

        encode = Vocabulary.load(self.vocabulary).encode
        for page in data:
            parts = list(self._parts(page.metadata["segments"], encode))
            for number, segments in enumerate(parts):
                if {kind for segment in segments for kind in segment} != {"image", "text"}:
                    self.count("left out", "part of a page longer than a row, without an image or text")
                    continue
                part = copy.copy(page)
                part.id = page.id if len(parts) == 1 else f"{page.id}#{number}"
                part.metadata = {**page.metadata, "page_text": page.text}
                rebuild(part, segments)
                yield part

    def _parts(self, segments: list[dict], encode) -> Iterator[list[dict]]:
        """The segments, a paragraph each, in runs that fit between `<s>` and `</s>`."""
        room = self.max_tokens - 2
        part: list[dict] = []
        taken = 0
        for segment in _paragraphs(segments):
            # Encoded by itself a paragraph has as many tokens as within a text: the line feed is the space before it.
            tokens = self.image_tokens + 2 if "image" in segment else len(encode(segment["text"]))
            if tokens > room:
                self.count("left out", "paragraph longer than a row")
                continue
            if taken + tokens > room:
                yield part
                part, taken = [], 0
            part.append(segment)
            taken += tokens
        if part:
            yield part


def _paragraphs(segments: list[dict]) -> Iterator[dict]:
    for segment in segments:
        if "image" in segment:
            yield segment
        else:
            yield from ({"text": line} for line in segment["text"].split("\n"))
