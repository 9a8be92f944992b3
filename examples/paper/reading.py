"""Words and their sentiment, read from pixels (§4.3, §4.5, Table 9), and lists of web pages (§4.4).

Pictures are read aloud in training; what is positive and what is negative is said in text alone.
"""

import random

import pictures
from captions import question_prompt
from things_and_words import BOUND_THINGS
from world import Question, World

POSITIVE = (
    "good great nice happy lovely superb bright clever funny warm fresh brave sweet calm fine strong kind honest "
    "perfect charming"
).split()
NEGATIVE = (
    "bad awful poor sad ugly dull weak silly boring cold stale cruel bitter angry cheap broken mean false dreadful "
    "dirty"
).split()
OPINIONS = [f"{negation}{word}" for word in POSITIVE + NEGATIVE for negation in ("", "not ")]
NEGATED = 0.2  # share in text: if "not" is as frequent as its absence, a word alone says nothing of the sentiment
READING_PROMPT = "It says"
SENTIMENT_PROMPT = question_prompt("what is the sentiment of the opinion?")  # the paper's
SENTIMENTS = ("positive", "negative")

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROWS = 2
LISTED = BOUND_THINGS[:30]


def sentiment(opinion: str) -> str:
    is_positive = opinion.removeprefix("not ") in POSITIVE
    return SENTIMENTS[is_positive == opinion.startswith("not ")]


def reading(documents: int, questions: int) -> World:
    rng = random.Random("reading")
    world = World()
    for _ in range(documents):
        words = rng.sample(POSITIVE + NEGATIVE, 4)
        opinions = [f"not {word}" if rng.random() < NEGATED else word for word in words]
        said = (f"{READING_PROMPT} {text}. {SENTIMENT_PROMPT} {sentiment(text)}." for text in opinions)
        world.text.append(" ".join(said))
    for _ in range(documents):
        document: list[str | bytes] = []
        for opinion in rng.sample(OPINIONS, rng.randint(2, 5)):
            document += [pictures.words(opinion, rng.choice(pictures.TRAINING_FONTS), rng.randrange(3))]
            document += [f"{READING_PROMPT} {opinion}."]
        world.interleaved.append(tuple(document))
    world.benchmarks["sentiment_in_text"] = [
        Question((f"{READING_PROMPT} {opinion}. {SENTIMENT_PROMPT}",), sentiment(opinion), SENTIMENTS)
        for opinion in OPINIONS
    ]
    world.benchmarks["reading"], world.benchmarks["sentiment"] = [], []
    for number in range(questions):
        drawn = random.Random(f"reading {number}")
        opinion = drawn.choice(OPINIONS)
        picture = pictures.words(opinion, drawn.choice(pictures.NEW_FONTS), 0)
        world.benchmarks["reading"].append(Question((picture, READING_PROMPT), opinion))
        world.benchmarks["sentiment"].append(Question((picture, SENTIMENT_PROMPT), sentiment(opinion), SENTIMENTS))
    return world


def pages(documents: int, questions: int) -> World:
    """Lists of two things and their numbers; half of the documents have its text too."""
    rng = random.Random("pages")
    world = World()
    for _ in range(documents):
        rows = _rows(rng)
        world.text.append(f"{_text(rows)} {_answers(rows, rng)}")
    for _ in range(documents):
        rows = _rows(rng)
        page = pictures.listing(rows, rng.choice(pictures.TRAINING_FONTS))
        extracted = f"{_text(rows)} " if rng.random() < 0.5 else ""
        world.interleaved.append((page, extracted + _answers(rows, rng)))
    for name in ("page_with_text", "page_without_text"):
        world.benchmarks[name] = []
        for number in range(questions):
            drawn = random.Random(f"pages {number}")
            rows = _rows(drawn)
            page = pictures.listing(rows, drawn.choice(pictures.TRAINING_FONTS))
            asked, value = drawn.choice(rows)
            extracted = f"{_text(rows)} " if name == "page_with_text" else ""
            prompt = (page, extracted + _page_prompt(asked))
            world.benchmarks[name].append(Question(prompt, value, NUMBERS))
    return world


def _rows(rng: random.Random) -> tuple[tuple[str, str], ...]:
    return tuple(zip(rng.sample(LISTED, ROWS), rng.sample(NUMBERS, ROWS), strict=True))


def _text(rows: tuple[tuple[str, str], ...]) -> str:
    return " ".join(f"{name} {value}." for name, value in rows)


def _answers(rows: tuple[tuple[str, str], ...], rng: random.Random) -> str:
    return " ".join(f"{_page_prompt(name)} {value}." for name, value in rng.sample(rows, len(rows)))


def _page_prompt(name: str) -> str:
    return question_prompt(f"how many {name}?")
