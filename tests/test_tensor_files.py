"""Files of weights from strangers: none runs code, and a damaged one is one line, in bounded time and memory."""

import functools
import json
import os
import pickle
import random
import re
import resource
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from kosmos_plugin.checkpoints import huggingface, huggingface_config, huggingface_processor
from kosmos_plugin.checkpoints.convert import convert
from kosmos_plugin.checkpoints.fairseq_checkpoint import read_checkpoint, read_kosmos
from kosmos_plugin.checkpoints.safetensors_file import write_safetensors
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.restoring import load_checkpoint
from kosmos_plugin.generation.generator import load
from kosmos_plugin.inspection.like import read_like
from kosmos_plugin.models.vision import build_vision_encoder
from kosmos_plugin.tensor_files import is_torchscript, read_pt, read_safetensors, read_torchscript
from kosmos_plugin.vocabulary import Vocabulary
from tests import tiny
from tests.checkpoints import peer

ROOT = Path(__file__).parents[1]


# ---- exploits


class Reduce:
    """Creates the file `path` when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Build:
    """Unpickled by `__setstate__`."""

    def __init__(self, path: Path):
        self.path = path

    def __setstate__(self, state: dict) -> None:
        Path(state["path"]).touch()


class Eval:
    """Unpickled by a built-in function, which some blocklists forget."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return eval, (f"__import__('pathlib').Path({str(self.path)!r}).touch()",)


def zipped(state, path: Path) -> None:
    torch.save(state, path)


def legacy(state, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def bare_pickle(state, path: Path) -> None:
    path.write_bytes(pickle.dumps(state))


def with_member(name: str, state, path: Path) -> None:
    torch.save(state, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{path.stem}/{name}", b"")


def in_torchscript(state, path: Path) -> None:
    """A real TorchScript archive whose data is another pickle."""
    torch.jit.script(torch.nn.Linear(2, 2)).save(path.with_suffix(".whole"))
    with zipfile.ZipFile(path.with_suffix(".whole")) as whole, zipfile.ZipFile(path, "w") as archive:
        for name in whole.namelist():
            data = pickle.dumps(state, 2) if name.endswith("data.pkl") else whole.read(name)
            archive.writestr(name.replace(path.stem, "a", 1), data)


def with_zip_behind(state, path: Path) -> None:
    """torch reads the beginning of the file, `zipfile` its end."""
    legacy(state, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("evil/constants.pkl", b"")


WRITERS = {
    "zip": zipped,
    "legacy": legacy,
    "pickle": bare_pickle,
    "zip behind": with_zip_behind,
    "constants.pkl deeper": functools.partial(with_member, "x/constants.pkl"),
    "CONSTANTS.PKL": functools.partial(with_member, "CONSTANTS.PKL"),
    "constants.pkl": functools.partial(with_member, "constants.pkl"),
    "TorchScript": in_torchscript,
}
PAYLOADS = {"REDUCE": Reduce, "BUILD": Build, "eval": Eval}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "evil-quickgelu.json"
    path.write_text(json.dumps({**tiny.CLIP, "quick_gelu": True}))
    return path


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> Vocabulary:
    return tiny.write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "vocabulary")


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_no_file_runs_code(write, payload, clip, vocabulary, tmp_path, monkeypatch):
    """By no way in which a user can name a file of weights, even if torch is told to unpickle."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    ran, evil = tmp_path / "ran", tmp_path / "evil.pt"
    write({"model": {"x": payload(ran)}, "cfg": {"model": {"_name": "kosmos_tiny"}}}, evil)
    readers = {
        "read_pt": lambda: read_pt(evil),
        "TorchScript": lambda: read_torchscript(evil),
        "kosmos-convert": lambda: convert(evil, tmp_path / "target", "safetensors"),
        "kosmos-generate": lambda: load(evil),
        "--like": lambda: read_like(str(evil)),
        "--restore-file": lambda: load_checkpoint(evil, {}, vocabulary, None),
        "--vision-weights": lambda: build_vision_encoder("clip", str(clip), str(evil), tiny.IMAGE_SIZE, 1),
    }
    for name, read in readers.items():
        with pytest.raises(UserError) as error:
            read()
        assert not ran.exists(), name
        assert "\n" not in str(error.value) and "weights_only" not in str(error.value)  # torch's advice is to run it


class WritesAFile(torch.nn.Module):
    """TorchScript that runs while the archive is loaded."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    @torch.jit.export
    def __getstate__(self):
        return (self.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.weight, self.training = state[0], state[1]
        torch.save(self.weight, "ran")

    def forward(self, x):
        return x + self.weight


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_does_not_run_while_it_is_loaded(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.jit.script(WritesAFile()).save("evil.pt")
    torch.jit.load("evil.pt")
    assert Path("ran").exists()  # torch itself does run it
    Path("ran").unlink()
    with pytest.raises(UserError, match="would run code of its own"):
        build_vision_encoder("clip", str(clip), "evil.pt", tiny.IMAGE_SIZE, 1)
    assert not Path("ran").exists()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_archives_are_told_apart_as_torch_does(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "archive.pt")
    torch.save({"x": torch.ones(1)}, tmp_path / "weights.pt")
    assert is_torchscript(tmp_path / "archive.pt") and not is_torchscript(tmp_path / "weights.pt")
    assert sorted(read_torchscript(tmp_path / "archive.pt")) == ["bias", "weight"]
    with pytest.raises(UserError, match="is a TorchScript archive"):
        read_pt(tmp_path / "archive.pt")


@pytest.mark.parametrize("option", ["--restore-file", "--finetune-from-model"])
def test_fairseq_trains_without_unpickling(data, tmp_path, monkeypatch, option):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"model": {"x": Reduce(tmp_path / "ran")}}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil.pt is not a checkpoint of fairseq: it contains objects of posix\."):
        tiny.train(data, tmp_path / "out", "--max-update", 1, option, tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_fairseq_trains_and_scores_without_unpickling(data, tmp_path):
    """The commands themselves, in a process with the variable that makes torch unpickle."""
    torch.save({"model": {"x": Reduce(tmp_path / "ran")}}, tmp_path / "evil.pt")
    model = [*tiny.TRAIN_OPTIONS.split(), "--vision-model", str(data.parent / "clip.json"), "--max-update", "1"]
    task = ["--task", "kosmos_multimodal", "--tokens-per-sample", "64", "--gen-subset", "valid"]
    commands = [
        ["fairseq_cli.train", str(data), *model, "--save-dir", "out", "--restore-file", "evil.pt"],
        ["fairseq_cli.train", str(data), *model, "--save-dir", "out", "--finetune-from-model", "evil.pt"],
        ["fairseq_cli.eval_lm", str(data), *task, "--path", "evil.pt"],
    ]
    environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "PYTHONPATH": str(ROOT)}
    for command in commands:
        plugin = ["--user-dir", str(ROOT / "kosmos_plugin")]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", *command, *plugin],
            capture_output=True, text=True, cwd=tmp_path, env=environment,
        )  # fmt: skip
        assert done.returncode != 0 and not (tmp_path / "ran").exists()
        assert "Traceback" not in done.stderr
        assert "error: evil.pt is not a checkpoint of fairseq: it contains objects of posix." in done.stderr


def test_nothing_else_opens_files_of_weights():
    """Pickles that the processes of one run send each other are not files."""
    opens = re.compile(r"torch\.load\(|jit\.load|safe_open|pickle\.load|allow_pickle|weights_only=False|load_file\(")
    found = {
        str(path.relative_to(ROOT))
        for folder in ("kosmos_plugin", "fairseq_cli_ext", "fairseq_hook")
        for path in (ROOT / folder).rglob("*.py")
        if opens.search(path.read_text())
    }
    assert found <= {
        "kosmos_plugin/tensor_files.py",
        "kosmos_plugin/data/micro_batches.py",
    }


# ---- damage


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut out, repeated or inserted, most of them where the headers are."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 8))):
        near = rng.choice((64, 2_000, len(data)))
        at = rng.randrange(min(near, len(data)))
        at = at if rng.random() < 0.5 else len(data) - 1 - at
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 8] = struct.pack("<Q", rng.choice((0, 10**12, 2**63, 2**64 - 1)))
        elif kind == 2:
            del data[at : at + rng.choice((1, 40, len(data)))]
        elif kind == 3:
            data[at:at] = data[at : at + rng.choice((1, 40))]
        else:
            data[at : at + 4] = rng.randbytes(4)
        if not data:
            break
    return bytes(data)


@pytest.fixture(scope="module")
def checkpoints(data, tmp_path_factory) -> dict[str, bytes]:
    """A small model's checkpoint in each format, as bytes."""
    folder = tmp_path_factory.mktemp("checkpoints")
    trained = tiny.train(data, folder / "trained", "--max-update", 1, "--disable-validation")
    state = torch.load(trained, weights_only=True)
    state["last_optimizer_state"] = None
    legacy(state, folder / "legacy.pt")
    zipped(state, folder / "zip.pt")
    write_safetensors(state, folder / "whole.safetensors")
    torch.jit.script(torch.nn.Linear(20, 20)).save(folder / "archive.pt")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


READERS = {"zip.pt": 600, "legacy.pt": 400, "whole.safetensors": 600, "archive.pt": 400}
# The tests of damage try a part of their cases, and all if slow ones are run.
PARTS = [pytest.param(0.1, id="some"), pytest.param(1.0, marks=pytest.mark.slow, id="all")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", READERS)
def test_damaged_files(checkpoints, vocabulary, name, part, tmp_path):
    """Each is read, or is one UserError of one line; the process takes no more memory than some files' worth."""
    rng, cases = random.Random(name), round(part * READERS[name])
    path, refused, before, start = tmp_path / name, 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.time()
    for case in range(cases):
        path.write_bytes(damaged(checkpoints[name], rng))
        for read in readers_of(name, path, vocabulary, build=case % 20 == 0):
            try:
                read()
            except UserError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 2_000, case
            except Exception as error:
                raise AssertionError(f"{name}, case {case}: {error!r}") from error
    assert refused > cases // 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
    assert time.time() - start < 60


def load_or_convert(path: Path) -> None:
    """Convert a checkpoint and, if it still is a KOSMOS model's, build the model."""
    target = path.with_name("target.safetensors")
    target.unlink(missing_ok=True)
    convert(path, target, "safetensors")
    load(path)


def readers_of(name: str, path: Path, vocabulary: Vocabulary, build: bool):
    if name == "archive.pt":
        return (lambda: read_torchscript(path),)
    readers = [lambda: read_kosmos(path), lambda: read_like(str(path))]
    if build:
        readers.append(lambda: load_or_convert(path))
    if path.suffix == ".pt":
        readers.append(lambda: load_checkpoint(path, {}, vocabulary, None))
    return readers


ODD = (None, True, -1, 10**9, 0.5, float("nan"), "x", "", "${oc.env:HOME}", "${", [], ["x"], {}, {"x": 1})


def nodes(value, path=()):
    """All keys of nested dicts and lists."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from nodes(inner, (*path, key))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("key", ["cfg", "cfg.model", "cfg.task", "rest"])
def test_odd_values_in_a_whole_file(checkpoints, vocabulary, key, part, tmp_path):
    """What torch can read need not be what fairseq wrote."""
    (tmp_path / "zip.pt").write_bytes(checkpoints["zip.pt"])
    rng, path = random.Random(key), tmp_path / "odd.pt"
    for case in range(round(part * 60)):
        state = torch.load(tmp_path / "zip.pt", weights_only=True)
        chosen = [
            node
            for node in nodes(state)
            if (node[0] != "cfg" if key == "rest" else node[: len(key.split("."))] == tuple(key.split(".")))
            and (key != "cfg" or len(node) < 3)
        ]
        node = rng.choice(chosen)
        inner = functools.reduce(lambda value, key: value[key], node[:-1], state)
        odd = rng.choice(ODD)
        if rng.random() < 0.2:
            inner.pop(node[-1])
        else:
            inner[node[-1]] = odd
        torch.save(state, path)
        for read in readers_of("odd.pt", path, vocabulary, build=case % 4 == 0):
            try:
                read()
            except UserError as error:
                assert len(str(error)) < 2_000, (case, node, odd)
            except Exception as error:
                raise AssertionError(f"case {case}, {node} is {odd!r}: {error!r}") from error


HF_FILES = ("config.json", "model.safetensors.index.json", "processor_config.json", "model-00002-of-")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", PARTS)
def test_damaged_hugging_face_folders(part, tmp_path):
    """The files that transformers' parsers and ours read, of a folder of shards."""
    folder = peer.write_folder(tmp_path / "theirs", max_shard_size="20KB")
    rng, refused, cases = random.Random(0), 0, round(part * 200)
    for name in HF_FILES:
        path = next(folder.glob(f"{name}*"))
        whole = path.read_bytes()
        for case in range(cases):
            path.write_bytes(damaged(whole, rng))
            try:
                huggingface_config.from_hf(huggingface._read_config(folder))
                huggingface_processor.image_fit(folder)
                huggingface.read_weights(folder)
            except UserError as error:
                refused += 1
                assert len(str(error)) < 10_000, (name, case)
            except Exception as error:
                raise AssertionError(f"{name}, case {case}: {error!r}") from error
        path.write_bytes(whole)
    assert refused > 1.5 * cases


@pytest.mark.parametrize("size", [10**12, 2**63, 2**64 - 1, 99_000_000])
def test_a_header_that_claims_too_much(tmp_path, size):
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", size) + b'{"x":')
    header = {"x": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    text = json.dumps(header).encode()
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    for name in ("a", "b"):
        with pytest.raises(UserError, match="is not a valid safetensors file"):
            read_safetensors(tmp_path / f"{name}.safetensors")


def test_a_small_file_that_claims_a_large_tensor(tmp_path):
    """One number seen as 10¹² by strides of 0: it cannot be written, but is one line."""
    weights = {"x": torch.zeros(1).expand(10**6, 10**6)}
    torch.save({"model": weights, "cfg": {"model": {"_name": "transformer_lm"}}}, tmp_path / "a.pt")
    with pytest.raises(UserError):
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors", "safetensors")


def test_the_whole_files_are_read(checkpoints, tmp_path):
    for name, data in checkpoints.items():
        (tmp_path / name).write_bytes(data)
    read_torchscript(tmp_path / "archive.pt")
    first, *others = (read_checkpoint(tmp_path / name)["model"] for name in READERS if name != "archive.pt")
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)
