"""Checkpoints written beside the training, on a full disk, and which of them are deleted."""

import io
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

from kosmos_plugin.errors import UserError
from tests import tiny
from tests.fairseq_modules.test_resume import Training, assert_same

WAYS = [(), ("--async-save",)]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("checkpoint*")}


def updates(path: Path) -> int:
    return torch.load(path, weights_only=True)["optimizer_history"][-1]["num_updates"]


def assert_equal_state(one: object, other: object, where: str = "") -> None:
    """Bit for bit, except what depends on the clock and on the command."""
    if isinstance(one, dict):
        assert isinstance(other, dict) and one.keys() == other.keys(), where
        for name in one.keys() - {"metrics", "previous_training_time", "cfg"}:
            assert_equal_state(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_equal_state(*pair, f"{where}[{number}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other) and one.dtype == other.dtype, where
    else:
        assert one == other, where


def wait_until(condition, process: subprocess.Popen, output: Path) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, output.read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_training_goes_on_while_a_checkpoint_is_written(data, tmp_path):
    """The file is a pipe, and nobody reads it for a while. What comes out at last is the state as it was."""
    expected = Training(data, tmp_path / "expected").finish()
    training = Training(data, tmp_path / "run", **{"async-save": True})
    output, pipe = tmp_path / "run" / "output.txt", tmp_path / "run" / "checkpoint_1_3.pt.tmp"
    os.mkfifo(pipe)
    process = training.start()
    wait_until(lambda: training.reached(6), process, output)
    time.sleep(1)
    assert not training.reached(7)  # the checkpoint of update 6 waits for the first
    written = pipe.read_bytes()
    os.close(os.open(pipe, os.O_WRONLY))  # it is opened once more, to flush it, which a pipe refuses
    assert process.wait(600) == 1
    text = output.read_text()
    assert "Traceback" not in text and not names(tmp_path / "run")
    first = tmp_path / "run" / "checkpoint_1_3.pt"
    assert f"error: {first} could not be written, and is as it was: Invalid argument.\n" in text

    theirs = torch.load(tmp_path / "expected" / "checkpoint_1_3.pt", weights_only=True)
    assert_equal_state(torch.load(io.BytesIO(written), weights_only=True), theirs)
    training.folder.joinpath("checkpoint_last.pt").write_bytes(written)
    assert_same(training.finish(), expected)
    assert names(tmp_path / "run") - {first.name} == names(tmp_path / "expected") - {first.name}


@pytest.mark.slow
@pytest.mark.parametrize(
    "ranks, options", [(1, {"bf16": True}), (2, {"zero-sharding": "os", "bf16": True}), (2, {"store-ema": True})]
)
def test_other_states(data, tmp_path, ranks, options):
    """The same files as when they are written at once, and a training resumed from one is the same training."""
    expected = Training(data, tmp_path / "expected", ranks, **options).finish()
    Training(data, tmp_path / "run", ranks, **options, **{"async-save": True, "max-update": 6}).finish()
    run = Training(data, tmp_path / "run", ranks, **options, **{"async-save": True}).finish()
    assert_same(run, expected)
    assert names(run.folder) == names(expected.folder)
    for name in names(run.folder):
        one, other = (torch.load(folder / name, weights_only=True) for folder in (run.folder, expected.folder))
        one["optimizer_history"] = one["optimizer_history"][-1:]
        assert_equal_state(one, other)


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(("--keep-interval-updates", 2), marks=pytest.mark.slow),
        pytest.param(("--keep-interval-updates", 1, "--keep-interval-updates-pattern", 2), marks=pytest.mark.slow),
        ("--keep-best-checkpoints", 2, "--keep-last-epochs", 1),
    ],
)
def test_all_names_and_rules(data, tmp_path, rules, monkeypatch, caplog):
    kept = {}
    for way in WAYS:
        monkeypatch.delattr(checkpoint_utils.save_checkpoint, "best", raising=False)
        folder = tmp_path / "-".join(("run", *way))
        last = tiny.train(data, folder, "--max-update", 5, "--save-interval-updates", 1, *rules, *way)
        kept[way] = {path.name: updates(path) for path in folder.iterdir()}
        assert updates(last) == 5 and kept[way]["checkpoint_1_5.pt"] == 5
    assert kept[()] == kept["--async-save",]
    of_updates = {name for name in kept[()] if re.fullmatch(r"checkpoint_1_\d.pt", name)}
    best = {name for name in kept[()] if name.startswith("checkpoint.best_loss_")}
    if rules[1] == 1:
        assert of_updates == {"checkpoint_1_2.pt", "checkpoint_1_4.pt", "checkpoint_1_5.pt"}
    elif "--keep-interval-updates" in rules:
        assert of_updates == {"checkpoint_1_4.pt", "checkpoint_1_5.pt"} and not best
    else:
        assert len(of_updates) == 5 and len(best) == 2
    messages = [record.getMessage() for record in caplog.records if "Saved checkpoint" in record.getMessage()]
    assert len(messages) == 10 and re.search(r"checkpoint_1_5.pt \(epoch 1 @ 5 updates, score .*\) \(wr", messages[-1])


@pytest.mark.parametrize("way", WAYS)
def test_the_checkpoint_just_written_is_not_deleted(data, tmp_path, way):
    """Those of a training that came further are still in the folder, and by their numbers they are newer."""
    rules = "--disable-validation", "--save-interval-updates", 1, "--keep-interval-updates", 1, "--no-last-checkpoints"
    tiny.train(data, tmp_path, "--max-update", 4, *rules[:3])
    (tmp_path / "checkpoint_last.pt").unlink()
    tiny.train(data, tmp_path, "--restore-file", tmp_path / "checkpoint_1_1.pt", "--max-update", 2, *rules, *way)
    assert names(tmp_path) == {"checkpoint_1_2.pt", "checkpoint_1_4.pt"}
    assert updates(tmp_path / "checkpoint_1_2.pt") == 2


# ---- a full disk


@pytest.fixture
def disk(data, tmp_path):
    """Makes a file system that has room for so many checkpoints."""
    tiny.train(data, tmp_path / "size", "--max-update", 1, "--disable-validation")
    size = (tmp_path / "size" / "checkpoint_last.pt").stat().st_size
    folder = tmp_path / "disk"
    folder.mkdir()

    def make(checkpoints: float) -> Path:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={int(checkpoints * size)}", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting is not allowed")
        return folder

    yield make
    subprocess.run(["umount", folder], capture_output=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("room", [2.5, pytest.param(3.5, marks=pytest.mark.slow)])
def test_a_full_disk(data, disk, way, room):
    """It has room for the two files of update 1, or also for the first one of update 2."""
    folder = disk(room)
    rules = "--disable-validation", "--save-interval-updates", 1
    with pytest.raises(UserError) as error:
        tiny.train(data, folder, "--max-update", 4, *rules, *way)
    failed = "checkpoint_1_2.pt" if room < 3 else "checkpoint_last.pt"
    assert re.fullmatch(
        rf"{folder}/{failed} could not be written, and is as it was: No space left on device. A checkpoint takes .* kB"
        rf", under 2 names, and .* kB are free in {folder}.",
        str(error.value),
    )
    expected = {"checkpoint_last.pt": 1, "checkpoint_1_1.pt": 1} | ({"checkpoint_1_2.pt": 2} if room > 3 else {})
    assert {path.name: updates(path) for path in folder.iterdir()} == expected
    for path in (folder / "checkpoint_1_1.pt", folder / "checkpoint_1_2.pt"):
        path.unlink(missing_ok=True)
    resumed = tiny.train(data, folder, "--max-update", 2, "--disable-validation", *way)
    assert updates(resumed) == 2


def test_an_error_of_the_last_write(data, disk):
    with pytest.raises(UserError, match=r"checkpoint_last.pt could not be written, and is as it was: No space left"):
        tiny.train(data, disk(0.5), "--max-update", 2, "--disable-validation", "--async-save")


def test_fairseqs_own_asynchronous_writing(data, tmp_path):
    with pytest.raises(UserError, match=r"never writes checkpoint_last.pt.*give --async-save instead"):
        tiny.train(data, tmp_path, "--write-checkpoints-asynchronously", "--max-update", 1)
    assert not list(tmp_path.iterdir())


# ---- --resume-newest-whole


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """The folder of a training of four updates, with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.train(data, folder, "--max-update", 4, "--disable-validation", "--save-interval-updates", 1)
    return folder


def flip(path: Path) -> None:
    """Change one bit of a weight, which torch does not notice."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    torch.load(path, weights_only=True)


ON = "--max-update", 5, "--disable-validation", "--save-interval-updates", 5, "--keep-interval-updates", 2


@pytest.mark.slow
def test_one_flipped_bit_stops_a_training(data, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    flip(folder / "checkpoint_last.pt")
    flip(folder / "checkpoint_1_4.pt")
    before = names(folder)
    with pytest.raises(UserError) as error:
        tiny.train(data, folder, *ON)
    message = str(error.value)
    assert message.startswith(f"{folder}/checkpoint_last.pt is damaged: its record archive/data/")
    assert "newest whole checkpoint beside it is checkpoint_1_3.pt, of update 3" in message
    assert "give --resume-newest-whole, or copy it over" in message
    assert names(folder) == before and updates(folder / "checkpoint_last.pt") == 4


def test_resuming_from_the_newest_whole_one(data, trained, tmp_path, caplog):
    folder, whole = (shutil.copytree(trained, tmp_path / name) for name in ("run", "whole"))
    flip(folder / "checkpoint_last.pt")
    flip(folder / "checkpoint_1_4.pt")
    damaged = (folder / "checkpoint_last.pt").read_bytes()
    last = tiny.train(data, folder, *ON, "--resume-newest-whole")
    assert f"Going on from {folder}/checkpoint_1_3.pt, of update 3 (--resume-newest-whole)." in caplog.text
    assert f"{folder}/checkpoint_last.pt is damaged: its record archive/data/" in caplog.text
    assert (folder / "checkpoint_last.pt.damaged").read_bytes() == damaged
    # the damaged one is not among the two that --keep-interval-updates keeps
    assert names(folder) == {
        *("checkpoint_1_3.pt", "checkpoint_1_5.pt", "checkpoint_last.pt"),
        *("checkpoint_1_4.pt.damaged", "checkpoint_last.pt.damaged"),
    }
    expected = tiny.train(data, whole, *ON)
    one, other = (torch.load(path, weights_only=True) for path in (last, expected))
    assert len(one.pop("optimizer_history")) == len(other.pop("optimizer_history"))
    assert_equal_state(one, other)


def test_a_whole_last_checkpoint_is_used(data, trained, tmp_path, caplog):
    """Even if others are newer: somebody went back."""
    folder = shutil.copytree(trained, tmp_path / "run")
    shutil.copy(folder / "checkpoint_1_2.pt", folder / "checkpoint_last.pt")
    tiny.train(data, folder, *ON, "--resume-newest-whole")
    assert "Loaded checkpoint" in caplog.text and "@ 2 updates" in caplog.text
    assert not list(folder.glob("*.damaged"))


def test_no_checkpoint_is_whole(data, trained, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(trained / "checkpoint_last.pt", folder)
    flip(folder / "checkpoint_last.pt")
    with pytest.raises(UserError, match=r"is damaged: .* There is no whole checkpoint beside it: remove .* to start"):
        tiny.train(data, folder, *ON, "--resume-newest-whole")
    assert names(folder) == {"checkpoint_last.pt"}


@pytest.mark.slow
@pytest.mark.parametrize("everywhere", [{}, {"load-checkpoint-on-all-dp-ranks": True}])
def test_all_ranks_go_on_from_the_same_one(data, tmp_path, everywhere):
    expected = Training(data, tmp_path / "expected", 2).finish()
    run = Training(data, tmp_path / "run", 2, **{"max-update": 9}).finish()
    for name in ("checkpoint_last.pt", "checkpoint_1_9.pt"):
        flip(run.folder / name)
    output = run.folder / "output.txt"
    with pytest.raises(AssertionError):
        Training(data, tmp_path / "run", 2, **everywhere).finish()
    assert "checkpoint_last.pt is damaged" in output.read_text()
    assert_same(Training(data, tmp_path / "run", 2, **everywhere, **{"resume-newest-whole": True}).finish(), expected)
    assert output.read_text().count("Going on from") == 1
