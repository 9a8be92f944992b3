"""What the adapters share: a harness's requests → prompts → log-likelihoods and texts, in batches.

Both harnesses cut contexts that are too long from the left. So it is here, with a warning: the first tokens of the
text are left out, while `<s>` and the images stay.
"""

import functools
import io
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
from kosmos_plugin.generation.beam_search import SearchOptions, generate, generated_text
from kosmos_plugin.generation.generator import Generator, load
from kosmos_plugin.generation.likelihood import Likelihood, likelihoods
from kosmos_plugin.generation.prompt import IMAGE_MARK, parse_prompt

logger = logging.getLogger(__name__)

AUTOMATIC_BATCH_SIZE = 16
NEW_TOKENS = 256  # if a task does not say how many, as lm_eval has it
# The harnesses' names for the most tokens to generate, which of several comes first.
_NAMES_OF_NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# What changes nothing: how to sample, where nothing is sampled, and how LLaVA makes images square.
_WITHOUT_EFFECT = ("temperature", "top_p", "top_k", "min_p", "seed", "image_aspect_ratio")


def load_model(path: str, data: str | None, vocabulary: str | None, device: str | None) -> Generator:
    """`load`, then to the harness's `--device`; its default is a GPU even where there is none."""
    if logging.getLogger().level == logging.DEBUG:  # so fairseq leaves it when it is imported first
        logging.getLogger().setLevel(logging.WARNING)
    kosmos = load(path, data, vocabulary)
    if device is None or (str(device).startswith("cuda") and not torch.cuda.is_available()):
        return kosmos
    return kosmos.to(device)


def number_of_contexts(batch_size: int | str, most: int | None = None) -> int:
    """The harness's `--batch_size`; for "auto" it is its `--max_batch_size`, or else AUTOMATIC_BATCH_SIZE."""
    if str(batch_size).startswith("auto"):
        return int(most or AUTOMATIC_BATCH_SIZE)
    if not str(batch_size).isdigit() or int(batch_size) < 1:
        raise UserError(f"--batch_size must be a number from 1, or auto, not {batch_size!r}.")
    return int(batch_size)


@dataclass(frozen=True)
class Question:
    """A request's context. Those with equal keys are the same one, which is read once.

    `prompt` is called when its turn comes: the images of a whole benchmark need not fit in memory.
    """

    context: str
    key: Hashable
    prompt: Callable[[], Prompt]


def make_prompt(context: str, images: Sequence[Any]) -> Prompt:
    """`context` with Pillow's `images` where its `<image>` are, or before it if it has none."""
    if not images:
        return (Text(context),)
    encoded = []
    for image in images:
        if not isinstance(image, PIL.Image.Image):
            raise UserError(f"KOSMOS reads text and images; the task has a {type(image).__name__} (video or audio?).")
        encoded.append(_png(image))
    if IMAGE_MARK not in context:
        context = IMAGE_MARK * len(images) + context
    return parse_prompt(context, encoded, "a context of the task").segments


def search_options(gen_kwargs: dict) -> SearchOptions:
    """The harnesses' options of generation; UserError for sampling."""
    options = {name: value for name, value in gen_kwargs.items() if value is not None}
    do_sample = options.pop("do_sample", options.get("temperature", 0) > 0)
    if do_sample:
        raise UserError(
            "The task samples its answers (do_sample, temperature), and KOSMOS generates greedily or with beams; "
            "--gen_kwargs do_sample=False,temperature=0 makes it greedy."
        )
    new_tokens = [options.pop(name) for name in _NAMES_OF_NEW_TOKENS if name in options]
    until = options.pop("until", [])
    beam = options.pop("num_beams", 1)
    length_penalty = options.pop("length_penalty", 1.0)
    _warn_of_options(tuple(sorted(set(options) - set(_WITHOUT_EFFECT))))
    return SearchOptions(
        beam=int(beam),
        max_new_tokens=int(new_tokens[0]) if new_tokens else NEW_TOKENS,
        length_penalty=float(length_penalty),
        stop=tuple(mark for mark in ([until] if isinstance(until, str) else until) if mark),
    )


@functools.cache
def _warn_of_options(names: tuple[str, ...]) -> None:
    if names:
        logger.warning("The task's options of generation that KOSMOS does not have are left out: %s", ", ".join(names))


def log_likelihoods(
    kosmos: Generator, questions: Sequence[Question], continuations: Sequence[str], batch_size: int
) -> Iterator[tuple[int, Likelihood]]:
    """(number of the request, likelihood of its continuation), as they are made."""
    for batch in _batches(questions, batch_size):
        prompts = [questions[numbers[0]].prompt() for numbers in batch]
        candidates = [
            [_continuation(kosmos, prompt, continuations[number]) for number in numbers]
            for prompt, numbers in zip(prompts, batch, strict=True)
        ]
        # The last token of a candidate is not read.
        room = [kosmos.model.max_positions() + 1 - max(map(len, of_prompt)) for of_prompt in candidates]
        samples = _samples(kosmos, prompts, room)
        found = likelihoods(kosmos.model, kosmos.vocabulary, samples, candidates)
        for numbers, of_prompt in zip(batch, found, strict=True):
            yield from zip(numbers, of_prompt, strict=True)


def texts(
    kosmos: Generator, questions: Sequence[Question], options: Sequence[SearchOptions], batch_size: int
) -> Iterator[tuple[int, str]]:
    """(number of the request, the text generated after its context), as they are made."""
    for some in dict.fromkeys(options):
        room = kosmos.model.max_positions() - some.max_new_tokens
        if room < 1:
            raise UserError(
                f"The task asks for {some.max_new_tokens:,} new tokens, and the model reads "
                f"{kosmos.model.max_positions():,} in all; --gen_kwargs max_gen_toks=… asks for fewer."
            )
        chosen = [number for number, of_request in enumerate(options) if of_request == some]
        for batch in _batches(questions, batch_size, chosen):
            prompts = [questions[numbers[0]].prompt() for numbers in batch]
            samples = _samples(kosmos, prompts, [room] * len(prompts))
            found = generate(kosmos.model, kosmos.vocabulary, samples, some)
            for numbers, hypothesis in zip(batch, found, strict=True):
                text = generated_text(kosmos.vocabulary, hypothesis, some.stop)
                yield from ((number, text) for number in numbers)


def _batches(
    questions: Sequence[Question], size: int, chosen: Sequence[int] | None = None
) -> Iterator[list[list[int]]]:
    """Requests (all, or the `chosen`) by number, those with a question in common together; `size` questions at a time.

    Long ones come first: a batch has contexts of about the same length, and one that is too much fails at once.
    """
    groups: dict[tuple, list[int]] = {}
    for number in range(len(questions)) if chosen is None else chosen:
        groups.setdefault((questions[number].context, questions[number].key), []).append(number)
    ordered = sorted(groups.values(), key=lambda numbers: -len(questions[numbers[0]].context))
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
    """Prompts in the model's format, each of as many tokens at most as there is room for it."""
    sample_builder = replace(kosmos.sample_builder, max_tokens=sys.maxsize)
    whole = [sample_builder.prompt(Document("a context of the task", prompt)) for prompt in prompts]
    samples = [_shortened(kosmos, sample, most) for sample, most in zip(whole, room, strict=True)]
    lost = [len(before) - len(after) for before, after in zip(whole, samples, strict=True) if len(after) < len(before)]
    if lost:
        logger.warning(
            "%d of %d contexts do not fit in the %d tokens that the model reads: %d tokens at their beginnings are "
            "left out, %d of one of them.",
            len(lost),
            len(samples),
            kosmos.model.max_positions(),
            sum(lost),
            max(lost),
        )
    return samples


def _shortened(kosmos: Generator, sample: Sample, most: int) -> Sample:
    """`sample` in `most` tokens, without the first ones of its text."""
    surplus = len(sample) - most
    if surplus <= 0:
        return sample
    vocabulary = kosmos.vocabulary
    signs = np.isin(sample.tokens, (vocabulary.bos, vocabulary.image_begin, vocabulary.image_end))
    text = np.flatnonzero(~(signs | sample.image_slots))
    if len(text) < surplus:
        raise UserError(
            f"A context of {len(sample):,} tokens with {len(sample.images)} images does not fit in the "
            f"{kosmos.model.max_positions():,} tokens that the model reads, even without its text."
        )
    kept = np.delete(np.arange(len(sample)), text[:surplus])
    return replace(
        sample, tokens=sample.tokens[kept], targets=sample.targets[kept], image_slots=sample.image_slots[kept]
    )


def _png(image: PIL.Image.Image) -> bytes:
    """`image` as a file, losslessly."""
    if image.mode not in ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"):  # all that PNG has
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
