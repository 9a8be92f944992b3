"""EM and F1 against values computed by hand, and against torchmetrics on random answers."""

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kosmos_plugin.evaluation.benchmark import Answer, Item
from kosmos_plugin.evaluation.metrics.spans import exact_match, f1, spans, words


@pytest.mark.parametrize(
    ("prediction", "reference", "exact", "overlap"),
    [
        ("The Red House!", "red house", True, 1),
        ("red house", "house red", False, 1),
        ("a big red house", "red house", False, 0.8),
        ("red", "red red red", False, 0.5),
        ("190.7", '190.7 "', True, 1),
        ("1,907", "1907", True, 1),
        ("red-house", "red house", False, 0),
        ("yes", "no", False, 0),
        ("", "red", False, 0),
        ("the", "a!", True, 1),
        ("theatre", "atre", False, 0),
    ],
)
def test_answers(prediction, reference, exact, overlap):
    assert exact_match(prediction, reference) == exact
    assert f1(prediction, reference) == pytest.approx(overlap)


def test_the_best_of_several_references_counts():
    items = [Item("1", ["red house", "house"]), Item("2", ["yes"]), Item("3", ["a b c d"])]
    scores = spans(items, [Answer("the house", ()), Answer("no", ()), Answer("b", ())])
    assert scores.metrics == pytest.approx({"EM": 100 / 3, "F1": 100 * (1 + 0 + 2 * 1 * (1 / 3) / (4 / 3)) / 3})
    assert list(scores.metrics) == ["EM", "F1"]
    assert scores.per_item == (1, 0, 0)


ANSWERS = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(["the", "a", "An", "red", "Red", "red.", "it's", "x-y", "10", "\t", "é", "ﬁ", "—"])).map(
        " ".join
    ),
)


@settings(deadline=None)  # torchmetrics is imported in the first
@given(prediction=ANSWERS, references=st.lists(ANSWERS, min_size=1, max_size=3))
@example(prediction="İ the", references=["i̇"])
def test_scores_equal_torchmetrics(prediction, references):
    torchmetrics = pytest.importorskip("torchmetrics.functional.text")
    # torchmetrics follows SQuAD 1.1's script, which does not consider answers without words
    assume(words(prediction) and all(words(reference) for reference in references))
    target = {"answers": {"answer_start": [0] * len(references), "text": references}, "id": "1"}
    expected = torchmetrics.squad([{"prediction_text": prediction, "id": "1"}], [target])
    scores = spans([Item("1", references)], [Answer(prediction, ())])
    assert scores.metrics["EM"] == pytest.approx(float(expected["exact_match"]), abs=1e-4)
    assert scores.metrics["F1"] == pytest.approx(float(expected["f1"]), abs=1e-4)
