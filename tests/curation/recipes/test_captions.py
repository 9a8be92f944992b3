"""kosmos-prepare captions: every format, and bad input."""

import base64
import json
import re

import pytest

from kosmos_plugin.data.shard_index import INDEX_SUFFIX
from tests import tiny
from tests.curation.recipes.caption_releases import (
    PAIRS,
    error_of,
    jpeg,
    kept,
    run,
    write_coco,
    write_files,
    write_leftovers,
    write_parquet,
    write_tars,
    write_tsv,
)


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
