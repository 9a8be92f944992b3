"""The model in lmms-eval: its requests, and a whole run from the command line."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from kosmos_plugin.data.documents import Image
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.answering import answer
from kosmos_plugin.evaluation.files import read_json_lines
from kosmos_plugin.evaluation.requests import Choice, Choose, question
from kosmos_plugin.evaluation.responder import KosmosResponder
from tests import tiny
from tests.evaluation.harnesses.common import full_pass, offline, picture, picture_file

pytest.importorskip("lmms_eval")

import datasets
from lmms_eval.api.instance import Instance, unwrap_generation_output
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from kosmos_plugin.evaluation.harnesses import lmms_eval_manifest
from kosmos_plugin.evaluation.harnesses.lmms_eval_model import KosmosLmms

DOCUMENTS = [
    {"pictures": [1], "answer": " cat"},
    {"pictures": [2, 3], "answer": " old dog"},
    {"pictures": [], "answer": " river"},
]


@pytest.fixture(scope="module")
def model(varied_checkpoint):
    model = KosmosLmms(str(varied_checkpoint), batch_size=2)
    model.task_dict = {"a task": {"test": DOCUMENTS}}
    return model


def visuals(document: dict) -> list:
    return [picture(seed) for seed in document["pictures"]]


def files(document: dict) -> list[bytes]:
    return [picture_file(seed) for seed in document["pictures"]]


def target(document: dict) -> str:
    return document["answer"]


def instances(kind: str, asked: list[tuple]) -> list[Instance]:
    """Instances of (context, continuation or options, number of the document)."""
    return [
        Instance(
            kind,
            (context, second, visuals, number, "a task", "test"),
            0,
            {"task": "a task", "doc_id": number, "repeats": 1},
        )
        for context, second, number in asked
    ]


def test_losses_are_negative_log_likelihoods_of_one_pass(model, varied):
    asked = [
        ("the red", " house", 0),
        ("the red", " house", 1),
        ("the <image> red <image> of", " old car", 1),
        ("the red", " old dog", 0),
        ("the red", " house", 2),
        ("the red", target, 1),
    ]
    answers = model.loglikelihood(instances("loglikelihood", asked))
    for (context, continuation, number), result in zip(asked, answers, strict=True):
        (loss, greedy), _ = unwrap_generation_output(result)
        document = DOCUMENTS[number]
        if "<image>" not in context:
            context = "<image>" * len(document["pictures"]) + context
        text = document["answer"] if continuation is target else continuation
        log_probability, is_greedy = full_pass(varied, context, text, files(document))
        assert loss == pytest.approx(-log_probability, abs=1e-4)
        assert greedy is is_greedy


def test_answers_are_what_the_model_generates(model, varied):
    asked = [
        ("the red house", {"until": ["a"], "max_new_tokens": 9, "do_sample": False, "temperature": 0}, 0),
        ("the red house", {"until": ["a"], "max_new_tokens": 9, "do_sample": False, "temperature": 0}, 2),
        ("a <image> near <image> of", {"max_new_tokens": 5, "num_beams": 3, "top_p": 1.0}, 1),
        ("the red house", {"until": ["a"], "max_new_tokens": 9, "do_sample": False, "temperature": 0}, 1),
    ]
    expected = [
        varied.generate("<image> the red house", files(DOCUMENTS[0]), max_new_tokens=9, stop="a"),
        varied.generate("the red house", max_new_tokens=9, stop="a"),
        varied.generate("a <image> near <image> of", files(DOCUMENTS[1]), max_new_tokens=5, num_beams=3),
        varied.generate("<image> <image> the red house", files(DOCUMENTS[1]), max_new_tokens=9, stop="a"),
    ]
    assert model.generate_until(instances("generate_until", asked)) == expected


def test_unsupported_requests_are_refused(model):
    def film(document: dict) -> list:
        return ["film.mp4"]

    request = instances("generate_until", [("what happens?", {"max_new_tokens": 5}, 0)])
    request[0].arguments = (*request[0].arguments[:2], film, *request[0].arguments[3:])
    with pytest.raises(UserError, match="KOSMOS reads text and images"):
        model.generate_until(request)
    with pytest.raises(UserError, match="several rounds"):
        model.generate_until_multi_round(request)


def test_the_entry_point_names_the_model():
    manifest = lmms_eval_manifest()
    assert manifest.model_id == "kosmos"
    assert manifest.simple_class_path == f"{KosmosLmms.__module__}.{KosmosLmms.__name__}"


TASK = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}
test_split: test
doc_to_visual: !function pictures.of_document
doc_to_text: "near {{{{question}}}}"
metadata: [version: 1]
"""
CHOOSE = """
task: tiny_picture_choose
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: answer
metric_list:
- {metric: acc, aggregation: mean, higher_is_better: true}
- {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
GENERATE = """
task: tiny_picture_generate
output_type: generate_until
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: [.], max_new_tokens: 6, do_sample: false, temperature: 0}
metric_list:
- {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
PICTURES = """
import PIL.Image


def of_document(document):
    return [PIL.Image.open(document["picture"]).convert("RGB")]
"""


def write_tasks(folder: Path, count: int = 40) -> list[dict]:
    """Write a choice task and a generation task over the same images and questions; return the questions."""
    rng = random.Random(12)
    rows = []
    for number in range(count):
        path = folder / f"{number}.png"
        path.write_bytes(tiny.png(rng))
        choices = rng.sample([tiny.sentence(rng, (1, 4)) for _ in range(6)], 3)
        question = tiny.sentence(rng, (3, 9))
        rows.append({"picture": str(path), "question": question, "choices": choices, "answer": rng.randrange(3)})
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pictures.py").write_text(PICTURES)
    for task in (CHOOSE, GENERATE):
        name = task.split()[1]
        (folder / f"{name}.yaml").write_text(TASK.format(folder=folder) + task)
    return rows


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The tasks' folder and their questions."""
    folder = tmp_path_factory.mktemp("lmms_eval")
    return folder, write_tasks(folder)


@pytest.fixture(scope="module")
def run(tasks, varied_checkpoint, tmp_path_factory):
    """The questions, the harness's measurements, and its log of generated texts."""
    folder, rows = tasks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        found = simple_evaluate(
            model="kosmos",
            model_args=f"path={varied_checkpoint}",
            tasks=["tiny_picture_choose", "tiny_picture_generate"],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False, model_name="kosmos"),
            batch_size=7,
        )
    return rows, found["results"], found["samples"]["tiny_picture_generate"]


def test_a_run_gives_the_accuracy_of_our_own_evaluation(run, varied):
    rows, results, _ = run
    requests = []
    for row in rows:
        prompt = question(f"near {row['question']}", Image(Path(row["picture"]).read_bytes))
        choices = (Choice(prompt, f" {text}", str(number)) for number, text in enumerate(row["choices"]))
        requests.append(Choose(tuple(choices)))
    answers = answer(KosmosResponder(varied), requests)
    for metric, field in (("acc", "likeliest"), ("acc_norm", "likeliest_by_length")):
        right = [getattr(answer, field) == str(row["answer"]) for answer, row in zip(answers, rows, strict=True)]
        assert 0 < sum(right) < len(rows)
        assert results["tiny_picture_choose"][f"{metric},none"] == pytest.approx(sum(right) / len(rows))
    assert results["tiny_picture_choose"]["acc,none"] != results["tiny_picture_choose"]["acc_norm,none"]


def test_a_run_logs_the_texts_that_the_model_generates(run, varied):
    rows, _, samples = run
    assert len(samples) == len(rows)
    for sample in samples:
        row = rows[sample["doc_id"]]
        prompt = f"<image> near {row['question']}"
        expected = varied.generate(prompt, [row["picture"]], max_new_tokens=6, stop=".")
        assert sample["filtered_resps"] == [expected]
    assert len({sample["filtered_resps"][0] for sample in samples}) > len(rows) / 2, "the model says different things"


@pytest.mark.slow
def test_the_command_finds_the_model_and_measures_the_same(run, tasks, varied_checkpoint, tmp_path):
    command = [
        *(sys.executable, "-m", "lmms_eval", "--model", "kosmos", "--include_path", str(tasks[0])),
        *("--model_args", f"path={varied_checkpoint}", "--tasks", "tiny_picture_choose,tiny_picture_generate"),
        *("--batch_size", "5", "--output_path", str(tmp_path / "out"), "--log_samples"),
    ]
    done = subprocess.run(command, env=offline(tmp_path / "home"), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]
    _, expected, of_run = run
    [results] = (tmp_path / "out").glob("**/*_results.json")
    results = json.loads(results.read_text())["results"]
    for metric in ("acc,none", "acc_norm,none"):
        assert results["tiny_picture_choose"][metric] == pytest.approx(expected["tiny_picture_choose"][metric])
    [generated] = (tmp_path / "out").glob("**/*_samples_tiny_picture_generate.jsonl")
    texts = {sample["doc_id"]: sample["filtered_resps"] for sample in read_json_lines(generated)}
    assert texts == {sample["doc_id"]: sample["filtered_resps"][0] for sample in of_run}
