"""Color and size of things, asked in text alone (§4.9, Table 16).

Texts say them of half of the fixed things. Of the other half only documents with pictures do: no text and no caption.
"""

import random
from collections.abc import Sequence

from few_shot import picture_of_thing
from things_and_words import COLOR_OF, COLORS, FIXED, IS_LARGE, PICTURED, TOLD
from world import Question, World

SIZES = ("large", "small")


def commonsense(documents: int, questions: int) -> World:
    rng = random.Random("commonsense")
    world = World(text=[_facts(rng.sample(TOLD, 8), rng) for _ in range(documents)])
    for _ in range(documents):
        shown = rng.sample(FIXED, rng.randint(2, 4))
        document: list[str | bytes] = []
        for thing in shown:
            document += [picture_of_thing(thing, rng), f"{thing}."]
        world.interleaved.append((*document, _facts(shown, rng)))
    for name, asked in {"told": TOLD, "pictured": PICTURED}.items():
        world.benchmarks[f"color_{name}"] = [
            Question((_color_prompt(thing),), COLOR_OF[thing], COLORS) for thing in asked
        ]
        world.benchmarks[f"size_{name}"] = [Question((_size_prompt(thing),), _size(thing), SIZES) for thing in asked]
    return world


def _facts(asked: Sequence[str], rng: random.Random) -> str:
    """One fact of each thing, in any order."""
    facts = []
    for thing in asked:
        either = (f"{_color_prompt(thing)} {COLOR_OF[thing]}.", f"{_size_prompt(thing)} {_size(thing)}.")
        facts.append(rng.choice(either))
    return " ".join(rng.sample(facts, len(facts)))


def _color_prompt(thing: str) -> str:
    return f"The color of {thing} is?"


def _size_prompt(thing: str) -> str:
    return f"The size of {thing} is?"


def _size(thing: str) -> str:
    return SIZES[0] if IS_LARGE[thing] else SIZES[1]
