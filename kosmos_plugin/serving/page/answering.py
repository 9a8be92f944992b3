"""A dialogue → its answer: the prompt is prepared as that of an API request, and goes to the same engine."""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.serving.engine import Engine
from kosmos_plugin.serving.generation import Generation
from kosmos_plugin.serving.page.dialogue import Dialogue
from kosmos_plugin.serving.requests import Preparation

SECONDS_PER_UPDATE = 0.05  # so that showing a text costs the server little beside generating it


@dataclass(frozen=True)
class Settings:
    """The controls of the page, with the names of SearchOptions. A temperature of 0 takes the likeliest tokens."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: str = ""  # a number, or empty
    max_new_tokens: int = 64
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: str = ""  # texts that end an answer, one a line

    def search_options(self, default_stop: tuple[str, ...]) -> SearchOptions:
        """The options of an answer.

        Args:
            default_stop: What ends it if `stop` is empty.

        Raises:
            UserError: A number is out of its range.
        """
        try:
            seed = int(self.seed) if self.seed.strip() else None
        except ValueError:
            raise UserError(f"seed must be a whole number, not {self.seed[:50]!r}.") from None
        stop = tuple(line for line in self.stop.splitlines() if line)
        return SearchOptions(
            do_sample=True,  # a temperature of 0 is greedy search
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=seed,
            max_new_tokens=self.max_new_tokens,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            stop=stop or default_stop,
        )


@dataclass
class Usage:
    """What an answer has cost so far."""

    prompt_tokens: int
    cached_tokens: int = 0
    new_tokens: int = 0
    finish_reason: str | None = None

    def __str__(self) -> str:
        text = f"{self.new_tokens:,} new tokens · prompt of {self.prompt_tokens:,}, {self.cached_tokens:,} in the cache"
        return f"{text} · cut by max_new_tokens" if self.finish_reason == "length" else text


class Answering:
    """Answers dialogues.

    Args:
        engine: A running engine.
        preparation: Makes prompts.
    """

    def __init__(self, engine: Engine, preparation: Preparation):
        self.engine = engine
        self.preparation = preparation

    async def answer(self, dialogue: Dialogue, settings: Settings) -> AsyncGenerator[Usage, None]:
        """Append the answer to the last turn, and say what it has cost each time that there is more of it.

        To cancel, close the iterator.

        Raises:
            ApiError: It cannot be answered; see `Preparation`.
            UserError: A setting is out of its range, or the message is empty.
        """
        turn = dialogue.turns[-1]
        options = settings.search_options(turn.template.stop)
        prompt = await self.preparation.document(dialogue.document())
        self.preparation.new_tokens([prompt], options.max_new_tokens, "max_new_tokens")
        generation = Generation(self.engine, [prompt], options, 1)
        usage, shown = Usage(len(prompt)), 0.0
        try:
            async for token in generation:
                if turn.finished:  # stopped: what is shown is the answer
                    return
                turn.answer += token.text
                usage.new_tokens += 1
                usage.cached_tokens, usage.finish_reason = generation.cached_tokens, token.finish_reason
                if token.finish_reason is not None:
                    turn.finished = True
                    yield usage
                elif token.text and time.monotonic() - shown > SECONDS_PER_UPDATE:
                    yield usage
                    shown = time.monotonic()
        finally:
            generation.cancel()
            turn.finished = True
