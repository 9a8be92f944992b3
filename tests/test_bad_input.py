"""User errors and broken web data give one clear line or a counted skip, never a traceback.

The trainings run fairseq-train itself, each in a process forked from one that has imported everything.
"""

import argparse
import io
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from fairseq_cli_ext import generate
from kosmos_plugin.checkpoints.embedded import FILES
from tests import tiny

ROOT = Path(__file__).parents[1]
FORK_EACH = """
import json, os, sys
from fairseq_cli.train import cli_main
import kosmos_plugin, open_clip, torchscale.architecture.decoder  # once for all
for case in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(case["folder"] + "/" + name, os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = ["fairseq-train", *case["arguments"]]
        cli_main()
        sys.exit()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    open(case["folder"] + "/status", "w").write(str(status))
"""


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def fifty_million_pixels() -> bytes:
    """A JPEG whose header declares a huge size."""
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0") + 5
    data[frame : frame + 4] = (5000).to_bytes(2, "big") + (10_000).to_bytes(2, "big")
    return bytes(data)


def add_broken(data: Path) -> None:
    """Add each kind of broken record to the captions and pages of training data."""
    draw = random.Random(0)
    captions = [
        *[("garbage.jpg", b"\xff\xd8\xff\xe0" + draw.randbytes(3000)), ("garbage.txt", b"a dog")],
        *[("empty.jpg", jpeg()), ("empty.txt", b"")],
        *[("long.jpg", jpeg()), ("long.txt", b"dog " * 100)],
        *[("huge.jpg", fifty_million_pixels()), ("huge.txt", b"a cat")],
    ]
    crowded = [{"text": "so many"}, *[{"image": 0}] * 11]
    # in separate tars, so that all of them are drawn within a few updates
    tiny.write_tar(data.parent / "captions" / "train-1.tar", captions)
    tiny.write_tar(data.parent / "interleaved" / "train-1.tar", tiny.interleaved_members("crowded", crowded, [jpeg()]))


def with_yaml(data: Path, change) -> Path:
    config = yaml.safe_load(data.read_text())
    change(config)
    data.write_text(yaml.safe_dump(config, sort_keys=False))
    return data


def cut_in_half(data: Path) -> None:
    tar = data.parent / "captions" / "train-0.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])


def all_records_at_once(config) -> None:
    for stream, sequences in (("text", 2), ("captions", 24), ("interleaved", 21)):
        config["streams"][stream]["sequences_per_update"] = sequences


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """The result of every training: case → (exit status, standard output, standard error, folder)."""
    folder = tmp_path_factory.mktemp("bad_input")
    made = tiny.write_data(folder / "data")
    cases = []

    def case(name, *options, change=lambda data: None, path="data.yaml"):
        own = folder / name
        shutil.copytree(made.parent, own / "data")
        change(own / "data" / "data.yaml")
        arguments = [str(own / "data" / path), *tiny.TRAIN_OPTIONS.split(), *options]
        arguments += ["--vision-model", str(own / "data" / "clip.json"), "--save-dir", str(own / "checkpoints")]
        cases.append({"folder": str(own), "arguments": arguments})

    def broken(data):
        add_broken(data)
        with_yaml(data, all_records_at_once)

    def unknown_key(config):
        config["streams"]["captions"]["sequences_per_step"] = 3

    # workers read ahead; without them the counts are known
    training = ["--disable-validation", "--max-skipped-rate"]
    case("broken", *training, "0.5", "--max-update", "3", "--num-workers", "0", change=broken)
    case("too_many", *training, "0.01", "--max-update", "40", "--num-workers", "1", change=broken)
    case("missing_yaml", path="gone.yaml")
    case("unknown_key", change=lambda data: with_yaml(data, unknown_key))
    case("missing_file", change=lambda data: (data.parent / "captions" / "train-1.tar").unlink())
    case("cut", change=cut_in_half)
    case("no_vocabulary", change=lambda data: shutil.rmtree(data.parent / "vocabulary"))
    case("does_not_fit", "--update-freq", "100")
    case("another_criterion", "--criterion", "label_smoothed_cross_entropy")
    case("no_criterion")
    position = cases[-1]["arguments"].index("--criterion")
    del cases[-1]["arguments"][position : position + 2]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", FORK_EACH],
        input=json.dumps(cases),
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    def result(own):
        status, output, errors = ((own / name).read_text() for name in ("status", "stdout", "stderr"))
        return int(status), output, errors, own

    return {Path(each["folder"]).name: result(Path(each["folder"])) for each in cases}


@pytest.mark.parametrize(
    "case, words",
    [
        ("missing_yaml", ["The data YAML", "gone.yaml does not exist"]),
        ("unknown_key", ["data.yaml: unknown key 'sequences_per_step' in streams.captions", "sequences_per_update"]),
        ("missing_file", ["data.yaml: streams.captions.corpora[0].train names", "train-1.tar, which does not exist"]),
        ("cut", ["captions/train-0.tar is cut short"]),
        ("no_vocabulary", ["The vocabulary folder", "has no sentencepiece.model"]),
        ("does_not_fit", ["too few for 1 ranks × --update-freq 100", "use --update-freq"]),
        (
            "no_criterion",
            ["The criterion cross_entropy, fairseq's default,", "give --criterion multimodal_cross_entropy"],
        ),
        ("another_criterion", ["label_smoothed_cross_entropy", "give --criterion multimodal_cross_entropy"]),
        ("too_many", ["records and images are broken, more than --max-skipped-rate 0.01 allows; the last is"]),
    ],
)
def test_one_clear_line(trainings, case, words):
    status, output, errors, _ = trainings[case]
    assert status != 0
    assert "Traceback" not in output + errors
    (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
    for word in words:
        assert word in line


def test_broken_records_are_skipped_counted_and_logged(trainings):
    status, output, errors, folder = trainings["broken"]
    assert status == 0, errors[-3000:]
    assert "Traceback" not in output + errors
    for words in (
        "skipped train-1.tar/garbage: ",  # a JPEG of garbage
        "skipped train-1.tar/huge: image of more than 24,000,000 pixels (10000x5000)",
        "train-1.tar/empty: empty text",
        "train-1.tar/long: ",
        "tokens (1 images of 6) do not fit in a row of 64",
        "train-1.tar/crowded: ",
        "tokens (11 images of 6) do not fit in a row of 64",
    ):
        assert words in output + errors
    logs = [
        json.loads(line.partition("| train_inner | ")[2]) for line in output.splitlines() if "| train_inner |" in line
    ]
    assert logs[-1]["num_updates"] == "3"
    assert [int(log["skipped"]) for log in logs] == [5, 10, 15]
    assert (folder / "checkpoints" / "checkpoint_last.pt").is_file()


# ---- kosmos-generate


@pytest.fixture(scope="module")
def checkpoint(trainings):
    return trainings["broken"][3] / "checkpoints" / "checkpoint_last.pt"


@pytest.fixture
def image_file(tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(jpeg())
    return str(path)


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        generate.cli_main([*(str(argument) for argument in arguments), "--max-new-tokens", "2"])
    captured = capsys.readouterr()
    assert exit_.value.code not in (0, None)
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    return captured.err


def test_generates_when_all_is_well(checkpoint, image_file, capsys):
    generate.cli_main(
        [
            "--path",
            str(checkpoint),
            "--prompt",
            "<image> a",
            "--image",
            image_file,
            "--max-new-tokens",
            "2",
            "--device",
            "cpu",
            "--dtype",
            "bfloat16",
        ]
    )
    assert capsys.readouterr().out.endswith("\n")


def test_a_device_that_is_not_there(checkpoint, capsys):
    assert "The device 'gpu' cannot be used" in refused(
        capsys, "--path", checkpoint, "--prompt", "a", "--device", "gpu"
    )


@pytest.mark.parametrize(
    "prompt, images, words",
    [
        ("a dog", 1, "has 0 <image> and 1 image is given"),
        ("<image> a <image>", 1, "has 2 <image> and 1 image is given"),
        ("<image> a", 2, "has 1 <image> and 2 images are given"),
        ("<image>", 0, "has 1 <image> and 0 images are given"),
    ],
)
def test_number_of_images(checkpoint, image_file, capsys, prompt, images, words):
    line = refused(capsys, "--path", checkpoint, "--prompt", prompt, *["--image", image_file] * images)
    assert "--prompt" in line and words in line


def test_prompt_longer_than_the_model(checkpoint, capsys):
    assert "the model takes 64" in refused(capsys, "--path", checkpoint, "--prompt", "dog " * 200)


def test_missing_image(checkpoint, tmp_path, capsys):
    line = refused(capsys, "--path", checkpoint, "--prompt", "<image>", "--image", tmp_path / "gone.png")
    assert "gone.png does not exist" in line


def test_image_is_a_folder(checkpoint, tmp_path, capsys):
    line = refused(capsys, "--path", checkpoint, "--prompt", "<image>", "--image", tmp_path)
    assert f"The image {tmp_path} is not a file." in line


@pytest.mark.parametrize("content", [b"", b"garbage", fifty_million_pixels()], ids=["empty", "garbage", "huge"])
def test_broken_image(checkpoint, tmp_path, capsys, content):
    (tmp_path / "broken.png").write_bytes(content)
    line = refused(capsys, "--path", checkpoint, "--prompt", "<image>", "--image", tmp_path / "broken.png")
    assert line.startswith(f"error: --prompt: {tmp_path}") and " cannot be read: " in line


def test_missing_checkpoint(tmp_path, capsys):
    assert "gone.pt does not exist" in refused(capsys, "--path", tmp_path / "gone.pt", "--prompt", "a")


@pytest.mark.parametrize(
    "content",
    [b"", b"no checkpoint", b"hello world", b"\x80\x02garbage", b"PK\x03\x04" + bytes(200), "tensor", "other"],
)
def test_not_a_checkpoint(tmp_path, capsys, content):
    if isinstance(content, bytes):
        (tmp_path / "model.pt").write_bytes(content)
    else:
        torch.save(torch.zeros(3) if content == "tensor" else {"weights": torch.zeros(3)}, tmp_path / "model.pt")
    line = refused(capsys, "--path", tmp_path / "model.pt", "--prompt", "a")
    assert len(line.splitlines()) == 1 and "weights_only" not in line  # torch's advice is to run the file's code
    assert "model.pt is not a checkpoint of fairseq" in line or "not of a KOSMOS model" in line


def test_checkpoint_with_objects(tmp_path, capsys):
    torch.save({"model": {}, "args": argparse.Namespace()}, tmp_path / "model.pt")
    line = refused(capsys, "--path", tmp_path / "model.pt", "--prompt", "a")
    assert "model.pt is not a checkpoint of fairseq: it contains objects of argparse.Namespace." in line


def test_truncated_checkpoint(checkpoint, tmp_path, capsys):
    whole = checkpoint.read_bytes()
    (tmp_path / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    assert "truncated.pt is not a checkpoint" in refused(capsys, "--path", tmp_path / "truncated.pt", "--prompt", "a")


def test_checkpoint_of_another_architecture(tmp_path, capsys):
    state = {
        "args": None,
        "cfg": {"_name": None, "task": {"_name": "language_modeling"}, "model": {"_name": "transformer_lm"}},
        "model": {"decoder.embed_tokens.weight": torch.zeros(4, 8)},
        "criterion": None,
        "optimizer_history": [{"num_updates": 1, "criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, "val_loss": None},
    }
    torch.save(state, tmp_path / "lm.pt")
    line = refused(capsys, "--path", tmp_path / "lm.pt", "--prompt", "a")
    assert "lm.pt is a checkpoint of transformer_lm, not of a KOSMOS model (kosmos_" in line


def test_moved_data(checkpoint, tmp_path, capsys):
    """One of before 0.2 records where its data was; if that is gone, the error says which option to give."""
    state = torch.load(checkpoint, weights_only=True)
    del state["task_state"][FILES]
    state["cfg"]["task"]["data"] = str(tmp_path / "gone.yaml")
    torch.save(state, tmp_path / "moved.pt")
    line = refused(capsys, "--path", tmp_path / "moved.pt", "--prompt", "a")
    assert "gone.yaml does not exist" in line and "Give --data or --vocabulary" in line
    vocabulary = checkpoint.parents[1] / "data" / "vocabulary"
    arguments = ["--prompt", "a", "--max-new-tokens", "1"]
    generate.cli_main(["--path", str(tmp_path / "moved.pt"), "--vocabulary", str(vocabulary), *arguments])


@pytest.mark.parametrize(
    "line, words",
    [
        ("a dog", "line 2, is not valid JSON"),
        ('["a"]', 'line 2: expected {"prompt"'),
        ('{"text": "a"}', 'line 2: expected {"prompt"'),
        ('{"prompt": "a", "images": "cat.png"}', 'line 2: "images" must be a list'),
        ('{"prompt": "a", "images": ["cat.png"]}', "line 2: the text has 0 <image> and 1 image"),
        ('{"prompt": "a \\ud83d"}', "line 2"),
    ],
)
def test_broken_lines_of_standard_input(checkpoint, capsys, monkeypatch, line, words):
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"prompt": "a"}\n' + line + "\n"))
    assert words in refused(capsys, "--path", checkpoint)


def test_says_that_it_reads_standard_input(checkpoint, capsys, monkeypatch):
    """On a terminal it would otherwise seem to hang."""
    ours, terminal = os.openpty()
    os.write(ours, b'{"prompt": "a dog"}\n\x04')  # Ctrl-D
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        generate.cli_main(["--path", str(checkpoint), "--max-new-tokens", "2"])
    os.close(ours)
    output, errors = capsys.readouterr()
    assert json.loads(output)["prompt"] == "a dog"
    assert "Reading prompts from standard input" in errors and len(errors.splitlines()) == 1


def test_options(checkpoint, capsys):
    assert "--num-beams must be at least 1, not 0" in refused(
        capsys, "--path", checkpoint, "--prompt", "a", "--num-beams", 0
    )
    assert "--image goes with --prompt" in refused(capsys, "--path", checkpoint, "--image", __file__)


def test_without_fairseq():
    program = (
        "import sys; sys.modules['fairseq'] = None\n"
        "from fairseq_cli_ext.generate import cli_main; cli_main(['--path', 'setup.py', '--prompt', 'a'])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "fairseq is not installed" in line and "pip install" in line
