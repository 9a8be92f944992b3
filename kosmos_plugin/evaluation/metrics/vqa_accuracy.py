"""The accuracy of the VQA challenge (Antol et al., 2015): how many of ten people gave the model's answer.

An answer that m of nine people gave scores min(1, m/3). The score is averaged over all choices of nine of the ten.

As in the official code (github.com/GT-Vision-Lab/VQA, vqaEval.py), answers are normalized only if the ten differ; if
they agree, a prediction must equal theirs exactly, so that "Yes." is wrong if all said "yes". Predictions are
normalized before that, as is usual for generated text that is submitted to the server (OpenFlamingo, LLaVA). So the
value here is the official code's for the file that would be submitted.

VizWiz is measured in the same way (§4.1.1). Its own code always normalizes predictions and never people's answers.
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
FULL_STOP = re.compile(r"\.(?!\d)")  # but not decimal points
MAX_FULL_STOPS = 32  # removed per answer: the official code passes re.UNICODE (32) as the count, by mistake

# Words that get back a single missing apostrophe; not two, and not in "lets" and "shes".
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
    word[:index] + word[index + 1 :]: word
    for word in CONTRACTED
    for index, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}  # the official code has this one reversed


def vqa_accuracies(items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
    """Compute the accuracy over all questions, and over those of each answer type.

    Args:
        items: The questions; a reference is {"answers": the people's answers, "answer_type": a word or None}.
        answers: The answer to each question.
    """
    values = [
        vqa_accuracy(normalize(answer.prediction), item.reference["answers"])
        for item, answer in zip(items, answers, strict=True)
    ]
    by_type: dict[str, list[float]] = defaultdict(list)
    for item, value in zip(items, values, strict=True):
        if item.reference["answer_type"] is not None:
            by_type[item.reference["answer_type"]].append(value)
    metrics = {"accuracy": percent(values)}
    metrics |= {f"accuracy, {answer_type}": percent(by_type[answer_type]) for answer_type in sorted(by_type)}
    return Scores(metrics, tuple(values))


def vqa_accuracy(prediction: str, people: Sequence[str]) -> float:
    """Score a prediction as the official code does, from 0 to 1."""
    prediction, people = _on_one_line(prediction), [_on_one_line(answer) for answer in people]
    if len(set(people)) > 1:
        prediction, people = normalize(prediction), [normalize(answer) for answer in people]
    same = people.count(prediction)
    without_one = [same - (answer == prediction) for answer in people]
    return sum(min(1, count / 3) for count in without_one) / len(people)


def normalize(answer: str) -> str:
    """Normalize an answer as the official code does.

    The result is in lower case, without punctuation, articles and full stops, with digits for the words up to ten, and
    with the apostrophes of contractions. A punctuation mark becomes a space; but it is removed if it is next to a space
    anywhere in the answer, or if the answer has a comma between digits ("1,000").
    """
    answer = _on_one_line(answer)
    has_number = COMMA_IN_NUMBER.search(answer) is not None
    replacements: dict[str, str | int | None] = {
        mark: "" if has_number or f"{mark} " in answer or f" {mark}" in answer else " " for mark in PUNCTUATION
    }
    answer = FULL_STOP.sub("", answer.translate(str.maketrans(replacements)), count=MAX_FULL_STOPS)
    words = [DIGITS.get(word, word) for word in answer.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _on_one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
