"""Releases as they are really copied: edited on Windows, moved by macOS, written by pandas, or left where they unpack.

Whatever happened to a release on its way, a benchmark has the items of the release as published.
"""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.benchmarks import BENCHMARKS, benchmark_class
from kosmos_plugin.evaluation.benchmarks.hateful_memes import HatefulMemes
from kosmos_plugin.evaluation.benchmarks.imagenet import ImageNet
from kosmos_plugin.evaluation.benchmarks.piqa import Piqa
from kosmos_plugin.evaluation.benchmarks.rendered_sst2 import RenderedSst2
from kosmos_plugin.evaluation.benchmarks.vqa import VizWiz, VqaV2
from tests import tiny
from tests.evaluation.releases import write_release
from tests.evaluation.releases.imagenet import write_imagenet_archives

TEXTS = (".json", ".jsonl", ".csv", ".lst", ".txt")


def all_items(folder: Path, release: str) -> dict[str, list[str]]:
    """The items of all benchmarks of a release, of all splits and of the training set, as their repr."""
    found = {}
    for name, kind in BENCHMARKS.items():
        if kind.release == release:
            for split in kind.splits:
                benchmark = kind(folder, split)
                benchmark.check_files(few_shot=kind.few_shot)
                found[f"{name} {split}"] = list(map(repr, benchmark.items()))
            if kind.few_shot:
                found[f"{name} training"] = list(map(repr, benchmark.training_items()))
    return found


RELEASES = sorted({kind.release for kind in BENCHMARKS.values()})


@pytest.mark.parametrize("release", RELEASES)
def test_texts_edited_on_windows(release, tmp_path):
    """A byte order mark, CRLF, and empty lines at the end."""
    write_release(tmp_path, release)
    folder = tmp_path / release
    before = all_items(folder, release)
    for path in folder.rglob("*"):
        if path.suffix in TEXTS:
            text = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            path.write_bytes(b"\xef\xbb\xbf" + text + b"\r\n\r\n")
    assert all_items(folder, release) == before


@pytest.mark.parametrize("release", RELEASES)
def test_files_that_desktops_leave_in_folders(release, tmp_path):
    """macOS's and Windows' files, and images of no bytes, are no items; every folder of the release has them."""
    write_release(tmp_path, release)
    folder = tmp_path / release
    before = all_items(folder, release)
    for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        for path in [path for path in place.iterdir() if path.is_file()]:
            path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
        for name in (".DS_Store", ".hidden.png", "Thumbs.db", "desktop.ini", "Icon\r", "copied in part.jpg"):
            (place / name).touch()
        (place / "__MACOSX").mkdir()
        (place / "__MACOSX/._1.png").write_bytes(b"\x00\x05\x16\x07")
    assert all_items(folder, release) == before


def test_skipped_empty_images_are_counted(tmp_path, caplog):
    write_release(tmp_path, "rendered_sst2")
    (tmp_path / "rendered_sst2/test/negative/2.png").write_bytes(b"")
    assert len(RenderedSst2(tmp_path / "rendered_sst2").items()) == 5
    assert "test/negative: 1 of 3 images are empty and are skipped, the first: 2.png" in caplog.text


def test_images_in_upper_case(tmp_path):
    write_release(tmp_path, "rendered_sst2")
    path = tmp_path / "rendered_sst2/test/negative/2.png"
    path.rename(path.with_name("2.PNG"))
    assert [item.id for item in RenderedSst2(tmp_path / "rendered_sst2").items()][1] == "negative/2.PNG"


def test_imagenets_archive_made_again_on_a_mac(tmp_path):
    write_imagenet_archives(tmp_path)
    before = [(item.id, item.reference, item.image.read()) for item in ImageNet(tmp_path).items()]
    (tmp_path / "ILSVRC2012_img_val.tar").unlink()
    members = [("./.DS_Store", b"x")]
    for item_id, _, image in before:
        name = Path(item_id).name
        members += [(f"./._{name}", b"\x00\x05\x16\x07"), (f"./{name}", image)]
    tiny.write_tar(tmp_path / "ILSVRC2012_img_val.tar", members)
    assert [(item.id, item.reference, item.image.read()) for item in ImageNet(tmp_path).items()] == before


@pytest.mark.parametrize(
    ("release", "unpacked"), [(kind.release, name) for kind in BENCHMARKS.values() for name in kind.unpacked]
)
def test_archives_may_stay_in_the_folder_that_they_unpack_to(release, unpacked, tmp_path):
    write_release(tmp_path, release)
    before = all_items(tmp_path / release, release)
    shutil.move(tmp_path / release, tmp_path / unpacked)
    (tmp_path / "data_of_all" / release).mkdir(parents=True)
    shutil.move(tmp_path / unpacked, tmp_path / "data_of_all" / release / unpacked)
    after = all_items(tmp_path / "data_of_all" / release, release)
    old, new = str(tmp_path / release), str(tmp_path / "data_of_all" / release / unpacked)
    assert after == {name: [item.replace(old, new) for item in items] for name, items in before.items()}


def test_a_folder_of_an_archives_name_beside_the_files_is_not_looked_at(tmp_path):
    write_release(tmp_path, "hateful_memes")
    before = HatefulMemes(tmp_path / "hateful_memes").items()
    (tmp_path / "hateful_memes/data").mkdir()
    assert list(map(repr, HatefulMemes(tmp_path / "hateful_memes").items())) == list(map(repr, before))


def change_lines(path: Path, change: Callable[[dict], None]) -> None:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        change(record)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def change_list(path: Path, name: str, change: Callable[[dict], None]) -> None:
    dataset = json.loads(path.read_text())
    for record in dataset[name]:
        change(record)
    path.write_text(json.dumps(dataset))


@pytest.mark.parametrize(
    ("name", "file", "change"),
    [
        ("hateful_memes", "dev_seen.jsonl", lambda record: record.update(label=float(record["label"]))),
        ("hateful_memes", "dev_seen.jsonl", lambda record: record.update(label=str(record["label"]))),
        ("hateful_memes", "dev_seen.jsonl", lambda record: record.update(label=bool(record["label"]))),
        ("hellaswag", "hellaswag_val.jsonl", lambda record: record.update(label=str(record["label"]))),
        ("hellaswag", "hellaswag_val.jsonl", lambda record: record.update(label=float(record["label"]))),
        ("winogrande", "dev.jsonl", lambda record: record.update(answer=int(record["answer"]))),
        ("boolq", "BoolQ/val.jsonl", lambda record: record.update(label=int(record["label"]))),
        ("boolq", "BoolQ/val.jsonl", lambda record: record.update(label=float(record["label"]))),
        ("copa", "COPA/val.jsonl", lambda record: record.update(label=str(record["label"]))),
        ("copa", "COPA/val.jsonl", lambda record: record.update(label=float(record["label"]))),
        ("coco", "dataset_coco.json", lambda record: record.update(cocoid=str(record["cocoid"]))),
        ("coco", "dataset_coco.json", lambda record: record.update(cocoid=float(record["cocoid"]))),
    ],
)
def test_numbers_as_other_programs_write_them(name, file, change, tmp_path):
    """Strings, and the floats that pandas makes of whole numbers where a value is missing."""
    kind = benchmark_class(name)
    write_release(tmp_path, kind.release)
    folder = tmp_path / kind.release
    before = kind(folder).items()
    if file.endswith(".jsonl"):
        change_lines(folder / file, change)
    else:
        change_list(folder / file, "images", change)
    after = kind(folder).items()
    assert list(map(repr, after)) == list(map(repr, before))


def test_ids_of_hateful_memes_as_numbers(tmp_path):
    """Early copies have "id": 8291 where the release has "08291"; the image's name has the zero in both."""
    write_release(tmp_path, "hateful_memes")
    folder = tmp_path / "hateful_memes"
    before = HatefulMemes(folder).items()
    change_lines(folder / "dev_seen.jsonl", lambda record: record.update(id=int(record["id"])))
    after = HatefulMemes(folder).items()
    assert [item.id for item in before] == [f"0{item.id}" for item in after]
    assert [item.image.read() for item in after] == [item.image.read() for item in before]


@pytest.mark.parametrize("spelled", [str, int], ids=["as published", "as numbers"])
def test_a_submission_of_hateful_memes_spells_ids_as_its_file_does(spelled, tmp_path):
    write_release(tmp_path, "hateful_memes")
    folder = tmp_path / "hateful_memes"
    change_lines(folder / "test_seen.jsonl", lambda record: record.update(id=spelled(record["id"])))
    change_lines(folder / "test_seen.jsonl", lambda record: record.pop("label"))
    benchmark = HatefulMemes(folder, "test_seen")
    items = benchmark.items()
    assert all(item.reference is None for item in items)
    answers = [Answer("yes", (), labels=("yes", "no"), log_probabilities=(-1.0, -3.0)) for _ in items]
    answers[1] = Answer("no", (), labels=("yes", "no"), log_probabilities=(-3.0, -1.0))
    answers[2] = Answer("", (), problem="too long")
    answers[3] = Answer("no", (), labels=("yes", "no"), log_probabilities=(-5000.0, -1.0))
    name, text = benchmark.submission(items, answers)
    assert name == "hateful_memes_test_seen_kosmos_results.csv"
    rows = list(csv.DictReader(text.splitlines()))
    first = json.loads((folder / "test_seen.jsonl").read_text().splitlines()[0])
    assert rows[0]["id"] == str(first["id"]) and len(rows) == len(items)
    assert [float(row["proba"]) for row in rows[:4]] == pytest.approx([0.880797, 0.119203, 0.5, 0])
    assert [row["label"] for row in rows[:4]] == ["1", "0", "0", "0"]


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_labels_that_pandas_filled_in(missing, tmp_path):
    write_release(tmp_path, "hateful_memes")
    change_lines(tmp_path / "hateful_memes/test_seen.jsonl", lambda record: record.update(label=missing))
    assert {item.reference for item in HatefulMemes(tmp_path / "hateful_memes", "test_seen").items()} == {None}


def test_the_first_release_of_hateful_memes_calls_its_splits_dev_and_test(tmp_path):
    write_release(tmp_path, "hateful_memes")
    folder = tmp_path / "hateful_memes"
    before = {split: HatefulMemes(folder, split).items() for split in ("dev_seen", "test_seen")}
    for split in ("dev", "test"):
        (folder / f"{split}_seen.jsonl").rename(folder / f"{split}.jsonl")
        (folder / f"{split}_unseen.jsonl").unlink()
    for split, items in before.items():
        benchmark = HatefulMemes(folder, split)
        benchmark.check_files(few_shot=False)
        assert list(map(repr, benchmark.items())) == list(map(repr, items))
    assert HatefulMemes(folder, "dev_unseen").files(few_shot=False) == ["dev_unseen.jsonl", "img"]


@pytest.mark.parametrize("files", [("questions",), ("annotations",), ("questions", "annotations")])
def test_ids_of_vqav2_as_strings(files, tmp_path):
    write_release(tmp_path, "vqav2")
    folder = tmp_path / "vqav2"
    before = VqaV2(folder, "val").items()
    names = {
        "questions": "v2_OpenEnded_mscoco_val2014_questions.json",
        "annotations": "v2_mscoco_val2014_annotations.json",
    }
    for name in files:
        change_list(
            folder / names[name],
            name,
            lambda record: record.update(question_id=str(record["question_id"]), image_id=str(record["image_id"])),
        )
    benchmark = VqaV2(folder, "val")
    items = benchmark.items()
    assert list(map(repr, items)) == list(map(repr, before))
    _, text = benchmark.submission(items, [Answer("yes", ()) for _ in items])
    spelled = str if "questions" in files else int
    assert json.loads(text) == [{"question_id": spelled(item.id), "answer": "yes"} for item in items]


def test_piqas_validation_set_may_be_called_dev(tmp_path):
    """In the AI2 leaderboard's archive, from which the Hugging Face hub and lm-evaluation-harness read it."""
    write_release(tmp_path, "piqa")
    before = Piqa(tmp_path / "piqa").items()
    (tmp_path / "piqa/valid.jsonl").rename(tmp_path / "piqa/dev.jsonl")
    (tmp_path / "piqa/valid-labels.lst").rename(tmp_path / "piqa/dev-labels.lst")
    benchmark = Piqa(tmp_path / "piqa")
    benchmark.check_files(few_shot=True)
    assert benchmark.items() == before


def test_annotations_of_vizwiz_without_their_folder(tmp_path):
    """Annotations.zip has none: it is only there if it was unpacked into a folder of its name."""
    write_release(tmp_path, "vizwiz")
    folder = tmp_path / "vizwiz"
    before = list(map(repr, VizWiz(folder, "val").items()))
    for path in (folder / "Annotations").iterdir():
        path.rename(folder / path.name)
    benchmark = VizWiz(folder, "val")
    benchmark.check_files(few_shot=True)
    assert list(map(repr, benchmark.items())) == before


def test_rows_of_a_spreadsheet_without_values(tmp_path):
    """Excel writes them for rows that were once used; a space after a comma is no part of a value."""
    write_release(tmp_path, "storycloze")
    path = tmp_path / "storycloze/cloze_test_test__spring2016 - cloze_test_ALL_test.csv"
    kind = benchmark_class("storycloze")
    before = kind(tmp_path / "storycloze").items()
    rows = list(csv.reader(path.read_text().splitlines()))
    spaced = [", ".join(f'"{value}"' for value in row) for row in rows]
    path.write_text("\n".join([*spaced, ",,,,,,,", "", ",,,,,,,"]))
    assert kind(tmp_path / "storycloze").items() == before
