"""docs/finetuning.md: every command of the page, in its order, on a tiny model and a folder of pictures."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kosmos_plugin
from kosmos_plugin.models.lora import is_of_adapter
from tests import tiny

pytest.importorskip("peft")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
QUESTION = "<image> Question: What is it? Answer:"
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory) -> Path:
    """A model with its vocabulary beside it, pictures with captions, questions, and the commands in bin."""
    folder = tmp_path_factory.mktemp("own")
    trained = tiny.train(
        data, folder / "training", "--max-update", 40, "--lr", 0.003, "--disable-validation", "--no-epoch-checkpoints",
        "--tokens-per-sample", 512,
    )  # fmt: skip
    shutil.copy(trained, folder / "model.pt")
    shutil.copytree(data.parent / "vocabulary", folder / "vocabulary")
    (folder / "pictures").mkdir()
    rng = random.Random(1)
    questions = []
    for number in range(1, 9):
        (folder / "pictures" / f"{number}.jpg").write_bytes(tiny.png(rng))
        caption = tiny.sentence(rng, (4, 8))
        (folder / "pictures" / f"{number}.txt").write_text(caption)
        question = {"image": f"{number}.jpg", "question": "What is it?", "answer": caption}
        questions.append(json.dumps(question) + "\n")
    (folder / "questions.jsonl").write_text("".join(questions))
    (folder / "bin").mkdir()
    for command in ("chat", "convert", "finetune", "generate", "inspect", "prepare"):
        script = folder / "bin" / f"kosmos-{command}"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -W ignore -m fairseq_cli_ext.{command} "$@"\n')
        script.chmod(0o755)
    return folder


def run(folder: Path, command: str) -> str:
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=1800,
        input="pictures/1.jpg What is it?\n",
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def is_adapter(path: Path) -> bool:
    return all(map(is_of_adapter, torch.load(path, weights_only=True)["model"]))


@pytest.mark.slow
def test_every_line_of_the_page(folder):
    lines = [line for block in BLOCKS for line in block.splitlines()]
    assert all(line.startswith(("kosmos-", "bash ")) for line in lines), "a line is a command"
    output = {line: run(folder, line) for line in lines}
    said = [text for line, text in output.items() if line.startswith(("kosmos-generate", "kosmos-chat"))]
    assert len(said) == 2 and all(text.endswith("\n") for text in said)  # so small a model may say nothing
    assert is_adapter(folder / "finetuned" / "checkpoint_last.pt")
    assert not is_adapter(folder / "whole" / "checkpoint_last.pt")
    assert is_adapter(folder / "answers" / "checkpoint_last.pt") and not is_adapter(folder / "merged.pt")
    assert (folder / "further" / "checkpoint_last.pt").is_file()
    captions, answers = (_losses(folder, *prompt) for prompt in (("<image>", "finetuned"), (QUESTION, "answers")))
    assert captions["tuned"] < captions["before"] - 0.05 and answers["tuned"] < answers["before"] - 0.05


def _losses(folder: Path, prompt: str, tuned: str) -> dict[str, float]:
    """Nats a token of the captions after a prompt with their pictures, before fine-tuning and after."""
    captions = [(folder / "pictures" / f"{number}.txt").read_text() for number in range(1, 9)]
    pictures = [folder / "pictures" / f"{number}.jpg" for number in range(1, 9)]
    losses = {}
    for name, path in {"before": folder / "model.pt", "tuned": folder / tuned}.items():
        kosmos = kosmos_plugin.load(path)
        scores = kosmos.score([prompt] * 8, pictures, [[caption] for caption in captions])
        tokens = sum(len(kosmos.vocabulary.encode(caption)) for caption in captions)
        losses[name] = -sum(score for [score] in scores) / tokens
    print(prompt, losses)
    return losses


@pytest.mark.slow
def test_the_folder_can_be_moved(folder, tmp_path):
    """The adapter with its vocabulary, and its base beside it."""
    here = shutil.copytree(folder / "finetuned", tmp_path / "moved")
    expected = kosmos_plugin.load(here / "checkpoint_last.pt").generate("a dog", max_new_tokens=5)
    (folder / "model.pt").rename(here / "base.pt")
    assert kosmos_plugin.load(here / "checkpoint_last.pt").generate("a dog", max_new_tokens=5) == expected
