"""ROC AUC against its definition, its interval, and memes that could not be asked about."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.metrics import roc_auc as module
from kosmos_plugin.evaluation.metrics.roc_auc import roc_auc


@settings(deadline=None)  # scikit-learn is imported in the first
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=12))
def test_it_is_the_share_of_pairs_that_are_ranked_right(ranked):
    higher, lower = [[s for label, s in ranked if label == wanted] for wanted in (True, False)]
    if not higher or not lower:
        with pytest.raises(UserError, match="of both labels"):
            roc_auc(*zip(*ranked, strict=True))
        return
    pairs = [(one > other) + 0.5 * (one == other) for one in higher for other in lower]
    area, (low, high) = roc_auc(*zip(*ranked, strict=True))
    assert area == pytest.approx(100 * np.mean(pairs))
    assert 0 <= low <= high <= 100


def test_what_could_not_be_asked_is_ranked_wrong():
    assert roc_auc([True, False, True, False], [2.0, 1.0, None, 0.5])[0] == 50
    assert roc_auc([True, False, True, False], [2.0, 1.0, 3.0, None])[0] == 50
    assert roc_auc([True, False], [None, None])[0] == 0


def area_by_ranks(labels, scores):
    """The area from the ranks of the items with a true label, in percent."""
    positive = labels.sum()
    ranks = stats.rankdata(scores)[labels > 0].sum()
    return 100 * (ranks - positive * (positive + 1) / 2) / (positive * (len(labels) - positive))


def test_the_interval_is_scipys(monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 5000)
    generator = np.random.default_rng(0)
    labels = generator.random(150) < 0.4
    scores = (labels + 2 * generator.standard_normal(150)).round(1)
    area, interval = roc_auc(list(labels), list(scores))
    assert area == pytest.approx(area_by_ranks(labels, scores))
    bootstrap = stats.bootstrap(
        (labels, scores), area_by_ranks, paired=True, vectorized=False, n_resamples=5000, method="percentile", rng=1
    )
    assert interval == pytest.approx(tuple(bootstrap.confidence_interval), abs=0.7)
    assert interval == roc_auc(list(labels), list(scores))[1] != roc_auc(list(labels), list(scores), seed=2)[1]
