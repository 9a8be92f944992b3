"""The language tasks have exactly the prompts of EleutherAI's lm-evaluation-harness, and the same accuracies."""

import random
import re
from pathlib import Path

import pytest
import yaml

from kosmos_plugin.evaluation.benchmarks import benchmark_class
from kosmos_plugin.evaluation.benchmarks.hellaswag import _prepared
from kosmos_plugin.evaluation.benchmarks.language import LanguageTask
from kosmos_plugin.evaluation.requests import prompt_text
from tests.evaluation.releases import write_release
from tests.evaluation.releases.language import write_json_lines

lm_eval = pytest.importorskip("lm_eval", reason="pip install lm_eval")

# The task's configuration, and its splits for questions and for demonstrations.
TASKS = {
    "storycloze": ("storycloze/storycloze_2016.yaml", "test", "validation"),
    "hellaswag": ("hellaswag/hellaswag.yaml", "validation", "train"),
    "winograd": ("wsc273/default.yaml", "test", "test"),
    "winogrande": ("winogrande/default.yaml", "validation", "train"),
    "piqa": ("piqa/piqa.yaml", "validation", "train"),
    "boolq": ("super_glue/boolq/default.yaml", "validation", "train"),
    "cb": ("super_glue/cb/default.yaml", "validation", "train"),
    "copa": ("super_glue/copa/default.yaml", "validation", "train"),
}
TWO_SPACES = ("winograd", "copa")  # the harness's oversight, see the benchmarks' docstrings


def on_the_hub(name: str, record: dict) -> dict:
    """A record of the release in the format of the Hugging Face hub, from which the harness reads."""
    match name:
        case "storycloze":
            sentences = {f"input_sentence_{number}": record[f"InputSentence{number}"] for number in (1, 2, 3, 4)}
            endings = {f"sentence_quiz{number}": record[f"RandomFifthSentenceQuiz{number}"] for number in (1, 2)}
            return sentences | endings | {"answer_right_ending": int(record["AnswerRightEnding"])}
        case "hellaswag":
            return record | {"label": str(record["label"])}
        case "winograd":
            return {
                "text": f"{record['txt1']} {record['pron']} {record['txt2']}",
                "pronoun": record["pron"],
                "pronoun_loc": len(record["txt1"]) + 1,
                "options": record["answers"],
                "label": "AB".index(record["correctAnswer"]),
            }
        case "cb":
            return record | {"label": ("entailment", "contradiction", "neutral").index(record["label"])}
        case "piqa" | "boolq":
            return record | {"label": int(record["label"])}
    return record


def harness_task(benchmark: LanguageTask, folder: Path):
    """The harness's own task, reading files instead of the hub."""
    configuration, *splits = TASKS[benchmark.name]
    for split, ours in zip(splits, (benchmark.split, benchmark.training_split), strict=True):
        records = [on_the_hub(benchmark.name, record) for record in benchmark.records(ours)]
        write_json_lines(folder / f"{split}.jsonl", records)
    config = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / configuration),
        "task": benchmark.name,
        "dataset_path": "json",
        "dataset_name": None,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],  # not all tasks report both by themselves
        "dataset_kwargs": {
            "data_files": {split: str(folder / f"{split}.jsonl") for split in splits},
            "cache_dir": str(folder / "cache"),
        },
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(config))
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=False).load(str(folder / "task.yaml"))["tasks"][benchmark.name]


def documents(task, split: str) -> list[dict]:
    return [*{"train": task.training_docs, "validation": task.validation_docs, "test": task.test_docs}[split]()]


def asked_there(task, document: dict, demonstrations: list[dict]) -> list[tuple[str, str]]:
    task.sampler.replace_df(demonstrations * 2)  # it draws one more than it needs
    context = task.fewshot_context(document, len(demonstrations))
    return [tuple(instance.args[:2]) for instance in task.construct_requests(document, context)]


def asked_here(benchmark, item, demonstrations) -> list[tuple[str, str]]:
    request = benchmark.request(item, demonstrations)
    return [(prompt_text(request.full_prompt(choice)), choice.continuation) for choice in request.choices]


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_the_harness_s(name, tmp_path):
    kind = benchmark_class(name)
    write_release(tmp_path, kind.release)
    benchmark = kind(tmp_path / kind.release)
    task = harness_task(benchmark, tmp_path)
    asked, pool = (documents(task, split) for split in TASKS[name][1:])
    items, training_items = benchmark.items(), benchmark.training_items()
    assert len(asked) == len(items) == 6 and len(pool) == len(training_items)
    for number, item in enumerate(items):
        drawn = (number + 1) % len(pool)
        for shots in (0, 1):
            there = asked_there(task, asked[number], [pool[drawn]][:shots])
            if name in TWO_SPACES:
                there = [tuple(re.sub(" +", " ", text) for text in texts) for texts in there]
            assert asked_here(benchmark, item, [training_items[drawn]][:shots]) == there


def test_marks_of_wikihow_are_removed_as_there():
    from lm_eval.tasks.hellaswag.utils import preprocess

    rng = random.Random(1)
    pieces = ["[", "]", "a", " ", "\n", "[title]", " [title]", "[step]", "\r", "\u2028"]
    for _ in range(5000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        assert _prepared(text) == preprocess(text), text


@pytest.mark.parametrize("name", TASKS)
def test_accuracies_are_the_harness_s(name, tmp_path):
    rng = random.Random(1)
    kind = benchmark_class(name)
    write_release(tmp_path, kind.release, count=200)
    benchmark = kind(tmp_path / kind.release)
    task = harness_task(benchmark, tmp_path)
    for document, item in zip(documents(task, TASKS[name][1]), benchmark.items(), strict=True):
        # Nearly proportional to length, so that counting one character more or fewer changes the order.
        likelihoods = [-(len(option.continuation) + 0.5) * (1 + 0.02 * rng.random()) for option in item.options]
        there = task.process_results(document, [(likelihood, False) for likelihood in likelihoods])
        request = benchmark.request(item, [])
        assert float(request.best(likelihoods, by_length=False) == item.reference) == there["acc"]
        assert float(request.best(likelihoods, by_length=True) == item.reference) == there["acc_norm"]
