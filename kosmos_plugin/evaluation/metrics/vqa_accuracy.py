"""The accuracy of the VQA challenge (Antol et al., 2015): how many of ten people gave the model's answer.

An answer that m of nine people gave counts min(1, m/3). It is compared with each nine of the ten, and the mean counts.

As in the official code (github.com/GT-Vision-Lab/VQA, vqaEval.py), answers are normalized only where the ten differ:
where they agree, a prediction must be theirs to the letter, so that "Yes." is wrong if all said "yes". And as is usual
for generated text that goes to the challenge's server (OpenFlamingo, LLaVA), predictions are normalized before that. So
what is measured here is what the official code says of the file that would be submitted.

VizWiz is measured in the same way (§4.1.1). Its own code normalizes predictions always and the people's answers never.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

from kosmos_plugin.evaluation.benchmark import Answer, Item, Scores
from kosmos_plugin.evaluation.metrics.accuracy import percent

NUMBERS = "zero one two three four five six seven eight nine ten".split()
DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS)}}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d")
FULL_STOP = re.compile(r"\.(?!\d)")  # but for decimal points
MOST_FULL_STOPS = 32  # that are removed: the official code has re.UNICODE where the number belongs

# Words that get back an apostrophe, if just one is missing; two are not noticed, nor are "lets" and "shes".
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in CONTRACTED
    for place, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}  # the official code has this one the wrong way round


def vqa_accuracies(items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
    """The accuracy over all questions, and over those of each type of answer that the release names.

    A reference is {"answers": the people's answers, "answer_type": a word or None}.
    """
    values = [
        vqa_accuracy(normalize(answer.prediction), item.reference["answers"])
        for item, answer in zip(items, answers, strict=True)
    ]
    of_types: dict[str, list[float]] = defaultdict(list)
    for item, value in zip(items, values, strict=True):
        if item.reference["answer_type"] is not None:
            of_types[item.reference["answer_type"]].append(value)
    metrics = {"accuracy": percent(values)}
    metrics |= {f"accuracy, {answer_type}": percent(of_types[answer_type]) for answer_type in sorted(of_types)}
    return Scores(metrics, tuple(values))


def vqa_accuracy(prediction: str, people: Sequence[str]) -> float:
    """What the official code gives one prediction, 0 to 1."""
    prediction, people = _on_one_line(prediction), [_on_one_line(answer) for answer in people]
    if len(set(people)) > 1:
        prediction, people = normalize(prediction), [normalize(answer) for answer in people]
    same = people.count(prediction)
    without_one = [same - (answer == prediction) for answer in people]
    return sum(min(1, count / 3) for count in without_one) / len(people)


def normalize(answer: str) -> str:
    """Lower case; no punctuation, articles and full stops; digits for the words up to ten; apostrophes of contractions.

    A punctuation mark becomes a space; if it stands beside one somewhere in the answer, or if there is a comma between
    digits ("1,000"), nothing.
    """
    answer = _on_one_line(answer)
    has_number = COMMA_IN_NUMBER.search(answer) is not None
    replacements = {
        mark: "" if has_number or f"{mark} " in answer or f" {mark}" in answer else " " for mark in PUNCTUATION
    }
    answer = FULL_STOP.sub("", answer.translate(str.maketrans(replacements)), count=MOST_FULL_STOPS)
    words = [DIGITS.get(word, word) for word in answer.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _on_one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
