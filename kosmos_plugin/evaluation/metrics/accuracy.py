"""Accuracy, and bootstrap intervals of means."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kosmos_plugin.evaluation.benchmark import Answer, Item, Scores

RESAMPLES = 1000


def accuracy(items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
    """Compute the share of predictions that equal the reference exactly."""
    right = [float(answer.prediction == item.reference) for item, answer in zip(items, answers, strict=True)]
    return Scores({"accuracy": percent(right)}, tuple(right))


def choice_accuracy(items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
    """Compute accuracy, and the accuracies by likelihood (acc) and by length-normalized likelihood (acc_norm)."""
    scores = accuracy(items, answers)
    summed = [answer.likeliest == item.reference for item, answer in zip(items, answers, strict=True)]
    by_length = [answer.likeliest_by_length == item.reference for item, answer in zip(items, answers, strict=True)]
    return replace(scores, metrics={**scores.metrics, "acc": percent(summed), "acc_norm": percent(by_length)})


def percent(values: Sequence[float]) -> float:
    """Compute the mean, in percent."""
    return 100 * float(np.mean(values))


def bootstrap_interval(values: Sequence[float], seed: int = 1) -> tuple[float, float]:
    """Compute the 95% interval of the mean, in percent: percentiles of the means of resampled values."""
    array, generator = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = [generator.choice(array, len(array)).mean() for _ in range(RESAMPLES)]
    low, high = 100 * np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
