"""Pages longer than a row → documents that fit, cut between paragraphs and images.

Training skips documents that are longer than a row (`data/samples`), and many real pages are.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from datatrove.data import Document

from kosmos_plugin.curation.page_documents import Segment, set_segments
from kosmos_plugin.curation.pipeline.steps import Step

if TYPE_CHECKING:
    from kosmos_plugin.vocabulary import Vocabulary


class FitRows(Step):
    """Cuts pages into documents that fit in a row.

    A part without an image or without text is left out, and so is a paragraph that is longer than a row.

    Args:
        vocabulary: The folder of the vocabulary.
        max_tokens: Tokens per row.
        image_tokens: Embeddings per image, without the two tokens around them.
    """

    name = "fit rows"

    def __init__(self, vocabulary: str, max_tokens: int, image_tokens: int):
        super().__init__()
        self.vocabulary = vocabulary
        self.max_tokens = max_tokens
        self.image_tokens = image_tokens

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        from kosmos_plugin.vocabulary import Vocabulary

        vocabulary = Vocabulary.load(self.vocabulary)
        for page in data:
            parts = list(self._parts(page.metadata["segments"], vocabulary))
            for number, segments in enumerate(parts):
                if {kind for segment in segments for kind in segment} != {"image", "text"}:
                    self.count("left out", "part of a page longer than a row, without an image or text")
                    continue
                part = copy.copy(page)
                part.id = page.id if len(parts) == 1 else f"{page.id}#{number}"
                part.metadata = {**page.metadata, "page_text": page.text}
                set_segments(part, segments)
                yield part

    def _parts(self, segments: list[Segment], vocabulary: "Vocabulary") -> Iterator[list[Segment]]:
        """Runs of paragraphs and images that fit between `<s>` and `</s>`."""
        room = self.max_tokens - 2
        part: list[Segment] = []
        taken = 0
        for segment in _paragraphs(segments):
            # A paragraph has the same tokens by itself as within a text. The line feed before it is `</line>` or, if
            # newlines are not encoded, the space before its first word.
            tokens = self.image_tokens + 2 if "image" in segment else len(vocabulary.encode(segment["text"]))
            if tokens > room:
                self.count("left out", "paragraph longer than a row")
                continue
            if vocabulary.newlines and "text" in segment and part and "text" in part[-1]:
                taken += 1
            if taken + tokens > room:
                yield part
                part, taken = [], 0
            part.append(segment)
            taken += tokens
        if part:
            yield part


def _paragraphs(segments: list[Segment]) -> Iterator[Segment]:
    for segment in segments:
        if "image" in segment:
            yield segment
        else:
            yield from ({"text": line} for line in segment["text"].split("\n"))
