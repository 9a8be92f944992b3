"""kosmos-prepare index and check: their counts, the bad records that they name, and broken tars."""

import gzip
import hashlib
import io
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from kosmos_plugin.data.corpus_index import open_corpus_index
from kosmos_plugin.data.documents import BrokenRecord
from kosmos_plugin.data.record_lengths import LengthsFile
from kosmos_plugin.data.shard_index import INDEX_SUFFIX, Record, selection_of, tar_records
from kosmos_plugin.data.shards import ShardedDocuments, caption_document, interleaved_document, record_reader
from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import Vocabulary
from tests import tiny
from tests.curation.command import digests, finish, prepare


def run(command: str, out: Path, *arguments: object) -> dict:
    """Run a command; return its counts."""
    prepare([command, *map(str, arguments), "--out", str(out), "--workers", "1"])
    return json.loads((out / "report.json").read_text("utf-8"))["counts"]


def bad_records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "bad.jsonl").read_text("utf-8").splitlines()]


def write_release(folder: Path, shards: int = 2) -> None:
    """Write a tar of captions and a tar of web pages."""
    rng = random.Random(0)
    for shard in range(shards):
        members = [m for n in range(5) for m in tiny.caption_members(f"{n:09d}", tiny.sentence(rng), tiny.png(rng))]
        tiny.write_tar(folder / f"{shard:05d}.tar", members)
    pages = [
        tiny.interleaved_members("1", [{"image": 0}, {"text": "one"}, {"image": 1}], [tiny.png(rng), tiny.png(rng)]),
        tiny.interleaved_members("2", [{"text": "a page of text"}], []),
    ]
    tiny.write_tar(folder / "pages.tar", [member for page in pages for member in page])


# ---- index ----


def test_index_counts_records_and_images(tmp_path):
    write_release(tmp_path / "in")
    counts = run("index", tmp_path / "out", tmp_path / "in")
    assert counts == {
        "read": {"files": 3, "records": 12},
        "kept": {"records": 12, "images": 12},
    }
    for name, length in (("00000", 5), ("00001", 5), ("pages", 2)):
        index = Path(f"{tmp_path / 'in' / name}.tar{INDEX_SUFFIX}")
        written = index.stat().st_mtime_ns
        assert len(open_corpus_index([str(tmp_path / "in" / f"{name}.tar")])) == length
        assert index.stat().st_mtime_ns == written
    assert bad_records(tmp_path / "out") == []


@pytest.mark.parametrize("kind", ["captions", "captions-json", "interleaved"])
def test_index_with_a_vocabulary_is_all_that_training_needs(tmp_path, kind, data):
    """The files are those that training makes, byte for byte; broken tars are in neither."""
    write_release(tmp_path / "in", shards=5)
    folder = tmp_path / "in"
    tars = [folder / "pages.tar"] if kind == "interleaved" else sorted(folder.glob("0*.tar"))
    options = ["--caption-from", "json"] if kind == "captions-json" else []
    run("index", tmp_path / "out", *tars, "--vocabulary", data.parent / "vocabulary", *options)
    vocabulary = Vocabulary.load(data.parent / "vocabulary")
    documents = ShardedDocuments(map(str, tars), record_reader(kind.partition("-")[0], kind.partition("-")[2] or "txt"))
    lengths = LengthsFile(documents, kind, vocabulary)
    index, written = Path(documents.index.path), lengths.file.beside
    assert lengths.find() is not None
    before = index.read_bytes(), written.read_bytes()
    for path in (index, written, *folder.glob(f"*.tar{INDEX_SUFFIX}")):
        path.unlink()
    lengths = LengthsFile(ShardedDocuments(map(str, tars), documents.read_record), kind, vocabulary)
    lengths.open()
    assert (index.read_bytes(), written.read_bytes()) == before


def test_index_of_a_corpus_leaves_out_broken_tars(tmp_path, data):
    write_release(tmp_path / "in")
    (tmp_path / "in" / "pages.tar").unlink()
    (tmp_path / "in" / "broken.tar").write_bytes(b"no tar")
    run("index", tmp_path / "out", tmp_path / "in", "--vocabulary", data.parent / "vocabulary")
    tars = [str(tmp_path / "in" / f"{name}.tar") for name in ("00000", "00001")]
    documents = ShardedDocuments(tars, record_reader("captions"))
    assert LengthsFile(documents, "captions", Vocabulary.load(data.parent / "vocabulary")).find() is not None
    assert len(list((tmp_path / "in").glob(f"0*-0*{INDEX_SUFFIX}"))) == 1


@pytest.mark.slow
def test_index_for_any_number_of_workers(tmp_path, data):
    folders = [tmp_path / "1", tmp_path / "2"]
    write_release(folders[0], shards=6)
    (folders[0] / "pages.tar").unlink()
    shutil.copytree(folders[0], folders[1])  # with its times
    vocabulary = data.parent / "vocabulary"
    run("index", tmp_path / "out1", folders[0], "--vocabulary", vocabulary)
    finish("index", folders[1], "--vocabulary", vocabulary, "--out", tmp_path / "out2", "--workers", 2)
    assert digests(folders[0]) == digests(folders[1])


def test_index_leaves_what_captions_has_filtered(tmp_path):
    write_release(tmp_path / "in")
    tars = tmp_path / "in" / "0000?.tar"
    run("captions", tmp_path / "captions", tars, "--min-words", 6)
    before = {tar: selection_of(tar) for tar in (tmp_path / "in").glob("0*.tar")}
    assert all(before.values())
    with pytest.raises(UserError, match="Nothing was kept"):
        run("index", tmp_path / "out", tars)
    assert {tar: selection_of(tar) for tar in before} == before
    assert "filtered" in (tmp_path / "out" / "report.json").read_text()


@pytest.mark.parametrize("command", ["index", "check"])
def test_broken_tars_are_named(tmp_path, command):
    write_release(tmp_path / "in")
    whole = (tmp_path / "in" / "00001.tar").read_bytes()
    (tmp_path / "in" / "00001.tar").write_bytes(whole[:5000])
    (tmp_path / "in" / "empty.tar").write_bytes(b"")
    counts = run(command, tmp_path / "out", tmp_path / "in")
    assert counts["left out"] == {"tars that are cut short or not tars: see bad.jsonl": 2}
    assert counts["read"]["files"] == 4
    lines = bad_records(tmp_path / "out")
    assert [(Path(line["tar"]).name, line["key"]) for line in lines] == [("00001.tar", None), ("empty.tar", None)]
    assert all(Path(line["tar"]).name in line["message"] for line in lines)
    assert not (tmp_path / "in" / f"00001.tar{INDEX_SUFFIX}").exists()


@pytest.mark.parametrize("command", ["index", "check"])
def test_errors_name_what_is_wrong(tmp_path, command):
    (tmp_path / "a.txt").write_text("not a tar")
    with pytest.raises(UserError, match="no tars among the inputs"):
        run(command, tmp_path / "out", tmp_path / "a.txt")


def test_a_remote_tar_cannot_be_indexed(tmp_path):
    import fsspec

    with fsspec.open("memory://shards/0.tar", "wb") as file:
        file.write(b"")
    with pytest.raises(UserError, match="must be in a local folder"):
        run("index", tmp_path / "out", "memory://shards/0.tar")


@pytest.mark.parametrize("command", ["index", "check", "captions"])
def test_replaced_files_are_counted(tmp_path, command):
    """Of two files of the same name in a tar the later one counts, and `check` names it."""
    members = [m for key in "ab" for m in tiny.caption_members(key, "a caption", IMAGE)]
    tiny.write_tar(tmp_path / "0.tar", [*members, ("a.txt", b"another caption")])
    counts = run(command, tmp_path / "out", tmp_path / "0.tar")
    assert counts["left out"] == {"files that a later one of the same name in the tar replaces": 1}
    reason, message = "replaced by a later file of the same name", "a.txt"
    line = {"tar": str(tmp_path / "0.tar"), "key": "a", "reason": reason, "message": message}
    assert bad_records(tmp_path / "out") == ([line] if command == "check" else [])


@pytest.mark.parametrize("command", ["index", "check", "captions"])
@pytest.mark.parametrize("name", ["0.tar.gz", "0.tar"])
def test_compressed_tars_are_named_as_such(tmp_path, command, name):
    tiny.write_tar(tmp_path / "in" / "1.tar", tiny.caption_members("good", "a caption", IMAGE))
    tiny.write_tar(tmp_path / "0.tar", tiny.caption_members("0", "a caption", IMAGE))
    (tmp_path / "in" / name).write_bytes(gzip.compress((tmp_path / "0.tar").read_bytes()))
    run(command, tmp_path / "out", tmp_path / "in")
    (line,) = bad_records(tmp_path / "out")
    assert line["message"].endswith(f"{name} is compressed, so that no record of it can be read alone: gunzip it.")


# ---- check ----


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs tar")
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_pixels_of_sparse_files(tmp_path, version):
    """They were those of another file, and `check` called them fine."""
    buffer = io.BytesIO()
    Image.new("RGB", (400, 300)).save(buffer, "BMP")
    for number, color in enumerate((b"\x10\x80\xf0", b"\xf0\x80\x10")):
        with (tmp_path / f"{number}.bmp").open("wb") as file:
            file.write(buffer.getvalue()[:54] + color * 1000)
            file.seek(200_000)
            file.write(color * 1000)
            file.truncate(len(buffer.getvalue()))
        (tmp_path / f"{number}.txt").write_text("a caption")
    names = ["0.bmp", "0.txt", "1.bmp", "1.txt"]
    options = ["--format=pax", "--sparse", f"--sparse-version={version}"]
    subprocess.run(["tar", *options, "-cf", "0.tar", *names], cwd=tmp_path, check=True)
    assert (tmp_path / "0.tar").stat().st_size < 100_000
    counts = run("check", tmp_path / "out", tmp_path / "0.tar")
    assert counts["kept"]["captions: images"] == 2
    for number, record in enumerate(tar_records(tmp_path / "0.tar")[0]):
        assert record.read("bmp") == (tmp_path / f"{number}.bmp").read_bytes()


def test_good_shards_are_good(tmp_path):
    write_release(tmp_path / "in")
    counts = run("check", tmp_path / "out", tmp_path / "in")
    assert counts == {
        "read": {"files": 3, "records": 12},
        "kept": {
            "captions: documents": 10,
            "captions: images": 10,
            "interleaved: documents": 2,
            "interleaved: images": 2,
        },
    }
    assert bad_records(tmp_path / "out") == []
    assert not list((tmp_path / "in").glob(f"*{INDEX_SUFFIX}"))


IMAGE = tiny.png(random.Random(0))
BAD_RECORDS = {  # reason → members, by what follows the key in their names
    "empty text": [("jpg", IMAGE), ("txt", b" ")],
    "NUL bytes": [("jpg", IMAGE), ("txt", b"a \0 b")],
    "no text, or not valid UTF-8": [("jpg", IMAGE), ("txt", b"\xff")],
    "no image": [("txt", b"text")],
    "no caption": [("jpg", IMAGE)],
    "caption is not text": [("jpg", IMAGE), ("json", b'{"caption": 7}')],
    "image of 0 bytes": [("jpg", b""), ("txt", b"text")],
    "image that cannot be decoded": [("jpg", IMAGE[:-60]), ("txt", b"text")],
    "no JSON": [("0.jpg", IMAGE)],
    "invalid JSON": [("json", b'{"segments": ['), ("0.jpg", IMAGE)],
    "JSON in another format": [("json", b'{"texts": []}'), ("0.jpg", IMAGE)],
    "segment is neither text nor image": [("json", b'{"segments": [{"text": 7}]}')],
    "missing image": [("json", b'{"segments": [{"text": "a"}, {"image": 3}]}'), ("0.jpg", IMAGE)],
    "no text to learn from": [("json", b'{"segments": [{"text": "a", "counted": false}]}')],
    "half a surrogate pair": [("json", b'{"segments": [{"text": "\\\\ud83d"}]}'.replace(b"\\\\", b"\\"))],
}


def test_bad_records_are_counted_and_named(tmp_path):
    members = tiny.caption_members("good", "a caption", IMAGE)
    for number, record in enumerate(BAD_RECORDS.values()):
        members += [(f"{number}.{name}", data) for name, data in record]
    tiny.write_tar(tmp_path / "0.tar", members)
    counts = run("check", tmp_path / "out", tmp_path / "0.tar")
    assert counts["dropped"] == {reason: 1 for reason in BAD_RECORDS}
    assert counts["kept"] == {"captions: documents": 1, "captions: images": 1}
    lines = bad_records(tmp_path / "out")
    assert [(line["key"], line["reason"]) for line in lines] == [(str(n), r) for n, r in enumerate(BAD_RECORDS)]


def test_one_broken_image_among_several_is_found(tmp_path):
    segments = [{"image": 0}, {"text": "text"}, {"image": 1}]
    tiny.write_tar(tmp_path / "0.tar", tiny.interleaved_members("7", segments, [IMAGE, IMAGE[:200]]))
    with pytest.raises(UserError, match="Nothing was kept"):
        run("check", tmp_path / "out", tmp_path / "0.tar")
    (line,) = bad_records(tmp_path / "out")
    assert (line["reason"], line["message"]) == ("image that cannot be decoded", "image 1")


def test_checksums(tmp_path):
    """img2dataset's checksums are of the downloads; they match if it did not re-encode (--disable_all_reencoding)."""
    right, wrong = hashlib.sha256(IMAGE).hexdigest(), hashlib.sha256(b"another").hexdigest()
    as_downloaded = {"width": None, "height": None, "original_width": None, "original_height": None}
    re_encoded = {"width": 32, "height": 32, "original_width": 640, "original_height": 640}
    details = {
        "right": {"sha256": right, **as_downloaded},
        "wrong": {"sha256": wrong, **as_downloaded},
        "other": {"md5": hashlib.md5(IMAGE).hexdigest().upper()},
        "wrong-md5": {"md5": hashlib.md5(b"another").hexdigest()},
        "re-encoded": {"sha256": wrong, **re_encoded},
        "same": {"sha256": right, **re_encoded},
        "none": {"sha256": None, **as_downloaded},
        "list": [1],
    }
    members = []
    for key, about in details.items():
        members += [*tiny.caption_members(key, "a caption", IMAGE), (f"{key}.json", json.dumps(about).encode())]
    tiny.write_tar(tmp_path / "0.tar", [*members, *tiny.caption_members("broken", "b", IMAGE), ("broken.json", b"{")])
    counts = run("check", tmp_path / "out", tmp_path / "0.tar")
    assert [line["key"] for line in bad_records(tmp_path / "out")] == ["wrong", "wrong-md5"]
    assert counts["dropped"] == {"checksum that does not match": 2}
    assert counts["kept"]["checksums that match"] == 3
    assert counts["left out"] == {"checksums of downloads that were re-encoded": 1}
    run("check", tmp_path / "all", tmp_path / "0.tar", "--all-checksums")
    assert [line["key"] for line in bad_records(tmp_path / "all")] == ["wrong", "wrong-md5", "re-encoded"]


@pytest.mark.slow
def test_the_list_is_the_same_for_any_number_of_workers(tmp_path):
    for shard in range(3):
        members = []
        for number, record in enumerate(BAD_RECORDS.values()):
            members += [(f"{shard}{number}.{name}", data) for name, data in record]
        tiny.write_tar(tmp_path / "in" / f"{shard}.tar", [*members, *tiny.caption_members("good", "text", IMAGE)])
    run("check", tmp_path / "1", tmp_path / "in")
    finish("check", tmp_path / "in", "--out", tmp_path / "2", "--workers", 2)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    assert len(bad_records(tmp_path / "1")) == 3 * len(BAD_RECORDS)


def test_every_reason_is_known(tmp_path):
    """The reasons of broken records are a few fixed phrases; specifics of a record are in the detail."""
    for number, record in enumerate(BAD_RECORDS.values()):
        tiny.write_tar(tmp_path / f"{number}.tar", [(f"7.{name}", data) for name, data in record])
        ((found,), _) = tar_records(tmp_path / f"{number}.tar")
        for read in (caption_document, interleaved_document):
            assert reason(found, read) in (None, *BAD_RECORDS)


def reason(record: Record, read) -> str | None:
    try:
        read(record)
    except BrokenRecord as error:
        return error.reason
    return None
