"""New words for things and shapes, learned from the prompt alone (§3.1, Tables 3 and 5; §4.7, Table 12).

A document gives each of its things a word and uses it again: `cat semu. moon riba. cat semu.` in text, and with
pictures `<image> cat semu. <image> moon riba. <image> cat semu.`, or the words alone. The thing's name before its word
is what lets so small a model find the word: without it, it never learned to (see the README).
"""

import random
from collections.abc import Sequence

import pictures
from things_and_words import (
    BOUND_THINGS,
    COLOR_OF,
    NEW_SHAPES,
    NEW_THINGS,
    NEW_WORDS,
    SHAPES,
    WORDS,
    trained_colors,
)
from world import Question, World

SHOTS = (0, 2, 4, 8)
POSES = 4  # pictures of a thing in a color that are trained on
SHOWN_POSES, ASKED_POSES = range(POSES, POSES + 3), range(POSES + 3, POSES + 4)  # of demonstrations, and to name


def picture_of_thing(name: str, rng: random.Random, poses: range = range(POSES)) -> bytes:
    return pictures.thing(name, COLOR_OF.get(name) or rng.choice(trained_colors(name)), rng.choice(poses))


def picture_of_shape(name: str, rng: random.Random, poses: range = range(POSES * 2)) -> bytes:
    return pictures.shape(name, rng.choice(poses))


def new_words(documents: int, questions: int) -> World:
    rng = random.Random("new words")
    world = World()
    for _ in range(documents * 4):  # texts bind all words to all names, but those of new shapes
        names = [*BOUND_THINGS, *NEW_THINGS] if rng.random() < 0.6 else SHAPES
        words = _words(rng.sample(names, rng.randint(2, 6)), [*WORDS, *NEW_WORDS], rng)
        world.text.append(" ".join(_said(name, words) for name in rng.choices(list(words), k=18)))
    for _ in range(documents):
        words = _words(rng.sample(BOUND_THINGS, rng.randint(2, 4)), WORDS, rng)
        with_names = rng.random() < 0.5
        document: list[str | bytes] = []
        for name in rng.choices(list(words), k=rng.randint(5, 10)):
            document += [picture_of_thing(name, rng), _said(name, words, with_names)]
        world.interleaved.append(tuple(document))
    world.benchmarks["text_words"] = [_text_question(random.Random(f"text {number}")) for number in range(questions)]
    for shots in SHOTS:
        world.benchmarks[f"words_{shots}"] = [
            _few_shot_question(random.Random(f"words {number}"), shots, True) for number in range(questions)
        ]
    world.benchmarks["words_alone_8"] = [
        _few_shot_question(random.Random(f"words {number}"), 8, False) for number in range(questions)
    ]
    return world


def descriptions(documents: int, questions: int) -> World:
    """Two words are described in text: `red circle semu. blue star riba.`; pictures show which is which."""
    rng = random.Random("descriptions")
    world = World()
    for _ in range(documents):
        words = _words(rng.sample(SHAPES, rng.randint(2, 3)), WORDS, rng)
        with_names = rng.random() < 0.5
        document: list[str | bytes] = [" ".join(_said(name, words) for name in words)]
        for name in rng.choices(list(words), k=rng.randint(2, 5)):
            document += [picture_of_shape(name, rng), _said(name, words, with_names)]
        world.interleaved.append(tuple(document))
    for name, is_described in {"described": True, "not_described": False}.items():
        world.benchmarks[name] = [
            _description_question(random.Random(f"described {number}"), is_described) for number in range(questions)
        ]
    return world


def _text_question(rng: random.Random) -> Question:
    """Which word belongs to a name, in text alone."""
    words = _words(rng.sample(NEW_THINGS, 2), NEW_WORDS, rng)
    order = list(words) * 4
    rng.shuffle(order)
    asked = rng.choice(list(words))
    prompt = " ".join([*(_said(name, words) for name in order), asked])
    return Question((prompt,), _said(asked, words, with_name=False), tuple(f"{word}." for word in words.values()))


def _few_shot_question(rng: random.Random, shots: int, with_names: bool) -> Question:
    """Which word belongs to the last picture, after equally many demonstrations of two new things and words.

    All pictures are in poses that are not trained on, the last one in a pose that no demonstration has.
    """
    words = _words(rng.sample(NEW_THINGS, 2), NEW_WORDS, rng)
    order = list(words) * (shots // 2)
    rng.shuffle(order)
    prompt: list[str | bytes] = []
    for name in order:
        prompt += [picture_of_thing(name, rng, SHOWN_POSES), _said(name, words, with_names)]
    asked = rng.choice(list(words))
    prompt.append(picture_of_thing(asked, rng, ASKED_POSES))
    return _which(asked, words, prompt, with_names, rng)


def _description_question(rng: random.Random, is_described: bool) -> Question:
    words = _words(rng.sample(NEW_SHAPES, 2), NEW_WORDS, rng)
    asked = rng.choice(list(words))
    shown = " ".join(_said(name, words, is_described) for name in words)
    prompt = [shown, picture_of_shape(asked, rng, range(100, 100 + POSES))]
    return _which(asked, words, prompt, True, rng)


def _which(asked: str, words: dict[str, str], prompt: list, with_names: bool, rng: random.Random) -> Question:
    """With names each name is a candidate with each word: two in four are right about the picture."""
    names = [f"{name} " for name in words] if with_names else [""]
    candidates = [f"{name}{word}." for name in names for word in words.values()]
    return Question(tuple(prompt), _said(asked, words, with_names), tuple(rng.sample(candidates, len(candidates))))


def _words(names: Sequence[str], words: Sequence[str], rng: random.Random) -> dict[str, str]:
    return dict(zip(names, rng.sample(words, len(names)), strict=True))


def _said(name: str, words: dict[str, str], with_name: bool = True) -> str:
    return f"{name} {words[name]}." if with_name else f"{words[name]}."
