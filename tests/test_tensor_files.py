"""No file of weights runs code, however it is disguised."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from kosmos_plugin.checkpoints.files import read_fairseq
from kosmos_plugin.errors import UserError
from kosmos_plugin.models.vision_clip import clip
from kosmos_plugin.tensor_files import is_torchscript, read_pt, read_torchscript


class Exploit:
    """Unpickling it creates a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def zip_archive(path: Path, target: Path) -> None:
    torch.save({"model": {}, "x": Exploit(target)}, path)


def old_format(path: Path, target: Path) -> None:
    torch.save({"model": {}, "x": Exploit(target)}, path, _use_new_zipfile_serialization=False)


def plain_pickle(path: Path, target: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Exploit(target)}))


def disguised_as_torchscript(path: Path, target: Path) -> None:
    """`constants.pkl` in some folder of the archive, but not in its top folder."""
    zip_archive(path, target)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("evil/x/constants.pkl", b"")


def torchscript_with_a_pickle(path: Path, target: Path) -> None:
    """`constants.pkl` in the archive's own top folder, beside a pickle."""
    zip_archive(path, target)
    with zipfile.ZipFile(path, "a") as archive:
        top = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{top}/constants.pkl", b"")


EXPLOITS = (zip_archive, old_format, plain_pickle, disguised_as_torchscript, torchscript_with_a_pickle)


@pytest.mark.parametrize("write", EXPLOITS)
@pytest.mark.parametrize("environment", ["", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_nothing_is_run(tmp_path, monkeypatch, write, environment):
    if environment:
        monkeypatch.setenv(environment, "1")  # it must not change what is safe
    file, target = tmp_path / "evil.pt", tmp_path / "created"
    write(file, target)
    readers = (
        read_pt,
        read_fairseq,
        read_torchscript,
        lambda path: clip("ViT-B-32-quickgelu", str(path), 32, 1, load_weights=True),
        lambda path: clip("ViT-B-32", str(path), 32, 1, load_weights=True),
    )
    for read in readers:
        with pytest.raises(UserError):
            read(file)
        assert not target.exists()


class WithSetState(nn.Module):
    @torch.jit.export
    def __getstate__(self):
        return (self.training,)

    @torch.jit.export
    def __setstate__(self, state: tuple[bool]):
        self.training = state[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_an_archive_that_runs_code_when_it_is_loaded_is_refused(tmp_path):
    torch.jit.script(WithSetState()).save(tmp_path / "archive.pt")
    assert is_torchscript(tmp_path / "archive.pt")
    with pytest.raises(UserError, match="__setstate__"):
        read_torchscript(tmp_path / "archive.pt")


def test_an_archive_is_read(tmp_path):
    torch.jit.script(nn.Linear(2, 3)).save(tmp_path / "archive.pt")
    assert {name: tensor.shape for name, tensor in read_torchscript(tmp_path / "archive.pt").items()} == {
        "weight": (3, 2),
        "bias": (3,),
    }


def test_nothing_else_in_the_package_unpickles():
    """`torch.load`, `pickle.load` and NumPy's `allow_pickle` appear only where they are known to be safe."""
    root = Path(__file__).parents[1]
    found = {
        f"{path.relative_to(root)}"
        for room in ("kosmos_plugin", "fairseq_cli_ext")
        for path in (root / room).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if any(call in line for call in ("torch.load(", "pickle.load", "allow_pickle=True", "jit.load("))
    }
    # micro_batches: bytes between this process and its own workers
    assert found == {"kosmos_plugin/tensor_files.py", "kosmos_plugin/data/micro_batches.py"}
