"""VQAv2 and VizWiz: items read from their releases, prompts, and submission files."""

import json

import pytest

from kosmos_plugin.data.documents import Image
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.benchmarks.vqa import Question, VizWiz, VqaV2
from kosmos_plugin.evaluation.requests import Generate, prompt_text
from tests.evaluation.releases.vqa import write_vizwiz, write_vqav2

VAL_QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
VAL_ANNOTATIONS = "v2_mscoco_val2014_annotations.json"


@pytest.fixture
def vqav2(tmp_path):
    write_vqav2(tmp_path)
    return tmp_path


@pytest.fixture
def vizwiz(tmp_path):
    write_vizwiz(tmp_path)
    return tmp_path


def edit(path, change) -> None:
    """Apply `change` to the value of a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def answers(texts) -> list[Answer]:
    return [Answer(text, ()) for text in texts]


def test_items_of_vqav2(vqav2):
    items = VqaV2(vqav2, "val").items()
    assert [item.id for item in items] == ["9000", "9001", "25000", "25001", "41000", "41001"]
    assert items[1].question == "How many dogs are there?"
    assert items[1].image.name == str(vqav2 / "val2014/COCO_val2014_000000000009.jpg")
    assert items[1].image.read() == items[0].image.read() != items[2].image.read()
    [annotation] = [
        record
        for record in json.loads((vqav2 / VAL_ANNOTATIONS).read_text())["annotations"]
        if record["question_id"] == 9001
    ]
    people = [answer["answer"] for answer in annotation["answers"]]
    assert items[1].reference == {"answers": people, "answer_type": "number"} and people.count("2") == 6


def test_test_sets_of_vqav2_have_no_answers(vqav2):
    items = VqaV2(vqav2).items()
    assert VqaV2(vqav2).split == "test-dev"
    assert [item.id for item in items] == [item.id for item in VqaV2(vqav2, "test").items()][::2]
    assert all(item.reference is None for item in items)
    assert items[1].image.read() == (vqav2 / "test2015/COCO_test2015_000000000025.jpg").read_bytes()


def test_items_of_vizwiz(vizwiz):
    items = VizWiz(vizwiz, "val").items()
    assert [item.id for item in items] == [f"VizWiz_val_0000000{number}.jpg" for number in range(6)]
    assert items[3].question == "Is the house red?" and items[3].reference["answer_type"] == "yes/no"
    assert sorted(items[3].reference["answers"]) == sorted(["no"] * 6 + ["yes"] * 2 + ["unanswerable", "a cat"])
    assert items[3].image.read() == (vizwiz / "val/VizWiz_val_00000003.jpg").read_bytes()
    assert all(item.reference is None for item in VizWiz(vizwiz).items()) and VizWiz(vizwiz).split == "test"


def test_older_vizwiz_has_no_types_of_answers(vizwiz):
    edit(vizwiz / "Annotations/val.json", lambda records: [record.pop("answer_type") for record in records])
    benchmark = VizWiz(vizwiz, "val")
    items = benchmark.items()
    assert benchmark.score(items, answers(["yes"] * 6)).metrics.keys() == {"accuracy"}


def test_prompts(vqav2):
    benchmark = VqaV2(vqav2, "val")
    item, pool = benchmark.items()[2], benchmark.training_items()
    request = benchmark.request(item, [])
    assert request == Generate(request.prompt, num_beams=1, max_new_tokens=16)
    assert prompt_text(request.full_prompt) == "<image> Question: What is near the bird? Answer:"
    request = benchmark.request(item, benchmark.demonstrations(item, pool, 2, seed=1))
    assert prompt_text(request.full_prompt) == (
        "<image> Question: How many dogs are there? Answer: 3 "
        "<image> Question: Is the mountain red? Answer: yes "
        "<image> Question: What is near the bird? Answer:"
    )
    assert [segment for segment in request.full_prompt if isinstance(segment, Image)][-1] == item.image
    assert all("train2014" in image.name for image in request.full_prompt[:-2] if isinstance(image, Image))


def test_a_demonstration_has_the_answer_of_most_people_the_first_of_several():
    people = ["a bird", "Two cats", "a dog", "Two cats", "a dog"]
    question = Question("1", {"answers": people, "answer_type": None}, "What is it?", Image(bytes))
    assert prompt_text(question.demonstration) == "<image> Question: What is it? Answer: Two cats"


def test_scores(vizwiz):
    benchmark = VizWiz(vizwiz, "val")
    items = benchmark.items()
    right = ["Yes.", "Two", "The house", "no!", "3", "tree"]
    assert benchmark.score(items, answers(right)).metrics == {
        "accuracy": 100,
        "accuracy, number": 100,
        "accuracy, other": 100,
        "accuracy, yes/no": 100,
    }
    scores = benchmark.score(items, answers(["no", "3", "cat", "", "3", "tree"]))
    assert scores.per_item == pytest.approx((0.6, 0.6, 0.3, 0, 1, 1))


def test_submission_of_vqav2_answers_all_of_test(vqav2):
    benchmark = VqaV2(vqav2)
    items = benchmark.items()
    name, text = benchmark.submission(items, answers(["The red car.", "Two", "", "d", "e", "f"]))
    results = json.loads(text)
    assert name == "vqa_OpenEnded_mscoco_test-dev2015_kosmos_results.json"
    assert len(results) == 12
    assert results[:5] == [
        {"question_id": 9000, "answer": "red car"},
        {"question_id": 9001, "answer": ""},
        {"question_id": 25000, "answer": "2"},
        {"question_id": 25001, "answer": ""},
        {"question_id": 41000, "answer": ""},
    ]
    name, text = VqaV2(vqav2, "val").submission([], [])
    assert name == "vqa_OpenEnded_mscoco_val2014_kosmos_results.json" and len(json.loads(text)) == 6


def test_submission_of_vizwiz(vizwiz):
    benchmark = VizWiz(vizwiz)
    name, text = benchmark.submission(benchmark.items()[:2], answers(["The red car.", "Two"]))
    results = json.loads(text)
    assert name == "vizwiz_vqa_test_kosmos_results.json"
    assert results[:3] == [
        {"image": "VizWiz_test_00000000.jpg", "answer": "red car"},
        {"image": "VizWiz_test_00000001.jpg", "answer": "2"},
        {"image": "VizWiz_test_00000002.jpg", "answer": ""},
    ]
    assert len(results) == 6


def test_missing_files_are_named(vqav2):
    VqaV2(vqav2).check_files(few_shot=True)
    assert VqaV2(vqav2, "test").files(few_shot=False) == ["v2_OpenEnded_mscoco_test2015_questions.json", "test2015"]
    (vqav2 / VAL_ANNOTATIONS).unlink()
    (vqav2 / "v2_OpenEnded_mscoco_test2015_questions.json").unlink()
    with pytest.raises(UserError, match=f"{VAL_ANNOTATIONS} is not in .*visualqa.org/download"):
        VqaV2(vqav2, "val").check_files(few_shot=True)
    with pytest.raises(UserError, match=r"test2015_questions\.json is not in"):
        VqaV2(vqav2).check_files(few_shot=False)


def test_missing_files_of_vizwiz_are_named(vizwiz):
    (vizwiz / "Annotations/train.json").unlink()
    VizWiz(vizwiz).check_files(few_shot=False)
    with pytest.raises(UserError, match=r"Annotations/train.json is not in .*vizwiz.org"):
        VizWiz(vizwiz).check_files(few_shot=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.pop("questions"), ': "questions" must be of type list'),
        (lambda value: value["questions"][2].pop("question"), ', record 3: "question" must be of type str'),
        (lambda value: value["questions"][2].update(image_id="a9"), ', record 3: "image_id" must be a whole number'),
        (lambda value: value["questions"].append(7), ', record 7: "question_id" must be a whole number'),
        (lambda value: value["questions"][1].update(question_id=7), f", record 2: .* is not in {VAL_ANNOTATIONS}"),
    ],
)
def test_broken_questions_of_vqav2_are_named(vqav2, change, message):
    edit(vqav2 / VAL_QUESTIONS, change)
    with pytest.raises(UserError, match=f"{VAL_QUESTIONS}{message}"):
        VqaV2(vqav2, "val").items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("question_id"), '"question_id" must be a whole number'),
        (lambda record: record["answers"].clear(), "there is no answer"),
        (lambda record: record["answers"][3].pop("answer"), '"answer" must be of type str'),
    ],
)
def test_broken_annotations_of_vqav2_are_named(vqav2, change, message):
    edit(vqav2 / VAL_ANNOTATIONS, lambda value: change(value["annotations"][1]))
    with pytest.raises(UserError, match=f"{VAL_ANNOTATIONS}, record 2: {message}"):
        VqaV2(vqav2, "val").items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: records[4].pop("image"), 'record 5: "image" must be of type str'),
        (lambda records: records[4].pop("answers"), 'record 5: "answers" must be of type list'),
    ],
)
def test_broken_records_of_vizwiz_are_named(vizwiz, change, message):
    edit(vizwiz / "Annotations/val.json", change)
    with pytest.raises(UserError, match=f"val.json, {message}"):
        VizWiz(vizwiz, "val").items()
    (vizwiz / "Annotations/val.json").write_text("{}")
    with pytest.raises(UserError, match=r"val.json must have a list of questions"):
        VizWiz(vizwiz, "val").items()
