"""Shards against the real webdataset library, indexes, and tars that are broken in every place."""

import io
import json
import multiprocessing
import os
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.data.documents import BrokenRecord, Image, Text
from kosmos_plugin.data.shard_index import INDEX_SUFFIX, BrokenShard, build_index, open_index, selection_of, tar_records
from kosmos_plugin.data.shards import ShardedDocuments, caption_document, interleaved_document
from kosmos_plugin.errors import UserError
from tests import tiny

pytestmark = pytest.mark.usefixtures("forget_indexes")


def captions(path) -> ShardedDocuments:
    return ShardedDocuments([str(path)], caption_document)


def pages(path) -> ShardedDocuments:
    return ShardedDocuments([str(path)], interleaved_document)


def content(document):
    return [segment.text if isinstance(segment, Text) else segment.read() for segment in document.segments]


def by_webdataset(path):
    return [sample for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)]


def image_bytes(draw: random.Random) -> bytes:
    return draw.randbytes(draw.choice([1, 511, 512, 513, 3000]))


def test_captions_equal_webdataset(tmp_path):
    draw = random.Random(0)
    members = []
    for i in range(30):
        key, extension = f"{i:05d}", draw.choice(["jpg", "JPG", "png", "webp", "jpeg"])
        record = [(f"{key}.{extension}", image_bytes(draw)), (f"{key}.txt", tiny.sentence(draw).encode())]
        record.append((f"{key}.json", json.dumps({"caption": "not this one", "width": 3}).encode()))
        members += draw.sample(record, 3)
    tiny.write_tar(tmp_path / "00000.tar", members)
    documents = captions(tmp_path / "00000.tar")
    theirs = by_webdataset(tmp_path / "00000.tar")
    assert len(documents) == len(theirs) == 30
    for i in draw.sample(range(30), 30):
        (image,) = (theirs[i][key] for key in theirs[i] if key in ("jpg", "png", "webp", "jpeg"))
        assert content(documents[i]) == [image, theirs[i]["txt"].decode()]
        assert documents[i].id == f"00000.tar/{theirs[i]['__key__']}"


def test_odd_names_equal_webdataset(tmp_path):
    """Folders, names with dots, long names, and files that belong to no record."""
    long = "much-" * 60 + "longer"
    names = [
        *["README", ".DS_Store", "a/0.jpg", "a/0.txt", "b.c/0.jpg", "b.c/._0.txt", "b.c/0.txt", "0.jpg", "0.x.txt"],
        *["a/0.png", "a/LICENSE", "a/0.txt", f"{long}.jpg", f"{long}.txt", f"d/{long}/1.jpg", "2.seg.0.jpg", "é.png"],
    ]
    draw = random.Random(1)
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "odd.tar", "w", format=form) as archive:
            folder = tarfile.TarInfo("a")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            link = tarfile.TarInfo("a/0.link")
            link.type, link.linkname = tarfile.SYMTYPE, "a/0.txt"
            archive.addfile(link)
            for name in names:
                data = image_bytes(draw)
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        build_index(tmp_path / "odd.tar")
        open_index.cache_clear()
        index = open_index(str(tmp_path / "odd.tar"))
        records = [index.record(i) for i in range(len(index))]
        ours = [(record.key, {name: record.read(name) for name in record.members}) for record in records]
        theirs = [
            (sample["__key__"], {name: data for name, data in sample.items() if not name.startswith("__")})
            for sample in by_webdataset(tmp_path / "odd.tar")
        ]
        assert ours == theirs


def test_img2dataset_naming(tmp_path):
    """000000123.jpg, .txt and .json; the caption is in the JSON alone where the .txt is left out."""
    details = {"caption": " from the json ", "url": "https://…", "status": "success", "key": "000000124"}
    members = [
        *[("000000123.jpg", b"first"), ("000000123.txt", "  from the txt: café\n".encode()), ("000000123.json", b"{}")],
        *[("000000124.jpg", b"second"), ("000000124.json", json.dumps(details).encode())],
    ]
    tiny.write_tar(tmp_path / "00000.tar", members)
    documents = captions(tmp_path / "00000.tar")
    assert [content(documents[i]) for i in range(2)] == [[b"first", "from the txt: café"], [b"second", "from the json"]]


@pytest.mark.parametrize(
    "members, reason",
    [
        ([("1.jpg", b"i"), ("1.txt", b"")], "empty text"),
        ([("1.jpg", b"i"), ("1.txt", b" \n")], "empty text"),
        ([("1.jpg", b"i"), ("1.json", b'{"caption": null}')], "empty text"),
        ([("1.jpg", b"i"), ("1.json", b'{"caption": 7}')], r"caption is not text \\(7"),
        ([("1.jpg", b"i"), ("1.json", b'{"captions": "a"}')], "empty text"),
        ([("1.jpg", b"i"), ("1.json", b'{"caption": "a"')], "invalid JSON"),
        ([("1.jpg", b"i"), ("1.json", b"[1]")], "JSON in another format"),
        ([("1.jpg", b"i"), ("1.txt", b"caf\xe9")], "no text, or not valid UTF-8"),
        ([("1.jpg", b"i")], "no caption"),
        ([("1.txt", b"a")], "no image"),
        ([("1.pdf", b"i"), ("1.txt", b"a")], "no image"),
    ],
)
def test_broken_captions(tmp_path, members, reason):
    tiny.write_tar(tmp_path / "0.tar", [*members, *tiny.caption_members("2", "whole", b"image")])
    documents = captions(tmp_path / "0.tar")
    with pytest.raises(BrokenRecord, match=rf"^0\.tar/1: .*{reason}"):
        documents[0]
    assert content(documents[1]) == [b"image", "whole"]


def test_interleaved(tmp_path):
    segments = [{"image": 1}, {"text": "one", "in_loss": False}, {"image": "0"}, {"text": " two"}, {"image": 1}]
    members = tiny.interleaved_members("x/7", segments, [b"zero", b"first"])
    for shuffled in (members, members[::-1]):
        tiny.write_tar(tmp_path / "0.tar", [*shuffled, *tiny.interleaved_members("x/8", [{"text": "alone"}], [])])
        open_index.cache_clear()
        documents = pages(tmp_path / "0.tar")
        assert documents[0].id == "0.tar/x/7"
        assert content(documents[0]) == [b"first", "one", b"zero", " two", b"first"]
        assert [s.in_loss for s in documents[0].segments if isinstance(s, Text)] == [False, True]
        assert content(documents[1]) == ["alone"]


@pytest.mark.parametrize(
    "json_bytes, reason",
    [
        (b"", "invalid JSON"),
        (b"\xff", "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
        (b'{"segments": [{"text": "a"}', "invalid JSON"),
        (b'[{"text": "a"}]', "not an object"),
        (b"{}", 'no list of "segments"'),
        (b'{"segments": {"text": "a"}}', 'no list of "segments"'),
        (b'{"segments": ["a"]}', "segment is neither"),
        (b'{"segments": [{}]}', "segment is neither"),
        (b'{"segments": [{"text": "a", "image": 0}]}', "segment is neither"),
        (b'{"segments": [{"text": null}]}', "neither text nor image .*None"),
        (b'{"segments": [{"text": ["a"]}]}', "neither text nor image"),
        (b'{"segments": [{"image": 1}, {"text": "a"}]}', r"missing image \\(image 1"),
        (b'{"segments": [{"image": [0]}, {"text": "a"}]}', "missing image"),
    ],
)
def test_broken_pages(tmp_path, json_bytes, reason):
    tiny.write_tar(tmp_path / "0.tar", [("7.json", json_bytes), ("7.0.png", b"i")])
    with pytest.raises(BrokenRecord, match=rf"^0\.tar/7: .*{reason}"):
        pages(tmp_path / "0.tar")[0]


def test_page_without_json(tmp_path):
    tiny.write_tar(tmp_path / "0.tar", [("7.0.png", b"i"), ("7.txt", b"a")])
    with pytest.raises(BrokenRecord, match="no JSON"):
        pages(tmp_path / "0.tar")[0]


def test_several_tars_are_one_sequence(tmp_path):
    for shard, count in enumerate((3, 0, 1, 4)):
        members = [m for i in range(count) for m in tiny.caption_members(f"{i}", f"{shard} {i}", b"i")]
        tiny.write_tar(tmp_path / f"{shard}.tar", members)
    documents = ShardedDocuments([str(tmp_path / f"{shard}.tar") for shard in range(4)], caption_document)
    expected = [(shard, i) for shard, count in enumerate((3, 0, 1, 4)) for i in range(count)]
    assert len(documents) == len(expected)
    for i, (shard, number) in enumerate(expected):
        assert documents[i].id == f"{shard}.tar/{number}"
        assert content(documents[i])[1] == f"{shard} {number}"


# ---- the index


def caption_tar(path, count=5, word="dog", size=2000):
    members = [m for i in range(count) for m in tiny.caption_members(f"{i}", f"{word} {i}", b"i" * size)]
    tiny.write_tar(path, members)


def test_index_stays_and_is_used(tmp_path):
    caption_tar(tmp_path / "0.tar")
    before = [content(captions(tmp_path / "0.tar")[i]) for i in range(5)]
    index = tmp_path / f"0.tar{INDEX_SUFFIX}"
    written = index.stat().st_mtime_ns
    open_index.cache_clear()
    assert [content(captions(tmp_path / "0.tar")[i]) for i in range(5)] == before
    assert index.stat().st_mtime_ns == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar", index.name]


@pytest.mark.parametrize("count, size", [(9, 2000), (5, 2500), (5, 2000)], ids=["longer", "moved", "same size"])
def test_tar_written_anew_is_indexed_anew(tmp_path, count, size):
    caption_tar(tmp_path / "0.tar")
    assert content(captions(tmp_path / "0.tar")[4])[1] == "dog 4"
    index = tmp_path / f"0.tar{INDEX_SUFFIX}"
    os.utime(index, (1_000_000_000, 1_000_000_000))
    caption_tar(tmp_path / "0.tar", count, "another word", size)
    open_index.cache_clear()
    documents = captions(tmp_path / "0.tar")
    assert [content(documents[i]) for i in range(len(documents))] == [
        [b"i" * size, f"another word {i}"] for i in range(count)
    ]


def test_tar_of_another_size_is_indexed_anew_whatever_the_clock_says(tmp_path):
    caption_tar(tmp_path / "0.tar")
    captions(tmp_path / "0.tar")
    caption_tar(tmp_path / "0.tar", 30, "cat")
    os.utime(tmp_path / "0.tar", (1_000_000_000, 1_000_000_000))
    open_index.cache_clear()
    assert content(captions(tmp_path / "0.tar")[29])[1] == "cat 29"


@pytest.mark.parametrize("damage", [b"", b"no index", b"PK\x03\x04" + bytes(100)])
def test_broken_index_is_written_anew(tmp_path, damage):
    caption_tar(tmp_path / "0.tar")
    (tmp_path / f"0.tar{INDEX_SUFFIX}").write_bytes(damage)
    assert content(captions(tmp_path / "0.tar")[4])[1] == "dog 4"
    open_index.cache_clear()
    assert len(np.load(tmp_path / f"0.tar{INDEX_SUFFIX}")["keys"]) == 5


def bytes_read() -> int:
    """Of this process, so far."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


def test_images_are_read_only_when_asked_for(tmp_path):
    """Neither indexing nor a document needs their bytes: here they lie in a hole of the file."""
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


def test_a_record_of_a_large_shard_is_read_alone(tmp_path):
    """A batch meets thousands of shards: neither opening an index nor a record of it may read all of it."""
    caption_tar(tmp_path / "0.tar", 3000, size=1)
    documents = captions(tmp_path / "0.tar")
    assert (tmp_path / f"0.tar{INDEX_SUFFIX}").stat().st_size > 200_000
    if not Path("/proc/self/io").exists():
        pytest.skip("counts bytes through /proc")
    open_index.cache_clear()
    before = bytes_read()
    assert content(documents[2345])[1] == "dog 2345"
    assert bytes_read() - before < 50_000


def build_often(tar) -> int:
    for _ in range(10):
        build_index(tar)
    return len(open_index.__wrapped__(str(tar)))


def test_indexing_at_the_same_time(tmp_path):
    """In threads too, since on two machines processes may have the same id."""
    caption_tar(tmp_path / "0.tar", 20, size=10)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(build_often, [tmp_path / "0.tar"] * 4)) == [20] * 4
    (tmp_path / f"0.tar{INDEX_SUFFIX}").unlink()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(build_often, [tmp_path / "0.tar"] * 4, chunksize=1) == [20] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar", f"0.tar{INDEX_SUFFIX}"]


def test_index_cannot_be_written(tmp_path):
    caption_tar(tmp_path / "0.tar")
    (tmp_path / f"0.tar{INDEX_SUFFIX}").mkdir()
    with pytest.raises(UserError, match=r"Cannot write the index .*0\.tar\.index\.npz"):
        captions(tmp_path / "0.tar")


# ---- indexes of chosen records


def choose(path, keys, selection="chosen by hand"):
    build_index(path, lambda record: record.key in keys, selection)


def test_index_of_chosen_records(tmp_path):
    caption_tar(tmp_path / "0.tar")
    choose(tmp_path / "0.tar", {"1", "4"})
    documents = captions(tmp_path / "0.tar")
    assert [content(documents[i])[1] for i in range(len(documents))] == ["dog 1", "dog 4"]
    assert selection_of(tmp_path / "0.tar") == "chosen by hand"
    choose(tmp_path / "0.tar", {})
    open_index.cache_clear()
    assert len(captions(tmp_path / "0.tar")) == 0


def test_records_are_chosen_by_what_is_in_them(tmp_path):
    caption_tar(tmp_path / "0.tar")
    build_index(tmp_path / "0.tar", lambda record: record.read("txt") != b"dog 2", "not dog 2")
    assert [captions(tmp_path / "0.tar")[i].id for i in range(4)] == ["0.tar/0", "0.tar/1", "0.tar/3", "0.tar/4"]


def test_index_of_all_records_has_no_selection(tmp_path):
    caption_tar(tmp_path / "0.tar")
    assert selection_of(tmp_path / "0.tar") is None
    build_index(tmp_path / "0.tar")
    assert selection_of(tmp_path / "0.tar") is None
    (tmp_path / f"0.tar{INDEX_SUFFIX}").write_bytes(b"no index")
    assert selection_of(tmp_path / "0.tar") is None


@pytest.mark.parametrize("count", [5, 9], ids=["newer", "of another size"])
def test_a_selection_is_not_replaced_by_all_records(tmp_path, count):
    caption_tar(tmp_path / "0.tar")
    choose(tmp_path / "0.tar", {"1"})
    index = tmp_path / f"0.tar{INDEX_SUFFIX}"
    before = index.read_bytes()
    caption_tar(tmp_path / "0.tar", count, "cat")
    if count == 5:
        os.utime(index, (1_000_000_000, 1_000_000_000))
    else:
        os.utime(tmp_path / "0.tar", (1_000_000_000, 1_000_000_000))
    with pytest.raises(
        UserError, match=r"0\.tar has changed since kosmos-prepare captions filtered it. Prepare it again"
    ):
        open_index(str(tmp_path / "0.tar"))
    assert index.read_bytes() == before
    choose(tmp_path / "0.tar", {"1"})
    assert content(captions(tmp_path / "0.tar")[0])[1] == "cat 1"


def test_records_of_a_tar(tmp_path):
    members = [("a.jpg", b"1"), ("a.txt", b"22"), ("b.txt", b"3"), ("a.txt", b"again")]
    tiny.write_tar(tmp_path / "0.tar", members)
    read = [(r.key, {name: r.read(name) for name in r.members}) for r in tar_records(tmp_path / "0.tar")]
    assert read == [("a", {"jpg": b"1", "txt": b"22"}), ("b", {"txt": b"3"}), ("a", {"txt": b"again"})]
    assert not (tmp_path / f"0.tar{INDEX_SUFFIX}").exists()


# ---- broken tars


def refused(path):
    with pytest.raises(UserError, match=path.name) as error:
        open_index(str(path))
    assert "\n" not in str(error.value)
    assert not Path(f"{path}{INDEX_SUFFIX}").exists()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_tar_cut_anywhere(tmp_path, form):
    """At every border of a block and beside it: in headers, in long names, in data, in the zeros at the end."""
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
    index = open_index(str(tmp_path / "enough.tar"))
    assert [index.record(i).key for i in range(len(index))] == ["a", "é" * 600, "b", "c"]


def test_header_broken_in_the_middle(tmp_path):
    """Python's tarfile takes this for the end, without a word."""
    caption_tar(tmp_path / "0.tar", 5, size=600)
    broken = bytearray((tmp_path / "0.tar").read_bytes())
    place = broken.index(b"2.txt")
    broken[place : place + 200] = bytes(range(200))
    (tmp_path / "0.tar").write_bytes(broken)
    with tarfile.open(tmp_path / "0.tar") as archive:
        assert archive.getnames() == ["0.png", "0.txt", "1.png", "1.txt", "2.png"]
    refused(tmp_path / "0.tar")


@pytest.mark.parametrize(
    "data", [b"", b"garbage", b"<html>not found</html>" * 200, bytes(500), b"\x1f\x8b" + bytes(99)]
)
def test_no_tar(tmp_path, data):
    (tmp_path / "page.tar").write_bytes(data)
    refused(tmp_path / "page.tar")


def test_compressed_tar(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("0.txt"))
    refused(tmp_path / "0.tar")


def test_missing_tar(tmp_path):
    with pytest.raises(UserError, match=r"gone\.tar does not exist"):
        open_index(str(tmp_path / "gone.tar"))


@pytest.mark.parametrize("size", [-512, 2**80])
def test_header_of_an_absurd_size(tmp_path, size):
    """tarfile reads sizes of any number of bytes; with one below zero it would read the same header for ever."""
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
    """With checksums that fit, so that tarfile believes them."""
    path = tmp_path_factory.mktemp("changed") / "0.tar"
    tiny.write_tar(path, [("a.jpg", b"1"), (f"{'é' * 120}.txt", b"22"), ("b.txt", b"3")])
    data = bytearray(path.read_bytes())
    header = data[512 * block : 512 * (block + 1)]
    for place, value in changes:
        header[place] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[512 * block : 512 * (block + 1)] = header
    path.write_bytes(data)
    try:
        records = list(tar_records(path))
    except BrokenShard as error:
        assert path.name in str(error)
    else:
        assert len(records) <= 3
