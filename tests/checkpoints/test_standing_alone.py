"""A checkpoint carries what it needs: moved anywhere, it loads without the files of its training."""

import json
import random
import shutil

import pytest
import torch

import kosmos_plugin
from fairseq_cli_ext import convert as command
from kosmos_plugin.checkpoints.convert import convert
from kosmos_plugin.checkpoints.fairseq_checkpoint import write_fairseq
from kosmos_plugin.checkpoints.files import read_fairseq
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.architectures import KosmosModel
from kosmos_plugin.vocabulary import Vocabulary, write_encoding
from tests import tiny

PICTURE = tiny.png(random.Random(1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint whose training's files are gone, what the model said, and its vocabulary's folder elsewhere."""
    folder = tmp_path_factory.mktemp("alone")
    data = tiny.write_data(folder / "data", documents=10)
    write_encoding(folder / "data" / "vocabulary")
    (folder / "data" / "vocabulary" / "special_tokens.txt").write_text("<phrase>\n")
    checkpoint = tiny.train(data, folder / "out", "--cpu", "--num-workers", "0", "--max-update", "1")
    said = words(kosmos_plugin.load(checkpoint))
    shutil.copytree(folder / "data" / "vocabulary", folder / "elsewhere")
    shutil.rmtree(folder / "data")
    return checkpoint, said, folder / "elsewhere"


def words(kosmos) -> tuple:
    text = "the red\ncat <image> sleeps"
    scores = kosmos.score(text, PICTURE, ["a house", "runs\nslowly"])
    return kosmos.generate(text, PICTURE, max_new_tokens=8), scores, kosmos.prompt(text, PICTURE).tokens.tolist()


def old(checkpoint, path):
    """A copy as version 0.2 wrote it before checkpoints stood alone."""
    state = read_fairseq(checkpoint, mmap=False)
    state["task_state"] = {name: state["task_state"][name] for name in ("vocabulary", "newlines")}
    write_fairseq(state, path)
    return path


def test_it_loads_where_nothing_of_its_training_is(trained, tmp_path):
    checkpoint, said, _ = trained
    shutil.copy(checkpoint, tmp_path / "any name.pt")
    for path in (tmp_path / "any name.pt", tmp_path):
        assert words(kosmos_plugin.load(path)) == said
        assert words(KosmosModel.from_pretrained(path)) == said
    assert words(KosmosModel.from_pretrained(str(tmp_path), "any name.pt")) == said


def test_conversion_keeps_it(trained, tmp_path):
    checkpoint, said, _ = trained
    convert(checkpoint, tmp_path / "model.safetensors", "safetensors")
    convert(tmp_path / "model.safetensors", tmp_path / "again.pt", "fairseq")
    for name in ("model.safetensors", "again.pt"):
        assert words(kosmos_plugin.load(tmp_path / name)) == said
    states = [read_fairseq(path)["task_state"] for path in (checkpoint, tmp_path / "again.pt")]
    assert states[0] == states[1]


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_an_old_one_is_converted_to_one_that_stands_alone(trained, tmp_path, name):
    checkpoint, said, vocabulary = trained
    path = old(checkpoint, tmp_path / "old.pt")
    (tmp_path / "clip.json").write_text(json.dumps(tiny.CLIP))
    with pytest.raises(UserError, match="--data or --vocabulary"):
        kosmos_plugin.load(path)
    assert words(kosmos_plugin.load(path, vocabulary=vocabulary)) == said
    to = "safetensors" if name.endswith("safetensors") else "fairseq"
    (tmp_path / "new").mkdir()
    command.cli_main(["--to", to, "--vocabulary", str(vocabulary), str(path), str(tmp_path / "new" / name)])
    assert words(kosmos_plugin.load(tmp_path / "new")) == said


def test_one_whose_vocabulary_is_gone_is_converted_with_a_warning(trained, tmp_path, caplog):
    checkpoint, _, _ = trained
    convert(old(checkpoint, tmp_path / "old.pt"), tmp_path / "new.pt", "fairseq")
    assert "will not load without its vocabulary" in caplog.text


def test_the_vocabulary_of_another_model_is_refused(trained, tmp_path):
    checkpoint, _, vocabulary = trained
    shutil.copytree(vocabulary, tmp_path / "other")
    (tmp_path / "other" / "special_tokens.txt").write_text("<other>\n")
    for action in (
        lambda: kosmos_plugin.load(checkpoint, vocabulary=tmp_path / "other"),
        lambda: convert(checkpoint, tmp_path / "new.pt", "fairseq", vocabulary=str(tmp_path / "other")),
    ):
        with pytest.raises(UserError, match="was trained with another vocabulary"):
            action()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "damaged vocabulary"),
        ({"sentencepiece.model": "é"}, "damaged vocabulary"),
        ({"sentencepiece.model": 3}, "damaged vocabulary"),
        ({}, r"sentencepiece\.model is not a SentencePiece model"),
        ({"sentencepiece.model": "AAAA"}, r"sentencepiece\.model is not a SentencePiece model"),
    ],
)
def test_a_damaged_vocabulary_is_one_line(trained, tmp_path, files, message):
    state = read_fairseq(trained[0], mmap=False)
    state["task_state"]["vocabulary_files"] = files
    write_fairseq(state, tmp_path / "model.pt")
    with pytest.raises(UserError, match=message) as error:
        kosmos_plugin.load(tmp_path)
    assert "\n" not in str(error.value)


def test_which_checkpoint_of_a_folder(trained, tmp_path):
    checkpoint, said, _ = trained
    with pytest.raises(UserError, match=r"has no checkpoint: none of model\.pt"):
        kosmos_plugin.load(tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(UserError, match="convert it first"):
        kosmos_plugin.load(tmp_path)
    for name in ("a.pt", "b.pt"):
        shutil.copy(checkpoint, tmp_path / name)
    with pytest.raises(UserError, match=r"has 2 checkpoints, a\.pt and others: name one"):
        kosmos_plugin.load(tmp_path)
    shutil.copy(checkpoint, tmp_path / "checkpoint_last.pt")
    assert words(kosmos_plugin.load(tmp_path)) == said
    torch.save({}, tmp_path / "checkpoint_best.pt")
    with pytest.raises(UserError, match=r"checkpoint_best\.pt is not a checkpoint"):
        kosmos_plugin.load(tmp_path)


def test_a_vocabulary_of_its_files_is_that_of_its_folder(trained):
    loaded = Vocabulary.load(trained[2])
    again = Vocabulary.from_files(loaded.files, "anywhere")
    assert (again.fingerprint, again.newlines, len(again)) == (loaded.fingerprint, True, len(loaded))
    assert set(loaded.files) == {"sentencepiece.model", "dict.txt", "special_tokens.txt", "encoding.json"}
