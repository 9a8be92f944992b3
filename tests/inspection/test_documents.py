"""kosmos-prepare show: the page has the documents' tokens and images, and says which tokens are in the loss."""

import random
from pathlib import Path

import pytest

from fairseq_cli_ext import prepare
from tests import tiny
from tests.inspection.test_micro_batch import Page

SIZES = (
    f"--image-tokens {tiny.IMAGE_TOKENS} --image-size {tiny.IMAGE_SIZE} --tokens-per-sample {tiny.TOKENS_PER_SAMPLE}"
).split()


def show(data, out, *arguments) -> Page:
    prepare.cli_main(["show", str(data), "--out", str(out), *SIZES, *map(str, arguments)])
    return Page(out.read_text(encoding="utf-8"))


def yaml_of(data, folder, members):
    tiny.write_tar(folder / "0.tar", members)
    (folder / "data.yaml").write_text(
        f"vocabulary: {data.parent / 'vocabulary'}\nstreams:\n  pages:\n    kind: interleaved\n"
        "    sequences_per_update: 1\n    corpora: [{name: some, train: 0.tar}]\n"
    )
    return folder / "data.yaml"


def test_the_page_shows_what_is_in_the_loss(data, tmp_path):
    segments = [{"text": "a red dog", "in_loss": False}, {"image": 0}, {"text": "runs"}]
    members = tiny.interleaved_members("0", segments, [tiny.png(random.Random(0))])
    page = show(yaml_of(data, tmp_path, members), tmp_path / "page.html")
    (row,) = page.rows
    vocabulary = tiny.task(data).vocabulary
    shown = [vocabulary.bos, *vocabulary.encode("a red dog"), vocabulary.image_begin, vocabulary.image_end]
    assert list(row["ids"].values()) == [*shown, *vocabulary.encode("runs"), vocabulary.eos]
    targets = [target for target in row["targets"].values() if target is not None]
    assert targets == [vocabulary.image_begin, *vocabulary.encode("runs"), vocabulary.eos]
    assert row["in_loss"] == len(targets)
    assert len(page.images) == 1


def test_the_number_of_documents_of_each_stream(data, tmp_path):
    page = show(data, tmp_path / "page.html", "--documents", 3)
    assert len(page.rows) == 9
    assert len(show(data, tmp_path / "page.html", "--documents", 3, "--stream", "captions").rows) == 3
    assert len(show(data, tmp_path / "page.html", "--documents", 2, "--corpus", "noise", "pages").rows) == 4


def test_a_seed_shows_the_same_documents(data, tmp_path):
    pages = [show(data, tmp_path / "page.html", "--seed", seed).rows for seed in (1, 1, 2)]
    assert pages[0] == pages[1] != pages[2]


def test_broken_documents_are_skipped_and_counted(data, tmp_path):
    good = tiny.interleaved_members("0", [{"text": "cat"}, {"image": 0}], [tiny.png(random.Random(0))])
    broken = tiny.interleaved_members("1", [{"text": "cat"}, {"image": 0}], [b"no image"])
    page = show(yaml_of(data, tmp_path, [*good, *broken, ("2.json", b"{")]), tmp_path / "page.html")
    assert len(page.rows) == len(page.images) == 1
    assert "Skipped as broken: 2." in "".join(page.text)


@pytest.mark.parametrize("option, named", [("--stream", "text, captions"), ("--corpus", "words, noise, pages")])
def test_an_unknown_name_is_one_clear_error(data, tmp_path, capsys, option, named):
    with pytest.raises(SystemExit):
        show(data, tmp_path / "page.html", option, "none")
    assert f"{option} none: the data YAML has {named}" in capsys.readouterr().err


def test_a_misspelled_name_is_suggested(data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        show(data, tmp_path / "page.html", "--stream", "caption")
    error = capsys.readouterr().err
    assert error == "error: --stream caption: the data YAML has text, captions, interleaved. Did you mean 'captions'?\n"


def test_a_page_that_cannot_be_written_is_one_line(data, capsys):
    with pytest.raises(SystemExit):
        show(data, Path("/proc/none/page.html"))
    error = capsys.readouterr().err
    assert error.startswith("error: Cannot write the page /proc/none/page.html: ") and error.count("\n") == 1
