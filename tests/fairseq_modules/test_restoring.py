"""A checkpoint that does not fit a training, or is damaged, is one line that says what to do."""

import importlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.generator import load
from tests import tiny

ROOT = Path(__file__).parents[2]
ONE_UPDATE = ("--max-update", 1, "--disable-validation")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """The folder of a training of three updates, with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.train(data, folder, "--max-update", 3, "--disable-validation", "--save-interval-updates", 1)
    return folder


def test_a_checkpoint_cut_short_names_the_newest_whole_one(data, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "training")
    last, newest = folder / "checkpoint_last.pt", folder / "checkpoint_1_3.pt"
    for path in (last, folder / "checkpoint_1_2.pt"):
        path.write_bytes(path.read_bytes()[:50_000])
    for checkpoint in (folder / "checkpoint_1_1.pt", newest):  # whose dates do not say which is newer
        os.utime(checkpoint, (0, 10 - int(checkpoint.stem[-1])))
    with pytest.raises(UserError, match=r"cut short or damaged.*newest whole checkpoint .* of update 3") as error:
        tiny.train(data, folder, "--max-update", 4, "--disable-validation")
    assert f"cp {newest} {last}" in str(error.value) and "\n" not in str(error.value)
    shutil.copy(newest, last)
    resumed = tiny.train(data, folder, "--max-update", 4, "--disable-validation")
    assert torch.load(resumed, weights_only=True)["optimizer_history"][-1]["num_updates"] == 4


def test_a_checkpoint_cut_short_without_another(data, trained, tmp_path):
    last = tmp_path / "checkpoint_last.pt"
    last.write_bytes((trained / "checkpoint_last.pt").read_bytes()[:50_000])
    with pytest.raises(UserError, match=r"no whole checkpoint beside it: remove .*checkpoint_last.pt to start anew"):
        tiny.train(data, tmp_path, *ONE_UPDATE)


@pytest.mark.parametrize("option", ["--restore-file", "--finetune-from-model"])
@pytest.mark.parametrize(
    "changed, differences",
    [
        (["--image-tokens", 5], "--image-tokens is 4 there and 5 here"),
        (["--decoder-layers", 3], "--decoder-layers is 2 there and 3 here"),
        (["--decoder-attention-heads", 4], "--decoder-attention-heads is 2 there and 4 here"),
        (["--positions", "both"], "--positions is xpos there and both here"),
        (["--activation-fn", "relu"], "--activation-fn is gelu there and relu here"),
        (["--untied-embeddings"], "--untied-embeddings is False there and True here"),
        (["--vision-encoder", "none"], "--vision-encoder is clip there and none here"),
        (
            ["--decoder-ffn-embed-dim", 48, "--resampler", "perceiver"],
            "--decoder-ffn-embed-dim is 64 there and 48 here; --resampler is attentive there and perceiver here",
        ),
    ],
)
def test_another_architecture(data, trained, tmp_path, option, changed, differences):
    checkpoint = trained / "checkpoint_1_1.pt"
    with pytest.raises(UserError) as error:
        tiny.train(data, tmp_path, option, checkpoint, *changed, *ONE_UPDATE)
    assert str(error.value) == f"{checkpoint} does not fit: {differences}."


@pytest.mark.parametrize("option", ["--restore-file", "--finetune-from-model"])
@pytest.mark.parametrize("changed", [["--dropout", 0.3], ["--lr", 0.1], ["--attention", "masked"]])
def test_options_that_change_no_weights_may_differ(data, trained, tmp_path, option, changed):
    tiny.train(data, tmp_path, option, trained / "checkpoint_1_1.pt", *changed, "--max-update", 2, *ONE_UPDATE[2:])


def with_vocabulary(data: Path, folder: Path, pieces: int | None) -> Path:
    """The data with another vocabulary: of `pieces`, or with two of its pieces exchanged."""
    shutil.copytree(data.parent, folder)
    if pieces is None:
        lines = (folder / "vocabulary" / "dict.txt").read_text().splitlines(keepends=True)
        lines[20], lines[30] = lines[30], lines[20]
        (folder / "vocabulary" / "dict.txt").write_text("".join(lines))
    else:
        shutil.rmtree(folder / "vocabulary")
        tiny.write_vocabulary(folder / "vocabulary", pieces)
    config = yaml.safe_load((folder / data.name).read_text())
    del config["streams"]["text"]  # binarized with the first vocabulary
    (folder / data.name).write_text(yaml.safe_dump(config))
    return folder / data.name


@pytest.mark.parametrize(
    "pieces, difference",
    [(60, r"its vocabulary has \d+ tokens, and that of the data \d+"), (None, ".* both, but not the same ones")],
)
def test_another_vocabulary(data, trained, tmp_path, pieces, difference):
    other = with_vocabulary(data, tmp_path / "data", pieces)
    checkpoint = trained / "checkpoint_1_1.pt"
    with pytest.raises(UserError, match=f"checkpoint_1_1.pt does not fit: {difference}"):
        tiny.train(other, tmp_path / "out", "--finetune-from-model", checkpoint, *ONE_UPDATE)
    with pytest.raises(UserError, match=r"checkpoint_1_1\.pt"):
        load(checkpoint, vocabulary=other.parent / "vocabulary")


def test_a_checkpoint_of_only_weights_and_configuration_is_a_start(data, trained, tmp_path):
    state = torch.load(trained / "checkpoint_1_1.pt", weights_only=True)
    torch.save({"model": state["model"], "cfg": state["cfg"]}, tmp_path / "weights.pt")
    tiny.train(data, tmp_path / "out", "--restore-file", tmp_path / "weights.pt", *ONE_UPDATE)


def test_a_checkpoint_of_another_model(data, tmp_path):
    cfg = {"model": {"_name": "transformer_lm"}, "task": {}}
    torch.save({"model": {"x": torch.zeros(1)}, "cfg": cfg}, tmp_path / "lm.pt")
    with pytest.raises(UserError, match=r"lm.pt is a checkpoint of transformer_lm, not of a KOSMOS model \(kosmos_1"):
        tiny.train(data, tmp_path / "out", "--finetune-from-model", tmp_path / "lm.pt", *ONE_UPDATE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("option", ["--fp16", "--memory-efficient-fp16"])
def test_fp16_without_a_gpu(data, tmp_path, option):
    with pytest.raises(UserError, match="--fp16 needs a GPU"):
        tiny.train(data, tmp_path, option, *ONE_UPDATE)


TRANSLATION = [["generate"], ["generate", "--gen-subset", "valid"], ["interactive"]]


def translation_options(data: Path, trained: Path) -> list[str]:
    task = ["--user-dir", str(ROOT / "kosmos_plugin"), *tiny.TRAIN_OPTIONS.split()[:2], "--tokens-per-sample", "64"]
    return [str(data), "--path", str(trained / "checkpoint_last.pt"), *task]


@pytest.mark.parametrize("command", TRANSLATION)
def test_fairseqs_functions_for_translation(data, trained, command, monkeypatch):
    name, *options = command
    monkeypatch.setattr(sys, "argv", [f"fairseq-{name}", *translation_options(data, trained), *options])
    monkeypatch.setattr(sys, "stdin", io.StringIO("a dog\n"))
    with pytest.raises(UserError, match="use kosmos-generate"):
        importlib.import_module(f"fairseq_cli.{name}").cli_main()


@pytest.mark.slow
@pytest.mark.parametrize("command", TRANSLATION)
def test_fairseqs_commands_for_translation(data, trained, command):
    name, *options = command
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"fairseq_cli.{name}", *translation_options(data, trained), *options],
        capture_output=True, text=True, cwd=ROOT, input="a dog\n",
    )  # fmt: skip
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert "use kosmos-generate" in done.stderr
