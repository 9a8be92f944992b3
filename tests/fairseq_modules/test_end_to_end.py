"""End to end in one process: raw data → shards → two updates of fairseq-train → checkpoint → generated text."""

import io
import json
import logging
import math
import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from fairseq_cli import eval_lm, train, validate

from fairseq_cli_ext import generate
from kosmos_plugin.compat.quiet_import import unchanged_root_logger
from kosmos_plugin.data.text import FullSentenceRows
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.architectures import KosmosModel
from kosmos_plugin.vocabulary import Vocabulary
from tests import tiny


def run(monkeypatch, main, *arguments):
    """Run one of fairseq's commands like its console script."""
    monkeypatch.setattr(sys, "argv", ["fairseq", *map(str, arguments)])
    main()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Newly made data, and the checkpoints of two updates on it."""
    folder = tmp_path_factory.mktemp("whole")
    data = tiny.write_data(folder / "data", documents=16)
    options = [*tiny.TRAIN_OPTIONS.split(), "--vision-model", data.parent / "clip.json"]
    with pytest.MonkeyPatch.context() as monkeypatch, unchanged_root_logger():
        logging.getLogger().setLevel("INFO")  # as fairseq-train does in a process of its own
        run(
            monkeypatch, train.cli_main, data, *options, "--max-update", 2, "--save-dir", folder / "checkpoints",
            "--log-file", folder / "train.log",
        )  # fmt: skip
    return data, folder / "checkpoints" / "checkpoint_last.pt", (folder / "train.log").read_text()


def test_losses_of_all_streams_are_logged(trained):
    _, _, log = trained
    inner = [json.loads(line[line.index("{") :]) for line in log.splitlines() if '"epoch": 1, "update"' in line]
    valid = [json.loads(line[line.index("{") :]) for line in log.splitlines() if '"valid_loss"' in line]
    assert [line["num_updates"] for line in inner] == ["1", "2"]
    for line, prefix in [(inner[0], ""), (valid[0], "valid_")]:
        for name in ("", "_text", "_captions", "_interleaved"):
            loss, perplexity = float(line[f"{prefix}loss{name}"]), float(line[f"{prefix}ppl{name}"])
            assert perplexity == pytest.approx(2**loss, rel=2e-3)
        assert float(line[f"{prefix}loss"]) == pytest.approx(6.3, abs=1.0), "an untrained model guesses"
    assert float(inner[1]["targets_per_second"]) > 0
    assert float(inner[1]["images_per_second"]) > 0


def test_epochs_of_each_corpus_are_logged(trained):
    data, _, log = trained
    inner = [json.loads(line[line.index("{") :]) for line in log.splitlines() if '"epoch": 1, "update"' in line]
    config = yaml.safe_load(data.read_text())
    for name, stream in config["streams"].items():
        (corpus,) = stream["corpora"]
        one, two = (float(line[f"epochs_{name}_{corpus['name']}"]) for line in inner)
        assert two == pytest.approx(2 * one, abs=0.002)
        assert 0 < one < 1
    assert not [line for line in log.splitlines() if "valid_epochs" in line]


def test_the_checkpoint_holds_only_plain_data(trained):
    state = torch.load(trained[1], weights_only=True)
    assert state["cfg"]["model"]["_name"] == "kosmos_tiny"
    assert state["cfg"]["model"]["image_tokens"] == tiny.IMAGE_TOKENS
    assert state["extra_state"]["train_iterator"]["updates_in_epoch"] == 2
    vocabulary = Vocabulary.load(trained[0].parent / "vocabulary")
    recorded = {"vocabulary": vocabulary.fingerprint, "newlines": False}
    assert recorded.items() <= state["task_state"].items()


def test_generate_command(trained, tmp_path, capsys):
    _, checkpoint, _ = trained
    picture = tmp_path / "picture.png"
    picture.write_bytes(tiny.png(random.Random(0)))
    for beam in ("1", "3"):
        generate.cli_main(
            ["--path", str(checkpoint), "--prompt", "<image> the", "--image", str(picture), "--num-beams", beam,
             "--max-new-tokens", "8"]
        )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2


def test_json_lines_in_and_out(trained, tmp_path, capsys, monkeypatch):
    _, checkpoint, _ = trained
    picture = tmp_path / "picture.png"
    picture.write_bytes(tiny.png(random.Random(0)))
    prompts = [{"prompt": "a"}, {"prompt": "<image> the", "images": [str(picture)], "id": 7}, {"prompt": "cat"}]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(map(json.dumps, prompts))))
    generate.cli_main(["--path", str(checkpoint), "--max-new-tokens", "4", "--batch-size", "2"])
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    added = ("output", "score", "finish_reason")
    assert [{k: v for k, v in result.items() if k not in added} for result in results] == prompts
    assert {result["finish_reason"] for result in results} <= {"stop", "length"}
    kosmos = KosmosModel.from_pretrained(checkpoint.parent, checkpoint.name)
    for prompt, result in zip(prompts, results, strict=True):
        assert kosmos.generate(prompt["prompt"], prompt.get("images", []), max_new_tokens=4) == result["output"]


def test_the_hub_finds_moved_data(trained, tmp_path):
    data, checkpoint, _ = trained
    here = KosmosModel.from_pretrained(checkpoint.parent, checkpoint.name)
    by_vocabulary = KosmosModel.from_pretrained(
        checkpoint.parent, checkpoint.name, vocabulary=str(data.parent / "vocabulary")
    )
    assert here.generate("the cat", max_new_tokens=5) == by_vocabulary.generate("the cat", max_new_tokens=5)


def test_validate_command_gives_the_training_runs_own_loss(trained, monkeypatch, caplog):
    data, checkpoint, log = trained
    caplog.set_level("INFO")
    run(
        monkeypatch, validate.cli_main, data, "--task", "kosmos_multimodal", "--path", checkpoint,
        "--batch-size", 64, "--valid-subset", "valid", "--log-format", "json",
    )  # fmt: skip
    again = [json.loads(record.message) for record in caplog.records if '"valid_loss"' in record.message]
    valid = [json.loads(line[line.index("{") :]) for line in log.splitlines() if '"valid_loss"' in line]
    names = [name for name in valid[-1] if name.startswith("valid_loss")]
    assert len(names) == 4
    assert {name: again[-1][name] for name in names} == {name: valid[-1][name] for name in names}


def test_eval_lm_command_scores_the_text_stream(trained, monkeypatch, caplog):
    data, checkpoint, _ = trained
    caplog.set_level("INFO")
    run(
        monkeypatch, eval_lm.cli_main, data, "--task", "kosmos_multimodal", "--path", checkpoint,
        "--gen-subset", "valid", "--tokens-per-sample", tiny.TOKENS_PER_SAMPLE,
    )  # fmt: skip
    [line] = [record.message for record in caplog.records if record.message.startswith("Loss (base 2):")]
    loss = float(line.split()[3].rstrip(","))
    kosmos = KosmosModel.from_pretrained(checkpoint.parent, checkpoint.name)
    rows = FullSentenceRows(str(data.parent / "text" / "valid"), kosmos.vocabulary, tiny.TOKENS_PER_SAMPLE)
    total, count = 0.0, 0
    for row in (torch.from_numpy(rows[r].tokens) for r in range(len(rows))):
        borders = [0, *(row == kosmos.vocabulary.eos).nonzero()[:, 0].tolist(), len(row) - 1]
        for piece in (row[left : right + 1] for left, right in pairwise(borders) if right > left):
            piece[0] = kosmos.vocabulary.bos  # a document is read after <s>, not after the one before it
            with torch.no_grad():
                logits = kosmos.model(piece[None, :-1], torch.ones(1, len(piece) - 1, dtype=torch.int64))[0][0]
            total += float(F.cross_entropy(logits, piece[1:], reduction="sum")) / math.log(2)
            count += len(piece) - 1
    assert loss == pytest.approx(total / count, abs=2e-3)


def test_a_missing_split(task):
    """fairseq-eval-lm's own default split is `test`."""
    with pytest.raises(UserError, match=r"train and valid, not 'test'[.]$"):
        task.load_dataset("test")
    with pytest.raises(UserError, match=r"train and valid, not 'vaild'. Did you mean 'valid'[?]$"):
        task.load_dataset("vaild")


def test_fairseq_generate_is_one_line(task):
    with pytest.raises(UserError, match="use kosmos-generate"):
        task.build_generator([], None)


def hydra_train(data, folder, **overrides) -> subprocess.CompletedProcess:
    """Run fairseq-hydra-train with overrides as a user would write them; "" leaves one out."""
    settings = {
        "task": "kosmos_multimodal",
        "task.data": data,
        "task.image_tokens": tiny.IMAGE_TOKENS,
        "task.image_size": tiny.IMAGE_SIZE,
        "task.tokens_per_sample": tiny.TOKENS_PER_SAMPLE,
        "model": "kosmos_tiny",
        "model.vision_encoder": "clip",
        "model.vision_model": data.parent / "clip.json",
        "model.vision_weights": "none",
        "model.decoder_layers": 1,
        "criterion": "multimodal_cross_entropy",
        "optimizer": "adam",
        "lr_scheduler": "fixed",
        "optimization.lr": "[0.001]",
        "optimization.max_update": 2,
        "dataset.batch_size": 64,
        "dataset.disable_validation": "true",
        "checkpoint.save_dir": folder / "checkpoints",
        "hydra.run.dir": folder / "hydra",
    } | overrides
    # as if installed
    program = "import kosmos_plugin; kosmos_plugin.register(); from fairseq_cli.hydra_train import cli_main; cli_main()"
    arguments = [f"{name}={value}" for name, value in settings.items() if value != ""]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment)


def test_hydra_command_trains(trained, tmp_path):
    done = hydra_train(trained[0], tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    state = torch.load(tmp_path / "checkpoints" / "checkpoint_last.pt", weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == 2
    assert state["cfg"]["model"]["decoder_layers"] == 1


@pytest.mark.parametrize("criterion", ["", "label_smoothed_cross_entropy"], ids=["none", "another"])
@pytest.mark.slow
def test_hydra_command_with_another_criterion_is_one_line(trained, tmp_path, criterion):
    done = hydra_train(trained[0], tmp_path, criterion=criterion)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "give --criterion multimodal_cross_entropy (with Hydra, criterion=multimodal_cross_entropy)" in line


def test_validating_a_checkpoint_of_another_criterion_is_one_line(trained, tmp_path, monkeypatch):
    data, checkpoint, _ = trained
    state = torch.load(checkpoint, weights_only=True)
    state["cfg"]["criterion"] = {"_name": "cross_entropy", "sentence_avg": False}
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"^The criterion cross_entropy, fairseq's default, cannot train on .*: give"):
        run(
            monkeypatch, validate.cli_main, data, "--task", "kosmos_multimodal", "--path", tmp_path / "other.pt",
            "--batch-size", 64, "--valid-subset", "valid",
        )  # fmt: skip
