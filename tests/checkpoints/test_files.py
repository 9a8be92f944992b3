"""New files and folders are written as a whole or not at all, and a failure is one error that leaves nothing behind."""

import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from kosmos_plugin.checkpoints.convert import convert
from kosmos_plugin.checkpoints.fairseq_checkpoint import write_fairseq
from kosmos_plugin.checkpoints.files import new_target
from kosmos_plugin.checkpoints.safetensors_file import write_safetensors
from kosmos_plugin.errors import UserError
from tests.checkpoints import peer

STATE = {"model": {"x": torch.zeros(100_000)}, "cfg": {"model": {"_name": "transformer_lm"}}}


def write(path: Path, folder: bool) -> None:
    (path / "file" if folder else path).write_text("part")


@pytest.mark.parametrize("folder", [False, True])
def test_the_target_is_there_after_the_block_and_not_before(tmp_path, folder):
    target = tmp_path / "target"
    with new_target(target, folder) as path:
        write(path, folder)
        assert not target.exists() and path.parent == tmp_path
    assert list(tmp_path.iterdir()) == [target] and target.is_dir() == folder


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("error", [OSError, RuntimeError, SafetensorError])
def test_a_failed_write_is_one_line_and_leaves_nothing(tmp_path, folder, error):
    with (
        pytest.raises(UserError, match=r"^.*target could not be written: No space left$"),
        new_target(tmp_path / "target", folder) as path,
    ):
        write(path, folder)
        raise error("No space left\nsecond line")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("error", [UserError("refused"), KeyboardInterrupt(), TypeError("a bug")])
def test_other_errors_pass_through_and_leave_nothing(tmp_path, folder, error):
    with pytest.raises(type(error)) as raised, new_target(tmp_path / "target", folder) as path:
        write(path, folder)
        raise error
    assert raised.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_exists_or_has_no_parent_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder"):
        with pytest.raises(UserError, match=f"{name} already exists"), new_target(tmp_path / name):
            raise AssertionError
    with pytest.raises(UserError, match="no does not exist"), new_target(tmp_path / "no" / "target"):
        raise AssertionError
    assert (tmp_path / "file").read_text() == "mine"


def test_a_checkpoint_has_the_same_bytes_whatever_its_temporary_name_was(tmp_path):
    for name in ("a.pt", "b.pt"):
        write_fairseq(STATE, tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


@contextmanager
def file_size_limit(size: int):
    """Within this context, no file of the process can grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("writer", [write_fairseq, write_safetensors])
def test_a_file_on_a_full_disk(tmp_path, writer):
    with file_size_limit(60_000), pytest.raises(UserError, match="target could not be written") as error:
        writer(STATE, tmp_path / "target")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_folders_on_a_full_disk(tmp_path):
    """The files written first fit; the weights do not."""
    theirs = peer.write_folder(tmp_path / "theirs")
    convert(theirs, tmp_path / "ours", "fairseq")
    before = sorted(tmp_path.rglob("*"))
    for source, to in ((theirs, "fairseq"), (tmp_path / "ours" / "model.pt", "huggingface")):
        with file_size_limit(60_000), pytest.raises(UserError, match="target could not be written"):
            convert(source, tmp_path / "target", to)
        assert sorted(tmp_path.rglob("*")) == before
