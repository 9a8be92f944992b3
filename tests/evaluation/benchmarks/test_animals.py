"""Pairs of animals: the prompt has their names or their descriptions, then the question."""

import json

import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.benchmarks.animals import Animals, AnimalsDescriptions
from kosmos_plugin.evaluation.requests import Generate, distinct_images, prompt_text
from tests.evaluation.releases.animals import write_animals


@pytest.fixture
def folder(tmp_path):
    write_animals(tmp_path, count=8)
    return tmp_path


def test_the_images_of_each_class_are_the_items(folder):
    (folder / "red bird/notes.txt").write_text("no image")
    items = Animals(folder).items()
    assert [(item.id, item.reference) for item in items] == [
        ("red bird/0.png", "red bird"),
        ("red bird/6.png", "red bird"),
        ("Blue Bird/1.png", "Blue Bird"),
        ("Blue Bird/7.png", "Blue Bird"),
        ("old cat/2.png", "old cat"),
        ("new cat/3.png", "new cat"),
        ("small dog/4.png", "small dog"),
        ("large dog/5.png", "large dog"),
    ]
    assert [item.image.read() for item in items] == [(folder / item.id).read_bytes() for item in items]


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [
        (
            Animals,
            "<image> red bird, Blue Bird. Question: what is the name of the bird in the picture? Answer:",
        ),
        (
            AnimalsDescriptions,
            "<image> Description of red bird: it is red. Description of Blue Bird: it is blue. "
            "Question: what is the name of the bird in the picture? Answer:",
        ),
    ],
)
def test_both_animals_are_in_every_prompt_of_the_pair(folder, kind, prompt):
    entries = json.loads((folder / "animals.json").read_text())
    for animal, color in zip(entries[0]["classes"], ("red", "blue"), strict=True):
        animal["description"] = f"it is {color}."
    (folder / "animals.json").write_text(json.dumps(entries))
    benchmark = kind(folder)
    for item in benchmark.items()[:4]:
        request = benchmark.request(item, [])
        assert prompt_text(request.prompt) == prompt
        assert distinct_images(request) == [item.image]
        assert request == Generate(request.prompt, num_beams=1)


def test_predictions_are_compared_ignoring_case(folder):
    benchmark = Animals(folder)
    predictions = ["Red Bird", "bird", "blue bird", "red bird", "old cat", "the new cat", "SMALL DOG", "large dog."]
    scores = benchmark.score(benchmark.items(), [Answer(prediction, ()) for prediction in predictions])
    assert scores.metrics == {"accuracy": 50}
    assert scores.per_item == (1, 0, 1, 0, 1, 0, 1, 0)


def test_what_is_missing_is_named(folder):
    (folder / "new cat").rename(folder / "newcat")
    with pytest.raises(UserError, match="new cat is not in"):
        Animals(folder).check_files(few_shot=False)
    (folder / "animals.json").unlink()
    with pytest.raises(UserError, match=r"animals\.json is not in .* make your own: animals\.json, a list of"):
        Animals(folder).check_files(few_shot=False)


TWO = [{"name": "old cat", "description": "old"}, {"name": "new cat", "description": "new"}]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"category": "cat", "classes": TWO[:1]}, "has 1 classes, not two"),
        (
            {"category": "cat", "classes": [TWO[0], {"name": "new cat"}]},
            ': "description" must be of type str; it is None',
        ),
        ({"classes": TWO}, ': "category" must be of type str; it is None'),
        (["cat"], ': "category" must be of type str; it is None'),
    ],
)
def test_a_broken_entry_is_named(folder, entry, message):
    path = folder / "animals.json"
    path.write_text(json.dumps([json.loads(path.read_text())[0], entry]))
    with pytest.raises(UserError, match=rf"animals\.json, entry 2.*{message}"):
        Animals(folder).items()
    path.write_text("{}")
    with pytest.raises(UserError, match=r"animals\.json is not a list of"):
        Animals(folder).items()
