"""Options of generation, with the names of the field. Neither torch nor fairseq is imported: `--help` shows them."""

import dataclasses
import functools
import math
import numbers
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self, TypedDict, Unpack

from kosmos_plugin.errors import UserError, did_you_mean
from kosmos_plugin.options import REQUIRED, option

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelOptions:
    """The trained model that a command uses; the arguments of `generator.load`."""

    path: Path = option(
        REQUIRED, "checkpoint of fairseq-train or kosmos-convert, or its folder", metavar="CHECKPOINT", must_exist=True
    )
    data: Path | None = option(
        None, "data YAML with the vocabulary (default: the checkpoint's own)", metavar="DATA.yaml", must_exist=True
    )
    vocabulary: Path | None = option(
        None,
        "folder of sentencepiece.model and dict.txt (default: the checkpoint's own)",
        metavar="FOLDER",
        must_exist=True,
    )


@dataclass(frozen=True)
class DeviceOptions:
    """Where a model runs, and in which precision."""

    device: str | None = option(
        None, "device, as torch names it: cpu, cuda, cuda:1, … (default: the GPU if there is one)", metavar="DEVICE"
    )
    dtype: str | None = option(
        None, "precision of weights and activations (default: bfloat16 on a GPU, float32 on a CPU)", DTYPES
    )


class TextArguments(TypedDict, total=False):
    """The fields of SearchOptions as keyword arguments, all optional, but those of which more than a text results."""

    num_beams: int
    max_new_tokens: int
    length_penalty: float
    keep_greedy: bool
    stop: str | Sequence[str]
    stop_tokens: str | int | Sequence[str | int]
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None
    repetition_penalty: float
    no_repeat_ngram_size: int


class SearchArguments(TextArguments, total=False):
    """All fields of SearchOptions."""

    n: int
    logprobs: bool
    top_logprobs: int


@dataclass(frozen=True)
class SearchOptions:
    """How a prompt is continued. The names are those of transformers and vLLM, and mean the same.

    One text is as good as a tuple with it: `stop="Question:"`.
    """

    num_beams: int = option(1, "beams; 1 is greedy search, or sampling", minimum=1)
    max_new_tokens: int = option(64, "maximum number of tokens to generate", minimum=1)
    length_penalty: float = option(1.0, "exponent of the length that a beam's log-probability is divided by")
    keep_greedy: bool = option(
        False, "beam search also keeps the greedy path, so that its result never scores below greedy search's"
    )
    stop: tuple[str, ...] = option(
        (), "text that ends generation, as </s> does, and is left out; may be repeated", repeated=True
    )
    stop_tokens: tuple[str | int, ...] = option(
        (),
        "token that ends generation, as the vocabulary spells it, e.g. </line>; may be repeated",
        metavar="TOKEN",
        repeated=True,
    )
    do_sample: bool = option(False, "draw each token at random, as likely as the model finds it")
    temperature: float = option(
        1.0, "log-probabilities are divided by it before drawing; 0 is greedy search", minimum=0
    )
    top_k: int = option(0, "draw from the N likeliest tokens; 0: from all", minimum=0)
    top_p: float = option(1.0, "draw from the likeliest tokens that together have the probability X", minimum=0)
    min_p: float = option(0.0, "draw from tokens at least X times as likely as the likeliest", minimum=0)
    seed: int | None = option(None, "seed of the draws, the same for each prompt (default: other draws each time)")
    n: int = option(1, "texts for each prompt: samples, or the best N beams", minimum=1)
    repetition_penalty: float = option(
        1.0, "logits of tokens that the prompt or the text has are divided by it, or multiplied if they are negative"
    )
    no_repeat_ngram_size: int = option(
        0, "no N tokens of prompt and text follow each other a second time; 0: they may", minimum=0
    )
    logprobs: bool = option(False, "also give the log-probability of each token")
    top_logprobs: int = option(0, "and those of the N likeliest tokens in its place; implies --logprobs", minimum=0)

    def __post_init__(self) -> None:
        hints = _type_hints()
        for field in dataclasses.fields(self):
            value = _checked(field.name, getattr(self, field.name), hints[field.name])
            minimum = field.metadata["minimum"]
            if minimum is not None and not minimum <= value < math.inf:
                raise UserError(f"{field.name} must be at least {minimum}, not {value}.")
            object.__setattr__(self, field.name, value)
        for name in ("top_p", "min_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is a probability, from 0 to 1, not {getattr(self, name)}.")
        if not 0 < self.repetition_penalty < math.inf:
            raise UserError(f"repetition_penalty must be greater than 0, not {self.repetition_penalty}.")
        if not math.isfinite(self.length_penalty):
            raise UserError(f"length_penalty must be finite, not {self.length_penalty}.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise UserError(f"seed must be a number of 64 bits, not {self.seed}.")
        if "" in self.stop:
            raise UserError("stop must not be empty: an empty text ends generation before it begins.")
        if self.do_sample and self.num_beams > 1:
            raise UserError("Beam search does not sample: give num_beams 1, or leave out do_sample.")
        if not self.do_sample:
            self._require_no_sampling()
        if self.keep_greedy and self.num_beams == 1:
            raise UserError("keep_greedy is for beam search: give num_beams, or leave it out.")
        if self.logprobs or self.top_logprobs:
            object.__setattr__(self, "logprobs", True)

    @classmethod
    def of(cls, **arguments: Unpack[SearchArguments]) -> Self:
        """Make options of keyword arguments."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in arguments.keys() - set(names):
            raise TypeError(f"There is no option {name!r} of generation.{did_you_mean(name, names)}")
        return cls(**typing.cast("dict[str, Any]", arguments))

    def _require_no_sampling(self) -> None:
        """Raise UserError for options that would have no effect."""
        if self.n > self.num_beams:
            raise UserError(f"n={self.n} texts need do_sample, or num_beams of at least {self.n}.")
        for name, idle in {"temperature": (0, 1), "top_k": (0,), "top_p": (1,), "min_p": (0,)}.items():
            if getattr(self, name) not in idle:
                raise UserError(f"{name}={getattr(self, name)} is for sampling: give do_sample too, or leave it out.")

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.do_sample and self.temperature > 0

    @property
    def looks_back(self) -> bool:
        """Whether a token's chances depend on the tokens before it, other than by the model."""
        return self.repetition_penalty != 1 or self.no_repeat_ngram_size > 0


@functools.cache
def _type_hints() -> dict[str, Any]:
    return typing.get_type_hints(SearchOptions)


def _checked(name: str, value: Any, kind: Any) -> Any:
    """The value of an option, in its type. Raises UserError for one of another type."""
    if name in ("stop", "stop_tokens"):
        return _several(name, value)
    if value is None and name == "seed":
        return None
    if kind is bool:
        if not isinstance(value, bool):
            raise UserError(f"{name} must be True or False, not {value!r}.")
        return value
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    if kind is not float and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    raise UserError(f"{name} must be a {'number' if kind is float else 'whole number'}, not {value!r}.")


def _several(name: str, value: Any) -> tuple:
    """A text, a token or several of them, as a tuple."""
    kinds, what = (str, "texts") if name == "stop" else ((str, int), "tokens: how the vocabulary spells them, or ids")
    values = (value,) if isinstance(value, kinds) else value
    if not isinstance(values, list | tuple) or not all(isinstance(one, kinds) for one in values):
        raise UserError(f"{name} must be one or several {what}; not {value!r}.")
    return tuple(values)
