"""What pictures show: captions, styles of captions that demonstrations give, questions, and instructions (§4.1, §3.3).

A caption says the color of a thing only if the thing occurs in several (styled things): see commonsense.py.
"""

import itertools
import random
from collections.abc import Sequence

import pictures
from few_shot import POSES, SHOTS, picture_of_shape
from things_and_words import COLOR_OF, COLORS, FIXED, SHAPES, STYLED, held_out_color, trained_colors
from world import Question, World

CAPTION_PROMPT = "An image of"  # the paper's


def question_prompt(question: str) -> str:
    """The paper's prompt for questions."""
    return f"Question: {question} Answer:"


# ---- Captions and questions ----


def captions(documents: int, questions: int) -> World:
    rng = random.Random("captions")
    world = World()
    for thing, pose in itertools.product(STYLED, range(POSES // 2)):
        for color in trained_colors(thing):
            world.captions.append((pictures.thing(thing, color, pose), f"{CAPTION_PROMPT} {color} {thing}."))
    for thing, pose, _ in itertools.product(FIXED, range(POSES), range(3)):  # nearly as often as a styled thing
        world.captions.append((pictures.thing(thing, COLOR_OF[thing], pose), f"{CAPTION_PROMPT} {thing}."))
    for shape, pose in itertools.product(SHAPES, range(POSES * 2)):
        world.captions.append((pictures.shape(shape, pose), f"{CAPTION_PROMPT} {shape}."))
    for _ in range(documents):
        document: list[str | bytes] = []
        for thing in rng.sample(STYLED, rng.randint(2, 4)):
            color = rng.choice(trained_colors(thing))
            document += [pictures.thing(thing, color, rng.randrange(POSES // 2)), _answered(thing, color, rng)]
        world.interleaved.append(tuple(document))
    for _ in range(documents):  # the same questions about descriptions
        described = [(rng.choice(COLORS), thing) for thing in rng.sample(STYLED, 3)]
        said = (f"{CAPTION_PROMPT} {color} {thing}. {_answered(thing, color, rng)}" for color, thing in described)
        world.text.append(" ".join(said))
    shown = [_new_picture(number) for number in range(questions)]
    world.benchmarks["captions"] = [
        Question((picture, CAPTION_PROMPT), f"{color} {thing}") for thing, color, picture in shown
    ]
    world.benchmarks["questions"] = [
        Question((picture, question_prompt(f"what color is the {thing}?")), color, COLORS)
        for thing, color, picture in shown
    ]
    return world


def _answered(thing: str, color: str, rng: random.Random) -> str:
    """A question about a thing, and its answer."""
    question, answer = rng.choice(
        [("what is this?", thing), (f"what color is the {thing}?", color), _yes_or_no(thing, color, rng)]
    )
    return f"{question_prompt(question)} {answer}."


def _yes_or_no(thing: str, color: str, rng: random.Random) -> tuple[str, str]:
    other = rng.choice([name for name in COLORS if name != color])
    return rng.choice([(f"is the {thing} {color}?", "yes"), (f"is the {thing} {other}?", "no")])


def _new_picture(number: int) -> tuple[str, str, bytes]:
    """A thing in a color in which it is in no training picture."""
    thing = random.Random(f"captions {number}").choice(STYLED)
    color = held_out_color(thing)
    return thing, color, pictures.thing(thing, color, POSES + number % 3)


# ---- Styles: the form of a caption is in the demonstrations alone ----

STYLES = [
    f"{before}{first}{between}{second}"
    for before in ("", "one ", "see ", "my ")
    for first, second in (("{color}", "{thing}"), ("{thing}", "{color}"))
    for between in (" ", ", ", " - ", ": ", " and ", " / ")
]
random.Random(1).shuffle(STYLES)
NEW_STYLES, TRAINING_STYLES = STYLES[:8], STYLES[8:]
OTHER_STYLE = 0.25  # share of captions that are in another style than their document, so that one does not tell it


def styles(documents: int, questions: int) -> World:
    rng = random.Random("styles")
    world = World()
    for _ in range(documents * 2):
        style = rng.choice(TRAINING_STYLES)
        things = ((rng.choice(COLORS), rng.choice(STYLED)) for _ in range(10))
        world.text.append(" ".join(_styled(_style(style, TRAINING_STYLES, rng), *each) for each in things))
    for _ in range(documents):
        style = rng.choice(TRAINING_STYLES)
        document: list[str | bytes] = []
        for _ in range(rng.randint(3, 9)):
            thing = rng.choice(STYLED)
            color = rng.choice(trained_colors(thing))
            document += [pictures.thing(thing, color, rng.randrange(POSES // 2))]
            document += [_styled(_style(style, TRAINING_STYLES, rng), color, thing)]
        world.interleaved.append(tuple(document))
    for shots in SHOTS:
        world.benchmarks[f"styles_{shots}"] = [_style_question(number, shots) for number in range(questions)]
    return world


def _style(style: str, styles: Sequence[str], rng: random.Random) -> str:
    """That of a caption in a document of this style."""
    return rng.choice(styles) if rng.random() < OTHER_STYLE else style


def _styled(style: str, color: str, thing: str) -> str:
    return style.format(color=color, thing=thing) + "."


def _style_question(number: int, shots: int) -> Question:
    rng = random.Random(f"styles {number}")
    style = rng.choice(NEW_STYLES)
    thing, color, picture = _new_picture(number)
    prompt: list[str | bytes] = []
    for _ in range(shots):
        shown = rng.choice(STYLED)
        its = rng.choice(trained_colors(shown))
        prompt += [pictures.thing(shown, its, 0), _styled(_style(style, NEW_STYLES, rng), its, shown)]
    return Question((*prompt, picture), style.format(color=color, thing=thing))


# ---- Instructions: only in text ----

INSTRUCTIONS = {
    "upper_case": "Name it in upper case:",
    "one_word": "Name it in one word:",
    "two_words": "Name it in two words:",
    "sentence": "Write a sentence:",
    "yes_or_no": "Is it {asked}? Answer yes or no:",
}


def instructions(documents: int, questions: int) -> World:
    """Instructions about a description in text; the tests give the same ones about a picture."""
    rng = random.Random("instructions")
    world = World()
    for _ in range(documents):
        thing, kind = rng.choice(STYLED), rng.choice(list(INSTRUCTIONS))
        color = rng.choice(trained_colors(thing))
        instruction, output = _instruction(kind, color, thing, rng)
        world.instructions.append({"inputs": f"{CAPTION_PROMPT} {color} {thing}. {instruction}", "targets": output})
    for _ in range(documents):  # upper-case names are in no other text
        world.text.append(" ".join(f"{name} {name.upper()}." for name in rng.choices([*STYLED, *COLORS], k=8)))
    for kind in INSTRUCTIONS:
        world.benchmarks[f"instructions_{kind}"] = [
            _instruction_question(number, kind) for number in range(questions // 2)
        ]
    return world


def _instruction(kind: str, color: str, thing: str, rng: random.Random) -> tuple[str, str]:
    asked = color if rng.random() < 0.5 else rng.choice([name for name in COLORS if name != color])
    output = {
        "upper_case": thing.upper(),
        "one_word": thing,
        "two_words": f"{color} {thing}",
        "sentence": f"this is one {color} {thing}.",
        "yes_or_no": "yes" if asked == color else "no",
    }[kind]
    return INSTRUCTIONS[kind].format(asked=asked), output


def _instruction_question(number: int, kind: str) -> Question:
    thing, color, picture = _new_picture(number)
    instruction, output = _instruction(kind, color, thing, random.Random(f"instructions {number}"))
    return Question((picture, instruction), output)


# ---- Shapes, for the names that descriptions use ----


def shapes(documents: int, questions: int) -> World:
    rng = random.Random("shapes")
    world = World()
    for _ in range(documents // 2):
        document: list[str | bytes] = []
        for shape in rng.choices(SHAPES, k=rng.randint(2, 5)):
            document += [picture_of_shape(shape, rng), f"{shape}."]
        world.interleaved.append(tuple(document))
    return world
