"""--like reads the options that change the batches from a training's command or checkpoint; explicit ones win."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from fairseq_cli_ext import inspect, prepare
from fairseq_cli_ext.convert import cli_main as convert
from kosmos_plugin.fairseq_modules.task_options import KosmosMultimodalConfig
from kosmos_plugin.images import DECODINGS, FITS
from kosmos_plugin.inspection.like import read_like
from kosmos_plugin.inspection.options import BatchOptions
from tests import tiny

# Options of a training, and the same options of kosmos-inspect.
TRAINING = "--image-fit stretch --image-decoding exact --seed 7 --update-freq 2"
SIZES = (
    f"--image-tokens {tiny.IMAGE_TOKENS} --image-size {tiny.IMAGE_SIZE} --tokens-per-sample {tiny.TOKENS_PER_SAMPLE}"
)
VALUES = {
    "image_tokens": tiny.IMAGE_TOKENS,
    "image_size": tiny.IMAGE_SIZE,
    "image_fit": "stretch",
    "image_decoding": "exact",
    "tokens_per_sample": tiny.TOKENS_PER_SAMPLE,
    "seed": 7,
    "update_freq": 2,
}


def script_of(folder, data, options: str = TRAINING, begin: str = "fairseq-train"):
    path = folder / "train.sh"
    path.write_text(f"{begin} '{data}' {tiny.TRAIN_OPTIONS} --vision-model '{data.parent / 'clip.json'}' {options}\n")
    return path


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    """A checkpoint of a training with the options above."""
    folder = tmp_path_factory.mktemp("trained")
    return tiny.train(data, folder, *TRAINING.split(), "--max-update", "1", "--no-epoch-checkpoints")


def printed(capsys, command, *arguments) -> str:
    command.cli_main(list(map(str, arguments)))
    return capsys.readouterr().out


def error_of(capsys, command, *arguments) -> str:
    with pytest.raises(SystemExit) as exit:
        command.cli_main(list(map(str, arguments)))
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1
    return error


def test_a_script(data, tmp_path):
    path = script_of(tmp_path, data, begin="torchrun --nnodes 2 --nproc-per-node 4 fairseq-train")
    assert read_like(str(path)) == {**VALUES, "data": str(data), "vocabulary": None, "ranks": 8}


def test_a_checkpoint_in_either_format(data, tmp_path, checkpoint):
    expected = {**VALUES, "data": str(data), "vocabulary": None, "ranks": 1}
    assert read_like(str(checkpoint)) == expected
    convert(["--to", "safetensors", str(checkpoint), str(tmp_path / "model.safetensors")])
    assert read_like(str(tmp_path / "model.safetensors")) == expected


def test_a_checkpoint_of_another_model_and_one_moved_with_its_vocabulary(data, tmp_path, capsys, checkpoint):
    (tmp_path / "vocabulary").mkdir()
    shutil.copy(checkpoint, tmp_path / "model.pt")
    assert read_like(str(tmp_path / "model.pt"))["vocabulary"] == str(tmp_path / "vocabulary")
    state = torch.load(checkpoint, weights_only=True)
    state["cfg"]["model"]["_name"] = "transformer_lm"
    torch.save(state, tmp_path / "other.pt")
    assert "is a checkpoint of transformer_lm, not of" in error_of(capsys, inspect, "--like", tmp_path / "other.pt")


def test_a_checkpoint_in_torchs_old_format(tmp_path, checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read_like(str(tmp_path / "old.pt")) == read_like(str(checkpoint))


def test_a_training_with_its_own_vocabulary(data, tmp_path):
    vocabulary = data.parent / "vocabulary"
    path = script_of(tmp_path, data, f"--vocabulary '{vocabulary}'")
    assert read_like(str(path))["vocabulary"] == str(vocabulary)


def test_the_micro_batch_is_that_of_the_explicit_options(data, tmp_path, capsys, checkpoint):
    explicit = printed(capsys, inspect, data, *SIZES.split(), *TRAINING.split(), "--accumulation-step", 1)
    assert explicit != printed(capsys, inspect, data, *SIZES.split(), "--update-freq", 2, "--accumulation-step", 1)
    for like in (script_of(tmp_path, data), checkpoint):
        assert printed(capsys, inspect, "--like", like, "--accumulation-step", 1) == explicit
        assert printed(capsys, inspect, data, "--like", like, "--accumulation-step", 1) == explicit


def test_an_explicit_option_wins(data, tmp_path, capsys):
    like = script_of(tmp_path, data)
    page, other = tmp_path / "page.html", tmp_path / "other.html"
    options = "--seed 1 --update-freq 1 --image-fit crop".split()  # the defaults, given explicitly
    one = printed(capsys, inspect, "--like", like, *options, "--html", page)
    assert one == printed(capsys, inspect, data, *SIZES.split(), "--image-decoding", "exact", "--html", other)
    assert page.read_text() == other.read_text()


def test_statistics_and_documents_read_it_too(data, tmp_path, capsys):
    like = script_of(tmp_path, data)
    sizes = SIZES.split()
    stats_sizes = [*sizes[:2], *sizes[4:], "--seed", "7"]
    for out, arguments in (("explicit", [data, *stats_sizes]), ("like", ["--like", like])):
        printed(capsys, prepare, "stats", *arguments, "--out", tmp_path / out, "--documents", 5)
    found = [json.loads((tmp_path / out / "statistics.json").read_text()) for out in ("explicit", "like")]
    assert found[0] == found[1] and found[0]["image_tokens"] == tiny.IMAGE_TOKENS
    decoding = "--seed 7 --image-fit stretch --image-decoding exact".split()
    for out, arguments in (("explicit.html", [data, *sizes, *decoding]), ("like.html", ["--like", like])):
        printed(capsys, prepare, "show", *arguments, "--out", tmp_path / out, "--documents", 2)
    assert (tmp_path / "explicit.html").read_text() == (tmp_path / "like.html").read_text()


def test_errors_are_one_line(data, tmp_path, capsys):
    assert "--like gone.sh does not exist." in error_of(capsys, inspect, "--like", "gone.sh")
    assert "gone.pt does not exist." in error_of(capsys, inspect, "--like", "gone.pt")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    assert "broken.pt is not a checkpoint" in error_of(capsys, inspect, "--like", tmp_path / "broken.pt")
    (tmp_path / "script").write_bytes(b"\x89PNG\xff\xfe")
    assert "it is not UTF-8" in error_of(capsys, inspect, "--like", tmp_path / "script")
    like = script_of(tmp_path, tmp_path / "moved" / "data.yaml")
    message = f"--like {like} names the data YAML {tmp_path / 'moved' / 'data.yaml'}, which does not exist: give DATA"
    assert message in error_of(capsys, inspect, "--like", like)
    assert "Give DATA.yaml, or --like" in error_of(capsys, prepare, "stats", "--out", tmp_path / "out")
    hydra = tmp_path / "hydra.yaml"
    hydra.write_text("task: {_name: kosmos_multimodal}\nmodel: {_name: kosmos_1}\n")
    assert "names no data YAML: give DATA.yaml." in error_of(capsys, inspect, "--like", hydra)


def test_defaults_and_choices_are_those_of_training():
    config = KosmosMultimodalConfig()
    options = BatchOptions()
    for name in ("image_tokens", "image_size", "image_fit", "image_decoding", "tokens_per_sample", "vocabulary"):
        assert getattr(options, name) == getattr(config, name)
    fields = BatchOptions.__dataclass_fields__
    assert fields["image_fit"].metadata["choices"] == FITS
    assert fields["image_decoding"].metadata["choices"] == DECODINGS


@pytest.mark.parametrize("arguments", [["--help"], ["--ranks", "0"], [], ["data.yaml", "--gpu-tflops", "9"]])
def test_help_and_wrong_options_import_neither_torch_nor_fairseq(arguments):
    program = (
        "import sys; from fairseq_cli_ext.inspect import cli_main\n"
        f"try: cli_main({arguments!r})\n"
        'except SystemExit: sys.exit(f\'{({"torch", "fairseq", "numpy"} & set(sys.modules)) or None}\')'
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "None"
