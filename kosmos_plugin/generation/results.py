"""What was generated: in tokens, as search finds it, and in text, with all that is known about it."""

from collections.abc import Sequence
from dataclasses import dataclass

from kosmos_plugin.vocabulary import Vocabulary

TokenProbs = tuple[float, tuple[tuple[int, float], ...]]
"""A token's log-probability, and the likeliest tokens in its place with theirs, best first."""


@dataclass(frozen=True)
class Hypothesis:
    """A generated sequence."""

    tokens: tuple[int, ...]  # with the token that ended it, if one did
    log_probability: float  # the sum over its tokens
    score: float  # log_probability / length ** length_penalty, after penalties; beams are ranked by it
    finish_reason: str = "stop"  # or "length"
    logprobs: tuple[TokenProbs, ...] = ()  # of each token, if they were asked for


@dataclass(frozen=True)
class TokenLogprob:
    """A token and how likely the model found it, before temperature, filters and penalties."""

    token: int
    text: str  # " cat", with its space; a special token as the vocabulary spells it
    bytes: bytes  # of the text in UTF-8: a token may be a part of a character. Empty for a special token
    logprob: float
    top_logprobs: tuple["TokenLogprob", ...] = ()  # the likeliest tokens in its place, best first


@dataclass(frozen=True)
class Choice:
    """One text that continues a prompt."""

    text: str  # without the stop text, and without whitespace at its ends
    tokens: tuple[int, ...]  # all that were generated, with the token that ended it
    finish_reason: str  # "stop": at </s>, a stop token or a stop text; "length": after max_new_tokens
    log_probability: float  # the sum over the tokens
    score: float  # what beams are ranked by
    logprobs: tuple[TokenLogprob, ...] | None = None  # of each token, if they were asked for


@dataclass(frozen=True)
class Generation:
    """The texts that continue one prompt: `n`, with beams the best one first."""

    choices: tuple[Choice, ...]
    prompt_tokens: int  # with image slots

    @property
    def text(self) -> str:
        """The first text."""
        return self.choices[0].text


@dataclass(frozen=True)
class Chunk:
    """A part of a text that is being generated."""

    text: str
    tokens: tuple[int, ...]  # since the part before
    logprobs: tuple[TokenLogprob, ...] | None = None  # of these tokens, if they were asked for
    finish_reason: str | None = None  # of the last part; see Choice


def token_logprobs(
    vocabulary: Vocabulary, tokens: Sequence[int], logprobs: Sequence[TokenProbs]
) -> tuple[TokenLogprob, ...]:
    """Put tokens and their log-probabilities in words."""

    def described(token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        data = vocabulary.text_bytes(token)
        return TokenLogprob(token, data.decode(errors="replace") or vocabulary.symbol(token), data, logprob, top)

    return tuple(
        described(token, logprob, tuple(described(*each) for each in top))
        for token, (logprob, top) in zip(tokens, logprobs, strict=True)
    )
