"""kosmos-prepare captions: the tables that people have, made by the libraries that make them."""

import base64
import csv
import gzip
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.curation.recipes.caption_releases import PAIRS, error_of, kept, run

datasets = pytest.importorskip("datasets")

NAMES = [f"{number:03d}.jpg" for number in range(len(PAIRS))]
IMAGES = [image for image, _ in PAIRS]
CAPTIONS = [caption for _, caption in PAIRS]


def write_images(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(NAMES, IMAGES, strict=True):
        (folder / name).write_bytes(image)
    return folder


def dataset(**columns: Sequence) -> "datasets.Dataset":
    features = {name: datasets.Value("string") for name in columns}
    features["image"] = datasets.Image()
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def embedded(folder: Path) -> Path:
    """Hugging Face's Parquet: `image: {bytes, path}`; to_parquet embeds the files."""
    images = [str(write_images(folder) / name) for name in NAMES]
    dataset(image=images, text=CAPTIONS).to_parquet(folder / "out.parquet")
    return folder / "out.parquet"


def several_captions(folder: Path) -> Path:
    """A list of captions for each image, as Flickr30k's."""
    columns = {"image": [{"bytes": image, "path": None} for image in IMAGES], "caption": [[c] for c in CAPTIONS]}
    parquet.write_table(pyarrow.table(columns), folder / "a.parquet")
    return folder / "a.parquet"


def imagefolder(ending: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_images(folder / "data" / "train")
        rows = [{"file_name": name, "text": caption} for name, caption in zip(NAMES, CAPTIONS, strict=True)]
        table = datasets.Dataset.from_list(rows)
        getattr(table, {"jsonl": "to_json", "csv": "to_csv", "parquet": "to_parquet"}[ending])(
            folder / "data" / "train" / f"metadata.{ending}"
        )
        (folder / "data" / "README.md").write_text("about")
        return folder / "data"

    return write


def table(name: str, header: Sequence[str] | None, rows: Sequence[Sequence[str]], **dialect: str) -> Callable:
    def write(folder: Path) -> Path:
        write_images(folder / "images")
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, **dialect).writerows([*([header] if header else []), *rows])
        return folder / name

    return write


def json_file(name: str, text: Callable[[list], str], image: str = "image") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_images(folder / "images")
        records = [
            {image: f"images/{n}", "caption": c, "id": i} for i, (n, c) in enumerate(zip(NAMES, CAPTIONS, strict=True))
        ]
        (folder / name).write_text(text(records), encoding="utf-8")
        return folder / name

    return write


def lines(records: list) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def packed(folder: Path) -> Path:
    plain = json_file("plain", lines)(folder)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    return folder / "a.jsonl.gz"


_LOCAL = [(f"images/{name}", caption) for name, caption in zip(NAMES, CAPTIONS, strict=True)]
_BASE64 = [(base64.b64encode(image).decode(), caption) for image, caption in PAIRS]
FORMS = {
    "Hugging Face": embedded,
    "lists of captions": several_captions,
    "imagefolder jsonl": imagefolder("jsonl"),
    "imagefolder csv": imagefolder("csv"),
    "imagefolder parquet": imagefolder("parquet"),
    "csv": table("a.csv", ["image", "caption"], _LOCAL),
    "csv of Excel": table("a.csv", ["\ufeffImage", " Caption"], _LOCAL, delimiter=";"),
    "csv of Kaggle's Flickr30k": table(
        "a.csv", ["image_name", " comment_number", " comment"], [(i, "0", c) for i, c in _LOCAL], delimiter="|"
    ),
    "csv without a header": table("a.csv", None, _LOCAL),
    "csv in base64": table("a.csv", ["caption", "image"], [(c, i) for i, c in _BASE64]),
    "open_clip's csv": table("a.csv", ["filepath", "title"], _LOCAL, delimiter="\t"),
    "tsv": table("a.tsv", ["filepath", "title"], _LOCAL, delimiter="\t"),
    "tsv of name and caption": table("a.tsv", None, _LOCAL, delimiter="\t"),
    "tsv of caption and name": table("a.tsv", None, [(c, i) for i, c in _LOCAL], delimiter="\t"),
    "tsv of Flickr": table("a.tsv", None, [(f"{i}#0", c) for i, c in _LOCAL], delimiter="\t"),
    "json lines": json_file("a.jsonl", lines),
    "json lines named json": json_file("a.json", lines),
    "json array": json_file("a.json", lambda records: json.dumps(records, indent=2), "image_path"),
    "packed json lines": packed,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pairs(tmp_path, form):
    file = FORMS[form](tmp_path)
    counts = run(tmp_path / "out", file, "--valid-share", 0)
    assert kept(tmp_path / "out") == PAIRS
    assert "dropped" not in counts


def test_names_are_relative_to_the_folder_of_images(tmp_path):
    write_images(tmp_path / "elsewhere")
    (tmp_path / "a.csv").write_text(
        "".join(f"{name},{caption}\n" for name, caption in zip(NAMES, CAPTIONS, strict=True))
    )
    run(tmp_path / "out", tmp_path / "a.csv", "--images", tmp_path / "elsewhere", "--valid-share", 0)
    assert kept(tmp_path / "out") == PAIRS
    absolute = [(str(tmp_path / "elsewhere" / name), caption) for name, caption in zip(NAMES, CAPTIONS, strict=True)]
    table("b.tsv", ["image", "text"], absolute, delimiter="\t")(tmp_path)
    run(tmp_path / "out2", tmp_path / "b.tsv", "--images", tmp_path / "elsewhere", "--valid-share", 0)
    assert kept(tmp_path / "out2") == PAIRS


def test_columns_of_other_names(tmp_path):
    rows = [{"photo": {"bytes": image, "path": None}, "label_en": caption, "text": "other"} for image, caption in PAIRS]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    options = ["--image-column", "photo", "--caption-column", "label_en"]
    run(tmp_path / "out", tmp_path / "a.parquet", *options, "--valid-share", 0)
    assert kept(tmp_path / "out") == PAIRS


@pytest.mark.parametrize(
    "columns, named",
    [
        ({"image": [b""], "label": [1]}, "but image, label; name them with --image-column and --caption-column"),
        (
            {"URL": ["http://a/b.jpg"], "TEXT": ["a dog"]},
            "but URL, TEXT; the images of addresses are downloaded with img2dataset",
        ),
        ({"images": [[b""]], "texts": [["a"]]}, "lists of images are for kosmos-prepare pages"),
        ({"image": ["a.jpg"], "conversations": [[]]}, "conversations are for kosmos-prepare instructions"),
    ],
)
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_file_of_another_form_says_what_it_holds(tmp_path, columns, named, ending):
    file = tmp_path / f"a.{ending}"
    if ending == "parquet":
        parquet.write_table(pyarrow.table(columns), file)
    else:
        record = {name: None for name in columns}
        file.write_text(json.dumps(record) + "\n")
    message = error_of(tmp_path / "out", file)
    assert message.startswith(f"{file}: no columns of images and captions, ")
    assert named in message
    assert not (tmp_path / "out").exists()


def test_a_later_file_of_another_form_is_counted_and_named(tmp_path, capsys):
    embedded(tmp_path / "a").rename(tmp_path / "0.parquet")
    parquet.write_table(pyarrow.table({"image": [b""], "label": [1]}), tmp_path / "1.parquet")
    (tmp_path / "2.parquet").write_bytes((tmp_path / "0.parquet").read_bytes()[:-50])
    counts = run(tmp_path / "out", tmp_path / "*.parquet", "--valid-share", 0)
    assert counts["left out"] == {"files of another form": 1, "the rest of files that are cut short or broken": 1}
    shown = capsys.readouterr().out
    assert f"{tmp_path / '1.parquet'}: no columns of images and captions, but image, label" in shown
    assert f"{tmp_path / '2.parquet'}: cut short or broken: " in shown
    notes = json.loads((tmp_path / "out" / "report.json").read_text())["notes"]
    assert [note.split(":")[0] for note in notes] == [str(tmp_path / "1.parquet"), str(tmp_path / "2.parquet")]


def test_what_a_table_lacks_is_dropped_by_its_reason(tmp_path):
    write_images(tmp_path)
    records = [
        {"image": NAMES[0], "caption": CAPTIONS[0]},
        {"image": "gone.jpg", "caption": "a"},
        {"image": "https://example.org/a.jpg", "caption": "a"},
        {"image": "../secret.jpg", "caption": "a"},
        {"image": None, "caption": "a"},
        {"image": NAMES[1], "caption": None},
        {"image": NAMES[1]},
        "text",
    ]
    (tmp_path / "a.jsonl").write_text(lines(records) + "broken\n")
    counts = run(tmp_path / "out", tmp_path / "a.jsonl", "--valid-share", 0)
    assert kept(tmp_path / "out") == PAIRS[:1]
    assert counts["dropped"] == {
        "image that is not in the folder of images": 1,
        "address of an image: download it with img2dataset": 1,
        "image outside of the folder of images": 1,
        "no image": 1,
        "no text, or not valid UTF-8": 1,
        "no image and caption": 1,
        "not a JSON object": 2,
    }


def test_a_long_array_is_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("kosmos_plugin.curation.readers.json_values._CHUNK", 13)
    file = json_file("a.json", lambda records: json.dumps(records, indent=random.Random(0).randint(0, 3)))(tmp_path)
    run(tmp_path / "out", file, "--valid-share", 0)
    assert kept(tmp_path / "out") == PAIRS
