"""Matrices like Raven's: six candidates for the last panel, each judged by the paper's prompt (§4.2).

In each row the form or the number changes, in each column the color; the release's layout is that of the package's
`raven_iq`.
"""

import random
from dataclasses import dataclass

import pictures
from things_and_words import COLORS, FORMS
from world import World

from kosmos_plugin.evaluation.benchmarks.raven_iq import RavenIq

NUMBERS = {3: "three", 8: "eight"}  # panels before the last, of 2×2 and of 3×3
CANDIDATES = 6
Panel = tuple[str, str, int]  # form, color, number


@dataclass(frozen=True)
class Matrix:
    """The panels row by row without the last one, and the candidates, of which the first is right."""

    panels: tuple[Panel, ...]
    candidates: tuple[Panel, ...]


def is_tested(panels: tuple[Panel, ...]) -> bool:
    """Whether a matrix is of those that are never trained on: a quarter, by their first panels."""
    return random.Random(repr(panels[:2])).random() < 0.25


def matrix(rng: random.Random, tested: bool) -> Matrix:
    while True:
        side = rng.choice((2, 3))
        colors = rng.sample(COLORS, side)
        if rng.random() < 0.5:
            number = rng.randint(1, 3)
            changes = [(form, number) for form in rng.sample(FORMS, side)]
        else:
            form, first = rng.choice(FORMS), rng.randint(1, 4 - side)
            changes = [(form, number) for number in range(first, first + side)]
        panels = tuple((form, color, number) for color in colors for form, number in changes)
        if is_tested(panels) == tested:
            break
    right = panels[-1]
    form, color, number = right
    others = {
        *((form, other, number) for other in COLORS),
        *((other, color, number) for other in FORMS),
        *((form, color, other) for other in (1, 2, 3)),
        *panels,
    } - {right}
    return Matrix(panels[:-1], (right, *rng.sample(sorted(others), CANDIDATES - 1)))


def matrices(documents: int, questions: int) -> World:
    rng = random.Random("matrices")
    world = World()
    for _ in range(documents):
        drawn = matrix(rng, tested=False)
        document: list[str | bytes] = [f"Here are {NUMBERS[len(drawn.panels)]} images:"]
        document += [pictures.panel(*panel) for panel in drawn.panels]
        right, *wrong = drawn.candidates
        for candidate in rng.sample([right, right, *rng.sample(wrong, 2)], 3):
            document += ["The following image is:", pictures.panel(*candidate)]
            document += [f"Is it correct? {'Yes' if candidate == right else 'No'}"]
        world.interleaved.append(tuple(document))
    return world


def tested_matrices(count: int) -> list[Matrix]:
    return [matrix(random.Random(f"matrix {number}"), tested=True) for number in range(count)]


def shuffled_panels(drawn: list[Matrix]) -> list[Matrix]:
    """Each matrix with the candidates of another one of its size."""
    following = {}
    for size in NUMBERS:
        same = [number for number, each in enumerate(drawn) if len(each.panels) == size]
        following |= dict(zip(same, same[1:] + same[:1], strict=True))
    return [Matrix(drawn[following[number]].panels, each.candidates) for number, each in enumerate(drawn)]


class ShuffledMatrices(RavenIq):
    """The matrices of `shuffled_panels`, for `kosmos-evaluate --benchmark matrices.py:ShuffledMatrices`."""

    name = release = "raven_iq_shuffled"
    title = "Raven IQ test, panels shuffled"
