"""Document → Sample: the input format of Table 21, written in this one place.

    text         <s> text </s>
    caption      <s> <image> E…E </image> caption </s>
    interleaved  <s> <image> E…E </image> This is WALL-E. <image> E…E </image> This is EVE. </s>

E…E are `image_tokens` image slots, whose places the image embeddings take. A position's target is the next token. It is
`pad`, so not counted, where the position or the next one is an image slot (§2.3: only discrete tokens are accounted
for), after `</s>`, and where the next token belongs to text that does not count.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from kosmos_plugin.data.documents import BrokenRecord, Document, Image, Text
from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import Vocabulary


class PromptTooLong(UserError):
    """A prompt has more tokens than the model reads."""


@dataclass(frozen=True)
class Sample:
    """One sequence: `tokens`, `targets` int64 [L]; `image_slots` bool [L]; its images in the order of their slots."""

    id: str
    tokens: np.ndarray
    targets: np.ndarray
    image_slots: np.ndarray
    images: tuple[Image, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class SampleBuilder:
    """What a document becomes: the vocabulary, the slots an image takes, and the longest sequence allowed."""

    vocabulary: Vocabulary
    image_tokens: int
    max_tokens: int

    def sample(self, document: Document) -> Sample:
        """Format a whole document. Raises BrokenRecord if it has nothing to learn from or is longer than a row."""
        sample, counted_text = self._format(document, end=True)
        if not counted_text:
            raise BrokenRecord("no text to learn from")
        if len(sample) > self.max_tokens:
            raise BrokenRecord(
                "longer than a row",
                f"{len(sample):,} tokens ({len(sample.images)} images of {self.image_tokens + 2}) do not fit in a "
                f"row of {self.max_tokens:,}",
            )
        return sample

    def prompt(self, document: Document) -> Sample:
        """Format the beginning of a document, for generation: as `sample`, without `</s>`."""
        try:
            sample, _ = self._format(document, end=False)
        except BrokenRecord as error:
            raise UserError(f"The prompt {document.id}: {error}") from None
        if len(sample) > self.max_tokens:
            raise PromptTooLong(
                f"The prompt {document.id} has {len(sample):,} tokens ({len(sample.images)} images of "
                f"{self.image_tokens + 2}); the model takes {self.max_tokens:,}."
            )
        return sample

    def _format(self, document: Document, end: bool) -> tuple[Sample, int]:
        """The sample, and how many tokens of text are targets."""
        vocabulary, counted_text = self.vocabulary, 0
        runs = [([vocabulary.bos], False, False)]  # (tokens, are they image slots, do they count as targets)
        images = []
        count = True
        for segment in document.segments:
            if isinstance(segment, Text):
                ids, count = self._encode(segment.text), segment.in_loss
                counted_text += len(ids) * count
                runs.append((ids, False, count))
            else:
                runs.append(([vocabulary.image_begin], False, True))
                runs.append(([vocabulary.image_slot] * self.image_tokens, True, False))
                runs.append(([vocabulary.image_end], False, False))
                images.append(segment)
        if end:
            runs.append(([vocabulary.eos], False, count))
        lengths = [len(tokens) for tokens, _, _ in runs]
        tokens = np.fromiter(itertools.chain.from_iterable(tokens for tokens, _, _ in runs), np.int64, sum(lengths))
        slots = np.repeat([are_slots for _, are_slots, _ in runs], lengths)
        counted = np.repeat([counts for _, _, counts in runs], lengths)
        targets = np.full_like(tokens, vocabulary.pad)
        targets[:-1] = np.where(counted[1:], tokens[1:], vocabulary.pad)
        return Sample(document.id, tokens, targets, slots, tuple(images)), counted_text

    def _encode(self, text: str) -> list[int]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # JSON can spell it: "\ud83d"
            raise BrokenRecord("half a surrogate pair", "which is not a character") from None
        return self.vocabulary.encode(text)
