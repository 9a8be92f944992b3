"""The official fairseq 0.12.2 on Python 3.10, as many existing pipelines have it: training, validation, generation."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests import tiny

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parent.parent


def python_3_10() -> str | None:
    """A Python 3.10 of this machine."""
    installed = sorted(Path("~/.pyenv/versions").expanduser().glob("3.10.*/bin/python3.10"))
    for candidate in (shutil.which("python3.10"), *installed):
        if candidate and subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
            return str(candidate)
    return None


def run(*arguments: object, folder: Path | str = "/") -> str:
    """Run a program that must succeed; return standard output and standard error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, arguments)),
        env=environment | {"OMP_NUM_THREADS": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory) -> Path:
    """The programs of an environment with Python 3.10, fairseq 0.12.2 and the plugin."""
    python = python_3_10()
    if python is None:
        pytest.skip("needs Python 3.10")
    folder = tmp_path_factory.mktemp("official")
    source = folder / "source"
    for name in ("kosmos_plugin", "fairseq_cli_ext", "fairseq_hook"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    run(python, "-m", "venv", folder / "environment")
    pip = [folder / "environment" / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "pip<24.1", "wheel")
    same_torch = f"torch=={torch.__version__.partition('+')[0]}"  # so that results are equal
    run(*pip, f"{source}[fairseq]", same_torch)
    return folder / "environment" / "bin"


def test_trains_validates_and_generates(bin_folder, tmp_path):
    """The weights after three updates are those of this environment's fairseq."""
    data = tiny.write_data(tmp_path / "data")
    options = [*tiny.TRAIN_OPTIONS.split(), "--vision-model", data.parent / "clip.json", "--max-update", 3]
    options += ["--no-epoch-checkpoints", "--log-format", "json"]
    official = tmp_path / "official"
    run(bin_folder / "fairseq-train", data, *options, "--save-dir", official)
    checkpoint = official / "checkpoint_last.pt"
    ours = tiny.train(data, tmp_path / "ours", "--max-update", "3", "--no-epoch-checkpoints")
    expected = torch.load(ours, weights_only=True)["model"]
    torch.testing.assert_close(torch.load(checkpoint, weights_only=True)["model"], expected, rtol=0, atol=1e-5)

    run(bin_folder / "fairseq-train", data, *options, "--max-update", 4, "--save-dir", official)
    assert torch.load(checkpoint, weights_only=True)["optimizer_history"][-1]["num_updates"] == 4
    task = ["--task", "kosmos_multimodal", "--path", checkpoint, "--batch-size", 64]
    output = run(bin_folder / "fairseq-validate", data, *task)
    assert "valid on 'valid' subset" in output
    output = run(bin_folder / "fairseq-eval-lm", data, *task)
    assert "Perplexity" in output
    generate = [bin_folder / "kosmos-generate", "--path", checkpoint, "--prompt", "a dog", "--max-new-tokens", 2]
    assert len(run(*generate).splitlines()) == 1
    run(bin_folder / "kosmos-convert", "--to", "safetensors", checkpoint, tmp_path / "model.safetensors")
