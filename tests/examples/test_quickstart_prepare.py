"""The quickstart's data, made from a few images: reproducible, complete, and with nothing shared between splits."""

import importlib.util
import io
import json
import random
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
sys.path.insert(0, str(QUICKSTART))

import corpora  # noqa: E402
import prepare  # noqa: E402
import records as formats  # noqa: E402
import things  # noqa: E402

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in prepare.PACKAGES),
    reason="needs the quickstart extra: pip install kosmos-plugin[quickstart]",
)
OPTIONS = prepare.Options(image_size=32, poses=2, vocabulary_size=1000, held_out_images=0.2, limit=30)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("quickstart")
    prepare.prepare(out, OPTIONS)
    return out


def records(pattern: Path) -> list[dict]:
    """The records of all matching tars, read by the real webdataset: dicts of extension → bytes."""
    webdataset = pytest.importorskip("webdataset")
    tars = sorted(map(str, pattern.parent.glob(pattern.name)))
    assert tars
    return list(webdataset.WebDataset(tars, shardshuffle=False))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def easy_vqa_questions_in(documents: list[dict]) -> Counter:
    """(image, question with answer) → the number of times it is asked."""
    asked = Counter()
    for document in documents:
        picture = question = None
        for segment in json.loads(document["json"])["segments"]:
            if "image" in segment:
                picture = document[f"{segment['image']}.png"]
            elif question is None:
                question = segment["text"]
            else:
                asked[picture, f"{question} {segment['text']}"] += 1
                question = None
    return asked


def test_the_same_options_give_the_same_bytes(data, tmp_path):
    prepare.prepare(tmp_path / "again", OPTIONS)
    assert files(tmp_path / "again") == files(data)


def test_a_complete_folder_is_left_as_it_is(data):
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    assert prepare.prepare(data, OPTIONS)["vocabulary"] == 1007
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_an_interrupted_run_and_other_options_are_done_again(data, tmp_path):
    out = tmp_path / "data"
    prepare.prepare(out, OPTIONS)
    stamp = json.loads((out / prepare.STAMP).read_text())
    (out / prepare.STAMP).write_text(json.dumps({**stamp, "counts": {}}))
    (out / "captions" / "train-000.tar").write_bytes(b"half")
    prepare.prepare(out, OPTIONS)
    assert files(out) == files(data)

    prepare.prepare(out, prepare.Options(**{**vars(OPTIONS), "seed": 2}))
    assert files(out / "interleaved") != files(data / "interleaved")


def test_a_folder_with_other_content_is_an_error(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "novel.txt").write_text("mine")
    with pytest.raises(SystemExit, match="did not write"):
        prepare.prepare(tmp_path, OPTIONS)
    assert (tmp_path / "text" / "novel.txt").read_text() == "mine"


def test_a_missing_package_is_one_error_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(prepare.PACKAGES, "no_such_module", "no-such-package")
    with pytest.raises(SystemExit) as error:
        prepare.prepare(tmp_path / "data", OPTIONS)
    assert "no-such-package" in str(error.value)
    assert 'pip install "kosmos-plugin[quickstart]"' in str(error.value)


def test_data_yaml_names_what_is_there(data):
    yaml = pytest.importorskip("yaml")
    braceexpand = pytest.importorskip("braceexpand").braceexpand
    config = yaml.safe_load((data / "data.yaml").read_text())
    assert list(config["streams"]) == ["text", "captions", "interleaved"]
    assert (data / config["vocabulary"] / "dict.txt").is_file()
    for stream in config["streams"].values():
        assert stream["sequences_per_update"] == prepare.SEQUENCES_PER_UPDATE[stream["kind"]]
        for corpus in stream["corpora"]:
            for split in ("train", "valid"):
                for path in braceexpand(corpus[split]):
                    assert (data / path).is_file() if path.endswith(".tar") else (data / f"{path}.idx").is_file()
    tars = {str(path.relative_to(data)) for path in data.rglob("train-*.tar")}
    named = [c["train"] for stream in ("captions", "interleaved") for c in config["streams"][stream]["corpora"]]
    assert {path for name in named for path in braceexpand(name)} == tars


@pytest.mark.parametrize(
    ("asked", "shape"),
    [
        ([("what color is the shape?", "blue"), ("is there a circle?", "yes")], "blue circle"),
        ([("what color is the triangle?", "teal")], "teal triangle"),
        ([("what is the red shape?", "rectangle"), ("is there not a red shape?", "no")], "red rectangle"),
        ([("is no gray shape present?", "no"), ("is there not a circle?", "no")], "gray circle"),
        ([("is no gray shape present?", "yes"), ("is there a circle?", "yes")], None),
        ([("is there not a circle?", "yes"), ("what color is the shape?", "blue")], None),
        ([("is there a circle?", "no"), ("is a blue shape present?", "yes")], None),
        ([], None),
    ],
)
def test_what_an_image_shows_follows_from_its_questions(asked, shape):
    assert corpora.shape_of(asked) == shape


def test_descriptions_match_the_training_images(data):
    """The first images have pixels of the color named in the caption."""
    colors = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "teal": (0, 1, 1)}
    seen = 0
    for record in records(data / "shapes" / "*.tar"):
        color, shape = record["txt"].decode().removeprefix("An image of a ").split()
        assert color in corpora.COLORS and shape in corpora.SHAPES
        if color in colors:
            pixels = np.asarray(Image.open(io.BytesIO(record["png"])).convert("RGB")).reshape(-1, 3)
            saturated = pixels[np.ptp(pixels.astype(int), axis=1) > 80]
            strong = np.median(saturated, axis=0) > 0.6 * np.median(saturated, axis=0).max()
            assert tuple(strong.astype(int)) == colors[color], (color, np.median(saturated, axis=0))
            seen += 1
    assert seen > 10
    assert {line["name"].split()[2] for line in json_lines(data / "test" / "shapes.jsonl")} == set(corpora.SHAPES)


def test_text_has_one_topic_per_item_and_no_paragraph_in_both_splits(data):
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    from kosmos_plugin.vocabulary import Vocabulary

    vocabulary = Vocabulary.load(data / "vocabulary")
    splits = {name: MMapIndexedDataset(str(data / "text" / name)) for name in ("train", "valid")}
    for items in splits.values():
        for item in items:
            assert item[-1] == vocabulary.eos == 2
            assert (item[:-1] != vocabulary.eos).all()
            assert (item < len(vocabulary)).all()
    tokens = {name: sum(map(len, items)) for name, items in splits.items()}
    assert 0.03 < tokens["valid"] / sum(tokens.values()) < 0.15

    pages = corpora.topics()
    assert len(pages) == sum(map(len, splits.values()))
    paragraphs = Counter(paragraph for _, page in pages for paragraph in page.split("\n\n"))
    assert max(paragraphs.values()) == 1


def test_no_drawing_of_the_test_is_in_training_in_any_stream(data):
    train = records(data / "captions" / "train-*.tar")
    asked = records(data / "questions" / "train-*.tar")
    seen = {record["png"] for record in train} | {
        png for document in asked for name, png in document.items() if name.endswith(".png")
    }
    tested = {path.read_bytes() for kind in ("colors", "lines", "artist") for path in (data / "test" / kind).iterdir()}
    assert len(tested) == OPTIONS.limit * 4 and not seen & tested
    # Nor is a color of the test seen with its thing, whatever the pose.
    described = {record["txt"].decode().removeprefix("An image of ") for record in train}
    named = {line["name"] for line in json_lines(data / "test" / "colors.jsonl")}
    assert len(named) == 2 * OPTIONS.limit and not described & named
    assert {name.split()[-1] for name in named} == {name.split()[-1] for name in described}


def test_each_color_is_held_out_for_as_many_things():
    held_out = Counter(color for number in range(len(things.THINGS)) for color in things.held_out_colors(number))
    assert set(held_out) == set(things.COLORS) and max(held_out.values()) - min(held_out.values()) <= 2


def test_captions_follow_img2dataset_and_name_color_and_thing(data):
    train = records(data / "captions" / "train-*.tar")
    assert len(train) == OPTIONS.limit * 7 * OPTIONS.poses
    for record in train:
        about = json.loads(record["json"])
        assert record["txt"].decode() == about["caption"]
        assert things.THINGS[about["emoji"]] in about["caption"] and (about["color"] or "image") in about["caption"]
        assert record["__key__"].isdigit() and len(record["__key__"]) == 9
    assert len({record["__key__"] for record in train}) == len(train)


@pytest.mark.parametrize("number", range(0, 100, 9))
def test_drawings_are_square_on_white_and_not_empty(number):
    character = list(things.THINGS)[number]
    svg = things.openmoji(character)
    for drawing in (svg, things.line_drawing(svg), things.posed(svg, random.Random(1)), things.twemoji(character)):
        picture = np.asarray(Image.open(io.BytesIO(things.render(drawing, 64))).convert("RGBA"))
        assert picture.shape == (64, 64, 4) and (picture[..., 3] == 255).all()
        dark = (picture[..., :3] < 200).any(-1)
        assert 0.02 < dark.mean() < 0.98


@pytest.mark.parametrize("color", things.COLORS)
def test_a_tinted_drawing_has_the_hue_of_its_color_and_keeps_its_outline(color):
    svg = things.openmoji("🐘")
    picture, original = (
        np.asarray(Image.open(io.BytesIO(things.render(drawing, 128))).convert("RGB")).astype(float)
        for drawing in (things.tinted(svg, color), svg)
    )
    inside = (np.ptp(original, axis=-1) < 8) & (original.mean(-1) > 100) & (original.mean(-1) < 200)
    tint = np.median(picture[inside], axis=0)
    expected = np.array(things.COLORS[color])
    assert np.allclose(tint / tint.max(), expected / expected.max(), atol=0.03)
    outline = (original == 0).all(-1)
    assert outline.sum() > 1000 and (picture[outline] == 0).all()


def test_a_line_drawing_is_the_drawing_without_color():
    for character in list(things.THINGS)[::10]:
        lines, original = (
            np.asarray(Image.open(io.BytesIO(things.render(svg, 128))).convert("RGB")).astype(int)
            for svg in (things.line_drawing(things.openmoji(character)), things.openmoji(character))
        )
        assert (np.ptp(lines, axis=-1) < 8).mean() > 0.99  # black, white, and gray between them
        assert (original[(lines < 10).all(-1)] < 60).all()


def test_questions_about_a_drawing_are_answered_by_it():
    blue_cat, elephant = things.Drawing("🐈", "blue", b""), things.Drawing("🐘", None, b"")
    assert (blue_cat.name, elephant.name) == ("a blue cat", "an elephant")
    for seed in range(20):
        pairs = dict(things.questions(blue_cat, random.Random(seed)))
        assert pairs.pop("what is this?") == "a cat" and pairs.pop("what color is the cat?") == "blue"
        [(question, answer)] = pairs.items()
        assert answer == ("yes" if question == "is this a cat?" else "no")
    pairs = things.questions(elephant, random.Random(1))
    assert ("what is this?", "an elephant") in pairs and not any("color" in question for question, _ in pairs)


def test_names_are_one_for_each_thing():
    assert len(things.THINGS) == len(set(things.THINGS.values())) == 100
    assert all(len(character) == 1 for character in things.THINGS)


def test_interleaved_documents_name_exactly_their_images(data):
    documents = records(data / "interleaved" / "train-*.tar") + records(data / "interleaved" / "valid-*.tar")
    smallest, largest = OPTIONS.images_per_document
    for document in documents:
        segments = json.loads(document["json"])["segments"]
        named = [segment["image"] for segment in segments if "image" in segment]
        images = [int(key.partition(".")[0]) for key in document if key.endswith(".png")]
        assert named == sorted(images) == list(range(len(images)))
        assert 1 <= len(images) <= largest
        assert "image" in segments[0]
        texts = [segment for segment in segments if "text" in segment]
        assert [segment.get("in_loss", True) for segment in texts] == [False, True] * (len(texts) // 2)
    assert {sum(key.endswith(".png") for key in document) for document in documents} >= {smallest, largest}


def test_every_training_question_is_asked_once_and_no_test_image_is_seen(data):
    train = easy_vqa_questions_in(records(data / "interleaved" / "train-*.tar"))
    valid = easy_vqa_questions_in(records(data / "interleaved" / "valid-*.tar"))
    pictures = corpora.easy_vqa_folder("train") / "images"
    expected = Counter(
        ((pictures / f"{image}.png").read_bytes(), formats.question_text(*pair))
        for image, asked in corpora.easy_vqa_questions("train", OPTIONS.limit).items()
        for pair in asked
    )
    assert train + valid == expected
    seen = [{picture for picture, _ in split} for split in (train, valid)]
    assert len(seen[1]) == 0.2 * OPTIONS.limit
    tested = {path.read_bytes() for path in (data / "test" / "easy_vqa").iterdir()}
    assert not seen[0] & seen[1] and not (seen[0] | seen[1]) & tested


def test_the_test_split_is_the_official_one_and_the_held_out_drawings(data):
    questions = json_lines(data / "test" / "easy_vqa.jsonl")
    official = json.loads((corpora.easy_vqa_folder("test") / "questions.json").read_text())
    assert sorted((row["question"], row["answer"], row["image"]) for row in questions) == sorted(
        (question, answer, f"easy_vqa/{image}.png") for question, answer, image in official if image < OPTIONS.limit
    )
    assert all((data / "test" / row["image"]).is_file() for row in questions)

    names = [row["name"] for row in json_lines(data / "test" / "colors.jsonl")]
    valid = records(data / "captions" / "valid-*.tar")
    assert names == [record["txt"].decode().removeprefix("An image of ") for record in valid]


def test_the_answer_is_extracted_from_the_training_format():
    text = formats.question_text("is there a circle?", "no")
    assert text == "Question: is there a circle? Answer: no."
    prompt = formats.question_prompt("is there a circle?")
    assert text.startswith(prompt)
    assert formats.answer_of(text[len(prompt) :] + " Question: what else?") == "no"


def test_tars_carry_no_trace_of_who_made_them_when(data):
    for path in data.rglob("*.tar"):
        with tarfile.open(path) as tar:
            assert {(member.mtime, member.uid, member.gid, member.uname) for member in tar} == {(0, 0, 0, "")}


def test_every_record_is_a_document_of_the_plugin(data):
    from kosmos_plugin.data import shards

    for stream, reader in (
        ("captions", shards.caption_document),
        ("questions", shards.interleaved_document),
        ("interleaved", shards.interleaved_document),
    ):
        tars = sorted(map(str, (data / stream).glob("*.tar")))
        documents = shards.ShardedDocuments(tars, reader)
        assert all(len(documents[i].segments) >= 2 for i in range(len(documents)))
