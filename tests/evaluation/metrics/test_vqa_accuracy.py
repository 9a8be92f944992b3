"""The VQA accuracy against its definition, and odd cases computed by hand."""

import functools
import itertools
import random
import statistics

import pytest

from kosmos_plugin.evaluation.benchmark import Answer, Item
from kosmos_plugin.evaluation.metrics.vqa_accuracy import (
    CONTRACTED,
    CONTRACTIONS,
    normalize,
    vqa_accuracies,
    vqa_accuracy,
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", ""),
        (" \n", ""),
        ("The", ""),
        ("A red\nCar\t", "red car"),
        ("an apple and the dog", "apple and dog"),
        ("None", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("Two dogs", "2 dogs"),
        ("dont", "don't"),
        ("Don't", "don't"),
        ("HES", "he's"),
        ("wouldntve", "wouldntve"),  # two apostrophes are missing
        ("wouldnt've", "wouldn't've"),
        ("yall'd've y'alld've y'all'dve", "y'all'd've y'all'd've y'all'd've"),
        ("lets", "lets"),
        ("shes", "shes"),
        ("Im", "im"),  # the official table has "Im", which no lower-cased word matches
        ("somebody'd", "somebodyd"),
        ("girl's", "girl's"),
        ("yes.", "yes"),
        ("3.5", "3.5"),
        ("3.", "3"),
        (".5", ".5"),
        ("e.g. this", "eg this"),
        ("." * 40, "." * 8),
        ("2:50 pm", "2:50 pm"),
        ("red-white", "red white"),
        ("red - white", "red white"),
        ("on-line, off-line", "on line off line"),
        ("on-line -off", "online off"),  # a space beside one hyphen: all hyphens are removed without leaving a space
        ("on-line\t-off", "online off"),
        ("on-line-\noff", "online off"),
        ("red,white", "red white"),
        ("red, white", "red white"),
        ("100,978", "100978"),
        ("1,000-2,000", "10002000"),  # a comma in a number: all marks are removed without leaving a space
        ("yes/no", "yes no"),
        ("[stop]", "stop"),
        ("what?!", "what"),
        ("t.e.n", "10"),
        ("a-b", "b"),
    ],
)
def test_normalization(answer, expected):
    assert normalize(answer) == expected


@pytest.mark.parametrize(
    ("prediction", "people", "expected"),
    [
        ("yes", {"yes": 10}, 1),
        ("yes\n", {"yes": 9, " yes": 1}, 1),
        ("Yes", {"yes": 10}, 0),  # if all agree, the match must be exact
        ("Yes.", {"yes": 9, "no": 1}, 1),
        ("the T-shirt", {"the T-shirt": 10}, 1),
        ("t shirt", {"the T-shirt": 10}, 0),
        ("t shirt", {"the T-shirt": 9, "shirt": 1}, 1),
        ("no", {"yes": 10}, 0),
        ("no", {"yes": 9, "no": 1}, 0.3),  # 9 of the 10 choices of nine people contain the answer once
        ("no", {"yes": 8, "no": 2}, 0.6),
        ("no", {"yes": 7, "no": 3}, 0.9),
        ("no", {"yes": 6, "no": 4}, 1),
        ("two", {"2": 5, "two": 4, "many": 1}, 1),
        ("two", {"2": 1, "two": 1, "many": 8}, 0.6),
        ("", {"yes": 10}, 0),
        ("", {"yes": 6, "a": 4}, 1),  # "a" is an article, so nothing is left of it
        ("", {"": 10}, 1),
        ("100978", {"100,978": 4, "many": 6}, 1),
        ("dont walk", {"don't walk": 4, "walk": 6}, 1),
    ],
)
def test_accuracy_of_one_answer(prediction, people, expected):
    people = [answer for answer, count in people.items() for _ in range(count)]
    assert vqa_accuracy(prediction, people) == pytest.approx(expected)


def test_contractions_lack_one_apostrophe():
    assert all(word.count("'") in (1, 2, 3) for word in CONTRACTED) and len(set(CONTRACTED)) == len(CONTRACTED)
    assert CONTRACTIONS["oclock"] == "o'clock" and CONTRACTIONS["twas"] == "'twas" and "lets" not in CONTRACTIONS
    for without, word in CONTRACTIONS.items():
        if without != "somebody'd":
            assert without.replace("'", "") == word.replace("'", "") and len(without) == len(word) - 1


def by_definition(prediction: str, people: list[str]) -> float:
    """The mean over all choices of nine of ten people of min(1, number of them who gave the answer / 3)."""
    one_line = [" ".join(answer.replace("\t", "\n").split("\n")).strip(" ") for answer in (prediction, *people)]
    if any(answer != one_line[1] for answer in one_line[1:]):
        one_line = [by_character(answer) for answer in one_line]
    said, *people = one_line
    return statistics.fmean(min(3, sum(a == said for a in nine)) / 3 for nine in itertools.combinations(people, 9))


@functools.cache
def by_character(answer: str) -> str:
    """Normalize an answer character by character."""
    digits = set("0123456789")
    around = [*zip(("", *answer), answer, (*answer[1:], ""), strict=False)]  # with the characters on both sides
    number = any(before in digits and mark == "," and after in digits for before, mark, after in around)
    beside_space = {mark for before, mark, after in around if " " in (before, after)}
    kept = ""
    for mark in answer:
        if mark not in ';/[]"{}()=+\\_-><@`,?!':
            kept += mark
        elif not number and mark not in beside_space:
            kept += " "
    stops = [place for place, mark in enumerate(kept) if mark == "." and kept[place + 1 : place + 2] not in digits]
    kept = "".join(mark for place, mark in enumerate(kept) if place not in stops[:32]).lower()
    numbers = "zero|none one two three four five six seven eight nine ten".split()
    words = [
        next((str(value) for value, names in enumerate(numbers) if word in names.split("|")), word)
        for word in kept.split()
    ]
    whole = []
    for word in words:
        if word not in {"a", "an", "the"}:
            whole += [full for full in CONTRACTED if lacks_one_apostrophe(word, full)] or [word]
    return " ".join("somebodyd" if word == "somebody'd" else word for word in whole)


def lacks_one_apostrophe(word: str, full: str) -> bool:
    return any(full[place] == "'" and full[:place] + full[place + 1 :] == word for place in range(len(full)))


def random_answer(rng: random.Random, most: int) -> str:
    words = "a the An one Two none ten cat T-shirt dont hes somebody'd 1,000 3.5 3. e.g. red,white ok? - / .".split()
    ends = (" ", " ", " ", "", "  ", ", ", "\n", "\t", "! ")
    return "".join(rng.choice(words) + rng.choice(ends) for _ in range(rng.randint(0, most)))


def test_random_pairs_by_definition():
    rng = random.Random(1)
    found = []
    for _ in range(1000):
        different = [random_answer(rng, 2) for _ in range(rng.randint(1, 5))]
        people = [rng.choice(different) for _ in range(10)]
        prediction = rng.choice((rng.choice(people), rng.choice(people).lower(), random_answer(rng, 3)))
        found.append(vqa_accuracy(prediction, people))
        assert found[-1] == pytest.approx(by_definition(prediction, people)), (prediction, people)
        text = random_answer(rng, 6)
        assert normalize(text) == by_character(" ".join(text.replace("\t", "\n").split("\n")).strip(" ")), text
    assert len({round(value, 3) for value in found}) == 5 and 0.3 < statistics.fmean(found) < 0.8, "all kinds come"


def test_accuracy_by_type_of_answer():
    items = [
        Item("1", {"answers": ["yes"] * 10, "answer_type": "yes/no"}),
        Item("2", {"answers": ["no"] * 3 + ["yes"] * 7, "answer_type": "yes/no"}),
        Item("3", {"answers": ["2"] * 10, "answer_type": "number"}),
        Item("4", {"answers": ["cat"] * 10, "answer_type": None}),
    ]
    answers = [Answer(text, ()) for text in ("Yes.", "No", "three", "A cat")]
    scores = vqa_accuracies(items, answers)
    assert scores.per_item == pytest.approx((1, 0.9, 0, 1)), "predictions are normalized before"
    assert scores.metrics == pytest.approx({"accuracy": 72.5, "accuracy, number": 0, "accuracy, yes/no": 95})
    assert next(iter(scores.metrics)) == "accuracy"
