"""The index beside a tar: when it is built, the cost of reading it, selections, and tars that are broken anywhere."""

import io
import multiprocessing
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.data.corpus_index import file_of_corpus, open_corpus_index
from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.data.shard_index import INDEX_SUFFIX, build_index, selection_of, tar_records
from kosmos_plugin.data.shards import ShardedDocuments, caption_document
from kosmos_plugin.data.tar_files import BrokenShard
from kosmos_plugin.errors import UserError
from tests import tiny


def captions(path) -> ShardedDocuments:
    return ShardedDocuments([str(path)], caption_document)


def content(document):
    return [segment.text if isinstance(segment, Text) else segment.read() for segment in document.segments]


def corpus_index(path) -> Path:
    """The index of the corpus of one tar."""
    return file_of_corpus([str(path)]).beside


def caption_tar(path, count=5, word="dog", size=2000):
    members = [m for i in range(count) for m in tiny.caption_members(f"{i}", f"{word} {i}", b"i" * size)]
    tiny.write_tar(path, members)


def test_index_stays_and_is_used(tmp_path):
    caption_tar(tmp_path / "0.tar")
    before = [content(captions(tmp_path / "0.tar")[i]) for i in range(5)]
    index = corpus_index(tmp_path / "0.tar")
    written = index.stat().st_mtime_ns
    assert [content(captions(tmp_path / "0.tar")[i]) for i in range(5)] == before
    assert index.stat().st_mtime_ns == written
    assert {path.name for path in tmp_path.iterdir()} == {"0.tar", index.name}


@pytest.mark.parametrize("count, size", [(9, 2000), (5, 2500), (5, 2000)], ids=["longer", "moved", "same size"])
def test_a_rewritten_tar_is_indexed_again(tmp_path, count, size):
    caption_tar(tmp_path / "0.tar")
    assert content(captions(tmp_path / "0.tar")[4])[1] == "dog 4"
    index = corpus_index(tmp_path / "0.tar")
    os.utime(index, (1_000_000_000, 1_000_000_000))
    caption_tar(tmp_path / "0.tar", count, "another word", size)
    documents = captions(tmp_path / "0.tar")
    assert [content(documents[i]) for i in range(len(documents))] == [
        [b"i" * size, f"another word {i}"] for i in range(count)
    ]


def test_a_tar_of_another_size_is_indexed_again_whatever_the_clock_says(tmp_path):
    caption_tar(tmp_path / "0.tar")
    captions(tmp_path / "0.tar")
    caption_tar(tmp_path / "0.tar", 30, "cat")
    os.utime(tmp_path / "0.tar", (1_000_000_000, 1_000_000_000))
    assert content(captions(tmp_path / "0.tar")[29])[1] == "cat 29"


@pytest.mark.parametrize("damage", [b"", b"no index", b"PK\x03\x04" + bytes(100)])
def test_broken_index_is_named(tmp_path, damage):
    """It may have been one of selected records, so it is not replaced by one of all."""
    caption_tar(tmp_path / "0.tar")
    (tmp_path / f"0.tar{INDEX_SUFFIX}").write_bytes(damage)
    with pytest.raises(UserError, match=r"0\.tar\.kosmos_index cannot be used .* Remove it"):
        captions(tmp_path / "0.tar")[4]


def bytes_read() -> int:
    """The number of bytes that this process has read so far."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


def test_images_are_read_only_on_request(tmp_path):
    """Neither indexing nor making a document reads the images' bytes: here they are a hole in the file."""
    big = 40_000_000
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for i in range(4):
            info = tarfile.TarInfo(f"{i}.jpg")
            info.size = big
            archive.fileobj.write(info.tobuf())
            archive.fileobj.seek(-(-big // 512) * 512, os.SEEK_CUR)
            archive.offset = archive.fileobj.tell()
            info = tarfile.TarInfo(f"{i}.txt")
            info.size = 5
            archive.addfile(info, io.BytesIO(b"dog %d" % i))
    assert (tmp_path / "0.tar").stat().st_size > 4 * big

    if not Path("/proc/self/io").exists():
        pytest.skip("counts bytes through /proc")
    before = bytes_read()
    documents = captions(tmp_path / "0.tar")
    read = [documents[i] for i in range(4)]
    assert bytes_read() - before < 1_000_000
    (image,) = (segment for segment in read[3].segments if isinstance(segment, Image))
    assert image.read() == bytes(big)


def test_only_the_record_of_a_large_shard_is_read(tmp_path):
    """A batch draws from thousands of shards, so opening an index and reading a record must not read a whole file."""
    caption_tar(tmp_path / "0.tar", 3000, size=1)
    documents = captions(tmp_path / "0.tar")
    assert corpus_index(tmp_path / "0.tar").stat().st_size > 150_000
    if not Path("/proc/self/io").exists():
        pytest.skip("counts bytes through /proc")
    before = bytes_read()
    assert content(documents[2345])[1] == "dog 2345"
    assert bytes_read() - before < 50_000


def build_often(tar) -> int:
    for _ in range(10):
        build_index(tar)
    return len(open_corpus_index([str(tar)]))


def test_indexing_at_the_same_time(tmp_path):
    """Also in threads, which share a process id, as processes on two machines may."""
    caption_tar(tmp_path / "0.tar", 20, size=10)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(build_often, [tmp_path / "0.tar"] * 4)) == [20] * 4
    (tmp_path / f"0.tar{INDEX_SUFFIX}").unlink()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(build_often, [tmp_path / "0.tar"] * 4, chunksize=1) == [20] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["0.tar", f"0.tar{INDEX_SUFFIX}", corpus_index(tmp_path / "0.tar").name]
    )


def test_index_cannot_be_written(tmp_path):
    caption_tar(tmp_path / "0.tar")
    (tmp_path / f"0.tar{INDEX_SUFFIX}").mkdir()
    with pytest.raises(UserError, match=r"Cannot write the index .*0\.tar\.kosmos_index"):
        build_index(tmp_path / "0.tar")
    corpus_index(tmp_path / "0.tar").mkdir()
    with pytest.raises(UserError, match=r"0\.\w+\.kosmos_index, the index of .*0\.tar, cannot be written: Is a"):
        captions(tmp_path / "0.tar")


# ---- indexes of selected records


def select(path, keys, selection="selected by hand"):
    build_index(path, [record for record in tar_records(path)[0] if record.key in keys], selection)


def test_index_of_selected_records(tmp_path):
    caption_tar(tmp_path / "0.tar")
    select(tmp_path / "0.tar", {"1", "4"})
    documents = captions(tmp_path / "0.tar")
    assert [content(documents[i])[1] for i in range(len(documents))] == ["dog 1", "dog 4"]
    assert selection_of(tmp_path / "0.tar") == "selected by hand"
    select(tmp_path / "0.tar", {})
    assert len(captions(tmp_path / "0.tar")) == 0


def test_records_are_selected_by_their_content(tmp_path):
    caption_tar(tmp_path / "0.tar")
    records, _ = tar_records(tmp_path / "0.tar")
    build_index(tmp_path / "0.tar", [r for r in records if r.read("txt") != b"dog 2"], "not dog 2")
    assert [captions(tmp_path / "0.tar")[i].id for i in range(4)] == ["0.tar/0", "0.tar/1", "0.tar/3", "0.tar/4"]


def test_index_of_all_records_has_no_selection(tmp_path):
    caption_tar(tmp_path / "0.tar")
    assert selection_of(tmp_path / "0.tar") is None
    build_index(tmp_path / "0.tar")
    assert selection_of(tmp_path / "0.tar") is None
    (tmp_path / f"0.tar{INDEX_SUFFIX}").write_bytes(b"no index")
    with pytest.raises(UserError, match="cannot be used"):
        selection_of(tmp_path / "0.tar")


@pytest.mark.parametrize("count", [5, 9], ids=["newer", "of another size"])
def test_a_selection_is_not_replaced_by_all_records(tmp_path, count):
    caption_tar(tmp_path / "0.tar")
    select(tmp_path / "0.tar", {"1"})
    index = tmp_path / f"0.tar{INDEX_SUFFIX}"
    before = index.read_bytes()
    caption_tar(tmp_path / "0.tar", count, "cat")
    if count == 5:
        os.utime(index, (1_000_000_000, 1_000_000_000))
    else:
        os.utime(tmp_path / "0.tar", (1_000_000_000, 1_000_000_000))
    with pytest.raises(
        UserError,
        match=r"0\.tar has changed since kosmos-prepare captions filtered it. Prepare it again",
    ):
        open_corpus_index([str(tmp_path / "0.tar")])
    assert index.read_bytes() == before
    select(tmp_path / "0.tar", {"1"})
    assert content(captions(tmp_path / "0.tar")[0])[1] == "cat 1"


def test_records_of_a_tar(tmp_path):
    members = [("a.jpg", b"1"), ("a.txt", b"22"), ("b.txt", b"3"), ("a.txt", b"again")]
    tiny.write_tar(tmp_path / "0.tar", members)
    records, replaced = tar_records(tmp_path / "0.tar")
    read = [(r.key, {name: r.read(name) for name in r.members}) for r in records]
    assert read == [("a", {"jpg": b"1", "txt": b"again"}), ("b", {"txt": b"3"})]
    assert replaced == [("a", "a.txt")]
    assert not (tmp_path / f"0.tar{INDEX_SUFFIX}").exists()


# ---- broken tars


def refused(path):
    with pytest.raises(UserError, match=path.name) as error:
        open_corpus_index([str(path)])
    assert "\n" not in str(error.value)
    assert not Path(f"{path}{INDEX_SUFFIX}").exists()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_tar_cut_anywhere(tmp_path, form):
    """Cuts at and next to every block border: in headers, long names, data, and the zeros at the end."""
    with tarfile.open(tmp_path / "whole.tar", "w", format=form) as archive:
        for name, size in (("a.jpg", 700), ("a.txt", 5), ("é" * 600 + ".jpg", 1024), ("b.txt", 512), ("c.jpg", 3)):
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(b"x" * size))
        end = archive.offset
    whole = (tmp_path / "whole.tar").read_bytes()
    assert whole[end:] == bytes(len(whole) - end)
    cuts = sorted({max(block + shift, 0) for block in range(0, end + 1024, 512) for shift in (-1, 0, 1, 100)})
    for cut in (cut for cut in cuts if cut < end + 1024):
        path = tmp_path / f"cut{cut}.tar"
        path.write_bytes(whole[:cut])
        refused(path)
        path.unlink()
    (tmp_path / "enough.tar").write_bytes(whole[: end + 1024])
    index = open_corpus_index([str(tmp_path / "enough.tar")])
    assert [index.record(i).key for i in range(len(index))] == ["a", "é" * 600, "b", "c"]


def test_header_broken_in_the_middle(tmp_path):
    """Python's tarfile would silently take this for the end."""
    caption_tar(tmp_path / "0.tar", 5, size=600)
    broken = bytearray((tmp_path / "0.tar").read_bytes())
    start = broken.index(b"2.txt")
    broken[start : start + 200] = bytes(range(200))
    (tmp_path / "0.tar").write_bytes(broken)
    with tarfile.open(tmp_path / "0.tar") as archive:
        assert archive.getnames() == ["0.png", "0.txt", "1.png", "1.txt", "2.png"]
    refused(tmp_path / "0.tar")


@pytest.mark.parametrize("data", [b"", b"garbage", b"<html>not found</html>" * 200, bytes(500)])
def test_not_a_tar(tmp_path, data):
    (tmp_path / "page.tar").write_bytes(data)
    refused(tmp_path / "page.tar")


def test_missing_tar(tmp_path):
    with pytest.raises(UserError, match=r"gone\.tar does not exist"):
        open_corpus_index([str(tmp_path / "gone.tar")])


@pytest.mark.parametrize("size", [-512, 2**80])
def test_header_of_an_absurd_size(tmp_path, size):
    """tarfile accepts sizes of any length; with a negative one it would read the same header forever."""
    caption_tar(tmp_path / "0.tar", 2, size=600)
    broken = bytearray((tmp_path / "0.tar").read_bytes())
    header = broken.index(b"1.txt")
    sign = 0xFF if size < 0 else 0x80
    broken[header + 124 : header + 136] = bytes([sign]) + size.to_bytes(11, "big", signed=True)
    broken[header + 148 : header + 156] = b" " * 8
    checksum = sum(broken[header : header + 512])
    broken[header + 148 : header + 156] = b"%06o\0 " % checksum
    (tmp_path / "0.tar").write_bytes(broken)
    refused(tmp_path / "0.tar")


@settings(max_examples=60, deadline=2000)
@given(st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=4), st.integers(0, 6))
def test_any_header_gives_records_or_a_broken_shard(tmp_path_factory, changes, block):
    """The headers have valid checksums, so that tarfile accepts them."""
    path = tmp_path_factory.mktemp("changed") / "0.tar"
    tiny.write_tar(path, [("a.jpg", b"1"), (f"{'é' * 120}.txt", b"22"), ("b.txt", b"3")])
    data = bytearray(path.read_bytes())
    header = data[512 * block : 512 * (block + 1)]
    for offset, value in changes:
        header[offset] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[512 * block : 512 * (block + 1)] = header
    path.write_bytes(data)
    try:
        records, _ = tar_records(path)
    except BrokenShard as error:
        assert path.name in str(error)
    else:
        assert len(records) <= 3
