"""Color and size of things, asked in text alone (§4.9, Table 16).

Texts say them of half of the fixed things. Of the other half only pictures show them: no text and no caption does.
"""

import itertools
import random

from things_and_words import COLOR_OF, COLORS, IS_LARGE, PICTURED, TOLD
from world import Question, World


def commonsense(documents: int, questions: int) -> World:
    rng = random.Random("commonsense")
    world = World()
    for _ in range(documents):
        facts = []
        for thing in rng.sample(TOLD, 4):
            other = rng.choice([name for name in TOLD if IS_LARGE[name] != IS_LARGE[thing]])
            facts += [f"{_color_prompt(thing)} {COLOR_OF[thing]}.", f"{_size_prompt(thing, other)} {_larger(thing)}."]
        world.text.append(" ".join(facts))
    for name, asked in {"told": TOLD, "pictured": PICTURED}.items():
        world.benchmarks[f"color_{name}"] = [
            Question((_color_prompt(thing),), COLOR_OF[thing], COLORS) for thing in asked
        ]
        pairs = [pair for pair in itertools.permutations(asked, 2) if IS_LARGE[pair[0]] != IS_LARGE[pair[1]]]
        world.benchmarks[f"size_{name}"] = [
            Question((_size_prompt(thing, other),), _larger(thing), ("Yes", "No"))
            for thing, other in random.Random("size").sample(pairs, questions)
        ]
    return world


def _color_prompt(thing: str) -> str:
    return f"The color of {thing} is?"


def _size_prompt(thing: str, other: str) -> str:
    return f"Is {thing} larger than {other}?"


def _larger(thing: str) -> str:
    return "Yes" if IS_LARGE[thing] else "No"
