"""kosmos-prepare captions: every format, every filter, and bad input."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from kosmos_plugin.data.documents import Text
from kosmos_plugin.data.shard_index import INDEX_SUFFIX
from kosmos_plugin.data.shards import ShardedDocuments, caption_document
from kosmos_plugin.errors import UserError
from tests import tiny
from tests.curation.command import prepare

pytestmark = pytest.mark.usefixtures("forget_indexes")


def run(out: Path, *arguments: object) -> dict:
    """Run the command; return its counts."""
    prepare(["captions", *map(str, arguments), "--out", str(out), "--workers", "1"])
    return json.loads((out / "report.json").read_text("utf-8"))["counts"]


def error_of(out: Path, *arguments: object) -> str:
    with pytest.raises(UserError) as raised:
        run(out, *arguments)
    return str(raised.value)


def documents_of(tar: Path) -> list[tuple[bytes, str]]:
    """The (image, caption) pairs that training reads from a shard."""
    documents = ShardedDocuments([str(tar)], caption_document)
    segments = [documents[i].segments for i in range(len(documents))]
    return [(image.read(), text.text) for image, text in segments if isinstance(text, Text)]


def kept(out: Path, split: str = "train") -> list[tuple[bytes, str]]:
    return [pair for tar in sorted(out.glob(f"{split}-*.tar")) for pair in documents_of(tar)]


def encoded(form: str, mode: str = "RGB", size: tuple[int, int] = (40, 30), seed: int = 0, **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    return encoded("JPEG", seed=seed, size=size)


# ---- Formats: miniature releases of the same pairs ----


PAIRS = [(jpeg(number), f"a red house and {number} cats") for number in range(7)]


def about(key: str, caption: str, status: str = "success") -> dict:
    """The metadata that img2dataset stores for a download."""
    fields = {"caption": caption, "url": f"https://example.org/{key}.jpg", "key": key, "status": status}
    return {**fields, "error_message": None, "width": 40, "height": 30, "original_width": 40, "original_height": 30}


def write_tars(folder: Path) -> None:
    """Write the output of img2dataset --output_format webdataset: 00000.tar, with a table and statistics beside it."""
    for shard, pairs in enumerate((PAIRS[:3], PAIRS[3:])):
        members = []
        for number, (image, caption) in enumerate(pairs):
            key = f"{shard:05d}{number:04d}"
            details = json.dumps(about(key, caption), indent=4).encode()
            members += [(f"{key}.jpg", image), (f"{key}.txt", caption.encode()), (f"{key}.json", details)]
        tiny.write_tar(folder / f"{shard:05d}.tar", members)
        write_leftovers(folder, f"{shard:05d}", pairs)


def write_leftovers(folder: Path, name: str, pairs: list) -> None:
    rows = [about(f"{number:09d}", caption) for number, (_, caption) in enumerate(pairs)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{name}.parquet")
    (folder / f"{name}_stats.json").write_text(json.dumps({"count": len(pairs), "successes": len(pairs)}))


def write_files(folder: Path) -> None:
    """Write the output of img2dataset --output_format files; the last caption is only in the JSON."""
    (folder / "00000").mkdir(parents=True)
    for number, (image, caption) in enumerate(PAIRS):
        key = f"{number:09d}"
        (folder / "00000" / f"{key}.jpg").write_bytes(image)
        (folder / "00000" / f"{key}.json").write_text(json.dumps(about(key, caption)))
        if number < len(PAIRS) - 1:
            (folder / "00000" / f"{key}.txt").write_text(caption)
    write_leftovers(folder, "00000", PAIRS)


def write_parquet(folder: Path) -> None:
    """Write the output of img2dataset --output_format parquet, with a row for a failed download."""
    rows = [{**about(f"{n:09d}", caption), "jpg": image, "txt": caption} for n, (image, caption) in enumerate(PAIRS)]
    rows.insert(2, {**about("000000009", "gone", "failed_to_download"), "jpg": None, "txt": None})
    folder.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "00000.parquet", row_group_size=3)
    (folder / "00000_stats.json").write_text("{}")


def write_tsv(folder: Path) -> None:
    """Write TSV as unilm's kosmos-2 reads it: hash, caption, image, width, height, and for GrIT also the objects."""
    folder.mkdir(parents=True)
    lines = [
        f"{n:x}\t{caption}\t{base64.b64encode(i).decode()}\t40\t30\t{{}}\n" for n, (i, caption) in enumerate(PAIRS)
    ]
    (folder / "part-00.tsv").write_text("".join(lines))


def write_coco(folder: Path) -> None:
    """Write COCO's annotations, with two captions for the first image."""
    (folder / "train2014").mkdir(parents=True)
    images, annotations = [], []
    for number, (image, caption) in enumerate(PAIRS[1:]):
        name = f"COCO_train2014_{number:012d}.jpg"
        (folder / "train2014" / name).write_bytes(image)
        images.append({"id": number, "file_name": name, "width": 40, "height": 30, "license": 1})
        annotations.append({"image_id": number, "id": 100 + number, "caption": caption})
    annotations.insert(1, {"image_id": 0, "id": 99, "caption": "another"})
    release = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    (folder / "captions_train2014.json").write_text(json.dumps(release))


@pytest.mark.parametrize("write", [write_files, write_parquet, write_tsv])
def test_every_format_gives_the_same_pairs(tmp_path, write):
    write(tmp_path / "release")
    counts = run(tmp_path / "out", tmp_path / "release", "--valid-share", 0)
    assert kept(tmp_path / "out") == PAIRS
    assert counts["kept"]["train: documents"] == counts["kept"]["train: images"] == 7
    assert counts.get("dropped", {}) == ({"not downloaded": 1} if write is write_parquet else {})


def test_captions_from_json_where_the_txt_is_empty(tmp_path):
    """As an option for tars, which then goes into the YAML, and for folders."""
    members = [*tiny.caption_members("0", " ", jpeg()), ("0.json", b'{"caption": "a dog"}')]
    tiny.write_tar(tmp_path / "tars" / "0.tar", [*members, *tiny.caption_members("1", "a cat", jpeg())])
    (tmp_path / "files").mkdir()
    for name, data in [*members, *tiny.caption_members("1", "a cat", jpeg())]:
        (tmp_path / "files" / name).write_bytes(data)
    for kind in ("tars", "files"):
        counts = run(tmp_path / f"{kind}-txt", tmp_path / kind)
        assert counts["dropped"] == {"empty text": 1}
    (tmp_path / "tars" / f"0.tar{INDEX_SUFFIX}").unlink()
    for kind in ("tars", "files"):
        options = ["--caption-from", "json", *(["--valid-share", 0] if kind == "files" else [])]
        counts = run(tmp_path / f"{kind}-json", tmp_path / kind, *options)
        assert "dropped" not in counts
    assert [text for _, text in kept(tmp_path / "files-json")] == ["a dog", "a cat"]
    assert "caption_from" not in (tmp_path / "tars-txt" / "corpus.yaml").read_text()
    assert "caption_from: json" in (tmp_path / "tars-json" / "corpus.yaml").read_text()


@pytest.mark.parametrize("image, text", [("0.JPG", "0.TXT"), ("0.JFIF", "0.txt"), ("0.Png", "0.JSON")])
def test_files_with_extensions_in_any_case(tmp_path, image, text):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / image).write_bytes(jpeg())
    (tmp_path / "in" / text).write_text('{"caption": "a dog"}' if text.endswith("JSON") else "a dog")
    run(tmp_path / "out", tmp_path / "in", "--valid-share", 0)
    assert kept(tmp_path / "out") == [(jpeg(), "a dog")]


def test_coco_has_a_pair_for_each_annotation(tmp_path):
    write_coco(tmp_path / "release")
    annotations, images = tmp_path / "release" / "captions_train2014.json", tmp_path / "release" / "train2014"
    run(tmp_path / "out", annotations, "--images", images, "--valid-share", 0)
    assert kept(tmp_path / "out") == [PAIRS[1], (PAIRS[1][0], "another"), *PAIRS[2:]]


@pytest.mark.parametrize("folder", ["train2014", None])
def test_karpathys_training_captions(tmp_path, folder):
    """COCO's name the images' folder; flickr8k's and flickr30k's do not."""
    images, place = [], tmp_path / "images" / (folder or "")
    place.mkdir(parents=True)
    for number, (image, caption) in enumerate(PAIRS[1:5]):
        (place / f"{number}.jpg").write_bytes(image)
        images.append(
            {
                **({"filepath": folder, "cocoid": number} if folder else {}),
                "filename": f"{number}.jpg",
                "imgid": number,
                "split": ("train", "val", "test", "restval")[number],
                "sentences": [{"tokens": [], "raw": text, "imgid": number} for text in (caption, "another")],
            }
        )
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    counts = run(tmp_path / "out", tmp_path / "dataset.json", "--images", tmp_path / "images", "--valid-share", 0)
    first, last = PAIRS[1], PAIRS[4]
    assert kept(tmp_path / "out") == [first, (first[0], "another"), last, (last[0], "another")]
    assert counts["dropped"] == {"image of a split for evaluation": 4}


def test_a_data_set_that_was_saved_to_disk(tmp_path):
    """As written by datasets itself."""
    datasets = pytest.importorskip("datasets")
    columns = {"image": [{"bytes": image, "path": None} for image, _ in PAIRS], "text": [text for _, text in PAIRS]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    saved = datasets.Dataset.from_dict(columns, features=features)
    saved.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    run(tmp_path / "out", tmp_path / "saved", "--valid-share", 0)
    assert kept(tmp_path / "out") == PAIRS
    file = sorted((tmp_path / "saved").glob("*.arrow"))[0]
    file.write_bytes(file.read_bytes()[:-200])
    counts = run(tmp_path / "cut", tmp_path / "saved", "--valid-share", 0)
    assert kept(tmp_path / "cut") == PAIRS[4:]
    assert "cut short or broken" in json.dumps(counts)


def test_other_columns_and_names(tmp_path):
    """OFA's release has a second id before the caption, and file names without an extension."""
    lines = [f"{n}\tid\t{caption}\tobjects\t{base64.b64encode(i).decode()}\n" for n, (i, caption) in enumerate(PAIRS)]
    (tmp_path / "pairs").write_text("".join(lines))
    columns = ["--tsv-columns", "key", "image_id", "caption", "objects", "image"]
    assert "Give --format" in error_of(tmp_path / "1", tmp_path / "pairs", *columns)
    run(tmp_path / "2", tmp_path / "pairs", "--format", "tsv", "--valid-share", 0, *columns)
    assert kept(tmp_path / "2") == PAIRS


def test_a_share_is_held_out(tmp_path):
    write_tsv(tmp_path / "release")
    run(tmp_path / "out", tmp_path / "release", "--valid-share", 0.5)
    assert sorted(kept(tmp_path / "out") + kept(tmp_path / "out", "valid")) == sorted(PAIRS)
    assert kept(tmp_path / "out", "valid")


# ---- What is dropped ----


def tsv(folder: Path, pairs: list[tuple[bytes, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "pairs.tsv"
    lines = [f"{n}\t{caption}\t{base64.b64encode(image).decode()}\n" for n, (image, caption) in enumerate(pairs)]
    file.write_text("".join(lines), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "caption, dropped",
    [
        ("<PERSON> at the beach", True),
        ("portrait of <PERSON>.", True),
        ("<LOCATION>, <DATE_2> in winter", True),
        ("3 < 4 > 2 and a <b>bold</b> <3 word", False),
        ("PERSON at the beach", False),
    ],
)
def test_captions_with_tags(tmp_path, caption, dropped):
    file = tsv(tmp_path, [PAIRS[0], (jpeg(), caption)])
    counts = run(tmp_path / "out", file, "--valid-share", 0)
    assert len(kept(tmp_path / "out")) == 2 - dropped
    assert counts.get("dropped", {}) == ({"caption with a tag such as <PERSON>": 1} if dropped else {})
    run(tmp_path / "all", file, "--valid-share", 0, "--keep-tags")
    assert len(kept(tmp_path / "all")) == 2


@pytest.mark.parametrize(
    "option, bad, reason",
    [
        (["--min-words", 3], (jpeg(), "two words"), "caption with fewer than 3 words"),
        (["--max-words", 6], (jpeg(), "a b c d e f g"), "caption with more than 6 words"),
        (["--min-characters", 5], (jpeg(), "café"), "caption with fewer than 5 characters"),
        (["--max-characters", 30], (jpeg(), "é" * 31), "caption with more than 30 characters"),
        (["--min-side", 30], (jpeg(size=(40, 29)), "small"), "image side shorter than 30 pixels"),
        (["--max-aspect", 3], (jpeg(size=(91, 30)), "wide"), "aspect ratio of more than 3 to 1"),
        (["--max-aspect", 3], (jpeg(size=(30, 91)), "high"), "aspect ratio of more than 3 to 1"),
        (["--decode"], (jpeg()[:-300], "cut"), "image that cannot be decoded"),
        (
            ["--english"],
            (jpeg(), "La vieja casa junto al río se vendió el año pasado, y nadie sabe quién vive allí hoy."),
            "not English",
        ),
    ],
)
def test_filters(tmp_path, option, bad, reason):
    good = (jpeg(9), "a house by the sea")
    file = tsv(tmp_path, [good, bad])
    assert run(tmp_path / "out", file, "--valid-share", 0, *option)["dropped"] == {reason: 1}
    assert kept(tmp_path / "out") == [good]
    run(tmp_path / "all", file, "--valid-share", 0)
    assert kept(tmp_path / "all") == [good, bad]


def png_of_declared_size(side: int) -> bytes:
    """A PNG of one pixel that declares a larger size, with a valid checksum."""
    import zlib

    data = bytearray(encoded("PNG", size=(1, 1)))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def jpeg_of_declared_size(side: int) -> bytes:
    data = bytearray(jpeg())
    position = data.index(b"\xff\xc0") + 5  # height and width in the header of the frame
    data[position : position + 4] = side.to_bytes(2, "big") * 2
    return bytes(data)


BAD_IMAGES = {
    "image of 0 bytes": b"",
    "image that cannot be decoded": b"<html>not found</html>",
    "image of more than 24,000,000 pixels": jpeg_of_declared_size(65_500),
}
UNUSUAL_IMAGES = {
    "animated GIF": encoded(
        "GIF", "P", save_all=True, append_images=[Image.new("P", (40, 30), shade) for shade in (9, 99)]
    ),
    "animated WebP": encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (40, 30), "red")]),
    "CMYK": encoded("JPEG", "CMYK"),
    "palette": encoded("PNG", "P"),
    "grey and alpha": encoded("PNG", "LA"),
    "bits": encoded("PNG", "1"),
    "TIFF": encoded("TIFF"),
}


def sixteen_bits() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(buffer, "PNG")
    return buffer.getvalue()


UNUSUAL_IMAGES["16 bits"] = sixteen_bits()


@pytest.mark.parametrize("decode", [[], ["--decode"]], ids=["header", "decode"])
@pytest.mark.parametrize("in_place", [False, True], ids=["copied", "in place"])
def test_images_of_all_kinds(tmp_path, decode, in_place):
    good = [(image, f"a picture, {kind}") for kind, image in UNUSUAL_IMAGES.items()]
    bombs = [(png_of_declared_size(20_000), "a bomb"), (png_of_declared_size(5_000), "one that Pillow lets through")]
    pairs = [*good, *((image, reason) for reason, image in BAD_IMAGES.items()), *bombs]
    expected = {reason: 1 for reason in BAD_IMAGES} | {"image of more than 24,000,000 pixels": 3}
    if in_place:
        members = [m for n, (image, caption) in enumerate(pairs) for m in tiny.caption_members(f"{n}", caption, image)]
        tiny.write_tar(tmp_path / "0.tar", members)
        assert run(tmp_path / "out", tmp_path / "0.tar", *decode)["dropped"] == expected
        assert documents_of(tmp_path / "0.tar") == good
    else:
        assert run(tmp_path / "out", tsv(tmp_path, pairs), "--valid-share", 0, *decode)["dropped"] == expected
        assert kept(tmp_path / "out") == good


# ---- Bad input ----


def test_bad_lines_of_tsv(tmp_path, monkeypatch):
    monkeypatch.setattr("kosmos_plugin.curation.readers.caption_tables.MAX_LINE_BYTES", 20_000)
    image, text = (base64.b64encode(PAIRS[0][0]), b"a caption")
    lines = [
        [b"0", text, image],
        [b"1", text],
        [b"2", text, b"no base64!"],
        [b"3", b"caf\xe9", image],
        [b"4", b"nul \0 byte", image],
        [b"5", b"  ", image],
        [b"6", text, b"A" * 50_000],
        [b"7", b" the last ", image],
    ]
    (tmp_path / "a.tsv").write_bytes(b"\n\n".join(b"\t".join(fields) for fields in lines))
    counts = run(tmp_path / "out", tmp_path / "a.tsv", "--valid-share", 0)
    assert kept(tmp_path / "out") == [(PAIRS[0][0], "a caption"), (PAIRS[0][0], "the last")]
    assert counts["dropped"] == {
        "line without a caption or an image": 1,
        "image that is neither in base64 nor in the folder of images": 1,
        "no text, or not valid UTF-8": 1,
        "NUL bytes": 1,
        "empty text": 1,
        "line that is too long": 1,
    }


def test_cut_files_end_where_they_break(tmp_path):
    write_parquet(tmp_path / "whole")
    write_parquet(tmp_path / "cut")
    cut = tmp_path / "cut" / "00000.parquet"
    cut.write_bytes(cut.read_bytes()[:-100])
    counts = run(tmp_path / "out", tmp_path / "{whole,cut}", "--valid-share", 0)
    assert counts["left out"] == {"the rest of files that are cut short or broken": 1}
    assert kept(tmp_path / "out") == PAIRS


def test_tables_without_images_are_not_pairs(tmp_path):
    write_leftovers(tmp_path, "00000", PAIRS)
    message = error_of(tmp_path / "out", tmp_path / "00000.parquet")
    assert "no columns of images and captions, but caption, url, key" in message
    assert "img2dataset" in message


def test_files_without_captions(tmp_path):
    write_files(tmp_path / "release")
    folder = tmp_path / "release" / "00000"
    for number, caption in enumerate([b"\xff", b"", None]):
        key = folder / f"{number:09d}"
        key.with_suffix(".txt").unlink()
        key.with_suffix(".json").write_text("[1" if number else "[1]")
        if caption is not None:
            key.with_suffix(".txt").write_bytes(caption)
    counts = run(tmp_path / "out", tmp_path / "release", "--valid-share", 0)
    assert kept(tmp_path / "out") == PAIRS[3:]
    assert counts["dropped"] == {"no text, or not valid UTF-8": 2, "empty text": 1}


def test_cocos_images_are_in_their_folder(tmp_path):
    """A file name that leads out of the folder is not followed, although an image exists there."""
    write_coco(tmp_path / "release")
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    file = tmp_path / "release" / "captions_train2014.json"
    release = json.loads(file.read_text())
    names = ["../../secret.jpg", str(tmp_path / "secret.jpg"), "gone.jpg", None, "a::b.jpg"]
    for number, name in enumerate(names):
        release["images"].append({"id": f"x{number}", "file_name": name})
        release["annotations"].append({"image_id": f"x{number}", "id": number, "caption": "a caption"})
    release["images"] += [7, {"id": [1]}]
    release["annotations"] += ["text", {"image_id": 0, "id": 1, "caption": ["a list"]}, {}]
    file.write_text(json.dumps(release))
    counts = run(tmp_path / "out", file, "--images", tmp_path / "release" / "train2014", "--valid-share", 0)
    assert len(kept(tmp_path / "out")) == 7
    assert counts["dropped"] == {
        "image outside of the folder of images": 2,
        "image that is not in the folder of images": 2,
        "no image": 2,
        "no text, or not valid UTF-8": 1,
    }


@pytest.mark.parametrize("content", ["[1]", "{}", '{"images": {}, "annotations": []}', "[" * 100_000, '{"images'])
def test_json_that_is_not_cocos(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    message = error_of(tmp_path / "out", tmp_path / "a.json", "--images", tmp_path)
    assert re.search("Nothing was kept|no columns of images and captions|not COCO captions", message)


def test_errors_name_what_is_wrong(tmp_path):
    write_tars(tmp_path / "tars")
    write_tsv(tmp_path / "tsv")
    write_coco(tmp_path / "coco")
    (tmp_path / "a.docx").write_bytes(b"")
    tars, lines = tmp_path / "tars", tmp_path / "tsv"
    assert "--valid-share must be" in error_of(tmp_path / "1", lines, "--valid-share", 1)
    assert "tars are used in place" in error_of(tmp_path / "2", tars, "--valid-share", 0.1)
    assert "--max-aspect" in error_of(tmp_path / "3", lines, "--max-aspect", 0.5)
    assert "several formats (webdataset, tsv)" in error_of(tmp_path / "4", tars, lines)
    assert "Give --images" in error_of(tmp_path / "5", tmp_path / "coco" / "captions_train2014.json")
    assert "a column image" in error_of(tmp_path / "6", lines, "--tsv-columns", "key", "caption")
    assert "Give --format" in error_of(tmp_path / "7", tmp_path / "a.docx")
