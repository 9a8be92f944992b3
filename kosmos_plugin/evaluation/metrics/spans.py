"""SQuAD's exact match (EM) and F1, for answers that are spans of a text.

Both compare lower-case words without punctuation and articles, as in the official script of SQuAD 2.0: if both answers
have no word, both metrics are 1; if only one has none, both are 0.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from kosmos_plugin.evaluation.benchmark import Answer, Item, Scores
from kosmos_plugin.evaluation.metrics.accuracy import percent

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def spans(items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
    """Compute EM, the headline, and F1. A reference is a list of right answers; the best match counts."""
    exact, overlap = _matches(items, answers)
    return Scores({"EM": percent(exact), "F1": percent(overlap)}, tuple(exact))


def word_f1(items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
    """Compute F1, the headline, and EM, as `spans`."""
    exact, overlap = _matches(items, answers)
    return Scores({"F1": percent(overlap), "EM": percent(exact)}, tuple(overlap))


def strict_match(items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
    """Compute the share of predictions that equal a right answer but for white space, the headline, and EM."""
    exact, _ = _matches(items, answers)
    same = [
        float(_one_spaced(answer.prediction) in map(_one_spaced, item.reference))
        for item, answer in zip(items, answers, strict=True)
    ]
    return Scores({"exact match": percent(same), "SQuAD's EM": percent(exact)}, tuple(same))


def _matches(items: Sequence[Item], answers: Sequence[Answer]) -> tuple[list[float], list[float]]:
    """Return (exact match, F1) of each answer with the reference that it matches best."""
    pairs = [(answer.prediction, item.reference) for item, answer in zip(items, answers, strict=True)]
    exact = [float(max(exact_match(prediction, right) for right in reference)) for prediction, reference in pairs]
    return exact, [max(f1(prediction, right) for right in reference) for prediction, reference in pairs]


def _one_spaced(text: str) -> str:
    return " ".join(text.split())


def exact_match(prediction: str, reference: str) -> bool:
    """Return whether both have the same words in the same order."""
    return words(prediction) == words(reference)


def f1(prediction: str, reference: str) -> float:
    """Compute the harmonic mean of precision (of the predicted words) and recall (of the reference's), from 0 to 1."""
    predicted, right = words(prediction), words(reference)
    if not predicted or not right:
        return float(predicted == right)
    common = (Counter(predicted) & Counter(right)).total()
    return 2 * common / (len(predicted) + len(right))


def words(text: str) -> list[str]:
    """Split an answer into the words that are compared."""
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()
