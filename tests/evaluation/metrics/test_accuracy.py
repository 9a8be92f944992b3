"""Accuracy against values computed by hand, and the bootstrap interval against scipy's."""

import numpy as np
import pytest
from scipy import stats

from kosmos_plugin.evaluation.benchmark import Answer, Item
from kosmos_plugin.evaluation.metrics import accuracy as module
from kosmos_plugin.evaluation.metrics.accuracy import accuracy, bootstrap_interval, choice_accuracy

ITEMS = [Item(str(number), reference) for number, reference in enumerate("abca")]


def test_accuracy_is_the_share_of_exact_matches():
    scores = accuracy(ITEMS, [Answer(prediction, ()) for prediction in ("a", "B", "c ", "a")])
    assert scores.metrics == {"accuracy": 50}
    assert scores.per_item == (1, 0, 0, 1)
    assert scores.interval is None


def test_choice_accuracy_by_likelihood_and_length_normalized():
    likeliest, by_length = "aaca", "bbba"
    answers = [
        Answer(one, (), likeliest=one, likeliest_by_length=other)
        for one, other in zip(likeliest, by_length, strict=True)
    ]
    scores = choice_accuracy(ITEMS, answers)
    assert scores.metrics == {"accuracy": 75, "acc": 75, "acc_norm": 50}
    assert scores.per_item == (1, 0, 1, 1)


def test_an_answer_that_could_not_be_asked_is_wrong():
    scores = choice_accuracy(ITEMS[:1], [Answer("", (), problem="too long")])
    assert scores.metrics == {"accuracy": 0, "acc": 0, "acc_norm": 0}


@pytest.mark.parametrize("values", [[1, 0, 0, 1, 1, 1, 0, 1] * 25, np.linspace(0, 1.5, 40), [0.25] * 10])
def test_the_interval_is_scipys(values, monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 4000)
    interval = bootstrap_interval(values)
    if len(set(values)) == 1:
        assert interval == (25, 25)
        return
    expected = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    deviation = 100 * np.std(values) / len(values) ** 0.5
    assert interval == pytest.approx((100 * expected.low, 100 * expected.high), abs=0.2 * deviation)
    assert interval == bootstrap_interval(values) != bootstrap_interval(values, seed=2)
