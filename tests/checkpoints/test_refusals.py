"""Whatever cannot be converted is one clear error, before anything is written, and leaves the target untouched."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairseq_cli_ext import convert
from kosmos_plugin.checkpoints.convert import convert as convert_checkpoint
from kosmos_plugin.errors import UserError
from tests import tiny
from tests.checkpoints import peer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    return peer.write_folder(tmp_path_factory.mktemp("peer") / "theirs", max_shard_size="20KB")


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("ours") / "ours"
    convert_checkpoint(theirs, target, "fairseq")
    return target


@pytest.fixture
def refusal(tmp_path, capsys):
    """A function that runs a conversion that must fail, and returns its one-line error."""

    def run(to: str, source: Path, *options: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as status:
            convert.cli_main(["--to", to, str(source), str(tmp_path / "target"), *options])
        assert status.value.code == 2
        assert sorted(tmp_path.rglob("*")) == before  # neither a target nor temporary files
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        return lines[0]

    return run


def with_config(folder: Path, part: str | None, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config).update(values)
    (folder / "config.json").write_text(json.dumps(config))


def a_shard(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[1]


def with_weights(folder: Path, change) -> str:
    """Change a shard's tensors; returns the name of the first."""
    tensors = load_file(a_shard(folder))
    name = min(tensors)
    change(tensors, name)
    save_file(tensors, a_shard(folder))
    return name


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN_FOLDERS = {
    "no sentencepiece model": (lambda f: (f / "sentencepiece.bpe.model").unlink(), "has no sentencepiece.bpe.model"),
    "broken sentencepiece model": (lambda f: truncate(f / "sentencepiece.bpe.model"), "tokenizer of"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
    "config is not JSON": (lambda f: truncate(f / "config.json"), "config.json is not a configuration"),
    "another model": (lambda f: with_config(f, None, model_type="llama"), "model type 'llama'"),
    "truncated shard": (lambda f: truncate(a_shard(f)), "is not a valid safetensors file"),
    "missing shard": (lambda f: a_shard(f).unlink(), "safetensors does not exist"),
    "index is not JSON": (lambda f: truncate(f / "model.safetensors.index.json"), "is not an index of shards"),
    "no weights": (lambda f: [path.unlink() for path in f.glob("model*")], "has no weights: none of model.safetensors"),
    "wrong shape": (lambda f: with_weights(f, lambda t, n: t.update({n: torch.zeros(3, 5)})), "but its configuration"),
    "a tensor too many": (lambda f: with_weights(f, lambda t, n: t.update(odd=t[n] * 1)), "has the unexpected odd"),
    "a tensor too few": (lambda f: with_weights(f, lambda t, n: t.pop(n)), "which model.safetensors.index.json names"),
    "cross attention": (lambda f: with_config(f, "text_config", add_cross_attention=True), "add_cross_attention True"),
    "no embedding scale": (lambda f: with_config(f, "text_config", scale_embedding=False), "scale_embedding False"),
    "activation": (lambda f: with_config(f, "vision_config", hidden_act="tanh"), "hidden_act tanh"),
    "epsilon": (lambda f: with_config(f, "vision_config", layer_norm_eps=1e-3), "layer_norm_eps 0.001"),
    "more words than the tokenizer": (lambda f: with_config(f, "text_config", vocab_size=2000), "2,000 tokens"),
}


@pytest.mark.parametrize("broken, message", BROKEN_FOLDERS.values(), ids=BROKEN_FOLDERS)
def test_broken_hugging_face_folder(theirs, tmp_path, refusal, broken, message):
    folder = shutil.copytree(theirs, tmp_path / "theirs")
    broken(folder)
    assert message in refusal("fairseq", folder)


def with_model(ours: Path, folder: Path, **options) -> Path:
    """The checkpoint with other options of the model in its configuration."""
    shutil.copytree(ours, folder)
    state = torch.load(folder / "model.pt", weights_only=True)
    state["cfg"]["model"].update(options)
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"positions": "xpos"}, "cannot express xPos (--positions xpos)"),
        ({"positions": "both"}, "cannot express xPos (--positions both)"),
        ({"resampler": "perceiver"}, "cannot express the perceiver resampler"),
        ({"vision_encoder": "none"}, "cannot express a text-only model"),
        (
            {"positions": "xpos", "resampler": "linear", "image_tokens": 5},
            "xPos (--positions xpos); nor the linear resampler",
        ),
        ({"_name": "kosmos_9"}, "of kosmos_9, not of a KOSMOS model (kosmos_1, kosmos_1_lm"),
    ],
)
def test_what_hugging_face_cannot_express(ours, tmp_path, refusal, options, message):
    assert message in refusal("huggingface", with_model(ours, tmp_path / "ours", **options))


def test_trained_kosmos_tiny_is_refused(data, tmp_path, refusal):
    """It has xPos, like every architecture except kosmos_2."""
    checkpoint = tiny.train(data, tmp_path / "trained", "--max-update", 1, "--disable-validation")
    assert "cannot express xPos" in refusal("huggingface", checkpoint)


def test_vocabulary_is_gone(ours, tmp_path, refusal):
    checkpoint = with_model(ours, tmp_path / "ours")
    shutil.rmtree(tmp_path / "ours" / "vocabulary")
    state = torch.load(checkpoint, weights_only=True)
    state["cfg"]["task"]["vocabulary"] = str(tmp_path / "gone")
    del state["task_state"]["vocabulary_files"]  # as version 0.1 wrote it
    torch.save(state, checkpoint)
    assert "sentencepiece.model" in refusal("huggingface", checkpoint)
    (tmp_path / "empty").mkdir()
    assert "sentencepiece.model" in refusal("huggingface", checkpoint, "--vocabulary", str(tmp_path / "empty"))
    convert.cli_main(
        ["--to", "huggingface", str(checkpoint), str(tmp_path / "target"), "--vocabulary", str(ours / "vocabulary")]
    )
    assert (tmp_path / "target" / "config.json").is_file()


def test_checkpoint_of_other_shapes_than_its_configuration(ours, tmp_path, refusal):
    message = refusal("huggingface", with_model(ours, tmp_path / "ours", decoder_ffn_embed_dim=48))
    assert "ffn.fc1" in message and "(64, 32), but its configuration says (48, 32)" in message


@pytest.mark.parametrize("to", ["fairseq", "safetensors", "huggingface"])
def test_file_that_is_not_a_checkpoint(tmp_path, refusal, to):
    (tmp_path / "text.pt").write_text("no checkpoint")
    assert "text.pt is not a checkpoint of fairseq" in refusal(to, tmp_path / "text.pt")
    (tmp_path / "text.safetensors").write_text("no checkpoint")
    assert "text.safetensors is not a valid safetensors file" in refusal(to, tmp_path / "text.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "others.safetensors")
    assert "was not written by kosmos-convert" in refusal(to, tmp_path / "others.safetensors")
    assert "gone.pt does not exist" in refusal(to, tmp_path / "gone.pt")


def test_truncated_files(ours, tmp_path, refusal):
    shutil.copy(ours / "model.pt", tmp_path / "model.pt")
    convert_checkpoint(ours / "model.pt", tmp_path / "model.safetensors", "safetensors")
    for name in ("model.pt", "model.safetensors"):
        truncate(tmp_path / name)
        assert name in refusal("fairseq", tmp_path / name)


def test_existing_targets_stay(ours, theirs, tmp_path, capsys):
    for to, source in (("fairseq", theirs), ("huggingface", ours / "model.pt"), ("safetensors", ours / "model.pt")):
        target = tmp_path / to
        target.write_text("mine")
        with pytest.raises(SystemExit):
            convert.cli_main(["--to", to, str(source), str(target)])
        assert "already exists" in capsys.readouterr().err
        assert target.read_text() == "mine"
    with pytest.raises(SystemExit):
        convert.cli_main(["--to", "safetensors", str(ours / "model.pt"), str(tmp_path / "no" / "folder.safetensors")])
    assert "no does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    "to", ["fairseq", *(pytest.param(to, marks=pytest.mark.slow) for to in ("huggingface", "safetensors"))]
)
def test_full_disk(ours, theirs, tmp_path, to):
    """No file can grow beyond 60 kB: the files written first fit, the weights do not."""
    source = theirs if to == "fairseq" else ours / "model.pt"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "fairseq_cli_ext.convert", "--to", to, source, tmp_path / "target"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)),
    )
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "target could not be written" in line
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["transformers", "google.protobuf"])
def test_without_the_extra(theirs, refusal, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    message = refusal("fairseq", theirs)
    assert missing in message and 'pip install "kosmos-plugin[huggingface]"' in message


def test_unknown_format(ours, tmp_path, capsys):
    with pytest.raises(UserError, match="'onnx' is unknown; known are fairseq, transformers, huggingface, safetensors"):
        convert_checkpoint(ours / "model.pt", tmp_path / "model.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit):
        convert.cli_main(["--to", "onnx", "a", "b"])
    assert "--to must be one of fairseq, transformers, huggingface, safetensors, not 'onnx'" in capsys.readouterr().err
