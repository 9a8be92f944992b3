"""What a world gives: documents to train on, in each stream, and questions to test with.

A document is a sequence of texts and pictures (PNG files as bytes), in reading order.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

Document = tuple[str | bytes, ...]


@dataclass(frozen=True)
class Question:
    """An item of a benchmark: what is read, and what should follow."""

    prompt: Document
    answer: str
    candidates: tuple[str, ...] = ()  # the likeliest one is the answer; without candidates the answer is generated


@dataclass
class World:
    """The data of one kind of task."""

    text: list[str] = field(default_factory=list)  # a line each
    captions: list[tuple[bytes, str]] = field(default_factory=list)
    interleaved: list[Document] = field(default_factory=list)
    instructions: list[dict[str, str]] = field(default_factory=list)  # instruction, input, output
    benchmarks: dict[str, list[Question]] = field(default_factory=dict)


def shuffled(questions: Sequence[Question], seed: str) -> list[Question]:
    """The same questions, each with the last picture of another one."""
    order = random.Random(seed).sample(range(len(questions)), len(questions))
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    return [
        replace(question, prompt=with_last_picture(question.prompt, last_picture(questions[following[number]].prompt)))
        for number, question in enumerate(questions)
    ]


def last_picture(prompt: Document) -> bytes:
    return next(part for part in reversed(prompt) if isinstance(part, bytes))


def with_last_picture(prompt: Document, picture: bytes) -> Document:
    place = max(place for place, part in enumerate(prompt) if isinstance(part, bytes))
    return (*prompt[:place], picture, *prompt[place + 1 :])
