"""The language tasks (§4.8): exact prompts, items as in the release, and errors that name what is broken."""

import csv
import json

import pytest

from kosmos_plugin.data.documents import Text
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.benchmarks import benchmark_class
from kosmos_plugin.evaluation.benchmarks.hellaswag import HellaSwag
from kosmos_plugin.evaluation.benchmarks.piqa import Piqa
from kosmos_plugin.evaluation.benchmarks.storycloze import StoryCloze
from kosmos_plugin.evaluation.benchmarks.superglue import CB, COPA, BoolQ
from kosmos_plugin.evaluation.benchmarks.winogrande import Winogrande
from kosmos_plugin.evaluation.requests import Choose, prompt_text
from tests import tiny
from tests.evaluation.releases import write_release
from tests.evaluation.releases.language import write_json_lines

TASKS = ["storycloze", "hellaswag", "winograd", "winogrande", "piqa", "boolq", "cb", "copa"]


def asked(benchmark, demonstrations: int = 0) -> dict[str, tuple[str, str]]:
    """The request for the first item, after demonstrations: label → (full prompt, continuation)."""
    pool = benchmark.training_items()[:demonstrations] if demonstrations else []
    request = benchmark.request(benchmark.items()[0], pool)
    return {choice.label: (prompt_text(request.full_prompt(choice)), choice.continuation) for choice in request.choices}


def write_table(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def test_storycloze(tmp_path):
    header = [
        *("InputStoryid", "InputSentence1", "InputSentence2", "InputSentence3", "InputSentence4"),
        *("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"),
    ]
    story = [
        "a-1",
        "Ann was hungry.",
        "She had bread.",
        "It was old, and dry.",
        "She ate it.",
        "It was bad.",
        "Hm.",
        "1",
    ]
    other = ["b-2", "It rained.", "Bob had no hat.", "He ran.", "He got home.", "He was dry.", "He was wet.", "2"]
    write_table(tmp_path / "cloze_test_test__spring2016 - cloze_test_ALL_test.csv", [header, story])
    write_table(tmp_path / "cloze_test_val__spring2016 - cloze_test_ALL_val.csv", [header, other])
    benchmark = StoryCloze(tmp_path)
    prompt = "Ann was hungry. She had bread. It was old, and dry. She ate it."
    assert asked(benchmark) == {"1": (prompt, " It was bad."), "2": (prompt, " Hm.")}
    prompt = f"It rained. Bob had no hat. He ran. He got home. He was wet.\n\n{prompt}"
    assert asked(benchmark, 1) == {"1": (prompt, " It was bad."), "2": (prompt, " Hm.")}
    assert benchmark.items()[0].reference == "1"
    assert not benchmark.by_length


def test_hellaswag(tmp_path):
    record = {
        "activity_label": "Roof shingle removal",
        "ctx_a": "A man is sitting on a roof.",
        "ctx_b": "he and Bob",
        "endings": ["is cold.", "are cold.", "sing.", "go home."],
        "label": 3,
    }
    how_to = {
        "activity_label": "Food",
        "ctx_a": "[header] How to bake [title] Take bread [substeps] Wait. [step] Then, ",
        "ctx_b": "",
        "endings": ["[step] Eat it.", "Burn. [title] It.", "x", "y"],
        "label": 1,
    }
    write_json_lines(tmp_path / "hellaswag_val.jsonl", [record])
    write_json_lines(tmp_path / "hellaswag_train.jsonl", [how_to])
    benchmark = HellaSwag(tmp_path)
    prompt = "Roof shingle removal: A man is sitting on a roof. He and bob"
    assert asked(benchmark) == {
        "0": (prompt, " is cold."),
        "1": (prompt, " are cold."),
        "2": (prompt, " sing."),
        "3": (prompt, " go home."),
    }
    demonstration = "Food: How to bake. Take bread Wait. Then, Burn.. It."
    assert asked(benchmark, 1)["0"][0] == f"{demonstration}\n\n{prompt}"
    assert benchmark.training_items()[0].options[0].continuation == " Eat it.", "a space is left, as in the harness"
    assert benchmark.items()[0].reference == "3"
    assert benchmark.by_length


def test_winogrande(tmp_path):
    sentence = "Ann paid Bea, since _ had driven."
    records = [{"qID": "X-1", "sentence": sentence, "option1": "Ann", "option2": "Bea", "answer": "2"}]
    other = {"sentence": "The cup fits in the bag as the _ is big.", "option1": "cup", "option2": "bag", "answer": "2"}
    write_json_lines(tmp_path / "dev.jsonl", records)
    write_json_lines(tmp_path / "train_xl.jsonl", [other])
    benchmark = Winogrande(tmp_path)
    assert asked(benchmark) == {
        "1": ("Ann paid Bea, since Ann", " had driven."),
        "2": ("Ann paid Bea, since Bea", " had driven."),
    }
    assert asked(benchmark, 1) == {
        "1": ("The cup fits in the bag as the bag is big.\n\nAnn paid Bea, since Ann", " had driven."),
        "2": ("The cup fits in the bag as the bag is big.\n\nAnn paid Bea, since Bea", " had driven."),
    }
    assert benchmark.items()[0].reference == "2"


def test_piqa(tmp_path):
    write_json_lines(tmp_path / "valid.jsonl", [{"goal": "eat soup", "sol1": "Use a fork.", "sol2": "Use a spoon."}])
    write_json_lines(tmp_path / "train.jsonl", [{"goal": "Cut bread", "sol1": "With a knife", "sol2": "With milk"}])
    (tmp_path / "valid-labels.lst").write_text("1\n")
    (tmp_path / "train-labels.lst").write_text("0\n")
    benchmark = Piqa(tmp_path)
    prompt = "Question: eat soup\nAnswer:"
    assert asked(benchmark) == {"0": (prompt, " Use a fork."), "1": (prompt, " Use a spoon.")}
    prompt = f"Question: Cut bread\nAnswer: With a knife\n\n{prompt}"
    assert asked(benchmark, 1) == {"0": (prompt, " Use a fork."), "1": (prompt, " Use a spoon.")}
    assert benchmark.items()[0].reference == "1"
    assert benchmark.by_length
    assert benchmark.files(few_shot=True) == ["valid.jsonl", "valid-labels.lst", "train.jsonl", "train-labels.lst"]
    (tmp_path / "valid-labels.lst").write_text("1\n0\n")
    with pytest.raises(UserError, match=r"valid-labels\.lst has 2 labels, and valid\.jsonl has 1 records"):
        benchmark.items()


def write_superglue_task(folder, task, record, other):
    (folder / task).mkdir()
    write_json_lines(folder / task / "val.jsonl", [record])
    write_json_lines(folder / task / "train.jsonl", [other])


def test_boolq(tmp_path):
    record = {"question": "is snow white", "passage": "Snow is white.", "label": True, "idx": 0}
    other = {"question": "is ice hot", "passage": "Ice -- or water.", "label": False, "idx": 0}
    write_superglue_task(tmp_path, "BoolQ", record, other)
    benchmark = BoolQ(tmp_path)
    prompt = "Snow is white.\nQuestion: is snow white?\nAnswer:"
    assert asked(benchmark) == {"no": (prompt, " no"), "yes": (prompt, " yes")}
    prompt = f"Ice -- or water.\nQuestion: is ice hot?\nAnswer: no\n\n{prompt}"
    assert asked(benchmark, 1) == {"no": (prompt, " no"), "yes": (prompt, " yes")}
    assert benchmark.items()[0].reference == "yes"


def test_cb(tmp_path):
    record = {"premise": "He said it rains.", "hypothesis": "it rains", "label": "neutral", "idx": 0}
    other = {"premise": "It rains.", "hypothesis": "it is dry", "label": "contradiction", "idx": 0}
    write_superglue_task(tmp_path, "CB", record, other)
    benchmark = CB(tmp_path)
    prompt = "He said it rains.\nQuestion: it rains. True, False, or Neither?\nAnswer:"
    assert asked(benchmark) == {
        "entailment": (prompt, " True"),
        "contradiction": (prompt, " False"),
        "neutral": (prompt, " Neither"),
    }
    demonstration = "It rains.\nQuestion: it is dry. True, False, or Neither?\nAnswer: False"
    assert asked(benchmark, 1)["neutral"] == (f"{demonstration}\n\n{prompt}", " Neither")
    assert benchmark.items()[0].reference == "neutral"


def test_copa(tmp_path):
    record = {"premise": "I ran.", "choice1": "I was late.", "choice2": "It was warm.", "question": "cause", "label": 0}
    other = {"premise": "It rained. ", "choice1": "I sang.", "choice2": "I got wet.", "question": "effect", "label": 1}
    write_superglue_task(tmp_path, "COPA", record, other)
    benchmark = COPA(tmp_path)
    assert asked(benchmark) == {"0": ("I ran because", " i was late."), "1": ("I ran because", " it was warm.")}
    prompt = "It rained therefore i got wet.\n\nI ran because"
    assert asked(benchmark, 1) == {"0": (prompt, " i was late."), "1": (prompt, " it was warm.")}
    assert benchmark.items()[0].reference == "0"


@pytest.fixture(params=TASKS)
def task(request, tmp_path):
    kind = benchmark_class(request.param)
    write_release(tmp_path, kind.release)
    return kind(tmp_path / kind.release)


def test_a_miniature_release_is_read(task):
    items = task.items()
    assert [item.id for item in items] == [f"{task.split}/{number}" for number in range(1, 7)]
    labels = [option.label for option in items[0].options]
    assert {item.reference for item in items} == set(labels), "each label is the right one of some item"
    assert len(task.training_items()) >= 5
    task.check_files(few_shot=True)


def test_demonstrations_are_one_text_with_the_question(task):
    item = task.items()[0]
    drawn = task.demonstrations(item, task.training_items(), 4, seed=1)
    request = task.request(item, drawn)
    assert isinstance(request, Choose)
    for choice, option in zip(request.choices, item.options, strict=True):
        (text,) = request.full_prompt(choice)
        assert isinstance(text, Text)
        assert text.text == "\n\n".join([*(demonstration.solved for demonstration in drawn), option.context])
        assert choice.continuation == f" {option.continuation}"


def test_accuracy(task):
    items = task.items()
    labels = [option.label for option in items[0].options]
    answers = [Answer(labels[0], (), likeliest=item.reference, likeliest_by_length=labels[0]) for item in items]
    share = 100 * sum(item.reference == labels[0] for item in items) / len(items)
    assert task.score(items, answers).metrics == pytest.approx({"accuracy": share, "acc": 100, "acc_norm": share})


def test_a_missing_file_is_named_with_its_source(task):
    for name in task.files(few_shot=True):
        (task.folder / name).unlink()
        with pytest.raises(UserError) as error:
            task.check_files(few_shot=True)
        assert name in str(error.value) and task.source in str(error.value)


JSON_TASKS = {
    "hellaswag": "hellaswag_val.jsonl",
    "winogrande": "dev.jsonl",
    "piqa": "valid.jsonl",
    "boolq": "BoolQ/val.jsonl",
    "cb": "CB/val.jsonl",
    "copa": "COPA/val.jsonl",
}


@pytest.mark.parametrize("name", JSON_TASKS)
def test_a_broken_record_is_named(name, tmp_path):
    kind = benchmark_class(name)
    write_release(tmp_path, kind.release)
    task = kind(tmp_path / kind.release)
    path = task.folder / JSON_TASKS[name]
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for field in (field for field in kind.fields if field in records[0]):
        for broken in (
            {key: value for key, value in records[1].items() if key != field},
            {**records[1], field: None},
            {**records[1], field: 7},
            ["a", "list"],
        ):
            write_json_lines(path, [records[0], broken, *records[2:]])
            with pytest.raises(UserError) as error:
                task.items()
            assert str(error.value).startswith(f"{path}, record 2: ") and "must be" in str(error.value)


@pytest.mark.parametrize(
    ("name", "changed", "complaint"),
    [
        ("hellaswag", {"endings": ["a", "b", "c"]}, "\"endings\" must be 4 texts; it is ['a', 'b', 'c']."),
        ("hellaswag", {"endings": ["a", "b", "c", 1]}, "\"endings\" must be 4 texts; it is ['a', 'b', 'c', 1]."),
        ("hellaswag", {"endings": ["a", "b", "c", "[step]"]}, "one of the choices is empty"),
        ("hellaswag", {"label": ""}, "\"label\" must be one of 0, 1, 2, 3; it is ''."),
        ("hellaswag", {"label": 4}, '"label" must be one of 0, 1, 2, 3; it is 4.'),
        ("winogrande", {"answer": ""}, "\"answer\" must be one of 1, 2; it is ''."),
        ("winogrande", {"sentence": "The cat saw _"}, "one of the choices is empty"),
        ("winogrande", {"sentence": "The cat."}, "its sentence 'The cat.' has no blank _."),
        ("boolq", {"label": "yes"}, "\"label\" must be true or false; it is 'yes'."),
        ("boolq", {"label": [True] * 1000}, '"label" must be true or false; it is [True, True, '),
        ("cb", {"label": 0}, '"label" must be one of entailment, contradiction, neutral; it is 0.'),
        ("cb", {"label": "maybe"}, "\"label\" must be one of entailment, contradiction, neutral; it is 'maybe'."),
        ("copa", {"question": "why"}, "\"question\" must be cause or effect; it is 'why'."),
        ("copa", {"label": True}, '"label" must be one of 0, 1; it is True.'),
        ("copa", {"choice2": ""}, "one of the choices is empty"),
    ],
)
def test_a_wrong_value_is_named(name, changed, complaint, tmp_path):
    kind = benchmark_class(name)
    write_release(tmp_path, kind.release)
    folder = tmp_path / kind.release
    path = folder / JSON_TASKS[name]
    records = [json.loads(line) for line in path.read_text().splitlines()]
    write_json_lines(path, [records[0] | changed, *records[1:]])
    with pytest.raises(UserError) as error:
        kind(folder).items()
    assert str(error.value).startswith(f"{path}, record 1: {complaint}"), error.value


def test_a_broken_story_is_named(tmp_path):
    write_release(tmp_path, "storycloze")
    task = StoryCloze(tmp_path / "storycloze")
    path = task.folder / task.file.format(split="test")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace(",1", ",3"), *lines[2:]]))
    with pytest.raises(UserError, match=r"record 1: \"AnswerRightEnding\" must be one of 1, 2; it is '3'"):
        task.items()
    path.write_text("\n".join([lines[0], "short,of,columns"]))
    with pytest.raises(UserError, match=r'record 1: "InputSentence3" must be of type str; it is None'):
        task.items()
    path.write_text("\n".join([lines[0].replace("RandomFifthSentenceQuiz2", "Quiz2"), *lines[1:]]))
    with pytest.raises(UserError, match="has no column RandomFifthSentenceQuiz2"):
        task.items()


def test_newlines_are_spaces_to_a_usual_vocabulary(tmp_path):
    """The module's docstring claims this of SentencePiece's default normalization."""
    vocabulary = tiny.write_vocabulary(tmp_path / "vocabulary")
    assert vocabulary.encode("the cat\n\nthe dog  sees\nthe bird") == vocabulary.encode("the cat the dog sees the bird")
