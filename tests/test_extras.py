"""Each extra installs what its commands need: environments with only torch, its requirements, and one extra.

torch is linked from this environment, as are the packages that torch and torchvision require themselves. Everything
else is installed by pip: the plugin with `[fairseq]` into one environment, and each other extra into an environment of
its own, which sees the first.
"""

import importlib.metadata
import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kosmos_plugin.evaluation.benchmarks import benchmark_class
from tests import tiny
from tests.checkpoints import peer
from tests.data.remote_server import remote_yaml, web_server
from tests.evaluation.releases import write_release

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parent.parent


def required_by(*names: str) -> set[str]:
    """The distributions `names` in this environment, and all their requirements."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        found.add(requirement.name)
        extras = {"", *requirement.extras}
        for each in map(Requirement, importlib.metadata.requires(requirement.name) or ()):
            is_needed = each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
            if is_needed and (each.extras or each.name not in found):
                waiting.append(each)
    return found


def link_distributions(names: set[str], folder: Path) -> None:
    """Link the files of the distributions `names` of this environment into `folder`."""
    folder.mkdir()
    site_packages = Path(sysconfig.get_path("purelib"))
    for name in names:
        files = importlib.metadata.distribution(name).files or ()
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            target = folder / top
            if not target.exists():
                target.symlink_to(site_packages / top)


class Environment:
    """A virtual environment that also sees the packages in `folders`."""

    def __init__(self, folder: Path, folders: Sequence[Path]):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.bin = folder / "bin"
        self.site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        (self.site_packages / "others.pth").write_text("\n".join(map(str, folders)))

    def install(self, requirement: str) -> None:
        """Install `requirement`; packages elsewhere on the path stay as they are."""
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.bin / "python"]
        constraints = ["-c", REPOSITORY / "constraints.txt"]
        subprocess.run([*pip, "install", "--quiet", *constraints, requirement], check=True, cwd="/")

    def run(self, module: str, *arguments: object, status: int = 0) -> str:
        """Run a command by its module; return standard output and standard error."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [self.bin / "python", "-m", module, *map(str, arguments)],
            env=environment | {"OMP_NUM_THREADS": "1"},
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert done.returncode == status, done.stdout[-4000:]
        assert "Traceback" not in done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def torch_only(tmp_path_factory) -> Path:
    """A folder of links to torch, torchvision and what they require."""
    folder = tmp_path_factory.mktemp("torch") / "site-packages"
    link_distributions(required_by("torch", "torchvision"), folder)
    return folder


@pytest.fixture(scope="module")
def fairseq(torch_only, tmp_path_factory) -> Environment:
    """An environment with the plugin and its extra `fairseq`."""
    source = tmp_path_factory.mktemp("source")
    for folder in ("kosmos_plugin", "fairseq_cli_ext", "fairseq_hook"):
        shutil.copytree(REPOSITORY / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / file, source)
    environment = Environment(tmp_path_factory.mktemp("fairseq") / "environment", [torch_only])
    environment.install(f"{source}[fairseq]")
    return environment


@pytest.fixture(scope="module")
def checkpoint(fairseq, tmp_path_factory) -> Path:
    """A checkpoint of one update."""
    folder = tmp_path_factory.mktemp("checkpoint")
    data = tiny.write_data(folder / "data")
    options = [*tiny.TRAIN_OPTIONS.split(), "--vision-model", data.parent / "clip.json", "--max-update", "1"]
    options += ["--tokens-per-sample", "512", "--no-epoch-checkpoints", "--save-dir", folder]
    fairseq.run("fairseq_cli.train", data, *options)
    return folder / "checkpoint_last.pt"


@pytest.fixture
def with_extra(fairseq, torch_only, tmp_path):
    """Make an environment of `[fairseq]` and one more extra."""

    def make(extra: str) -> Environment:
        environment = Environment(tmp_path / "environment", [fairseq.site_packages, torch_only])
        environment.install(f"kosmos-plugin[{extra}]")
        return environment

    return make


def test_fairseq(fairseq, checkpoint, tmp_path):
    """Training (the fixture), validation, generation, inspection, conversion; errors name other extras."""
    data = checkpoint.parent / "data" / "data.yaml"
    options = ["--task", "kosmos_multimodal", "--path", checkpoint, "--batch-size", 64]
    output = fairseq.run("fairseq_cli.validate", data, *options)
    assert "valid on 'valid' subset" in output
    fairseq.run("fairseq_cli_ext.generate", "--path", checkpoint, "--prompt", "a dog", "--max-new-tokens", 2)
    fairseq.run("fairseq_cli_ext.inspect", data, "--image-tokens", 4, "--image-size", 32, "--tokens-per-sample", 64)
    fairseq.run("fairseq_cli_ext.convert", "--to", "safetensors", checkpoint, tmp_path / "model.safetensors")
    fairseq.run("fairseq_cli_ext.convert", "--to", "fairseq", tmp_path / "model.safetensors", tmp_path / "model.pt")
    for module, *arguments, extra in (
        ("prepare", "tokenizer", data, "--out", tmp_path / "out", "curation"),
        ("convert", "--to", "huggingface", checkpoint, tmp_path / "folder", "huggingface"),
        ("evaluate", "--path", checkpoint, "--benchmark", "piqa", "--data", tmp_path, "evaluation"),
    ):
        output = fairseq.run(f"fairseq_cli_ext.{module}", *arguments, status=2)
        assert output.startswith("error: ") and f"kosmos-plugin[{extra}]" in output


def test_curation(with_extra, tmp_path):
    environment = with_extra("curation")
    assert "kosmos-prepare" in environment.run("fairseq_cli_ext.prepare", "--help")

    def prepare(command: str, *arguments: object) -> dict:
        environment.run("fairseq_cli_ext.prepare", command, *arguments)
        return json.loads((Path(str(arguments[-1])) / "report.json").read_text())["counts"]

    rng = random.Random(0)
    texts = [tiny.sentence(rng, (30, 40)) for _ in range(50)]
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    vocabulary = tmp_path / "vocabulary"
    prepare("tokenizer", raw / "texts.jsonl", "--size", 60, "--out", vocabulary)
    out = tmp_path / "text"
    prepare("text", raw / "texts.jsonl", "--english", "--vocabulary", vocabulary, "--out", out)

    for number in range(12):
        (raw / f"{number}.png").write_bytes(tiny.png(rng, 80))
    lines = [{"image": f"{number}.png", "caption": f"{texts[number]}."} for number in range(12)]
    (raw / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    paragraphs = "".join(f'<p>{text}.</p><img src="{number}.png">' for number, text in enumerate(texts[:3]))
    (raw / "page.html").write_text(f"<html><body><article>{paragraphs}</article></body></html>")
    counts = prepare("pages", raw / "page.html", "--valid-share", 0, "--out", tmp_path / "pages")
    assert counts["kept"]["train: documents"] == 1
    (raw / "flan.jsonl").write_text(json.dumps({"inputs": "a", "targets": "b"}) + "\n")
    counts = prepare("instructions", raw / "flan.jsonl", "--valid-share", 0, "--out", tmp_path / "instructions")
    assert counts["kept"]["train: documents"] == 1
    data = tiny.write_data(tmp_path / "data")
    sizes = ["--image-tokens", 4, "--tokens-per-sample", 64]
    environment.run("fairseq_cli_ext.prepare", "stats", data, *sizes, "--out", tmp_path / "statistics")
    environment.run(
        "fairseq_cli_ext.prepare", "show", data, *sizes, "--image-size", 32, "--out", tmp_path / "page.html"
    )
    assert (tmp_path / "page.html").stat().st_size > 1000


def test_remote(fairseq, with_extra, tmp_path):
    """Data on a web server; without the extra, an error names it. S3's package is there."""
    sizes = ["--image-tokens", 4, "--image-size", 32, "--tokens-per-sample", 64]
    with web_server(tiny.write_data(tmp_path / "data").parent) as server:
        data = remote_yaml(tmp_path / "data" / "data.yaml", tmp_path / "yaml", server.url)
        output = fairseq.run("fairseq_cli_ext.inspect", data, *sizes, status=2)
        assert output.startswith("error: ") and "kosmos-plugin[remote]" in output
        environment = with_extra("remote")
        environment.run("fairseq_cli_ext.inspect", data, *sizes)
    subprocess.run([environment.bin / "python", "-c", "import s3fs, huggingface_hub"], check=True)


def test_evaluation(with_extra, checkpoint, tmp_path):
    """A benchmark for each library of the extra; captions are left out, as their metric needs Java too."""
    names = ("hateful_memes", "websrc", "piqa")
    for name in names:
        write_release(tmp_path, benchmark_class(name).release, count=24)
    environment = with_extra("evaluation")
    run = ["--path", checkpoint, "--benchmark", ",".join(names), "--data", tmp_path, "--limit", 3, "--shots", 0]
    output = environment.run("fairseq_cli_ext.evaluate", *run, "--out", tmp_path / "out")
    assert "report.html" in output
    assert (tmp_path / "out" / "report.png").stat().st_size > 1000


def test_serve(with_extra, checkpoint):
    """All that the server imports is there: after it the port is refused."""
    environment = with_extra("serve")
    output = environment.run("fairseq_cli_ext.serve", "--path", checkpoint, "--port", 99999, status=2)
    assert output == "error: --port must be at most 65535, not 99999.\n"


def test_page(with_extra, checkpoint):
    """All that the page imports is there, and what the server needs: after it the address is refused."""
    environment = with_extra("page")
    where = ["--page", "--host", "203.0.113.1"]
    output = environment.run("fairseq_cli_ext.serve", "--path", checkpoint, *where, status=2)
    assert output.startswith("error: --host 203.0.113.1 --port 8000 cannot be listened on: ")
    assert output.count("\n") == 1


def test_huggingface(with_extra, tmp_path):
    theirs = peer.write_folder(tmp_path / "theirs")
    environment = with_extra("huggingface")
    environment.run("fairseq_cli_ext.convert", "--to", "fairseq", theirs, tmp_path / "ours")
    model = tmp_path / "ours" / "model.pt"
    environment.run("fairseq_cli_ext.convert", "--to", "huggingface", model, tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").is_file()
