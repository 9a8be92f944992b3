"""Rendered SST-2: images by sentiment; a question, directly or after a rationale."""

import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.benchmarks.rendered_sst2 import RenderedSst2, RenderedSst2ChainOfThought
from kosmos_plugin.evaluation.requests import Choice, Choose, Generate, distinct_images, prompt_text
from tests.evaluation.releases.rendered_sst2 import write_rendered_sst2


@pytest.fixture
def folder(tmp_path):
    write_rendered_sst2(tmp_path)
    return tmp_path


def test_the_test_sets_pictures_are_the_items(folder):
    items = RenderedSst2(folder).items()
    assert [(item.id, item.reference) for item in items] == [
        ("negative/0.png", "negative"),
        ("negative/2.png", "negative"),
        ("negative/4.png", "negative"),
        ("positive/1.png", "positive"),
        ("positive/3.png", "positive"),
        ("positive/5.png", "positive"),
    ]
    assert [item.image.read() for item in items] == [(folder / "test" / item.id).read_bytes() for item in items]
    assert RenderedSst2(folder, "valid").items()[0].image.name == str(folder / "valid/negative/0.png")


def test_the_model_chooses_the_sentiment(folder):
    benchmark = RenderedSst2(folder)
    item = benchmark.items()[0]
    request = benchmark.request(item, [])
    assert {prompt_text(choice.prompt) for choice in request.choices} == {
        "<image> Question: what is the sentiment of the opinion? Answer:"
    }
    assert [(choice.continuation, choice.label) for choice in request.choices] == [
        (" negative", "negative"),
        (" positive", "positive"),
    ]
    assert distinct_images(request) == [item.image]
    assert not request.by_length


def test_a_chain_of_thought_first_describes_the_image(folder):
    benchmark = RenderedSst2ChainOfThought(folder)
    item = benchmark.items()[0]
    first = benchmark.request(item, [])
    assert isinstance(first, Generate) and first.num_beams == 1 and first.among is None
    assert prompt_text(first.prompt) == "<image> Introduce this picture in detail:"
    second = first.then("a dull film")
    assert isinstance(second, Choose)
    prompt = (item.image, second.choices[0].prompt[1])
    assert second.choices == (Choice(prompt, " negative", "negative"), Choice(prompt, " positive", "positive"))
    assert prompt_text(prompt) == "<image> a dull film Question: what is the sentiment of the opinion? Answer:"
    assert (
        prompt_text(first.then("").choices[0].prompt)
        == "<image> Question: what is the sentiment of the opinion? Answer:"
    )


def test_accuracy(folder):
    benchmark = RenderedSst2(folder)
    answers = [Answer("negative", (), likeliest="negative", likeliest_by_length="positive")] * 6
    assert benchmark.score(benchmark.items(), answers).metrics == {"accuracy": 50, "acc": 50, "acc_norm": 50}


def test_what_is_missing_is_named(folder):
    (folder / "test/negative").rename(folder / "test/neg")
    with pytest.raises(UserError, match=r"test/negative is not in .*rendered-sst2\.tgz"):
        RenderedSst2(folder).check_files(few_shot=False)
    RenderedSst2(folder, "valid").check_files(few_shot=False)
    with pytest.raises(UserError, match="has the splits test, valid, not 'dev'"):
        RenderedSst2(folder, "dev")
