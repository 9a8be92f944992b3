"""A result as a page to look through: what was asked, with its images, what was answered, and whether it is right.

items ─ drawn evenly ─→ cards (prompt, thumbnails, answer, choices, verdict) ─ templates/page.html ─→ page.html

A page stands alone: its images are inside, and it has no script. All texts are escaped by Jinja.
"""

import base64
import collections
import io
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import PIL.Image

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.evaluation.benchmark import Answer, Item, Scores
from kosmos_plugin.evaluation.benchmarks.language import AFTER_DEMONSTRATION
from kosmos_plugin.evaluation.files import write_text
from kosmos_plugin.evaluation.requests import Choose, Generate, Prompt, Request, prompts_of
from kosmos_plugin.evaluation.results import Result

PAGE_FILE = "page.html"
MOST_ITEMS = 200
THUMBNAIL, DEMONSTRATION_THUMBNAIL = 160, 80  # the longer side in pixels
LONG_TEXT, END_OF_LONG_TEXT = 1000, 400  # characters; of longer texts only the end, which asks, is unfolded

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Part:
    """A piece of a prompt: text, with its beginning `folded` if it is long, or an image.

    `image`: a data URI; empty if it cannot be shown.
    """

    text: str = ""
    folded: str = ""
    image: str | None = None
    name: str = ""


@dataclass(frozen=True)
class ChoiceShown:
    """`own`: what its prompt has beyond the beginning that all choices share. `share`: of the choices' probability."""

    own: list[Part]
    continuation: str
    label: str
    log_probability: float
    share: float


@dataclass(frozen=True)
class Step:
    """Something that was asked; a chain of thought has two. What was generated as a rationale stands in `rationale`."""

    demonstrations: list[Part]
    prompt: list[Part]
    choices: list[ChoiceShown]
    rationale: str = ""


@dataclass(frozen=True)
class Card:
    item: Item
    answer: Answer
    steps: list[Step]
    score: float | None
    is_graded: bool
    reference: str

    @property
    def verdict(self) -> str:
        if self.answer.problem:
            return "unasked"
        return {0: "wrong", 1: "right"}.get(self.score, "partial") if self.is_graded else ""


def write_page(
    path: Path,
    result: Result,
    items: Sequence[Item],
    answers: Sequence[Answer],
    scores: Scores | None,
    requests: Callable[[Item], Request],
) -> None:
    """Write the page of `result` to `path`, with MOST_ITEMS of its items at most.

    `scores`: None if there are no references. `requests`: what the model was asked about an item.
    """
    of_items = [None] * len(items) if scores is None or scores.of_items is None else scores.of_items
    are_graded = scores is not None and scores.of_items is not None and scores.are_grades
    cards = [
        _card(items[number], answers[number], of_items[number], are_graded, requests(items[number]), result.shots)
        for number in evenly_drawn(len(items), MOST_ITEMS)
    ]
    verdicts = [card.verdict for card in cards]
    page = render(
        "page.html",
        result=result,
        cards=cards,
        counts={verdict: verdicts.count(verdict) for verdict in ("right", "partial", "wrong", "unasked")},
        report=os.path.relpath("report.html", result.folder),
    )
    write_text(path, page)


def render(template: str, **values: Any) -> str:
    """A page of templates/, in which every value is escaped."""
    return _TEMPLATES.get_template(template).render(values)


def evenly_drawn(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, at even distances from the first."""
    return [k * count // most for k in range(most)] if count > most else list(range(count))


def _card(item: Item, answer: Answer, score: float | None, is_graded: bool, request: Request, shots: int) -> Card:
    steps = [request]
    if isinstance(request, Generate) and request.then is not None and answer.rationale:
        steps.append(request.then(answer.rationale))
    shown = [_step(step, answer, shots, is_last=number == len(steps)) for number, step in enumerate(steps, start=1)]
    return Card(item, answer, shown, score, is_graded, _as_text(item.reference))


def _step(request: Request, answer: Answer, shots: int, is_last: bool) -> Step:
    prompts = prompts_of(request)
    shared = common_beginning(prompts)
    demonstrations, prompt = without_demonstrations(shared, shots)
    choices = []
    if isinstance(request, Choose) and answer.log_probabilities:
        shares = np.exp(np.asarray(answer.log_probabilities) - np.logaddexp.reduce(answer.log_probabilities))
        for choice, log_probability, share in zip(request.choices, answer.log_probabilities, shares, strict=True):
            own = _parts(beyond(shared, choice.prompt), THUMBNAIL // 2)
            choices.append(ChoiceShown(own, choice.continuation, choice.label, log_probability, float(share)))
    return Step(
        _parts(demonstrations, DEMONSTRATION_THUMBNAIL),
        _parts(prompt, THUMBNAIL),
        choices,
        "" if is_last else answer.rationale,
    )


def common_beginning(prompts: Sequence[Prompt]) -> Prompt:
    """What all prompts begin with: whole segments, and of a text whole words."""
    first, *others = prompts
    for number, segment in enumerate(first):
        there = [prompt[number] if number < len(prompt) else None for prompt in others]
        if all(other == segment for other in there):
            continue
        if not all(isinstance(other, Text) for other in (segment, *there)):
            return first[:number]
        letters = zip(segment.text, *(other.text for other in there), strict=False)
        text = "".join(of_one[0] for of_one in itertools.takewhile(lambda of_one: len(set(of_one)) == 1, letters))
        text = text[: max(text.rfind(" "), text.rfind("\n")) + 1]
        return (*first[:number], Text(text)) if text else first[:number]
    return first


def beyond(beginning: Prompt, prompt: Prompt) -> Prompt:
    """`prompt` without `beginning`, the common beginning of it and others."""
    rest = prompt[len(beginning) :]
    if beginning and beginning[-1] != prompt[len(beginning) - 1]:
        rest = (Text(prompt[len(beginning) - 1].text[len(beginning[-1].text) :]), *rest)
    return rest


def without_demonstrations(prompt: Prompt, shots: int) -> tuple[Prompt, Prompt]:
    """A prompt's demonstrations, and the rest.

    Demonstrations have as many images each as the rest; without images, each ends in AFTER_DEMONSTRATION.
    """
    images = [number for number, segment in enumerate(prompt) if isinstance(segment, Image)]
    if not shots or not prompt:
        return (), prompt
    if images:
        begin = images[len(images) // (shots + 1) * shots]
        return prompt[:begin], prompt[begin:]
    *demonstrations, rest = "".join(segment.text for segment in prompt).split(AFTER_DEMONSTRATION, shots)
    return tuple(Text(demonstration + AFTER_DEMONSTRATION) for demonstration in demonstrations), (Text(rest),)


def _parts(prompt: Prompt, size: int) -> list[Part]:
    return [
        _text(segment.text) if isinstance(segment, Text) else Part(image=thumbnail(segment, size), name=segment.name)
        for segment in prompt
    ]


def _text(text: str) -> Part:
    if len(text) <= LONG_TEXT:
        return Part(text)
    end = text[-END_OF_LONG_TEXT:].partition(" ")[2] or text[-END_OF_LONG_TEXT:]
    return Part(end, folded=text.removesuffix(end))


def thumbnail(image: Image, size: int) -> str:
    """A data URI of a JPEG with `size` pixels on its longer side at most; empty for what is no image."""
    try:
        with PIL.Image.open(io.BytesIO(image.read())) as opened:
            opened.draft("RGB", (2 * size, 2 * size))
            picture = opened.convert("RGBA")
        picture.thumbnail((size, size))
    except Exception:  # decoders raise anything from OSError to struct.error on broken bytes
        return ""
    canvas = PIL.Image.new("RGB", picture.size, "white")
    canvas.paste(picture, mask=picture)
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _as_text(reference: Any) -> str:
    """A reference for a reader: of several, each different one once, with how often it comes."""
    if isinstance(reference, list):
        counts = collections.Counter(map(_as_text, reference))
        return " · ".join(f"{text} ×{count}" if count > 1 else text for text, count in counts.items())
    if isinstance(reference, dict):
        return ", ".join(f"{name}: {_as_text(value)}" for name, value in reference.items())
    return "" if reference is None else str(reference)
