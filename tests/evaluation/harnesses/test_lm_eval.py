"""The model in EleutherAI's harness: its requests, and whole runs from the command line."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.answering import answer
from kosmos_plugin.evaluation.files import read_json_lines
from kosmos_plugin.evaluation.requests import Choice, Choose, question
from kosmos_plugin.evaluation.responder import KosmosResponder
from tests import tiny
from tests.evaluation.harnesses.common import full_pass, of_last_tokens, offline, picture, picture_file, sample_of

pytest.importorskip("lm_eval")

import datasets
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from kosmos_plugin.evaluation.harnesses.lm_eval_model import KosmosLM


@pytest.fixture(scope="module")
def model(varied_checkpoint):
    return KosmosLM(str(varied_checkpoint), batch_size="3")


def instances(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, of_one, 0, ("a task", number, 1)) for number, of_one in enumerate(arguments)]


def test_the_harness_knows_the_model():
    assert get_model("kosmos") is KosmosLM


def test_the_harness_keeps_its_own_models():
    code = "import kosmos_plugin.evaluation.harnesses.lm_eval_model, lm_eval.api.registry as r; r.get_model('hf')"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_log_likelihoods_are_those_of_one_pass(model, varied):
    asked = [
        ("the red house", " cat"),
        ("the red house", " old dog sees"),
        ("", "a river"),
        ("a cat near the river sees a bird and a dog\n", " today"),
        ("the small", " cat"),
    ]
    answers = model.loglikelihood(instances("loglikelihood", *asked))
    for (context, continuation), (log_probability, greedy) in zip(asked, answers, strict=True):
        expected = full_pass(varied, context, continuation)
        assert log_probability == pytest.approx(expected[0], abs=1e-4)
        assert greedy is expected[1]


def test_a_long_text_is_as_likely_as_its_windows(model, varied):
    """Windows as in the harness's documentation: each token is scored once, the last window has the most context."""
    size, vocabulary = 512, varied.vocabulary
    texts = [" ".join(random.Random(seed).choices(tiny.WORDS, k=count)) for seed, count in ((1, 1300), (2, 20), (3, 0))]
    answers = model.loglikelihood_rolling(instances("loglikelihood_rolling", *((text,) for text in texts)))
    for text, likelihood in zip(texts, answers, strict=True):
        tokens = [vocabulary.bos, *vocabulary.encode(text)]
        expected, scored = 0.0, 1
        while scored < len(tokens):
            end = min(scored + size, len(tokens))
            window = sample_of(tokens[max(end - size - 1, 0) : end])
            expected += of_last_tokens(varied, window, end - scored)[0]
            scored = end
        assert likelihood == pytest.approx(expected, abs=1e-2)
    assert len(vocabulary.encode(texts[0])) > 2 * size and answers[2] == 0


def test_answers_are_what_the_model_generates(model, varied):
    asked = [
        ("the red house", {"until": ["a"], "max_gen_toks": 9, "do_sample": False}),
        ("a cat near the river", {"until": ["\n\n"], "max_gen_toks": 5, "temperature": 0.0}),
        ("the small", {"until": ["\n\n"], "max_gen_toks": 5, "num_beams": 3}),
        ("", {"max_gen_toks": 3}),
    ]
    expected = [
        varied.generate("the red house", max_new_tokens=9, stop="a"),
        varied.generate("a cat near the river", max_new_tokens=5),
        varied.generate("the small", max_new_tokens=5, num_beams=3),
        varied.generate("", max_new_tokens=3),
    ]
    assert model.generate_until(instances("generate_until", *asked)) == expected


def test_requests_with_images(model, varied):
    images = [picture(1), picture(2)]
    encoded = [picture_file(1), picture_file(2)]
    options = {"until": ["."], "max_gen_toks": 6}
    asked = [
        ("<image> the red", options, {"visual": images[:1]}),
        ("<image> the red", options, {"visual": images[1:]}),
        ("<image> and <image> of", options, {"visual": images}),
        ("the red", options, {"visual": images[0]}),
    ]
    expected = [
        varied.generate("<image> the red", encoded[:1], max_new_tokens=6, stop="."),
        varied.generate("<image> the red", encoded[1:], max_new_tokens=6, stop="."),
        varied.generate("<image> and <image> of", encoded, max_new_tokens=6, stop="."),
        varied.generate("<image> the red", encoded[:1], max_new_tokens=6, stop="."),
    ]
    assert model.generate_until(instances("generate_until", *asked)) == expected
    continuations = [" cat", " old dog"]
    scored = [("<image> the", continuation, {"visual": images[:1]}) for continuation in continuations]
    answers = model.loglikelihood(instances("loglikelihood", *scored))
    for continuation, (log_probability, _) in zip(continuations, answers, strict=True):
        expected, _ = full_pass(varied, "<image> the", continuation, encoded[:1])
        assert log_probability == pytest.approx(expected, abs=1e-4)
    with pytest.raises(UserError, match="the task has audio"):
        model.generate_until(instances("generate_until", ("a", options, {"audio": [{"array": []}]})))


def write_tasks(folder: Path, count: int = 40) -> list[dict]:
    """Write a choice task and a generation task over the same questions; return the questions."""
    rng = random.Random(11)
    rows = []
    for _ in range(count):
        choices = rng.sample([tiny.sentence(rng, (1, 4)) for _ in range(6)], 3)
        rows.append({"question": tiny.sentence(rng, (3, 9)), "choices": choices, "answer": rng.randrange(3)})
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "questions.jsonl")}},
        "test_split": "test",
        "doc_to_text": "near {{question}}",
    }
    choose = {
        **common,
        "task": "tiny_choose",
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    generate = {
        **common,
        "task": "tiny_generate",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    for task in (choose, generate):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    return rows


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The tasks' folder and their questions."""
    folder = tmp_path_factory.mktemp("lm_eval")
    return folder, write_tasks(folder)


@pytest.fixture(scope="module")
def run(tasks, varied_checkpoint, tmp_path_factory):
    """The questions, the harness's measurements, and its log of generated texts."""
    folder, rows = tasks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        found = simple_evaluate(
            model="kosmos",
            model_args={"path": str(varied_checkpoint)},
            tasks=["tiny_choose", "tiny_generate"],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            batch_size=7,
        )
    return rows, found["results"], found["samples"]["tiny_generate"]


def test_a_run_gives_the_accuracy_of_our_own_evaluation(run, varied):
    rows, results, _ = run
    requests = []
    for row in rows:
        prompt = question(f"near {row['question']}")
        choices = (Choice(prompt, f" {text}", str(number)) for number, text in enumerate(row["choices"]))
        requests.append(Choose(tuple(choices)))
    answers = answer(KosmosResponder(varied), requests)
    for metric, field in (("acc", "likeliest"), ("acc_norm", "likeliest_by_length")):
        right = [getattr(answer, field) == str(row["answer"]) for answer, row in zip(answers, rows, strict=True)]
        assert 0 < sum(right) < len(rows)
        assert results["tiny_choose"][f"{metric},none"] == pytest.approx(sum(right) / len(rows))
    assert results["tiny_choose"]["acc,none"] != results["tiny_choose"]["acc_norm,none"]


def test_a_run_logs_the_texts_that_the_model_generates(run, varied):
    rows, _, samples = run
    assert len(samples) == len(rows)
    for sample in samples:
        prompt = f"near {sample['doc']['question']}"
        assert sample["resps"] == [[varied.generate(prompt, max_new_tokens=6, stop=".")]]
    assert len({sample["resps"][0][0] for sample in samples}) > len(rows) / 2, "the model says different things"


def test_a_task_that_samples_gets_its_repeats(tasks, varied_checkpoint, tmp_path, monkeypatch):
    """As in gsm8k's self-consistency: each document several times, with other answers; a seed repeats them."""
    folder, _ = tasks
    task = yaml.safe_load((folder / "tiny_generate.yaml").read_text())
    task["generation_kwargs"] |= {"do_sample": True, "temperature": 2.0, "top_k": 40}
    task |= {"task": "tiny_sample", "repeats": 4}
    (tmp_path / "tiny_sample.yaml").write_text(yaml.safe_dump(task))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    said = []
    for seed in (1, 1, 2):
        found = simple_evaluate(
            model="kosmos",
            model_args={"path": str(varied_checkpoint)},
            tasks=["tiny_sample"],
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            batch_size=8,
            limit=5,
            torch_random_seed=seed,
        )
        said.append([sample["resps"][0] for sample in found["samples"]["tiny_sample"]])
    assert all(len(set(answers)) > 2 for answers in said[0]) and [len(answers) for answers in said[0]] == [4] * 5
    assert said[0] == said[1] != said[2]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["", "torch.distributed.run --standalone --nproc_per_node 2 -m"])
def test_the_command_measures_the_same_with_any_number_of_ranks(run, tasks, varied_checkpoint, tmp_path, launcher):
    command = [
        *(sys.executable, "-m", *launcher.split(), "kosmos_plugin.evaluation.harnesses.lm_eval_model"),
        *("--model", "kosmos", "--model_args", f"path={varied_checkpoint}", "--include_path", str(tasks[0])),
        *("--tasks", "tiny_choose,tiny_generate", "--batch_size", "5", "--output_path", str(tmp_path / "out")),
        "--log_samples",
    ]
    done = subprocess.run(command, env=offline(tmp_path / "home"), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]
    _, expected, of_run = run
    [results] = (tmp_path / "out").glob("**/results_*.json")
    results = json.loads(results.read_text())["results"]
    for task, metric in (
        ("tiny_choose", "acc,none"),
        ("tiny_choose", "acc_norm,none"),
        ("tiny_generate", "exact_match,none"),
    ):
        assert results[task][metric] == pytest.approx(expected[task][metric])
    [generated] = (tmp_path / "out").glob("**/samples_tiny_generate_*.jsonl")
    texts = {sample["doc_id"]: sample["resps"] for sample in read_json_lines(generated)}
    assert texts == {sample["doc_id"]: sample["resps"] for sample in of_run}
