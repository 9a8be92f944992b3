"""A run that is killed and resumed gives the same bytes, and repeats no finished task."""

import base64
import json
import time
from pathlib import Path

import pytest

from kosmos_plugin.errors import UserError
from tests import tiny
from tests.curation.command import digests, finish, kill_when, prepare, run_in_background
from tests.curation.recipes.test_pages import html, png, write_warc
from tests.curation.recipes.test_text import json_lines, sentences


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """Arguments of `text` with eight files, one of which has the documents of another."""
    folder = tmp_path_factory.mktemp("texts")
    tiny.write_vocabulary(folder / "vocabulary")
    for part in range(8):
        (folder / f"{part}.jsonl").write_bytes(json_lines(sentences(400, part % 7)))
    return ["text", str(folder / "*.jsonl"), "--vocabulary", str(folder / "vocabulary"), "--valid-share", "0.1"]


@pytest.fixture(scope="module")
def uninterrupted(arguments, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    finish(*arguments, "--out", out, "--workers", 2)
    return out


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("1-read-texts", marks=pytest.mark.slow),
        pytest.param("2-sign-documents", marks=pytest.mark.slow),
        pytest.param("3-compare-signatures", marks=pytest.mark.slow),
        "5-binarize-texts",
    ],
)
def test_killed_and_resumed(arguments, uninterrupted, tmp_path, stage):
    out = tmp_path / "out"
    finished = out / "work" / stage / "completions"
    kill_when(lambda: finished.is_dir() and any(finished.iterdir()), *arguments, "--out", out, "--workers", 1)
    assert not (out / "report.json").exists()
    done = {path: path.stat().st_mtime_ns for path in (out / "work").glob("*/completions/*")}
    assert done
    finish(*arguments, "--out", out, "--workers", 2)
    assert digests(out) == digests(uninterrupted)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert not (out / "work" / "intermediate").exists()


def write_crawl(folder: Path) -> list[object]:
    """Write four WARC files of pages with images; one has the pages of another."""
    for part in range(4):
        responses = []
        for page in range(12):
            number = 12 * (part % 3) + page
            name = f"http://example.org/{number}"
            paragraphs = sentences(2, number)
            body = html(paragraphs[0], f"/{number}.png", paragraphs[1]).encode()
            responses += [(name, "text/html", body), (f"{name}.png", "image/png", png(number))]
        write_warc(folder / f"{part}.warc.gz", responses)
    return ["pages", folder, "--no-english", "--drop-one-image", 0, "--valid-share", 0.2]


def write_instructions(folder: Path) -> list[object]:
    for part in range(4):
        records = [{"inputs": text, "targets": text[:20]} for text in sentences(300, part)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return ["instructions", folder, "--sample", 500, "--valid-share", 0.1]


def write_captions(folder: Path) -> list[object]:
    for part in range(4):
        lines = [
            f"{number}\t{text}\t{base64.b64encode(png(number)).decode()}\n"
            for number, text in enumerate(sentences(60, part))
        ]
        (folder / f"{part}.tsv").write_text("".join(lines))
    return ["captions", folder, "--tsv-columns", "key", "caption", "image", "--valid-share", 0.1]


def write_texts(folder: Path) -> list[object]:
    for part in range(4):
        (folder / f"{part}.jsonl").write_bytes(json_lines(sentences(500, part)))
    return ["tokenizer", folder, "--size", 60, "--documents", 900]


@pytest.mark.slow
@pytest.mark.parametrize(
    "write, stage",
    [
        (write_crawl, "1-list-images"),
        (write_crawl, "3-read-pages"),
        (write_crawl, "7-write-pages"),
        (write_instructions, "1-read-instructions"),
        (write_instructions, "3-write-instructions"),
        (write_captions, "1-write-captions"),
        (write_texts, "1-read-texts"),
        (write_texts, "2-choose-sample"),
    ],
)
def test_other_commands_killed_and_resumed(tmp_path, write, stage):
    (tmp_path / "in").mkdir()
    options = write(tmp_path / "in")
    finish(*options, "--out", tmp_path / "whole", "--workers", 2)
    out = tmp_path / "out"
    finished = out / "work" / stage / "completions"
    kill_when(lambda: finished.is_dir() and any(finished.iterdir()), *options, "--out", out, "--workers", 1)
    done = {path: path.stat().st_mtime_ns for path in (out / "work").glob("*/completions/*")}
    finish(*options, "--out", out, "--workers", 2)
    assert digests(out) == digests(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_a_finished_run_is_not_repeated(arguments, uninterrupted, capsys):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*") if path.is_file()}
    prepare([*arguments, "--out", str(uninterrupted)])
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*") if path.is_file()} == before
    counts = json.loads((uninterrupted / "report.json").read_text())["counts"]
    assert f"{counts['kept']['train: tokens']:,}" in capsys.readouterr().out


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder(arguments, tmp_path):
    lock = tmp_path / "work" / "lock"
    with run_in_background(*arguments, "--out", tmp_path, "--workers", 1):
        while not lock.exists():
            time.sleep(0.01)
        with pytest.raises(UserError, match="is already running in"):
            prepare([*arguments, "--out", str(tmp_path), "--workers", "1"])
    finish(*arguments, "--out", tmp_path)  # the lock of the killed run is free


@pytest.mark.parametrize(
    "change, named",
    [
        (["--min-words", "3"], "--min-words was 1"),
        (["--evaluation", __file__], "--evaluation was"),
        ([__file__.replace(".py", ".*")], "input files"),
    ],
)
def test_a_folder_refuses_another_run(arguments, uninterrupted, change, named):
    inputs, options = (change, []) if named == "input files" else ([], change)
    with pytest.raises(UserError, match="holds another run") as raised:
        prepare([arguments[0], *inputs, *arguments[1:], *options, "--out", str(uninterrupted)])
    assert named in str(raised.value)
