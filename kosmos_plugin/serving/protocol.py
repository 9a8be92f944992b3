"""Requests as OpenAI's clients send them, checked. Fields that are not known are ignored, as other servers do.

https://platform.openai.com/docs/api-reference/chat and …/completions
"""

import re
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.serving.errors import ApiError

MOST_CHOICES = 128
MOST_ALTERNATIVES = 20
MOST_STOPS = 16


def _listed(value: Any) -> Any:
    """One text as a list; none for null."""
    return [value] if isinstance(value, str) else [] if value is None else value


NonEmpty = Annotated[str, StringConstraints(min_length=1)]
Stop = Annotated[list[NonEmpty], BeforeValidator(_listed), Field(max_length=MOST_STOPS)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class StreamOptions(_Model):
    """How an answer is streamed."""

    include_usage: bool | None = None


class Message(_Model):
    """A message of a conversation; `chat_prompt` reads its content."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]] | None = None


class _Request(_Model):
    """What both kinds of requests have."""

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: Stop = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # As vLLM and others have them.
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=1e6)] | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = None
    # Refused unless they have no effect: to ignore them would change what is meant.
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def choices(self) -> int:
        """How many texts are wanted for a prompt."""
        return self.n or 1

    @property
    def new_tokens(self) -> tuple[int | None, str]:
        """How many new tokens are wanted, and by which field."""
        return self.max_tokens, "max_tokens"

    @property
    def alternatives(self) -> int | None:
        """How many of the likeliest tokens are wanted with log-probabilities; None: no log-probabilities."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ApiError for what this server does not do."""
        for name in ("frequency_penalty", "presence_penalty", "logit_bias"):
            if getattr(self, name):
                raise ApiError(400, f"{name} is not supported; repetition_penalty is.", name, "unsupported_parameter")
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options is for streams: set stream to true.", "stream_options")

    def search_options(self, temperature: float, new_tokens: int, stop: Sequence[str] = ()) -> SearchOptions:
        """The options of each text.

        Args:
            temperature: The server's, if the request names none.
            new_tokens: The most new tokens.
            stop: What ends a text if the request does not say.
        """
        return SearchOptions(
            do_sample=True,  # a temperature of 0 is greedy search
            temperature=temperature if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),  # −1 is vLLM's word for all
            min_p=self.min_p or 0.0,
            max_new_tokens=new_tokens,
            seed=self.seed,
            stop=tuple(self.stop or stop),
            stop_tokens=tuple(self.stop_token_ids or ()),
            repetition_penalty=self.repetition_penalty or 1.0,
            no_repeat_ngram_size=self.no_repeat_ngram_size or 0,
            logprobs=self.alternatives is not None,
            top_logprobs=self.alternatives or 0,
        )


class ChatRequest(_Request):
    """The body of a POST to /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    @property
    def new_tokens(self) -> tuple[int | None, str]:
        """See _Request."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens, "max_completion_tokens"
        return self.max_tokens, "max_tokens"

    @property
    def alternatives(self) -> int | None:
        """See _Request."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> None:
        """See _Request."""
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: set it to true.", "top_logprobs")
        if self.tools:
            raise ApiError(400, "The model does not use tools: leave them out.", "tools", "unsupported_parameter")
        if self.response_format and self.response_format.get("type", "text") != "text":
            raise ApiError(400, "The model answers in text only.", "response_format", "unsupported_parameter")


class CompletionRequest(_Request):
    """The body of a POST to /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts: texts, or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [typing.cast("list[int]", self.prompt)]
        return typing.cast("list[str] | list[list[int]]", self.prompt)

    @property
    def alternatives(self) -> int | None:
        """See _Request."""
        return self.logprobs

    def check(self) -> None:
        """See _Request."""
        super().check()
        if not self.prompts:
            raise ApiError(400, "prompt is an empty list.", "prompt")
        if self.suffix:
            raise ApiError(400, "The model does not fill in text: leave out suffix.", "suffix", "unsupported_parameter")
        if self.best_of is not None and self.best_of != self.choices:
            raise ApiError(400, "best_of is not supported: leave it out.", "best_of", "unsupported_parameter")
        if self.echo and self.logprobs is not None:
            raise ApiError(400, "Log-probabilities of the prompt are not given: leave out echo.", "echo")


def describe(errors: Sequence[Any]) -> ApiError:
    """The first of pydantic's errors as an ApiError."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.")
    # Of a union, pydantic also gives the name of the kind that it has tried: it is no field.
    fields = [place for place in first["loc"] if place != "body" and not _IS_KIND.search(str(place))]
    param = "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in fields).lstrip(".")
    problem = first["msg"][:1].lower() + first["msg"][1:]
    return ApiError(400, f"{param}: {problem}." if param else f"The body is not valid: {problem}.", param or None)


_IS_KIND = re.compile(r"^(str|int|float|bool|list)$|[\[(]")
