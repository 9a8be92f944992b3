"""--keep-dropped writes each document that the report counts as dropped, with its reason; the same bytes each time."""

import base64
import json
from collections import Counter
from pathlib import Path

import pytest

from kosmos_plugin.errors import UserError
from tests import tiny
from tests.curation.command import digests, dropped, finish, kill_when, prepare
from tests.curation.recipes.caption_releases import jpeg
from tests.curation.recipes.test_pages import SPANISH, TEXTS, html, png, write_folder
from tests.curation.recipes.test_text import json_lines, sentences


def run(command: str, tmp_path: Path, *arguments: object) -> tuple[dict[str, int], dict[str, list[dict]]]:
    """Run a command; return the report's counts of dropped documents, and the documents by step."""
    out, folder = tmp_path / "out", tmp_path / "dropped"
    prepare([command, *arguments, "--out", out, "--keep-dropped", folder, "--workers", 1])
    counts = json.loads((out / "report.json").read_text("utf-8"))["counts"]["dropped"]
    found = dropped(folder)
    reasons = Counter(document["metadata"]["filter_reason"] for documents in found.values() for document in documents)
    assert reasons == {reason: number for reason, number in counts.items() if number}
    return counts, found


def texts(documents: list[dict]) -> list[str]:
    return [document.get("text", "") for document in documents]


def test_texts(tmp_path):
    tiny.write_vocabulary(tmp_path / "vocabulary")
    english = [f"{text} {number}" for number, text in enumerate(TEXTS)]
    (tmp_path / "evaluation.txt").write_text(english[2])
    lines = [
        json_lines(english[:1]),
        b'{"text": "cut in the mid\n',
        json_lines(["half \ud83d a pair", "nul \0 byte", "two words", SPANISH, english[2]]),
        json_lines(["the code of a program"], meta={"pile_set_name": "Github"}),
        json_lines([english[0].upper(), english[1]]),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    options = ["--vocabulary", tmp_path / "vocabulary", "--english", "--min-words", 3]
    _, found = run("text", tmp_path, tmp_path / "a.jsonl", *options, "--evaluation", tmp_path / "evaluation.txt")
    duplicate = texts(found.pop("duplicates"))
    assert duplicate in ([english[0]], [english[0].upper()])
    assert {step: texts(documents) for step, documents in found.items()} == {
        "invalid": ["", "half ? a pair", "nul \0 byte"],
        "subset": ["the code of a program"],
        "words": ["two words"],
        "language": [SPANISH],
        "evaluation": [english[2]],
    }
    assert [document["id"] for document in found["invalid"]] == ["a.jsonl/1", "a.jsonl/2", "a.jsonl/3"]
    assert found["subset"][0]["metadata"] == {"pile_set_name": "Github", "filter_reason": "subset Github"}


PAIRS = [
    (jpeg(1), "a dog"),
    (jpeg(2), "<PERSON> and a dog"),
    (jpeg(3), "one"),
    (jpeg(4, (9, 9)), "a speck"),
    (b"", "a b"),
]
DROPPED_CAPTIONS = {
    "tags": [("<PERSON> and a dog", "caption with a tag such as <PERSON>")],
    "length": [("one", "caption with fewer than 2 words")],
    "images": [("a speck", "image side shorter than 16 pixels"), ("a b", "image of 0 bytes")],
    "invalid": [("nul \0 byte", "NUL bytes")],
}


@pytest.mark.parametrize("in_place", [False, True], ids=["copied", "in place"])
def test_captions(tmp_path, in_place):
    pairs = [*PAIRS, (jpeg(5), "nul \0 byte")]
    if in_place:
        members = [m for n, (image, caption) in enumerate(pairs) for m in tiny.caption_members(f"{n}", caption, image)]
        file = tmp_path / "0.tar"
        tiny.write_tar(file, members)
    else:
        file = tmp_path / "0.tsv"
        lines = [f"{n}\t{caption}\t{base64.b64encode(image).decode()}\n" for n, (image, caption) in enumerate(pairs)]
        file.write_text("".join(lines))
    _, found = run("captions", tmp_path, file, "--min-side", 16, "--min-words", 2)
    reasons = {
        step: [(document["text"], document["metadata"]["filter_reason"]) for document in documents]
        for step, documents in found.items()
    }
    assert reasons == DROPPED_CAPTIONS
    assert found["tags"][0]["id"] == f"{file.name}/1"
    for document in (document for documents in found.values() for document in documents):
        assert all(media["media_bytes"] is None for media in document.get("media", []))


def test_a_broken_tar_drops_nothing(tmp_path):
    """The records of a broken tar are neither counted nor written; the tar is listed in bad.jsonl."""
    for name in ("0", "1"):
        members = [m for n, (image, caption) in enumerate(PAIRS) for m in tiny.caption_members(f"{n}", caption, image)]
        tiny.write_tar(tmp_path / f"{name}.tar", members)
    whole = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: len(whole) // 2])
    _, found = run("captions", tmp_path, tmp_path / "?.tar", "--min-words", 2)
    assert {document["id"].split("/")[0] for documents in found.values() for document in documents} == {"0.tar"}


def test_pages(tmp_path):
    folder = write_folder(
        tmp_path / "in", html(TEXTS[0], "a.png", TEXTS[1], "b.png"), {"a.png": png(1), "b.png": png(2)}
    )
    pages = {
        "empty": "",
        "large": html(TEXTS[0], "a.png") + " " * 50_000,
        "missing": html(TEXTS[1], "missing.png", TEXTS[2]),
        "one": html(TEXTS[2], "a.png", TEXTS[0]),
        "spanish": html(SPANISH, "a.png", SPANISH),
        "without": html(*TEXTS),
    }
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(page)
    options = ["--max-html-bytes", 20_000, "--drop-one-image", 1, "--valid-share", 0, "--duplicates", "none"]
    _, found = run("pages", tmp_path, folder, *options)
    assert {step: [document["id"] for document in documents] for step, documents in found.items()} == {
        "unreadable": ["large.html"],
        "invalid": ["empty.html"],
        "no-image": ["without.html"],
        "language": ["spanish.html"],
        "no-usable-image": ["missing.html"],
        "one-image": ["one.html"],
    }
    (page,) = found["one-image"]
    assert page["metadata"]["segments"] == [{"text": TEXTS[2]}, {"image": 0}, {"text": TEXTS[0]}]
    assert [(media["url"], media["media_bytes"]) for media in page["media"]] == [("file:///a.png", None)]


def test_instructions(tmp_path):
    records = [{"inputs": "a", "targets": "b"}, {"inputs": "a", "targets": " "}, {"inputs": " ", "targets": "b"}, 3]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    _, found = run("instructions", tmp_path, tmp_path / "a.jsonl")
    assert {step: texts(documents) for step, documents in found.items()} == {"invalid": [""], "empty": ["a\n", "b"]}


PER_FILE = 600  # documents; with fewer, a busy machine may end the run before it can be killed


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[object]:
    """Arguments of `text`, with files whose documents are dropped for several reasons."""
    folder = tmp_path_factory.mktemp("texts")
    tiny.write_vocabulary(folder / "vocabulary")
    for part in range(6):
        lines = [
            json_lines([text, "nul \0 byte", f"short {number}"])
            for number, text in enumerate(sentences(PER_FILE, part % 5))
        ]
        (folder / f"{part}.jsonl").write_bytes(b"".join(lines))
    return ["text", folder / "*.jsonl", "--vocabulary", folder / "vocabulary", "--min-words", 4]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["1-read-texts", "5-binarize-texts"])
def test_the_same_bytes_for_any_number_of_workers_and_after_a_kill(arguments, tmp_path, stage):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(*arguments, "--out", tmp_path / "a", "--keep-dropped", whole, "--workers", 2)
    finished = tmp_path / "b" / "work" / stage / "completions"
    options = [*arguments, "--out", tmp_path / "b", "--keep-dropped", killed]
    kill_when(lambda: finished.is_dir() and any(finished.iterdir()), *options, "--workers", 1)
    finish(*options, "--workers", 1)
    assert digests(killed) == digests(whole)
    assert {path.partition("/")[0] for path in digests(whole)} == {"invalid", "words", "duplicates"}
    assert len(dropped(whole)["words"]) == 6 * PER_FILE
    assert len(dropped(whole)["duplicates"]) == PER_FILE


def test_the_folder_belongs_to_one_run(arguments, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(UserError, match=r"--keep-dropped .*used must be a new or an empty folder"):
        prepare([*arguments, "--out", tmp_path / "out", "--keep-dropped", tmp_path / "used"])
    for folder in ("out", "out/work/intermediate"):
        with pytest.raises(UserError, match="must be another folder than --out"):
            prepare([*arguments, "--out", tmp_path / "out", "--keep-dropped", tmp_path / folder])
    with pytest.raises(UserError, match="Cannot write to --keep-dropped"):
        prepare([*arguments, "--out", tmp_path / "out", "--keep-dropped", tmp_path / "used" / "file" / "folder"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--valid-share"):
        prepare([*arguments, "--out", tmp_path / "out", "--keep-dropped", tmp_path / "new", "--valid-share", 2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["used"]
    options = [*arguments, "--out", tmp_path / "out", "--duplicates", "none", "--workers", 1]
    prepare([*options, "--keep-dropped", tmp_path / "out" / "dropped"])
    prepare([*options, "--keep-dropped", tmp_path / "out" / "dropped"])  # it is finished
    with pytest.raises(UserError, match=r"holds another run \(--keep-dropped was"):
        prepare(options)
