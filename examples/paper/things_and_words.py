"""The things, the invented words, and which of them a training never sees in which role."""

import itertools
import random

import things

CHARACTERS = {name: character for character, name in things.THINGS.items() if " " not in name}
COLORS = tuple(things.COLORS)
FORMS = ("circle", "square", "triangle", "star", "cross", "heart")


def _parts(items: list, *sizes: int) -> list[tuple]:
    """Shuffle `items`, always alike, and cut them into parts."""
    random.Random(1).shuffle(items)
    ends = [0, *itertools.accumulate(sizes)]
    return [tuple(items[start:end]) for start, end in itertools.pairwise(ends)]


# Styled things occur in all colors; the others always in one color and one size. Whether a text says which, decides
# between told and pictured.
TOLD, PICTURED, STYLED = _parts(list(CHARACTERS), 30, 30, 35)
FIXED = TOLD + PICTURED
_order = random.Random(2)
COLOR_OF = {thing: COLORS[number % len(COLORS)] for number, thing in enumerate(_order.sample(FIXED, len(FIXED)))}
IS_LARGE = {thing: number % 2 == 0 for number, thing in enumerate(_order.sample(FIXED, len(FIXED)))}


def held_out_color(thing: str) -> str:
    """The color in which a styled thing is drawn in the tests alone."""
    return COLORS[STYLED.index(thing) % len(COLORS)]


def trained_colors(thing: str) -> list[str]:
    return [color for color in COLORS if color != held_out_color(thing)]


# No document with pictures has a new word, or gives a word to a new thing; texts do.
NEW_THINGS, BOUND_THINGS = _parts(list(CHARACTERS), 20, 75)
NEW_WORDS, WORDS = _parts(
    ["".join(letters) for letters in itertools.product("bdfgklmnprstvz", "aeiou", "bdfgklmnprstvz", "aeiou")], 20, 80
)

# Shapes that no text or picture describes in training.
NEW_SHAPES, SHAPES = _parts([f"{color} {form}" for color in COLORS for form in FORMS], 12, 36)
