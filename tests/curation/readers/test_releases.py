"""MMC4 and OBELICS in their published formats, with images in every kind of store."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from kosmos_plugin.errors import UserError
from tests import tiny
from tests.curation.recipes.test_pages import TEXTS, kept, png, run

URLS = ["http://images.example/a/one.png", "https://images.example/two.png?size=9"]
DOCUMENT = [TEXTS[0], png(1), TEXTS[1], png(2), TEXTS[2]]


def mmc4_lines() -> bytes:
    """The second image belongs to the last sentence; both have the file names of the release's downloads."""
    images = [
        {"raw_url": URLS[0], "image_name": "0a1b.png", "matched_text_index": 1, "matched_sim": 0.3},
        {"raw_url": URLS[1], "image_name": "2c3d.png", "matched_text_index": 2, "matched_sim": 0.2},
    ]
    document = {"url": "http://page.example/", "text_list": TEXTS, "image_info": images, "similarity_matrix": [[]]}
    return json.dumps(document).encode() + b'\n{"text_list": 5}\nbroken\n'


def write_mmc4(folder: Path) -> Path:
    (folder / "docs.jsonl").write_bytes(mmc4_lines())
    return folder / "docs.jsonl"


def write_mmc4_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "docs.zip", "w") as archive:
        archive.writestr("docs_shard_0_v2.jsonl", mmc4_lines())
    return folder / "docs.zip"


def write_obelics(folder: Path) -> Path:
    parts = [TEXTS[0], None, TEXTS[1], None, TEXTS[2]]
    images = [None, URLS[0], None, URLS[1], None]
    about = [{"alt_text": "a lamp"} if image else None for image in images]
    columns = {
        "images": [images, None],
        "texts": [parts, None],
        "metadata": [json.dumps(about), None],
        "general_metadata": [json.dumps({"url": "http://page.example/"}), None],
    }
    parquet.write_table(pyarrow.table(columns), folder / "train-00000-of-00001.parquet")
    return folder / "train-00000-of-00001.parquet"


def img2dataset_tar(folder: Path) -> Path:
    members = []
    for number, url in enumerate(URLS):
        members += [(f"{number:09d}.jpg", png(number + 1)), (f"{number:09d}.json", json.dumps({"url": url}).encode())]
    tiny.write_tar(folder / "00000.tar", members)
    return folder / "00000.tar"


def mirror(folder: Path) -> Path:
    """A folder of images as `wget --mirror` writes it."""
    for number, name in enumerate(("a/one.png", "two.png?size=9")):
        file = folder / "mirror" / "images.example" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number + 1))
    return folder / "mirror"


def mirror_tar(folder: Path) -> Path:
    with tarfile.open(folder / "mirror.tar", "w") as tar:
        tar.add(mirror(folder), ".")
    return folder / "mirror.tar"


@pytest.mark.parametrize("store", [img2dataset_tar, mirror, mirror_tar])
@pytest.mark.parametrize("release", [write_mmc4, write_mmc4_zip, write_obelics])
def test_a_release_with_images_of_a_store(tmp_path, release, store):
    (tmp_path / "images").mkdir()
    counts = run(tmp_path / "out", release(tmp_path), "--images", store(tmp_path / "images"))
    assert kept(tmp_path / "out") == [DOCUMENT]
    assert counts["dropped"]["record not in the release's format"] >= 1


@pytest.mark.parametrize("in_tar", [False, True])
def test_mmc4s_images_by_their_names(tmp_path, in_tar):
    images = {"0a1b.png": png(1), "2c3d.png": png(2)}
    (tmp_path / "images").mkdir()
    for name, data in images.items():
        (tmp_path / "images" / name).write_bytes(data)
    store = tmp_path / "images"
    if in_tar:
        store = tmp_path / "images.tar"
        tiny.write_tar(store, list(images.items()))
    run(tmp_path / "out", write_mmc4(tmp_path), "--images", store)
    assert kept(tmp_path / "out") == [DOCUMENT]


def test_images_that_were_not_downloaded_are_counted(tmp_path):
    members = [("0.jpg", png(1)), ("0.json", json.dumps({"url": URLS[0]}).encode())]
    tiny.write_tar(tmp_path / "0.tar", members)
    counts = run(tmp_path / "out", write_obelics(tmp_path), "--images", tmp_path / "0.tar")
    assert kept(tmp_path / "out") == [[TEXTS[0], png(1), f"{TEXTS[1]}\n{TEXTS[2]}"]]
    assert counts["left out"]["missing image"] == 1


def test_many_archives_make_many_buckets(tmp_path, monkeypatch):
    monkeypatch.setattr("kosmos_plugin.curation.readers.image_index.FILES_PER_BUCKET", 2)
    for number, url in enumerate(URLS):
        about = json.dumps({"url": url}).encode()
        tiny.write_tar(tmp_path / f"{number}.tar", [("0.png", png(number + 1)), ("0.json", about)])
    for number in range(2, 7):
        about = json.dumps({"url": f"http://images.example/{number}"}).encode()
        tiny.write_tar(tmp_path / f"{number}.tar", [("0.png", png(9)), ("0.json", about)])
    run(tmp_path / "out", write_mmc4(tmp_path), "--images", tmp_path / "{0..6}.tar")
    assert kept(tmp_path / "out") == [DOCUMENT]


def test_a_release_needs_images(tmp_path):
    with pytest.raises(UserError, match="Give --images"):
        run(tmp_path / "out", write_mmc4(tmp_path))


def test_a_zip_of_several_files_is_one_clear_error(tmp_path):
    mirror(tmp_path)
    with zipfile.ZipFile(tmp_path / "docs.zip", "w") as archive:
        for name in ("0.jsonl", "1.jsonl", "__MACOSX/._0.jsonl"):
            archive.writestr(name, mmc4_lines())
    with pytest.raises(UserError, match=r"docs\.zip has 2 files in it"):
        run(tmp_path / "out", tmp_path / "docs.zip", "--images", tmp_path / "mirror")


def test_a_zip_that_is_cut_short(tmp_path):
    whole = write_mmc4_zip(tmp_path).read_bytes()
    (tmp_path / "docs.zip").write_bytes(whole[: len(whole) // 2])
    mirror(tmp_path)
    with pytest.raises(UserError, match="Nothing was kept"):
        run(tmp_path / "out", tmp_path / "docs.zip", "--images", tmp_path / "mirror")
    report = json.load(io.StringIO((tmp_path / "out" / "report.json").read_text()))
    assert report["counts"]["left out"]["the rest of files that are cut short or broken"] == 1


def test_names_in_a_tar_without_and_with_other_extensions(tmp_path):
    """Image addresses can end in anything; the dots of a host name do not start extensions."""
    names = ["cdn.example.org/img/12345", "cdn.example.org/a.jpg@w"]
    tiny.write_tar(tmp_path / "mirror.tar", [(f"./{name}", png(n)) for n, name in enumerate(names)])
    images = [{"raw_url": f"https://{name}", "matched_text_index": n + 1} for n, name in enumerate(names)]
    (tmp_path / "docs.jsonl").write_text(json.dumps({"text_list": TEXTS, "image_info": images}))
    run(tmp_path / "out", tmp_path / "docs.jsonl", "--images", tmp_path / "mirror.tar")
    assert kept(tmp_path / "out") == [[TEXTS[0], png(0), TEXTS[1], png(1), TEXTS[2]]]


def test_half_a_surrogate_pair_in_an_address_is_not_an_error(tmp_path):
    record = json.loads(mmc4_lines().splitlines()[0])
    record["url"] += "\ud83d"
    record["image_info"].append({"raw_url": "http://a.example/\ud83d.png", "matched_text_index": 0})
    (tmp_path / "docs.jsonl").write_text(json.dumps(record))
    run(tmp_path / "out", tmp_path / "docs.jsonl", "--images", img2dataset_tar(tmp_path))
    assert kept(tmp_path / "out") == [DOCUMENT]


def test_an_image_without_a_sentence_is_ignored(tmp_path):
    record = json.loads(mmc4_lines().splitlines()[0])
    for index in (None, [1], {}, "1", 99):
        record["image_info"].append({"raw_url": URLS[0], "matched_text_index": index})
    (tmp_path / "docs.jsonl").write_text(json.dumps(record))
    run(tmp_path / "out", tmp_path / "docs.jsonl", "--images", img2dataset_tar(tmp_path))
    assert kept(tmp_path / "out") == [DOCUMENT]


@pytest.mark.parametrize("form", ["aligned lists", "pairs", "marks", "before"])
def test_documents_with_the_images_themselves(tmp_path, form):
    """Lists of images with texts, as `datasets` writes them; no --images is needed."""
    datasets = pytest.importorskip("datasets")
    one, two = ({"bytes": png(number), "path": None} for number in (1, 2))
    columns = {
        "aligned lists": {"images": [None, one, None, two, None], "texts": [TEXTS[0], None, TEXTS[1], None, TEXTS[2]]},
        "pairs": {"images": [None, one, two], "texts": TEXTS},
        "marks": {"images": [one, two], "text": f"{TEXTS[0]} <image> {TEXTS[1]}<image>\n{TEXTS[2]}"},
        "before": {"images": [one, two], "text": " ".join(TEXTS)},
    }[form]
    text = {"text": datasets.Value("string"), "texts": datasets.Sequence(datasets.Value("string"))}
    features = {"images": datasets.Sequence(datasets.Image()), **{name: text[name] for name in columns if name in text}}
    table = datasets.Dataset.from_dict({n: [c] for n, c in columns.items()}, features=datasets.Features(features))
    table.to_parquet(tmp_path / "a.parquet")
    run(tmp_path / "out", tmp_path / "a.parquet")
    assert kept(tmp_path / "out") == [DOCUMENT if form != "before" else [png(1), png(2), " ".join(TEXTS)]]


def test_a_table_of_another_form_says_what_it_holds(tmp_path, capsys):
    parquet.write_table(pyarrow.table({"image": [b""], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="Nothing was kept"):
        run(tmp_path / "out", tmp_path / "a.parquet", "--images", tmp_path)
    assert f"{tmp_path / 'a.parquet'}: no columns images and texts, but image, label" in capsys.readouterr().out
