"""The paper's figures fit each other: those of its tables and the differences that its text states."""

import re

import pytest

from kosmos_plugin.evaluation.benchmarks import BENCHMARKS, benchmark_class
from kosmos_plugin.paper.results import _REPORTED, Figures, reported


def test_figures_are_of_benchmarks_that_are_there_with_the_papers_shots():
    for benchmark, shots, _ in _REPORTED:
        assert shots in benchmark_class(benchmark).shots
    assert {benchmark for benchmark, _, _ in _REPORTED} == set(BENCHMARKS)


def test_every_figure_says_where_it_stands():
    for figures in _REPORTED.values():
        known = [figure for figure in vars(figures).values() if figure is not None]
        assert known
        for figure in known:
            assert re.fullmatch(r"§4\.\d\.\d|Table \d{1,2}", figure.where)
            assert 0 < figure.value < 100


def test_there_is_nothing_of_what_the_paper_did_not_measure():
    assert reported("coco", 3, "CIDEr") == reported("coco", 0, "accuracy") == Figures()


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
    figures = reported(benchmark, 0, metric)
    before = figures.untuned or figures.llm
    assert figures.kosmos_1.value - before.value == pytest.approx(gained)


def test_other_differences_that_the_text_states():
    def value(benchmark, metric="accuracy"):
        return reported(benchmark, 0, metric).kosmos_1.value

    assert value("rendered_sst2_cot") - value("rendered_sst2") == pytest.approx(5.8)  # §4.5.2
    assert value("websrc", "EM") - value("websrc_image", "EM") == pytest.approx(12.0)  # §4.4.2
    assert value("websrc", "F1") - value("websrc_image", "F1") == pytest.approx(20.7)
    raven = reported("raven_iq", 0, "accuracy")  # §4.2.2; one of six candidates is right
    assert round(raven.chance.value) == round(100 / 6)
    assert {round(figure.value - 100 / 6, 1) for figure in (raven.kosmos_1, raven.untuned)} == {5.3, 9.3}
