"""Raven IQ test: each candidate is shown after the flattened matrix, and the likeliest "Yes" is the answer."""

import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.answering import answer
from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.benchmarks.raven_iq import RavenIq
from kosmos_plugin.evaluation.requests import Image, distinct_images, prompt_text
from tests.evaluation.releases.raven_iq import write_raven_iq


@pytest.fixture
def folder(tmp_path):
    write_raven_iq(tmp_path, count=12)
    return tmp_path


def test_every_folder_is_an_item(folder):
    items = RavenIq(folder).items()
    assert [(item.id, item.reference) for item in items] == [(f"exp-{number}", "a") for number in range(1, 13)]
    assert [len(item.images) for item in items] == [4, 8, 3] * 4
    for item in items:
        assert [image.read() for image in item.images] == [
            (folder / item.id / f"query-{k}.png").read_bytes() for k in range(1, len(item.images) + 1)
        ]
        assert sorted(letter for letter, _ in item.candidates) == list("abcdef")
        for letter, image in item.candidates:
            assert image.read() == (folder / item.id / f"answer-{letter}.png").read_bytes()


def test_each_candidate_is_shown_after_the_matrix(folder):
    benchmark = RavenIq(folder)
    four, eight, three = benchmark.items()[:3]
    expected = {
        three.id: "Here are three images: <image> <image> <image> The following image is: <image> Is it correct?",
        four.id: "Here are four images: <image> <image> <image> <image> The following image is: <image> Is it correct?",
        eight.id: "Here are eight images: <image> <image> <image> <image> <image> <image> <image> <image> "
        "The following image is: <image> Is it correct?",
    }
    for item in (three, four, eight):
        request = benchmark.request(item, [])
        assert [choice.label for choice in request.choices] == [letter for letter, _ in item.candidates]
        for choice, (_, candidate) in zip(request.choices, item.candidates, strict=True):
            assert prompt_text(choice.prompt) == expected[item.id]
            images = [segment for segment in choice.prompt if isinstance(segment, Image)]
            assert images == [*item.images, candidate]
            assert choice.continuation == " Yes"
        assert len(distinct_images(request)) == len(item.images) + 6


class Undecided:
    """A responder that finds all choices equally likely."""

    def problem(self, request):
        return ""

    def score(self, requests):
        return [[-1.0] * len(request.choices) for request in requests]


def test_equally_likely_candidates_are_not_always_right(folder):
    benchmark = RavenIq(folder)
    items = benchmark.items()
    answers = answer(Undecided(), [benchmark.request(item, []) for item in items])
    assert len({answer.prediction for answer in answers}) > 2
    assert benchmark.score(items, answers).metrics["accuracy"] < 50
    again = answer(Undecided(), [benchmark.request(item, []) for item in benchmark.items()])
    assert [answer.prediction for answer in again] == [answer.prediction for answer in answers], "the order is fixed"


def test_accuracy(folder):
    benchmark = RavenIq(folder)
    answers = [Answer("a", ())] * 3 + [Answer("b", ())] * 9
    assert benchmark.score(benchmark.items(), answers).metrics == {"accuracy": 25}


def test_what_is_missing_is_named(folder):
    (folder / "exp-2/answer-c.png").unlink()
    with pytest.raises(UserError, match=r"exp-2 has no answer-c\.png"):
        RavenIq(folder).items()
    (folder / "exp-1/query-4.png").rename(folder / "exp-1/query-5.png")
    with pytest.raises(UserError, match=r"exp-1 has no query-4\.png"):
        RavenIq(folder).items()
    (folder / "exp-1/query-1.png").unlink()
    (folder / "exp-1/query-2.png").unlink()
    with pytest.raises(UserError, match=r"exp-1 has 2 query images.* not three, four or eight"):
        RavenIq(folder).items()
    with pytest.raises(UserError, match=r"exp-1 is not in .*aka\.ms/kosmos-iq50"):
        RavenIq(folder / "nowhere").check_files(few_shot=False)
