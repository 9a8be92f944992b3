"""Every command that makes a corpus ends with a data YAML that can be read, and a command that trains on it."""

import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kosmos_plugin.data.config import read_data_config
from kosmos_plugin.errors import UserError
from tests import tiny
from tests.curation.command import prepare
from tests.curation.recipes.caption_releases import jpeg, tsv, write_tars
from tests.curation.recipes.test_pages import TEXTS, html, png


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary") / "vocabulary"
    tiny.write_vocabulary(folder)
    return folder


def texts(folder: Path) -> list:
    rng = random.Random(0)
    records = [{"text": tiny.sentence(rng, (30, 60)), "meta": {"pile_set_name": "Pile-CC"}} for _ in range(60)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    return ["text", folder / "a.jsonl"]


def corpora(folder: Path) -> list:
    return [*texts(folder), "--split-subsets", "paper"]


def captions(folder: Path) -> list:
    return ["captions", tsv(folder / "in", [(jpeg(n), f"caption {n}") for n in range(40)])]


def tars(folder: Path) -> list:
    write_tars(folder / "laion")
    return ["captions", folder / "laion"]


def pages(folder: Path) -> list:
    for number in range(12):
        (folder / f"{number}.png").write_bytes(png(number))
        (folder / f"{number}.html").write_text(html(f"{number} {TEXTS[0]}", f"{number}.png", *TEXTS, "0.png"))
    return ["pages", folder, "--duplicates", "none", "--drop-one-image", 0]


def instructions(folder: Path) -> list:
    (folder / "a.jsonl").write_text("".join(json.dumps({"inputs": f"a {n}", "targets": "b"}) + "\n" for n in range(40)))
    return ["instructions", folder / "a.jsonl"]


def end_of(capsys) -> str:
    """The command of the training."""
    return re.search(r"^fairseq-train .*\Z", capsys.readouterr().out, re.MULTILINE | re.DOTALL).group()


@pytest.mark.parametrize("make", [texts, corpora, captions, tars, pages, instructions])
def test_the_yaml_is_ready(tmp_path, vocabulary, make, capsys):
    (tmp_path / "in").mkdir()
    out = tmp_path / "out"
    prepare([*make(tmp_path / "in"), "--out", out, "--vocabulary", vocabulary, "--workers", 1])
    config = read_data_config(out / "data.yaml")
    assert Path(config.vocabulary).resolve() == vocabulary.resolve()
    (corpus,) = config.streams[0].corpora
    assert corpus.train
    assert bool(corpus.valid) == (make is not tars)
    command = end_of(capsys)
    assert ("--disable-validation" in command) == (make is tars)
    assert str(out / "data.yaml") in command


@pytest.mark.parametrize("make", [captions, pytest.param(tars, marks=pytest.mark.slow)])
def test_the_command_trains(tmp_path, vocabulary, make, capsys):
    (tmp_path / "in").mkdir()
    prepare([*make(tmp_path / "in"), "--out", tmp_path / "out", "--vocabulary", vocabulary, "--workers", 1])
    words = shlex.split(end_of(capsys).replace("\\\n", "").replace("--max-update 1000", "--max-update 1"))
    more = ["--image-size", "32", "--tokens-per-sample", "256", "--num-workers", "0", "--no-save", "--cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "fairseq_cli.train", *words[1:], *more], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_a_vocabulary_its_place_is_marked(tmp_path, capsys):
    prepare([*instructions(tmp_path), "--out", tmp_path / "out", "--workers", 1])
    assert "vocabulary: VOCABULARY" in (tmp_path / "out" / "data.yaml").read_text()
    assert "replace VOCABULARY" in capsys.readouterr().out


def test_training_without_valid_names_the_option(tmp_path):
    data = tiny.write_data(tmp_path / "data")
    config = yaml.safe_load(data.read_text())
    for stream in config["streams"].values():
        for corpus in stream["corpora"]:
            del corpus["valid"]
    data.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="--disable-validation"):
        tiny.task(data).load_dataset("valid")
