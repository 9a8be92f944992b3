"""HatefulMemes: the prompt has only the image; "yes" and "no" are ranked; the metric is ROC AUC."""

import json

import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.benchmarks.hateful_memes import HatefulMemes
from kosmos_plugin.evaluation.requests import distinct_images, prompt_text
from tests.evaluation.releases.hateful_memes import write_hateful_memes


@pytest.fixture
def folder(tmp_path):
    write_hateful_memes(tmp_path)
    return tmp_path


def answer(yes: float, no: float) -> Answer:
    prediction = "yes" if yes > no else "no"
    return Answer(prediction, (), labels=("yes", "no"), log_probabilities=(yes, no))


def test_dev_seen_is_measured_first(folder):
    items = HatefulMemes(folder).items()
    assert [(item.id, item.reference) for item in items] == [
        ("01241", "no"),
        ("01242", "yes"),
        ("01243", "no"),
        ("01244", "yes"),
        ("01245", "no"),
        ("01246", "yes"),
    ]
    assert [item.image.read() for item in items] == [(folder / f"img/{item.id}.png").read_bytes() for item in items]
    assert HatefulMemes(folder, "dev_unseen").items()[0].id == "01247"


def test_the_model_sees_only_the_image(folder):
    benchmark = HatefulMemes(folder)
    item = benchmark.items()[0]
    request = benchmark.request(item, [])
    assert {prompt_text(choice.prompt) for choice in request.choices} == {
        "<image> Question: does this picture contain real hate speech? Answer:"
    }
    assert [(choice.continuation, choice.label) for choice in request.choices] == [(" yes", "yes"), (" no", "no")]
    assert distinct_images(request) == [item.image]


def test_memes_are_ranked_by_the_ratio_of_probabilities(folder):
    benchmark = HatefulMemes(folder)
    # no, yes, no, yes, no, yes; by the difference of log-probabilities -3, -2, -1, 1, 2, 3
    answers = [answer(-4, -1), answer(-3, -1), answer(-2, -1), answer(-5, -6), answer(-1, -3), answer(-2, -5)]
    scores = benchmark.score(benchmark.items(), answers)
    assert scores.metrics == pytest.approx({"ROC AUC": 100 * 6 / 9, "accuracy": 100 * 4 / 6})
    assert list(scores.metrics) == ["ROC AUC", "accuracy"]
    assert scores.per_item is None
    assert scores.interval[0] < scores.metrics["ROC AUC"] < scores.interval[1]


def test_a_meme_that_could_not_be_asked_about_is_ranked_wrong(folder):
    benchmark = HatefulMemes(folder)
    answers = [answer(-2, -1), answer(-1, -2)] * 2 + [answer(-2, -1), Answer("", (), problem="too long")]
    scores = benchmark.score(benchmark.items(), answers)
    assert scores.metrics == pytest.approx({"ROC AUC": 100 * 2 / 3, "accuracy": 100 * 5 / 6})


def rewrite(path, **changes):
    """Change the second record; None removes a field."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1] = {name: value for name, value in {**records[1], **changes}.items() if value is not None}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_test_splits_may_have_no_labels(folder):
    rewrite(folder / "test_seen.jsonl", label=None)
    assert [item.reference for item in HatefulMemes(folder, "test_seen").items()][:3] == ["no", None, "no"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, 'record 2: "label" must be a whole number; it is None'),
        ({"label": 2}, 'record 2: "label" must be 0 or 1; it is 2'),
        ({"img": None}, 'record 2: "img" must be of type str; it is None'),
        ({"id": None}, 'record 2: "id" must be a number or a text; it is None'),
    ],
)
def test_a_broken_record_is_named(folder, changes, message):
    rewrite(folder / "dev_seen.jsonl", **changes)
    with pytest.raises(UserError, match=rf"dev_seen\.jsonl, {message}"):
        HatefulMemes(folder).items()


def test_what_is_missing_is_named(folder):
    (folder / "img/01241.png").unlink()
    with pytest.raises(UserError, match=r"img/01241\.png cannot be read"):
        HatefulMemes(folder).items()[0].image.read()
    (folder / "dev_seen.jsonl").unlink()
    with pytest.raises(UserError, match=r"dev_seen\.jsonl is not in .*hateful_memes\.zip"):
        HatefulMemes(folder).check_files(few_shot=False)
