"""Answers in OpenAI's form: whole, and as the chunks of a stream."""

import time
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from kosmos_plugin.generation.results import TokenLogprob, token_logprobs
from kosmos_plugin.serving.engine import Token
from kosmos_plugin.vocabulary import Vocabulary


@dataclass
class Text:
    """One text of an answer, as far as it is generated."""

    text: str = ""
    finish_reason: str | None = None
    tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def add(self, token: Token, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Append a token."""
        self.text += token.text
        self.tokens += 1
        self.finish_reason = token.finish_reason
        self.logprobs += logprobs


class Answer(ABC):
    """An answer of one of the two kinds.

    Args:
        model: The name of the model.
        vocabulary: The vocabulary.
        choices: The number of texts.
        logprobs: Whether log-probabilities are wanted.
    """

    prefix: str
    kind: str  # of the whole answer
    chunk_kind: str

    def __init__(self, model: str, vocabulary: Vocabulary, choices: int, logprobs: bool):
        self.model = model
        self.vocabulary = vocabulary
        self.wants_logprobs = logprobs
        self.texts = [Text() for _ in range(choices)]
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def add(self, token: Token) -> dict[str, Any] | None:
        """Append a token.

        Returns:
            The chunk of a stream with what is new; None if that is nothing to show.
        """
        text = self.texts[token.choice]
        described: tuple[TokenLogprob, ...] = ()
        if self.wants_logprobs:
            [logprob] = token_logprobs(self.vocabulary, [token.token], [token.logprobs])
            if logprob.bytes or token.finish_reason != "stop":  # `</s>` is no part of the text
                described = (logprob,)
        before = sum(len(one.text) for one in text.logprobs)
        text.add(token, described)
        if not (token.text or described or token.finish_reason):
            return None
        logprobs = self._logprobs(list(described), before) if self.wants_logprobs else None
        return self.chunk([self._delta(token.choice, token.text, logprobs, token.finish_reason)])

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A chunk of a stream."""
        return self._of_kind(self.chunk_kind, choices)

    def whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The whole answer."""
        choices = [
            self._choice(number, text, self._logprobs(text.logprobs, 0) if self.wants_logprobs else None)
            for number, text in enumerate(self.texts)
        ]
        return {**self._of_kind(self.kind, choices), "usage": usage}

    def usage(self, prompt_tokens: int, cached_tokens: int) -> dict[str, Any]:
        """What it has cost."""
        generated = sum(text.tokens for text in self.texts)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": prompt_tokens + generated,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }

    def first_chunks(self) -> list[dict[str, Any]]:
        """What a stream begins with."""
        return []

    def _of_kind(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}

    @abstractmethod
    def _choice(self, number: int, text: Text, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        """A text of the whole answer."""

    @abstractmethod
    def _delta(self, number: int, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
        """A part of a text in a chunk."""

    @abstractmethod
    def _logprobs(self, tokens: list[TokenLogprob], offset: int) -> dict[str, Any]:
        """Log-probabilities of tokens, the first of which begins after `offset` characters of text."""


class ChatAnswer(Answer):
    """The answer to a chat."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def first_chunks(self) -> list[dict[str, Any]]:
        """The role of each text."""
        role = {"role": "assistant", "content": ""}
        return [
            self.chunk([{"index": number, "delta": role, "logprobs": None, "finish_reason": None}])
            for number in range(len(self.texts))
        ]

    def _choice(self, number: int, text: Text, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text.text, "refusal": None}
        return {"index": number, "message": message, "logprobs": logprobs, "finish_reason": text.finish_reason}

    def _delta(self, number: int, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
        delta = {"content": text} if text else {}
        return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, tokens: list[TokenLogprob], offset: int) -> dict[str, Any]:
        def described(one: TokenLogprob) -> dict[str, Any]:
            return {"token": one.text, "logprob": finite(one.logprob), "bytes": list(one.bytes)}

        content = [{**described(one), "top_logprobs": [described(top) for top in one.top_logprobs]} for one in tokens]
        return {"content": content, "refusal": None}


class CompletionAnswer(Answer):
    """The answer to a request without messages; `echo` puts the prompt before each text."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, vocabulary: Vocabulary, choices: int, logprobs: bool, echo: list[str] | None = None):
        super().__init__(model, vocabulary, choices, logprobs)
        self.echo = echo

    def first_chunks(self) -> list[dict[str, Any]]:
        """The prompts, if they are wanted."""
        return [self.chunk([self._delta(number, text, None, None)]) for number, text in enumerate(self.echo or ())]

    def _choice(self, number: int, text: Text, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        prompt = self.echo[number] if self.echo else ""
        return self._delta(number, prompt + text.text, logprobs, text.finish_reason)

    def _delta(self, number: int, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
        return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, tokens: list[TokenLogprob], offset: int) -> dict[str, Any]:
        offsets = []
        for one in tokens:
            offsets.append(offset)
            offset += len(one.text)
        return {
            "tokens": [one.text for one in tokens],
            "token_logprobs": [finite(one.logprob) for one in tokens],
            "top_logprobs": [{top.text: finite(top.logprob) for top in one.top_logprobs} for one in tokens],
            "text_offset": offsets,
        }


def finite(logprob: float) -> float:
    """A number that JSON has; −9999 is OpenAI's for a token that cannot come."""
    return max(logprob, -9999.0)
