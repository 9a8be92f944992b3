"""The reported values are consistent: the tables agree with the differences stated in the text."""

import re

import pytest

from kosmos_plugin.evaluation.benchmarks import BENCHMARKS, benchmark_class
from kosmos_plugin.paper.results import _REPORTED, Reported, reported


def test_reported_values_belong_to_known_benchmarks_with_the_papers_shots():
    for benchmark, shots, _ in _REPORTED:
        assert shots in benchmark_class(benchmark).shots
    assert {benchmark for benchmark, _, _ in _REPORTED} == set(BENCHMARKS)


def test_every_value_names_its_table_or_section():
    for paper in _REPORTED.values():
        known = [value for value in vars(paper).values() if value is not None]
        assert known
        for value in known:
            assert re.fullmatch(r"§4\.\d\.\d|Table \d{1,2}", value.where)
            assert 0 < value.value < 100


def test_nothing_is_reported_for_what_the_paper_did_not_measure():
    assert reported("coco", 3, "CIDEr") == reported("coco", 0, "accuracy") == Reported()


@pytest.mark.parametrize(
    ("benchmark", "metric", "gained"),
    [
        ("flickr30k", "CIDEr", 1.9),  # §4.9.1
        ("vqav2", "accuracy", 4.3),
        ("vizwiz", "accuracy", 1.3),
        ("relative_size", "accuracy", 1.5),  # §4.9.2
        ("memory_color", "accuracy", 14.7),
        ("color_terms", "accuracy", 9.7),
    ],
)
def test_gains_over_the_untuned_model_and_the_baseline(benchmark, metric, gained):
    paper = reported(benchmark, 0, metric)
    before = paper.untuned or paper.llm
    assert paper.kosmos_1.value - before.value == pytest.approx(gained)


def test_other_differences_that_the_text_states():
    def value(benchmark, metric="accuracy"):
        return reported(benchmark, 0, metric).kosmos_1.value

    assert value("rendered_sst2_cot") - value("rendered_sst2") == pytest.approx(5.8)  # §4.5.2
    assert value("websrc", "EM") - value("websrc_image", "EM") == pytest.approx(12.0)  # §4.4.2
    assert value("websrc", "F1") - value("websrc_image", "F1") == pytest.approx(20.7)
    raven = reported("raven_iq", 0, "accuracy")  # §4.2.2; one of six candidates is right
    assert round(raven.chance.value) == round(100 / 6)
    assert {round(value.value - 100 / 6, 1) for value in (raven.kosmos_1, raven.untuned)} == {5.3, 9.3}
