"""Writes a page for browsing a result: each prompt with its images, the answer, and whether it is right.

items ─ evenly spaced sample ─→ cards (prompt, thumbnails, answer, choices, verdict) ─ templates/page.html ─→ page.html
"""

import collections
import io
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.evaluation.benchmark import Answer, Item, Scores
from kosmos_plugin.evaluation.files import write_text
from kosmos_plugin.evaluation.requests import Choose, Generate, Prompt, Request
from kosmos_plugin.evaluation.results import Result
from kosmos_plugin.image_files import open_image, orientation, upright
from kosmos_plugin.reporting.html import data_uri, render

PAGE_FILE = "page.html"
MAX_ITEMS = 200
THUMBNAIL, SMALL_THUMBNAIL = 160, 80  # pixels of the longer side
LONG_TEXT, END_OF_LONG_TEXT = 1000, 400  # characters; a longer text is folded except for its end, with the question

_TEMPLATE = Path(__file__).parent / "templates/page.html"


@dataclass(frozen=True)
class Part:
    """A piece of a prompt: a text or an image."""

    text: str = ""
    folded: str = ""  # the start of a long text, which is hidden until it is opened
    image: str | None = None  # a data URI; "" if the image cannot be shown
    name: str = ""  # of the image


@dataclass(frozen=True)
class ChoiceShown:
    """A choice with its probability."""

    own: list[Part]  # what its prompt has after the prefix that all choices share
    continuation: str
    label: str
    log_probability: float
    share: float  # of the choices' summed probability


@dataclass(frozen=True)
class Step:
    """One request. A chain of thought has two."""

    demonstrations: list[list[Part]]
    prompt: list[Part]
    choices: list[ChoiceShown]
    rationale: str = ""  # what was generated, if another step follows


@dataclass(frozen=True)
class Card:
    """An item with its answer."""

    item: Item
    answer: Answer
    steps: list[Step]
    score: float | None
    is_graded: bool  # whether a score of 0 means wrong and 1 right
    reference: str

    @property
    def verdict(self) -> str:
        """One of right, partial, wrong, unasked; "" if there is no score or the score is not a grade."""
        if self.answer.problem:
            return "unasked"
        if not self.is_graded or self.score is None:
            return ""
        return {0.0: "wrong", 1.0: "right"}.get(self.score, "partial")


def write_page(
    path: Path,
    result: Result,
    items: Sequence[Item],
    answers: Sequence[Answer],
    scores: Scores | None,
    requests: Callable[[Item], Request],
) -> None:
    """Write the page of a result, with at most MAX_ITEMS of its items.

    Args:
        path: The file to write.
        result: The result.
        items: All items.
        answers: The answer to each item.
        scores: The answers' scores; None if there are no references.
        requests: Makes an item's request.
    """
    per_item: Sequence[float | None] = (scores and scores.per_item) or [None] * len(items)
    is_graded = scores is not None and scores.per_item is not None and scores.are_grades
    cards = [
        _card(items[index], answers[index], per_item[index], is_graded, requests(items[index]))
        for index in evenly_spaced(len(items), MAX_ITEMS)
    ]
    verdicts = [card.verdict for card in cards]
    page = render(
        _TEMPLATE,
        result=result,
        cards=cards,
        counts={verdict: verdicts.count(verdict) for verdict in ("right", "partial", "wrong", "unasked")},
        report=os.path.relpath("report.html", result.folder),
    )
    write_text(path, page)


def evenly_spaced(count: int, most: int) -> list[int]:
    """Choose at most `most` of the indices below `count`, evenly spaced, starting at 0."""
    return [k * count // most for k in range(most)] if count > most else list(range(count))


def _card(item: Item, answer: Answer, score: float | None, is_graded: bool, request: Request) -> Card:
    steps = [request]
    if isinstance(request, Generate) and request.then is not None and answer.rationale:
        steps.append(request.then(answer.rationale))
    shown = [_step(step, answer, is_last=number == len(steps)) for number, step in enumerate(steps, start=1)]
    return Card(item, answer, shown, score, is_graded, _reference_text(item.reference))


def _step(request: Request, answer: Answer, is_last: bool) -> Step:
    demonstrations = [_parts(prompt, SMALL_THUMBNAIL, fold=False) for prompt in request.demonstrations]
    rationale = "" if is_last else answer.rationale
    if isinstance(request, Generate):
        return Step(demonstrations, _parts(request.prompt, THUMBNAIL), [], rationale)
    prefix = common_prefix([choice.prompt for choice in request.choices])
    return Step(demonstrations, _parts(prefix, THUMBNAIL), _choices(request, answer, prefix), rationale)


def _choices(request: Choose, answer: Answer, prefix: Prompt) -> list[ChoiceShown]:
    if not answer.log_probabilities:
        return []
    shares = np.exp(np.asarray(answer.log_probabilities) - np.logaddexp.reduce(answer.log_probabilities))
    return [
        ChoiceShown(
            _parts(without_prefix(prefix, choice.prompt), SMALL_THUMBNAIL),
            choice.continuation,
            choice.label,
            log_probability,
            float(share),
        )
        for choice, log_probability, share in zip(request.choices, answer.log_probabilities, shares, strict=True)
    ]


def common_prefix(prompts: Sequence[Prompt]) -> Prompt:
    """Find the common prefix of all prompts, in whole segments, or whole words of a text."""
    first, *others = prompts
    for index, segment in enumerate(first):
        counterparts = [prompt[index] if index < len(prompt) else None for prompt in others]
        if all(other == segment for other in counterparts):
            continue
        texts = [other.text for other in (segment, *counterparts) if isinstance(other, Text)]
        if len(texts) < len(prompts):
            return first[:index]
        letters = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))
        text = "".join(column[0] for column in letters)
        text = text[: max(text.rfind(" "), text.rfind("\n")) + 1]
        return (*first[:index], Text(text)) if text else first[:index]
    return first


def without_prefix(prefix: Prompt, prompt: Prompt) -> Prompt:
    """Remove a common prefix, which may end within a text of the prompt."""
    rest = prompt[len(prefix) :]
    if not prefix:
        return rest
    last, whole = prefix[-1], prompt[len(prefix) - 1]
    if isinstance(last, Text) and isinstance(whole, Text) and last != whole:
        return (Text(whole.text.removeprefix(last.text)), *rest)
    return rest


def _parts(prompt: Prompt, size: int, fold: bool = True) -> list[Part]:
    return [_part(segment, size, fold) for segment in prompt]


def _part(segment: Text | Image, size: int, fold: bool) -> Part:
    if isinstance(segment, Image):
        return Part(image=thumbnail(segment, size), name=segment.name)
    return _text(segment.text, fold)


def _text(text: str, fold: bool) -> Part:
    if not fold or len(text) <= LONG_TEXT:
        return Part(text)
    end = text[-END_OF_LONG_TEXT:].partition(" ")[2] or text[-END_OF_LONG_TEXT:]
    return Part(end, folded=text.removesuffix(end))


def thumbnail(image: Image, size: int) -> str:
    """Make a JPEG with at most `size` pixels on its longer side, as a data URI; "" if the image cannot be decoded."""
    try:
        with open_image(image.read()) as opened:
            opened.draft("RGB", (2 * size, 2 * size))
            picture = upright(opened.convert("RGBA"), orientation(opened))
        picture.thumbnail((size, size))
    except Exception:  # decoders raise anything from OSError to struct.error on broken bytes
        return ""
    canvas = PIL.Image.new("RGB", picture.size, "white")
    canvas.paste(picture, mask=picture)
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=80)
    return data_uri(buffer.getvalue(), "image/jpeg")


def _reference_text(reference: Any) -> str:
    """Write a reference for a reader; equal values of a list are written once, with their number."""
    if isinstance(reference, list):
        counts = collections.Counter(map(_reference_text, reference))
        return " · ".join(f"{text} ×{count}" if count > 1 else text for text, count in counts.items())
    if isinstance(reference, dict):
        return ", ".join(f"{name}: {_reference_text(value)}" for name, value in reference.items())
    return "" if reference is None else str(reference)
