"""Snapshots, writing in the background, and writing without room."""

import gc
import os
import resource
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import torch

from kosmos_plugin.checkpoints import background
from kosmos_plugin.checkpoints.snapshot import snapshot
from kosmos_plugin.checkpoints.writing import bytes_of, write_checkpoint
from kosmos_plugin.errors import UserError

# ---- snapshots


def test_a_snapshot_does_not_change_with_the_training():
    weights = torch.randn(700, 700)  # large enough for memory of its own
    state = {
        "model": {"w": weights, "half": weights.bfloat16()},
        "steps": [{"step": torch.ones(()), "n": 3}],
        "empty": (),
    }
    taken = snapshot(state)
    before = {name: tensor.float().clone() for name, tensor in state["model"].items()}
    weights.zero_()
    state["model"]["half"].zero_()
    state["steps"][0]["step"] += 1
    state["steps"][0]["n"] += 1
    assert torch.equal(taken["model"]["w"], before["w"]) and torch.equal(taken["model"]["half"], before["half"])
    assert taken["model"]["half"].dtype == torch.float32  # as fairseq writes it
    assert taken["steps"] == [{"step": torch.ones(()), "n": 3}] and taken["empty"] == ()


def test_what_has_two_names_is_copied_once(tmp_path):
    weights = torch.randn(700, 700)
    taken = snapshot({"embeddings": weights, "projection": weights, "transposed": weights.T})
    assert taken["embeddings"] is taken["projection"]
    assert torch.equal(taken["transposed"], weights.T)
    assert bytes_of(taken) == 2 * weights.nbytes


def memory_of(process: int) -> int:
    """Bytes that a process can address."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # the child only waits
def test_loader_workers_do_not_inherit_a_snapshot():
    weights = torch.ones(50_000_000)  # 200 MB
    taken = snapshot({"weights": weights})
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    here, there = memory_of(os.getpid()), memory_of(child)
    os.write(go[1], b"x")
    os.waitpid(child, 0)
    assert here - there > 0.9 * weights.nbytes
    gc.disable()
    try:
        del taken
        assert here - memory_of(os.getpid()) > 0.9 * weights.nbytes  # freed at once, without the collector
    finally:
        gc.enable()


# ---- in the background


def test_one_write_at_a_time():
    began, go, order = threading.Event(), threading.Event(), []

    def first() -> None:
        began.set()
        go.wait(60)
        order.append("first")

    background.start(first)
    assert began.wait(60) and order == []
    threading.Timer(0.2, go.set).start()
    background.start(lambda: order.append("second"))  # waits for the first
    assert order[0] == "first"
    background.wait()
    assert order == ["first", "second"]


@pytest.mark.parametrize("found_by", [background.wait, lambda: background.start(lambda: None)])
def test_an_error_is_raised_once_by_what_waits(found_by):
    def fail() -> None:
        raise UserError("no room")

    background.start(fail)
    with pytest.raises(UserError, match="no room"):
        found_by()
    background.wait()


# ---- without room


@pytest.fixture
def disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting is not allowed")
    yield folder
    subprocess.run(["umount", folder], check=True)


def content(folder: Path) -> dict[str, object]:
    return {path.name: torch.load(path, weights_only=True)["update"] for path in folder.iterdir()}


def checkpoint(update: int) -> dict[str, object]:
    return {"update": update, "weights": torch.full((100_000,), float(update))}  # 0.4 MB


def test_a_full_disk(disk):
    names = [str(disk / name) for name in ("checkpoint_1_1.pt", "checkpoint_last.pt")]
    write_checkpoint(checkpoint(1), names)
    assert content(disk) == {"checkpoint_1_1.pt": 1, "checkpoint_last.pt": 1}
    free = shutil.disk_usage(disk).free
    with pytest.raises(UserError) as error:
        write_checkpoint(checkpoint(2), [str(disk / "checkpoint_1_2.pt"), names[1]])
    assert str(error.value) == (
        f"{disk}/checkpoint_1_2.pt could not be written, and is as it was: No space left on device. A checkpoint takes "
        f"400 kB, under 2 names, and {free / 1000:.3g} kB are free in {disk}."
    )
    assert content(disk) == {"checkpoint_1_1.pt": 1, "checkpoint_last.pt": 1}


def test_a_disk_that_is_full_before_the_last_name(disk):
    last = disk / "checkpoint_last.pt"
    write_checkpoint(checkpoint(1), [str(last)])
    with pytest.raises(UserError, match=r"checkpoint_last\.pt could not be written, and is as it was: No space left"):
        write_checkpoint(checkpoint(2), [str(disk / "checkpoint_1_2.pt"), str(last)])
    assert content(disk) == {"checkpoint_1_2.pt": 2, "checkpoint_last.pt": 1}


def test_a_limit_of_file_size(tmp_path):
    """As a full disk, where mounting is not allowed."""
    last = tmp_path / "checkpoint_last.pt"
    write_checkpoint(checkpoint(1), [str(last)])
    room = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, room[1]))
    try:
        with pytest.raises(
            UserError, match=r"as it was: File too large. A checkpoint takes 400 kB, and .* GB are free"
        ):
            write_checkpoint(checkpoint(2), [str(last)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
    assert content(tmp_path) == {"checkpoint_last.pt": 1}


def test_a_folder_that_is_gone(tmp_path):
    with pytest.raises(UserError, match=r"could not be written, and is as it was: No such file or directory."):
        write_checkpoint(checkpoint(1), [str(tmp_path / "gone" / "checkpoint_last.pt")])
