"""Shared by the adapters: a harness's requests → prompts → log-likelihoods and generated texts, in batches.

As in both harnesses, contexts that are too long are truncated from the left, with a warning: the first tokens of the
text are dropped; `<s>` and the images are kept.
"""

import functools
import logging
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
import torch

from kosmos_plugin.data.documents import Document, Text
from kosmos_plugin.data.samples import Sample
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.requests import Prompt
from kosmos_plugin.evaluation.responder import continuation_tokens
from kosmos_plugin.generation.beam_search import SearchOptions, generate_n, generated_text
from kosmos_plugin.generation.generator import Generator, load
from kosmos_plugin.generation.likelihood import Likelihood, likelihoods
from kosmos_plugin.generation.prompt import IMAGE_MARK, parse_prompt

logger = logging.getLogger(__name__)

AUTOMATIC_BATCH_SIZE = 16
MAX_NEW_TOKENS = 256  # if a task does not set it; lm_eval's default
# The harnesses' names for the maximum number of new tokens; the first of them that is set counts.
_MAX_NEW_TOKENS_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# Options that mean the same here, with their types.
_SAMPLING = {"temperature": float, "top_k": int, "top_p": float, "min_p": float, "seed": int}  # no effect on others
_SHARED = {"num_beams": int, "length_penalty": float, "repetition_penalty": float, "no_repeat_ngram_size": int}
_WITHOUT_EFFECT = ("image_aspect_ratio",)  # how LLaVA makes images square; ignored without a warning


def load_model(path: str, data: str | None, vocabulary: str | None, device: str | None, dtype: str | None) -> Generator:
    """Load a model.

    Args:
        path: The checkpoint.
        data: The data YAML, if it is not where it was in training.
        vocabulary: The folder of the vocabulary, instead of a data YAML.
        device: The harness's `--device`. Its default is a GPU; without one, the CPU is used.
        dtype: float32, bfloat16 or float16; None: bfloat16 on a GPU, float32 on a CPU.
    """
    if logging.getLogger().level == logging.DEBUG:  # set by importing fairseq
        logging.getLogger().setLevel(logging.WARNING)
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        device = None
    return load(path, data, vocabulary, device, dtype)


def number_of_contexts(batch_size: int | str, most: int | None = None) -> int:
    """Parse the harness's `--batch_size`.

    Args:
        batch_size: A number, or "auto" for `most`.
        most: The harness's `--max_batch_size`; default: AUTOMATIC_BATCH_SIZE.

    Raises:
        UserError: It is neither.
    """
    if str(batch_size).startswith("auto"):
        return int(most or AUTOMATIC_BATCH_SIZE)
    if not str(batch_size).isdigit() or int(batch_size) < 1:
        raise UserError(f"--batch_size must be a number from 1, or auto, not {batch_size!r}.")
    return int(batch_size)


@dataclass(frozen=True)
class Context:
    """The context of a request: what the model reads before it answers. Equal contexts are read once."""

    text: str
    key: Hashable  # equal for equal images
    prompt: Callable[[], Prompt]  # called when it is needed: a benchmark's images need not fit in memory


def make_prompt(context: str, images: Sequence[Any]) -> Prompt:
    """Make a prompt of a context.

    Args:
        context: The text, with `<image>` where the images belong; without any, the images come first.
        images: Pillow images.

    Raises:
        UserError: There are other media, or the numbers of images and of `<image>` differ.
    """
    if not images:
        return (Text(context),)
    for image in images:
        if not isinstance(image, PIL.Image.Image):
            raise UserError(f"KOSMOS reads text and images; the task has a {type(image).__name__} (video or audio?).")
    if IMAGE_MARK not in context:
        context = IMAGE_MARK * len(images) + context
    return parse_prompt(context, images, "a context of the task").segments


def search_options(gen_kwargs: dict) -> SearchOptions:
    """Translate a task's generation options.

    As in lm_eval, a temperature samples unless `do_sample` is false, and do_sample with the temperature 0 is greedy.

    Raises:
        UserError: An option has a wrong value, or beams are to sample.
    """
    options = {name: value for name, value in gen_kwargs.items() if value is not None}
    new_tokens = [_number(options, name, int) for name in _MAX_NEW_TOKENS_NAMES if name in options]
    until = options.pop("until", [])
    shared = {name: _number(options, name, kind) for name, kind in _SHARED.items() if name in options}
    sampling = {name: _number(options, name, kind) for name, kind in _SAMPLING.items() if name in options}
    do_sample = bool(options.pop("do_sample", sampling.get("temperature", 0) > 0))
    if sampling.get("top_k") == -1:  # vLLM's name for all
        sampling["top_k"] = 0
    _warn_of_options(tuple(sorted(set(options) - set(_WITHOUT_EFFECT))))
    return SearchOptions(
        max_new_tokens=new_tokens[0] if new_tokens else MAX_NEW_TOKENS,
        stop=tuple(mark for mark in ([until] if isinstance(until, str) else until) if mark),
        do_sample=do_sample,
        **shared,
        **(sampling if do_sample else {}),
    )


def _number(options: dict[str, Any], name: str, kind: Callable[[Any], Any]) -> Any:
    """Take an option out of `options`, as a number."""
    value = options.pop(name)
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise UserError(f"The task's option {name} must be a number, not {value!r}.") from None


@functools.cache
def _warn_of_options(names: tuple[str, ...]) -> None:
    if names:
        logger.warning("Generation options of the task that KOSMOS does not have are ignored: %s", ", ".join(names))


def log_likelihoods(
    kosmos: Generator, contexts: Sequence[Context], continuations: Sequence[str], batch_size: int
) -> Iterator[tuple[int, Likelihood]]:
    """Yield (index of a request, likelihood of its continuation), as they are computed.

    Args:
        kosmos: The model.
        contexts: The context of each request.
        continuations: The continuation of each request.
        batch_size: Distinct contexts per batch.
    """
    for batch in _batches(contexts, batch_size):
        prompts = [contexts[indices[0]].prompt() for indices in batch]
        candidates = [
            [_continuation(kosmos, prompt, continuations[index]) for index in indices]
            for prompt, indices in zip(prompts, batch, strict=True)
        ]
        # The last token of a candidate is not read.
        room = [kosmos.model.max_positions() + 1 - max(map(len, group)) for group in candidates]
        samples = _samples(kosmos, prompts, room)
        found = likelihoods(kosmos.model, kosmos.vocabulary, samples, candidates)
        for indices, group in zip(batch, found, strict=True):
            yield from zip(indices, group, strict=True)


def texts(
    kosmos: Generator, contexts: Sequence[Context], options: Sequence[SearchOptions], batch_size: int
) -> Iterator[tuple[int, str]]:
    """Yield (index of a request, text generated after its context), as they are generated.

    Requests with equal contexts and options get the same text, or each a sample of its own. Without a seed among the
    options, samples depend on torch's.

    Args:
        kosmos: The model.
        contexts: The context of each request.
        options: The options of each request.
        batch_size: Distinct contexts per batch.
    """
    for some in dict.fromkeys(options):
        room = kosmos.model.max_positions() - some.max_new_tokens
        if room < 1:
            raise UserError(
                f"The task asks for {some.max_new_tokens:,} new tokens, and the model reads "
                f"{kosmos.model.max_positions():,} in all; --gen_kwargs max_gen_toks=… asks for fewer."
            )
        chosen = [index for index, request_options in enumerate(options) if request_options == some]
        for batch in _batches(contexts, batch_size, chosen, each_generates=some.samples):
            prompts = [contexts[indices[0]].prompt() for indices in batch]
            samples = _samples(kosmos, prompts, [room] * len(prompts))
            count = max(map(len, batch)) if some.samples else 1
            found = generate_n(kosmos.model, kosmos.vocabulary, samples, replace(some, n=count))
            for indices, hypotheses in zip(batch, found, strict=True):
                said = [generated_text(kosmos.vocabulary, hypothesis, some.stop) for hypothesis in hypotheses]
                yield from zip(indices, said if some.samples else said * len(indices), strict=False)


def _batches(
    contexts: Sequence[Context], size: int, chosen: Sequence[int] | None = None, each_generates: bool = False
) -> Iterator[list[list[int]]]:
    """Group requests (all, or the chosen) by context, as indices; yield `size` contexts at a time, the longest first.

    If each request generates for itself, there are fewer contexts in a batch: those of about `size` requests. A batch
    has contexts of about the same length, and running out of memory happens in the first batch.
    """
    groups: dict[tuple, list[int]] = {}
    for index in range(len(contexts)) if chosen is None else chosen:
        groups.setdefault((contexts[index].text, contexts[index].key), []).append(index)
    ordered = sorted(groups.values(), key=lambda indices: -len(contexts[indices[0]].text))
    if each_generates:
        size = max(size // max(map(len, ordered), default=1), 1)
    for begin in range(0, len(ordered), size):
        yield ordered[begin : begin + size]


def _continuation(kosmos: Generator, prompt: Prompt, continuation: str) -> list[int]:
    tokens = continuation_tokens(kosmos.vocabulary, prompt, continuation)
    if not tokens:
        raise UserError(f"The task has a continuation without tokens, {continuation!r}: it has no likelihood.")
    if len(tokens) > kosmos.model.max_positions():
        raise UserError(
            f"The task has a continuation of {len(tokens):,} tokens, {continuation[:80]!r}…; the model reads "
            f"{kosmos.model.max_positions():,}."
        )
    return tokens


def _samples(kosmos: Generator, prompts: Sequence[Prompt], room: Sequence[int]) -> list[Sample]:
    """Make samples of prompts, each truncated to at most `room` tokens."""
    sample_builder = replace(kosmos.sample_builder, max_tokens=sys.maxsize)
    whole = [sample_builder.prompt(Document("a context of the task", prompt)) for prompt in prompts]
    samples = [_truncated(kosmos, sample, most) for sample, most in zip(whole, room, strict=True)]
    dropped = [
        len(before) - len(after) for before, after in zip(whole, samples, strict=True) if len(after) < len(before)
    ]
    if dropped:
        logger.warning(
            "%d of %d contexts do not fit in the model's %d tokens: %d tokens at their start are dropped, at most %d "
            "of one context.",
            len(dropped),
            len(samples),
            kosmos.model.max_positions(),
            sum(dropped),
            max(dropped),
        )
    return samples


def _truncated(kosmos: Generator, sample: Sample, most: int) -> Sample:
    """Drop the first tokens of the sample's text so that it has at most `most` tokens."""
    surplus = len(sample) - most
    if surplus <= 0:
        return sample
    vocabulary = kosmos.vocabulary
    special = np.isin(sample.tokens, (vocabulary.bos, vocabulary.image_begin, vocabulary.image_end))
    text = np.flatnonzero(~(special | sample.image_slots))
    if len(text) < surplus:
        raise UserError(
            f"A context of {len(sample):,} tokens with {len(sample.images)} images does not fit in the "
            f"{kosmos.model.max_positions():,} tokens that the model reads, even without its text."
        )
    kept = np.delete(np.arange(len(sample)), text[:surplus])
    return replace(
        sample, tokens=sample.tokens[kept], targets=sample.targets[kept], image_slots=sample.image_slots[kept]
    )
