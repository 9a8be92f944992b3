"""Conversations about text and images. The KV cache is kept, so the model processes only a turn's new tokens."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.beam_search import generated_text, search
from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.generation.ending import Ending
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.prefill import ImageEmbeddings, extend_rows, ids_with_image_refs
from kosmos_plugin.generation.prompt import parse_prompt
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary


class Conversation:
    """Turns and answers; each answer continues everything before it. `Generator.chat()` starts one.

    To the model a conversation is one document: the segments of each turn, followed by the text of its answer. An
    answer equals what `generate` returns for that document as the prompt.

    Attributes:
        segments: The transcript so far.
    """

    def __init__(self, model: Kosmos, vocabulary: Vocabulary, sample_builder: SampleBuilder):
        self.model = model
        self.vocabulary = vocabulary
        self.sample_builder = sample_builder
        self.segments: list[Text | Image] = []
        self._pending: list[Text] = []  # the last answer, which is not in the state yet
        self._length = 0  # tokens in the state
        self._state = DecodingState(model)
        self._images = ImageEmbeddings(model)

    @torch.inference_mode()
    def ask(self, text: str, images: Sequence[str | Path | bytes] = (), **options: Any) -> str:
        """Answer one more turn.

        Args:
            text: The turn, with one `<image>` for each of `images`.
            images: Paths of image files, or their bytes, in order.
            **options: The fields of SearchOptions.

        Raises:
            UserError: The turn is empty or too long, or an image cannot be read. The conversation stays as it was.
        """
        assert not self.model.training
        search_options = SearchOptions(**options)
        turn = parse_prompt(text, images, "the turn")
        if not turn.segments:
            raise UserError("A turn needs text or an image.")
        sample = self.sample_builder.prompt(replace(turn, segments=(*self._pending, *turn.segments)))
        start = 1 if self.segments else 0  # only the first turn starts with `<s>`
        length = self._length + len(sample) - start
        if length + search_options.max_new_tokens > self.model.max_positions():
            raise UserError(
                f"The conversation's {length:,} tokens and {search_options.max_new_tokens:,} new ones do not fit in "
                f"the {self.model.max_positions():,} positions of the model; start a new conversation, or ask for "
                "fewer new tokens."
            )
        [image_indices] = self._images.add([sample])
        ids = ids_with_image_refs(sample, image_indices)[start:]
        last = extend_rows(self._state, [ids], self.vocabulary.pad, self._images)
        self.segments += turn.segments
        self._length, self._pending = length, []
        [[hypothesis]] = search(self._state, last, Ending(self.vocabulary, search_options), search_options)
        answer = generated_text(self.vocabulary, hypothesis, search_options.stop)
        if answer:
            self._pending = [Text(answer)]
            self.segments += self._pending
        return answer
