"""The area under the receiver operating characteristic curve (ROC AUC), by scikit-learn."""

import logging
from collections.abc import Sequence

import numpy as np

from kosmos_plugin.errors import UserError, missing_package
from kosmos_plugin.evaluation.benchmark import Answer, Item, Scores
from kosmos_plugin.evaluation.metrics.accuracy import RESAMPLES, accuracy

logger = logging.getLogger(__name__)


def two_choice_roc_auc(items: Sequence[Item], answers: Sequence[Answer], positive: str, negative: str) -> Scores:
    """Compute ROC AUC of the choices' log-odds, and accuracy; if all items have the same label, only accuracy.

    Args:
        items: The items; a reference is one of the two labels.
        answers: Answers to requests with these two choices.
        positive: Label of the choice whose probability ranks the items.
        negative: Label of the other choice.
    """
    right = accuracy(items, answers)
    if len({item.reference for item in items}) == 1:  # with a small --limit
        logger.warning("ROC AUC is left out: all %d items have the label %r.", len(items), items[0].reference)
        return right
    ranked = [log_odds(answer, positive, negative) for answer in answers]
    area, interval = roc_auc([item.reference == positive for item in items], ranked)
    return Scores({"ROC AUC": area, **right.metrics}, None, interval)


def log_odds(answer: Answer, positive: str, negative: str) -> float | None:
    """Return log P(positive) − log P(negative); None if the item was too long for the model."""
    if answer.problem:
        return None
    log_probability = dict(zip(answer.labels, answer.log_probabilities, strict=True))
    return log_probability[positive] - log_probability[negative]


def roc_auc(labels: Sequence[bool], scores: Sequence[float | None], seed: int = 1) -> tuple[float, tuple[float, float]]:
    """Compute ROC AUC and its 95% bootstrap interval, in percent.

    Args:
        labels: Whether each item is positive.
        scores: The higher, the likelier positive. None (an item that could not be asked) gets the worst rank.
        seed: Seed of the resampling. Samples without both labels, which have no area, are dropped.

    Returns:
        (area, (low, high)).

    Raises:
        UserError: scikit-learn is missing, or all labels are the same.
    """
    check_scikit_learn()
    from sklearn.metrics import roc_auc_score

    if len(set(labels)) < 2:
        raise UserError(f"ROC AUC needs items of both labels; all {len(labels):,} have the same: take more of them.")
    known = [score for score in scores if score is not None]
    lowest, highest = min(known, default=0.0) - 1, max(known, default=0.0) + 1
    worst = [lowest if label else highest for label in labels]
    filled = np.asarray([wrong if score is None else score for score, wrong in zip(scores, worst, strict=True)])
    truth = np.asarray(labels)
    # The area is the share of pairs that are ranked right. An item drawn twice has twice the pairs.
    higher, lower = filled[truth][:, None], filled[~truth]
    right = (higher > lower) + 0.5 * (higher == lower)
    drawn = np.random.default_rng(seed).multinomial(len(truth), np.full(len(truth), 1 / len(truth)), RESAMPLES)
    pairs = drawn[:, truth].sum(1) * drawn[:, ~truth].sum(1)
    areas = (drawn[:, truth] @ right * drawn[:, ~truth]).sum(1)[pairs > 0] / pairs[pairs > 0]
    low, high = 100 * np.percentile(areas, (2.5, 97.5))
    return 100 * float(roc_auc_score(truth, filled)), (float(low), float(high))


def check_scikit_learn() -> None:
    """Raise UserError if scikit-learn is not installed."""
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_package("ROC AUC", error, "evaluation") from None
