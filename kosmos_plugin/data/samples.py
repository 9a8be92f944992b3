"""Document → Sample: the input format of Table 21, which only this module knows.

    text         <s> text </s>
    caption      <s> <image> E…E </image> caption </s>
    interleaved  <s> <image> E…E </image> This is WALL-E. <image> E…E </image> This is EVE. </s>

E…E are `image_tokens` image slots, where image embeddings replace token embeddings. The target at a position is the
next token. It is `pad`, and not in the loss, where the position or the next one is an image slot (§2.3: the loss is on
discrete tokens only), at the last position, and where the next token belongs to text that is not in the loss. It is
`pad` also at `<s>` before an image: that `<image>` follows is the form of all captions, as in KOSMOS-2's public code.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from kosmos_plugin.data.documents import BrokenRecord, Document, Image, Text
from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import Vocabulary


class PromptTooLong(UserError):
    """A prompt is longer than the model's longest sequence."""


@dataclass(frozen=True)
class Sample:
    """A sequence of L tokens, and its images."""

    id: str  # of its document
    tokens: np.ndarray  # int64 [L]
    targets: np.ndarray  # int64 [L]: the next token, or `pad` where it is not in the loss
    image_slots: np.ndarray  # bool [L]: whether an image embedding replaces the token's
    images: tuple[Image, ...] = ()  # in the order of their slots

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class SampleBuilder:
    """Turns documents into token sequences in the format of Table 21."""

    vocabulary: Vocabulary
    image_tokens: int  # slots per image
    max_tokens: int  # of a sequence

    def sample(self, document: Document) -> Sample:
        """Format a whole document for training.

        Raises:
            BrokenRecord: No text is in the loss, or the document is longer than a row.
        """
        sample, text_in_loss = self._format(document, end=True)
        if not text_in_loss:
            raise BrokenRecord("no text to learn from")
        if len(sample) > self.max_tokens:
            raise BrokenRecord(
                "longer than a row",
                f"{len(sample):,} tokens ({len(sample.images)} images of {self.image_tokens + 2}) do not fit in a "
                f"row of {self.max_tokens:,}",
            )
        return sample

    def prompt(self, document: Document) -> Sample:
        """Format a document whose continuation is generated: as `sample`, but without `</s>`.

        Raises:
            PromptTooLong: It has more than `max_tokens` tokens.
            UserError: Its text cannot be encoded.
        """
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
        """The sample, and the number of its text tokens that are in the loss."""
        vocabulary = self.vocabulary
        runs = [([vocabulary.bos], False, False)]  # (tokens, whether they are image slots, whether they are targets)
        images = []
        in_loss, text_in_loss = True, 0
        for segment in document.segments:
            if isinstance(segment, Text):
                ids, in_loss = self._encode(segment.text), segment.in_loss
                text_in_loss += len(ids) * in_loss
                runs.append((ids, False, in_loss))
            else:
                follows_bos = not any(tokens for tokens, _, _ in runs[1:])
                runs.append(([vocabulary.image_begin], False, not follows_bos))
                runs.append(([vocabulary.image_slot] * self.image_tokens, True, False))
                runs.append(([vocabulary.image_end], False, False))
                images.append(segment)
        if end:
            runs.append(([vocabulary.eos], False, in_loss))
        lengths = [len(tokens) for tokens, _, _ in runs]
        tokens = np.fromiter(itertools.chain.from_iterable(tokens for tokens, _, _ in runs), np.int64, sum(lengths))
        image_slots = np.repeat([are_slots for _, are_slots, _ in runs], lengths)
        are_targets = np.repeat([are_targets for _, _, are_targets in runs], lengths)
        targets = np.full_like(tokens, vocabulary.pad)
        targets[:-1] = np.where(are_targets[1:], tokens[1:], vocabulary.pad)
        return Sample(document.id, tokens, targets, image_slots, tuple(images)), text_in_loss

    def _encode(self, text: str) -> list[int]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # JSON can spell it: "\ud83d"
            raise BrokenRecord("half a surrogate pair", "which is not a character") from None
        return self.vocabulary.encode(text)
