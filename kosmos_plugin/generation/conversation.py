"""Conversations about text and images. The KV cache is kept, so the model processes only a turn's new tokens.

    transcript   <s> turn 1, answer 1, turn 2, answer 2, …      each with its own segments
    cache        all of it, but what of the last answer was not processed while it was generated

To take turns back, or to ask again, is to truncate the cache.
"""

import sys
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import Unpack

from kosmos_plugin.data.documents import Document, Image, Text
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.beam_search import generated_text, search
from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.generation.ending import Ending
from kosmos_plugin.generation.image_sources import FetchUrl, several_images
from kosmos_plugin.generation.options import SearchOptions, TextArguments
from kosmos_plugin.generation.prefill import ImageEmbeddings, extend_rows, ids_with_image_refs
from kosmos_plugin.generation.prompt import IMAGE_MARK, parse_prompt
from kosmos_plugin.generation.streaming import stream_from
from kosmos_plugin.generation.template import template_of
from kosmos_plugin.generation.turn import Turn
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary

INTRODUCTION = "Introduce this picture in detail:"  # §4.5


class ConversationFull(UserError):
    """A turn does not fit in the model's positions after what was said."""


class Conversation:
    """Turns and answers; each answer continues everything before it. `Generator.chat()` starts one.

    An answer equals what `generate` returns for the transcript before it as one prompt.

    Args:
        model: The model, in evaluation mode.
        vocabulary: Its vocabulary.
        sample_builder: Its input format.
        template: plain, question-answer, or a file; see `template_of`.
        chain_of_thought: Before a turn with images is answered, have the model describe them (§4.5).
        drop_oldest: Drop the oldest turns if a new one would not fit in the model's positions; otherwise that is an
            error.
        fetch: What reads the image at a URL; None: a URL is an error.

    Attributes:
        turns: The turns so far.
        dropped: How many turns were dropped.
    """

    def __init__(
        self,
        model: Kosmos,
        vocabulary: Vocabulary,
        sample_builder: SampleBuilder,
        template: str | Path = "plain",
        chain_of_thought: bool = False,
        drop_oldest: bool = False,
        fetch: FetchUrl | None = None,
    ):
        self.model = model
        self.vocabulary = vocabulary
        self.sample_builder = sample_builder
        self.template = template_of(template)
        self.chain_of_thought = chain_of_thought
        self.drop_oldest = drop_oldest
        self.fetch = fetch
        self.turns: list[Turn] = []
        self.dropped = 0
        self._state = DecodingState(model)
        self._history = np.zeros(0, np.int64)  # what is in the state, as `history` gives it
        self._images = ImageEmbeddings(model)
        self._running: weakref.ref[Generator[str, None, None]] | None = None  # the last stream

    @property
    def segments(self) -> list[Text | Image]:
        """The transcript so far."""
        return [segment for turn in self.turns for segment in turn.said()]

    @property
    def length(self) -> int:
        """How many of the model's positions the transcript takes up."""
        return self._length_of(self.turns) if self.turns else 0

    def ask(self, text: str, images: Any = None, **options: Unpack[TextArguments]) -> str:
        """Answer one more turn.

        Args:
            text: What the user says. Images come before it, unless it has an `<image>` for each.
            images: The image of the turn, or several in order; see `Generator.generate`.
            **options: The fields of SearchOptions; `stop` is by default the template's.

        Raises:
            ConversationFull: The turn does not fit in the model's positions together with what was said.
            UserError: The turn is empty or too long, or an image cannot be read. In both cases the conversation stays
                as it was.
        """
        search_options = self._options(options)
        self._begin(self._new_turns(text, images), search_options)
        return self._answer(search_options)

    def stream(self, text: str, images: Any = None, **options: Unpack[TextArguments]) -> Iterator[str]:
        """Answer one more turn, and give the answer as it is generated.

        To cancel, close the iterator: the answer is then what was given of it. The turn is read at once, so its errors
        come before the first part; with a chain of thought the description is generated at once, too.

        Args:
            text: See `ask`.
            images: See `ask`.
            **options: See `ask`; a stream has no beams.

        Returns:
            An iterator of parts of the answer.
        """
        search_options = _one_text(self._options(options))
        self._begin(self._new_turns(text, images), search_options)
        return self._stream(search_options)

    def retry(self, **options: Unpack[TextArguments]) -> str:
        """Answer the last turn again; nothing is read for it. With sampling the answer is likely another one."""
        search_options = self._options(options)
        self._forget_answer(search_options)
        return self._answer(search_options)

    def stream_retry(self, **options: Unpack[TextArguments]) -> Iterator[str]:
        """As `retry`, and give the answer as it is generated."""
        search_options = _one_text(self._options(options))
        self._forget_answer(search_options)
        return self._stream(search_options)

    def undo(self, turns: int = 1) -> list[Turn]:
        """Take back the last turns and their answers; nothing is read for it.

        Returns:
            The turns that were taken back.
        """
        self._close()
        asked = [number for number, turn in enumerate(self.turns) if not turn.is_introduction]
        if not 1 <= turns <= len(asked):
            raise UserError(f"The conversation has {len(asked)} turns: {turns} cannot be taken back.")
        first = asked[-turns]
        if first > 0 and self.turns[first - 1].is_introduction:
            first -= 1
        taken = self.turns[first:]
        self._keep(first)
        return taken

    def edit(self, text: str, images: Any = None, turn: int = -1, **options: Unpack[TextArguments]) -> str:
        """Ask another text in place of a turn; the turns after it are taken back.

        Args:
            text: The new text.
            images: The new images; None: those of the turn.
            turn: Which turn, from 0, or counted from the last with −1.
            **options: See `ask`.

        Raises:
            UserError: As for `ask`; or there is no such turn.
        """
        search_options = self._options(options)
        self._replace(text, images, turn, search_options)
        return self._answer(search_options)

    def stream_edit(
        self, text: str, images: Any = None, turn: int = -1, **options: Unpack[TextArguments]
    ) -> Iterator[str]:
        """As `edit`, and give the answer as it is generated."""
        search_options = _one_text(self._options(options))
        self._replace(text, images, turn, search_options)
        return self._stream(search_options)

    def _replace(self, text: str, images: Any, turn: int, options: SearchOptions) -> None:
        """Append a turn in place of another and those after it; if it does not fit, nothing changes."""
        asked = [each for each in self.turns if not each.is_introduction]
        if not -len(asked) <= turn < len(asked):
            raise UserError(f"The conversation has {len(asked)} turns, and no turn {turn}.")
        new = self._new_turns(text, asked[turn].images if images is None else images)
        taken = self.undo(len(asked) - turn % len(asked))
        try:
            self._begin(new, options)
        except UserError:
            for each in taken:
                self._read(each)
            raise

    def _options(self, arguments: TextArguments) -> SearchOptions:
        arguments.setdefault("stop", self.template.stop)
        options = SearchOptions.of(**arguments)
        if options.n > 1:
            raise UserError("A turn has one answer: leave out n; to get another one, retry.")
        return options

    def _new_turns(self, text: str, images: Any) -> list[Turn]:
        """The turn, after the one that asks for its rationale if there is a chain of thought."""
        if not isinstance(text, str):
            raise UserError(f"A turn is a text, not of type {type(text).__name__}.")
        given = several_images(images)
        turns = []
        asked, shown = text, given
        if self.chain_of_thought and given and text.replace(IMAGE_MARK, " ").strip():
            introduction = parse_prompt(f"{IMAGE_MARK} " * len(given) + INTRODUCTION, given, "the turn", self.fetch)
            turns.append(Turn(INTRODUCTION, given, introduction.segments, is_introduction=True))
            asked, shown = text.replace(IMAGE_MARK, " "), []
        document = parse_prompt(self.template.turn(asked, len(shown)), shown, "the turn", self.fetch)
        if not document.segments:
            raise UserError("A turn needs text or an image.")
        return [*turns, Turn(text, given, document.segments)]

    def _begin(self, new: list[Turn], options: SearchOptions) -> None:
        """Append turns, and answer all but the last. If one does not fit, the conversation stays as it was."""
        self._close()
        try:
            for turn in new:
                if self.turns and self.turns[-1] in new:
                    self._answer(options)
                self._append(turn, options)
        except BaseException:
            self._keep(sum(turn not in new for turn in self.turns))
            raise

    def _append(self, turn: Turn, options: SearchOptions) -> None:
        """Read a turn, after old ones were dropped if that was asked for and is needed."""
        # So that an image that cannot be read is found before anything is dropped.
        self._images.add([self.sample_builder.prompt(Document("the turn", turn.segments))])
        room = self.model.max_positions() - options.max_new_tokens
        dropped = 0
        while (length := self._length_of([*self.turns[dropped:], turn])) > room:
            dropped += 1 + self.turns[dropped].is_introduction if dropped < len(self.turns) else 1
            if not self.drop_oldest or dropped > len(self.turns):
                raise ConversationFull(
                    f"The conversation's {length:,} tokens and {options.max_new_tokens:,} new ones do not fit in the "
                    f"{self.model.max_positions():,} positions of the model; start a new conversation, take turns "
                    "back, or ask for fewer new tokens."
                )
        if dropped:
            self.dropped += sum(not old.is_introduction for old in self.turns[:dropped])
            kept = self.turns[dropped:]
            self._clear()
            for old in kept:
                self._read(old)
        self._read(turn)

    def _length_of(self, turns: Sequence[Turn]) -> int:
        """Positions of a transcript of these turns."""
        segments = tuple(segment for turn in turns for segment in turn.said())
        return len(replace(self.sample_builder, max_tokens=sys.maxsize).prompt(Document("the turn", segments)))

    @torch.inference_mode()
    def _read(self, turn: Turn) -> None:
        """Run what is not in the cache through the model: the rest of the last answer, and the turn."""
        assert not self.model.training
        unread, start = turn.segments, 0
        if self.turns:  # only the first turn starts with `<s>`
            unread, start = (*self.turns[-1].said_in_answer(), *turn.segments), 1 + self.turns[-1].in_cache
        sample = self.sample_builder.prompt(Document("the turn", unread))
        [image_indices] = self._images.add([sample])
        ids = ids_with_image_refs(sample, image_indices)[start:]
        turn.last = extend_rows(self._state, [ids], self.vocabulary.pad, self._images)
        self._history = np.concatenate((self._history, ids))
        turn.end, turn.in_cache = len(self._history), 0
        self.turns.append(turn)

    @torch.inference_mode()
    def _answer(self, options: SearchOptions) -> str:
        turn = self.turns[-1]
        assert turn.last is not None
        ending = Ending(self.vocabulary, options)
        [[found]] = search(self._state, turn.last, ending, options, [self._history], in_place=True)
        turn.answer, turn.finish_reason = generated_text(self.vocabulary, found, options.stop), found.finish_reason
        self._keep_answer(turn, found.tokens)
        return turn.answer

    def _stream(self, options: SearchOptions) -> Iterator[str]:
        parts = self._parts(self.turns[-1], Ending(self.vocabulary, options), options)
        self._running = weakref.ref(parts)
        return parts

    @torch.inference_mode()
    def _parts(self, turn: Turn, ending: Ending, options: SearchOptions) -> Generator[str, None, None]:
        assert turn.last is not None
        tokens: list[int] = []
        try:
            with closing(stream_from(self._state, turn.last, ending, options, self._history, in_place=True)) as chunks:
                for chunk in chunks:
                    tokens += chunk.tokens
                    turn.answer, turn.finish_reason = turn.answer + chunk.text, chunk.finish_reason
                    if chunk.text:
                        yield chunk.text
        finally:
            self._keep_answer(turn, tokens)

    def _keep_answer(self, turn: Turn, tokens: Sequence[int]) -> None:
        """Keep in the cache what was generated, as far as it is how the answer's text is encoded."""
        encoded = self.vocabulary.encode(turn.answer)
        # The last token was chosen only, or processing it was interrupted.
        longest = max(0, min(len(encoded), len(tokens) - 1, self._state.length - turn.end))
        turn.in_cache = next((n for n in range(longest) if encoded[n] != tokens[n]), longest)
        self._history = np.concatenate((self._history[: turn.end], np.array(encoded[: turn.in_cache], np.int64)))
        self._state.truncate(len(self._history))

    def _forget_answer(self, options: SearchOptions) -> None:
        """Make the last turn one without an answer."""
        self._close()
        if not self.turns:
            raise UserError("There is no turn to answer again.")
        turn = self.turns[-1]
        if turn.end + options.max_new_tokens > self.model.max_positions():
            raise ConversationFull(
                f"The conversation's {turn.end:,} tokens and {options.max_new_tokens:,} new ones do not fit in the "
                f"{self.model.max_positions():,} positions of the model; ask for fewer new tokens."
            )
        turn.answer, turn.finish_reason = "", None
        self._keep_answer(turn, ())

    def _keep(self, count: int) -> None:
        """Keep the first turns only."""
        if count == 0:
            self._clear()
        else:
            self.turns = self.turns[:count]
            self._history = self._history[: self.turns[-1].end + self.turns[-1].in_cache]
            self._state.truncate(len(self._history))

    def _clear(self) -> None:
        self.turns = []
        self._state = DecodingState(self.model)
        self._history = np.zeros(0, np.int64)
        self._images = ImageEmbeddings(self.model)

    def _close(self) -> None:
        """End a stream that goes on: what it has given is the answer."""
        parts = self._running() if self._running is not None else None
        if parts is not None:
            parts.close()


def _one_text(options: SearchOptions) -> SearchOptions:
    if options.num_beams > 1:
        raise UserError("A stream is one text: leave out num_beams, or do not stream.")
    return options
