"""What is held out: the smallest hashes, whatever the workers, the order and the tasks; never everything."""

import json
import random
from pathlib import Path

import pytest

from kosmos_plugin.curation.sampling.hashing import uniform_hash
from kosmos_plugin.data.shards import ShardedDocuments, interleaved_document
from kosmos_plugin.errors import UserError
from tests import tiny
from tests.curation.command import digests, prepare
from tests.curation.recipes.caption_releases import jpeg, tsv
from tests.curation.recipes.caption_releases import kept as pairs_of


def write(folder: Path, texts: list[str], files: int) -> Path:
    folder.mkdir()
    for number in range(files):
        lines = [json.dumps({"inputs": text, "targets": "x"}) + "\n" for text in texts[number::files]]
        (folder / f"{number}.jsonl").write_text("".join(lines))
    return folder


def run(out: Path, folder: Path, *options: object, workers: int = 1) -> dict:
    prepare(["instructions", folder, "--out", out, "--workers", workers, *options])
    return json.loads((out / "report.json").read_text())["counts"]["kept"]


def texts(number: int) -> list[str]:
    rng = random.Random(number)
    return [f"{n} {tiny.sentence(rng)}" for n in range(number)]


def held_out(out: Path) -> list[str]:
    documents = ShardedDocuments(map(str, sorted(out.glob("valid-*.tar"))), interleaved_document)
    return sorted(documents[n].segments[0].text for n in range(len(documents)))


@pytest.mark.parametrize("number", [1, 7, 39])
def test_the_smallest_hashes_are_held_out(tmp_path, number):
    known = texts(40)
    by_hash = sorted(known, key=lambda text: uniform_hash(f"{text}\nx", "held out"))
    expected = sorted(f"{text}\n" for text in by_hash[:number])
    made = []
    for files, workers in ((1, 1), (3, 1), (3, 2)):
        out = tmp_path / f"{files}-{workers}"
        source = tmp_path / f"in-{files}"
        source = source if source.is_dir() else write(source, known, files)
        counts = run(out, source, "--valid-documents", number, workers=workers)
        made.append(digests(out))  # before its index is made, when it is read
        assert held_out(out) == expected
        assert counts["valid: documents"] == number and counts["train: documents"] == 40 - number
    assert made[1] == made[2]


@pytest.mark.parametrize("number, expected", [(9, 0), (50, 5), (560, 56), (1200, 100)])
def test_a_small_set_has_validation_by_default(tmp_path, number, expected):
    counts = run(tmp_path / "out", write(tmp_path / "in", texts(number), 2))
    assert counts.get("valid: documents", 0) == expected
    assert counts["train: documents"] == number - expected


def test_fifty_pairs_have_validation(tmp_path):
    pairs = [(jpeg(number), f"caption {number}") for number in range(50)]
    prepare(["captions", tsv(tmp_path / "in", pairs), "--out", tmp_path / "out", "--workers", 1])
    valid, train = pairs_of(tmp_path / "out", "valid"), pairs_of(tmp_path / "out")
    assert len(valid) == 5
    assert sorted(valid + train) == sorted(pairs)


def test_copies_are_in_the_same_split(tmp_path):
    counts = run(tmp_path / "out", write(tmp_path / "in", texts(20) * 3, 4), "--valid-documents", 4)
    assert counts["valid: documents"] == 12 and counts["train: documents"] == 48
    assert len(set(held_out(tmp_path / "out"))) == 4
    assert "valid: documents" not in run(tmp_path / "same", write(tmp_path / "one", ["one"] * 60, 2))


def test_a_share_is_exact_when_it_is_given(tmp_path):
    counts = run(tmp_path / "out", write(tmp_path / "in", texts(50), 1), "--valid-share", 0)
    assert counts == {**counts, "train: documents": 50}
    assert "valid: documents" not in counts


@pytest.mark.parametrize(
    "options, named",
    [(["--valid-documents", 50], "some must be left"), (["--valid-documents", 2, "--valid-share", 0.1], "not both")],
)
def test_errors(tmp_path, options, named):
    with pytest.raises(UserError, match=named):
        run(tmp_path / "out", write(tmp_path / "in", texts(50), 1), *options)
