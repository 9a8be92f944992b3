"""lm_eval's own models on an exported folder give what our adapter gives on the checkpoint."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import tiny
from tests.checkpoints import exported

pytest.importorskip("lm_eval")
import datasets
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from kosmos_plugin.evaluation.harnesses.lm_eval_model import KosmosLM


def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, args, number) for number, args in enumerate(arguments)]


@pytest.mark.parametrize("variant", ["clip", "text"])
def test_likelihoods_and_answers_are_the_adapters(tmp_path: Path, variant: str):
    checkpoint, folder = exported.write_folder(tmp_path, variant)
    ours = KosmosLM(str(checkpoint), device="cpu", batch_size=4)
    theirs = HFLM(str(folder), trust_remote_code=True, device="cpu", dtype="float32", batch_size=4)
    rng = random.Random(0)
    pairs = [(tiny.sentence(rng), f" {tiny.sentence(rng, (1, 4))}") for _ in range(12)]
    expected = ours.loglikelihood(requests("loglikelihood", pairs))
    found = theirs.loglikelihood(requests("loglikelihood", pairs))
    for (their_sum, their_greedy), (our_sum, our_greedy) in zip(found, expected, strict=True):
        assert their_sum == pytest.approx(our_sum, abs=1e-3)
        assert their_greedy == our_greedy
    asked = [(context, {"until": ["cat"], "max_gen_toks": 12}) for context, _ in pairs[:4]]
    answers = [text.strip() for text in theirs.generate_until(requests("generate_until", asked))]
    assert answers == [text.strip() for text in ours.generate_until(requests("generate_until", asked))]
    texts = requests("loglikelihood_rolling", [(tiny.sentence(rng),) for _ in range(4)])
    # lm_eval puts `<s>` before a text itself; with the tokenizer's it would score one.
    theirs.add_bos_token = False
    assert theirs.loglikelihood_rolling(texts) == pytest.approx(ours.loglikelihood_rolling(texts), abs=1e-3)


def write_tasks(folder: Path, count: int) -> None:
    """A task of choices and one of answers about images, with the same questions, in the new `folder`."""
    folder.mkdir()
    rng = random.Random(1)
    lines = []
    for number in range(count):
        (folder / f"{number}.png").write_bytes(tiny.png(rng, 40))
        choices = [tiny.sentence(rng, (1, 3)) for _ in range(4)]
        line = {"question": tiny.sentence(rng), "choices": choices, "answer": number % 4}
        lines.append(json.dumps({**line, "image": str(folder / f"{number}.png")}))
    (folder / "questions.jsonl").write_text("\n".join(lines))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "questions.jsonl")}},
        "test_split": "test",
    }
    choose = {
        **common,
        "task": "choose",
        "output_type": "multiple_choice",
        "doc_to_text": "the {{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    say = {
        **common,
        "task": "say",
        "output_type": "generate_until",
        "doc_to_text": "<image> the {{question}}",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    (folder / "choose.yaml").write_text(yaml.safe_dump(choose))
    (folder / "say.yaml").write_text(yaml.safe_dump(say) + "doc_to_image: !function images.of\n")
    (folder / "images.py").write_text("import PIL.Image\n\ndef of(doc):\n    return [PIL.Image.open(doc['image'])]\n")


@pytest.mark.slow
def test_whole_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Equal accuracy of `hf` on text, and equal answers of `hf-multimodal` about images."""
    checkpoint, folder = exported.write_folder(tmp_path / "model")
    write_tasks(tmp_path / "tasks", count=200)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    shared = {"pretrained": str(folder), "trust_remote_code": True, "dtype": "float32", "device": "cpu"}

    def run(model: str, task: str, **arguments: Any) -> tuple[dict, list]:
        found = simple_evaluate(model=model, model_args=arguments, tasks=[task], task_manager=manager, batch_size=16)
        return found["results"][task], found["samples"][task]

    ours, our_samples = run("kosmos", "choose", path=str(checkpoint), device="cpu")
    theirs, their_samples = run("hf", "choose", **shared)
    for metric in ("acc,none", "acc_norm,none"):
        assert 0 < theirs[metric] == ours[metric] < 1
    for our, their in zip(our_samples, their_samples, strict=True):
        our_sums, their_sums = ([float(sums) for sums, _ in sample["filtered_resps"]] for sample in (our, their))
        assert their_sums == pytest.approx(our_sums, abs=1e-3)
    _, our_samples = run("kosmos", "say", path=str(checkpoint), device="cpu")
    # Our processor takes an `<image>` for an image, and lm_eval would write the token of its slots.
    _, their_samples = run("hf-multimodal", "say", **shared, image_string="<image>", convert_img_format=True)
    answers = [
        [sample["resps"][0][0].replace("⁇", "").split() for sample in both] for both in (our_samples, their_samples)
    ]
    assert answers[0] == answers[1] and len({" ".join(words) for words in answers[0]}) > 10
