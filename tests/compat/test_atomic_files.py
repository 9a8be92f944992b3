"""A checkpoint is complete at every moment: processes are killed while they copy one over another."""

import os
import random
import resource
import signal
import time

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

import kosmos_plugin  # noqa: F401


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # the child only copies files
def test_killed_while_copying(tmp_path):
    sources = [str(tmp_path / f"checkpoint_1_{i}.pt") for i in range(2)]
    for i, source in enumerate(sources):
        torch.save({"update": i, "weights": torch.full((1_000_000,), float(i))}, source)
    last = str(tmp_path / "checkpoint_last.pt")
    PathManager.copy(sources[0], last, overwrite=True)

    moments = random.Random(1)
    killed_inside_a_copy = 0
    for _ in range(30):
        child = os.fork()
        if child == 0:
            while True:
                for source in sources:
                    PathManager.copy(source, last, overwrite=True)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed_inside_a_copy += os.path.exists(f"{last}.tmp")
        state = torch.load(last, weights_only=True)
        assert torch.equal(state["weights"], torch.full((1_000_000,), float(state["update"])))

    assert killed_inside_a_copy > 0, "no process was killed inside a copy, so nothing was tested"
    assert PathManager.copy(sources[1], last, overwrite=True)
    assert torch.load(last, weights_only=True)["update"] == 1
    assert sorted(os.listdir(tmp_path)) == ["checkpoint_1_0.pt", "checkpoint_1_1.pt", "checkpoint_last.pt"]


@pytest.mark.parametrize("write", ["save", "copy"])
def test_content_reaches_the_disk_before_the_name(write, tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        events.append(("on disk", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def recorded_replace(source, target):
        events.append(("renamed", os.path.basename(source)))
        replace(source, target)

    source, target = str(tmp_path / "source.pt"), str(tmp_path / "checkpoint.pt")
    torch.save({"update": 3}, source)
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    if write == "save":
        checkpoint_utils.torch_persistent_save({"update": 3}, target)
    else:
        PathManager.copy(source, target, overwrite=True)

    assert events == [("on disk", "checkpoint.pt.tmp"), ("renamed", "checkpoint.pt.tmp"), ("on disk", tmp_path.name)]
    assert torch.load(target, weights_only=True) == {"update": 3}


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    new, last = tmp_path / "checkpoint_1_2.pt", tmp_path / "checkpoint_last.pt"
    torch.save({"weights": torch.zeros(100_000)}, new)
    torch.save({"update": 1}, last)
    room = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, room[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            PathManager.copy(str(new), str(last), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
    assert torch.load(last, weights_only=True) == {"update": 1}
