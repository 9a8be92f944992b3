"""Turns of a talk about text and images; what was read stays in the cache, so a turn costs its own tokens alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.beam_search import SearchOptions, search, text_of
from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.generation.prefill import ImageEmbeddings, content, read
from kosmos_plugin.generation.prompt import parse_prompt
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary


class Conversation:
    """Questions and answers, each answer the continuation of all that was said before.

    To the model it is one document: the segments of each turn, then its answer's text. An answer is what `generate`
    says after that document. `Generator.conversation()` begins one.
    """

    def __init__(self, model: Kosmos, vocabulary: Vocabulary, sample_builder: SampleBuilder):
        self.model = model
        self.vocabulary = vocabulary
        self.sample_builder = sample_builder
        self.segments: list[Text | Image] = []  # all that was said
        self._unread: list[Text] = []  # of it what the state has not read: the last answer
        self._length = 0  # tokens that the state has read
        self._state = DecodingState(model)
        self._images = ImageEmbeddings(model)

    @torch.inference_mode()
    def ask(self, text: str, images: Sequence[str | Path | bytes] = (), **options) -> str:
        """The answer to one more turn; `<image>` in the text stands for each of `images` in turn.

        `options` are those of SearchOptions. A turn that is refused (UserError) leaves the conversation as it was.
        """
        assert not self.model.training
        options = SearchOptions(**options)
        turn = parse_prompt(text, images, "the turn")
        if not turn.segments:
            raise UserError("A turn needs text or an image.")
        unread = self.sample_builder.prompt(replace(turn, segments=(*self._unread, *turn.segments)))
        begin = 1 if self.segments else 0  # `<s>` stands at the beginning alone
        length = self._length + len(unread) - begin
        if length + options.max_new_tokens > self.model.max_positions():
            raise UserError(
                f"The conversation's {length:,} tokens and {options.max_new_tokens:,} new ones are more than the "
                f"{self.model.max_positions():,} the model was trained on; begin another, or ask for fewer new tokens."
            )
        [numbers] = self._images.add([unread])
        last = read(self._state, [content(unread, numbers)[begin:]], self.vocabulary.pad, self._images)
        self.segments += turn.segments
        self._length, self._unread = length, []
        [hypothesis] = search(self._state, last, self.vocabulary, options)
        answer = text_of(self.vocabulary, hypothesis, options.stop)
        if answer:
            self.segments.append(Text(answer))
            self._unread = [Text(answer)]
        return answer
