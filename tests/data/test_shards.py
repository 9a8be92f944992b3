"""Documents in shards: both layouts, against the real webdataset library, and every kind of broken record."""

import io
import json
import random
import tarfile

import pytest
import webdataset

from kosmos_plugin.data.corpus_index import open_corpus_index
from kosmos_plugin.data.documents import BrokenRecord, Text
from kosmos_plugin.data.shard_index import build_index
from kosmos_plugin.data.shards import ShardedDocuments, caption_document, interleaved_document, record_reader
from tests import tiny


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
        *["e/0.png", "a/LICENSE", "e/0.txt", f"{long}.jpg", f"{long}.txt", f"d/{long}/1.jpg", "2.seg.0.jpg", "é.png"],
    ]
    draw = random.Random(1)
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "odd.tar", "w", format=form) as archive:
            folder = tarfile.TarInfo("a")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            link = tarfile.TarInfo("a/0.link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
            for name in names:
                data = image_bytes(draw)
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        build_index(tmp_path / "odd.tar")
        index = open_corpus_index([str(tmp_path / "odd.tar")])
        records = [index.record(i) for i in range(len(index))]
        ours = [(record.key, {name: record.read(name) for name in record.members}) for record in records]
        theirs = [
            (sample["__key__"], {name: data for name, data in sample.items() if not name.startswith("__")})
            for sample in by_webdataset(tmp_path / "odd.tar")
        ]
        assert ours == theirs


def test_img2dataset_naming(tmp_path):
    """img2dataset writes 000000123.jpg, .txt and .json; without a .txt, the caption is read from the JSON."""
    details = {"caption": " from the json ", "url": "https://…", "status": "success", "key": "000000124"}
    members = [
        *[("000000123.jpg", b"first"), ("000000123.txt", "  from the txt: café\n".encode()), ("000000123.json", b"{}")],
        *[("000000124.jpg", b"second"), ("000000124.json", json.dumps(details).encode())],
    ]
    tiny.write_tar(tmp_path / "00000.tar", members)
    documents = captions(tmp_path / "00000.tar")
    assert [content(documents[i]) for i in range(2)] == [[b"first", "from the txt: café"], [b"second", "from the json"]]


@pytest.mark.parametrize(
    "txt, in_json, from_txt, from_json",
    [
        (b"one", "two", "one", "two"),
        (b" \n", "two", None, "two"),
        (None, "two", "two", "two"),
        (b"one", "", "one", "one"),
        (b"one", None, "one", "one"),
        (b"", None, None, None),
        (None, None, None, None),
    ],
)
def test_which_file_has_the_caption(tmp_path, txt, in_json, from_txt, from_json):
    """An empty .txt beside a caption in the JSON: the option says which one counts."""
    members = [("1.jpg", b"i"), ("1.json", json.dumps({"caption": in_json}).encode())]
    tiny.write_tar(tmp_path / "0.tar", members + ([] if txt is None else [("1.txt", txt)]))
    for caption_from, expected in (("txt", from_txt), ("json", from_json)):
        documents = ShardedDocuments([str(tmp_path / "0.tar")], record_reader("captions", caption_from))
        if expected is not None:
            assert content(documents[0]) == [b"i", expected]
            continue
        with pytest.raises(BrokenRecord, match="empty text") as error:
            documents[0]
        assert ("caption_from: json" in str(error.value)) == (from_json is not None)


@pytest.mark.parametrize(
    "members, reason",
    [
        ([("1.jpg", b"i"), ("1.txt", b"")], "empty text"),
        ([("1.jpg", b"i"), ("1.txt", b" \n")], "empty text"),
        ([("1.jpg", b"i"), ("1.json", b'{"caption": null}')], "empty text"),
        ([("1.jpg", b"i"), ("1.json", b'{"caption": 7}')], r"caption is not text \(7"),
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
        (b'{"segments": [{"image": 1}, {"text": "a"}]}', r"missing image \(image 1"),
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


def test_several_tars_as_one_sequence(tmp_path):
    for shard, count in enumerate((3, 0, 1, 4)):
        members = [m for i in range(count) for m in tiny.caption_members(f"{i}", f"{shard} {i}", b"i")]
        tiny.write_tar(tmp_path / f"{shard}.tar", members)
    documents = ShardedDocuments([str(tmp_path / f"{shard}.tar") for shard in range(4)], caption_document)
    expected = [(shard, i) for shard, count in enumerate((3, 0, 1, 4)) for i in range(count)]
    assert len(documents) == len(expected)
    for i, (shard, number) in enumerate(expected):
        assert documents[i].id == f"{shard}.tar/{number}"
        assert content(documents[i])[1] == f"{shard} {number}"
