"""The interval of the difference between two models, or between two ways of training with several seeds of each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kosmos_plugin.errors import missing_package
from kosmos_plugin.evaluation.metrics.accuracy import RESAMPLES

NORMAL = 1.96  # the 97.5% quantile of the normal distribution


@dataclass(frozen=True)
class PairedScores:
    """The scores of both sides on the items of one task."""

    first: np.ndarray  # [seeds, items]
    second: np.ndarray  # [seeds, items], of the same items


def difference_interval(tasks: Sequence[PairedScores], seed: int = 1) -> tuple[float, float]:
    """Compute the 95% interval of the mean difference, second minus first, averaged over tasks, in percent.

    A hierarchical bootstrap: each resample draws seeds of both sides, which are the same for all tasks, then items of
    each task, which are the same for all seeds. With one seed on each side it is a paired bootstrap over the items.
    Bootstrap intervals of a handful of seeds are too narrow, so the deviation of the drawn seeds' mean is widened to
    what Student's t gives for that many.

    Args:
        tasks: The tasks, all with the same numbers of seeds.
        seed: Seed of the resampling.

    Raises:
        UserError: There are several seeds, and scipy is missing.
    """
    generator = np.random.default_rng(seed)
    counts = len(tasks[0].first), len(tasks[0].second)
    widening = _widening(counts)
    differences = []
    for _ in range(RESAMPLES):
        weights = [_weights(generator, count, factor) for count, factor in zip(counts, widening, strict=True)]
        means = []
        for task in tasks:
            items = task.first.shape[1]
            drawn = generator.integers(0, items, items)
            one, other = (scores[:, drawn].mean(1) for scores in (task.first, task.second))
            means.append(weights[1] @ other - weights[0] @ one)
        differences.append(np.mean(means))
    low, high = 100 * np.percentile(differences, (2.5, 97.5))
    return float(low), float(high)


def _weights(generator: np.random.Generator, count: int, factor: float) -> np.ndarray:
    """Draw `count` seeds with replacement; return the weight of each seed's mean."""
    if count == 1:
        return np.ones(1)
    even = np.full(count, 1 / count)
    return even + factor * (generator.multinomial(count, even) / count - even)


def _widening(counts: Sequence[int]) -> list[float]:
    """Return the factors by which the seeds' deviations are multiplied on each side."""
    freedom = sum(count - 1 for count in counts)
    if freedom == 0:
        return [1.0, 1.0]
    try:
        from scipy.stats import t
    except ModuleNotFoundError as error:
        raise missing_package("Comparing several seeds", error, "evaluation") from None
    quantile = float(t.ppf(0.975, freedom)) / NORMAL
    return [quantile * math.sqrt(count / (count - 1)) if count > 1 else 1.0 for count in counts]
