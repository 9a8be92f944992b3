"""ImageNet: photos from folders and from the archives, named freely or among the 1,000 names."""

import gzip
import hashlib
import random
import shutil
import tarfile
from collections import Counter

import pytest
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from torchvision.datasets.imagenet import ARCHIVE_META, parse_devkit_archive
from torchvision.models._meta import _IMAGENET_CATEGORIES

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation import imagenet_devkit
from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.benchmarks.imagenet import ImageNet, ImageNetConstrained, category_names
from kosmos_plugin.evaluation.requests import Generate, distinct_images, prompt_text
from tests.evaluation.releases.imagenet import (
    CATEGORIES,
    category_of,
    wordnet_id,
    write_devkit,
    write_imagenet,
    write_imagenet_archives,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    write_imagenet(folder)
    return folder


@pytest.fixture
def archives(tmp_path):
    write_imagenet_archives(tmp_path)
    return tmp_path


def test_folders_are_in_the_order_of_clips_names(folder):
    items = ImageNet(folder).items()
    assert [(item.id, item.reference) for item in items] == [
        ("n01441051/ILSVRC2012_val_00000001.JPEG", "desert grassland whiptail lizard"),
        ("n01441338/ILSVRC2012_val_00000002.JPEG", "ruffed grouse"),
        ("n01441625/ILSVRC2012_val_00000003.JPEG", "spiny lobster"),
        ("n01441912/ILSVRC2012_val_00000004.JPEG", "Bluetick Coonhound"),
        ("n01442199/ILSVRC2012_val_00000005.JPEG", "Flat-Coated Retriever"),
        ("n01442486/ILSVRC2012_val_00000006.JPEG", "Great Dane"),
    ]
    assert [item.reference for item in items] == [IMAGENET_CLASSNAMES[category_of(n)] for n in range(1, 7)]
    assert [item.image.read() for item in items] == [(folder / "val" / item.id).read_bytes() for item in items]


def test_the_archives_give_the_same_items_unpacked(folder, archives):
    ImageNet(archives).check_files(few_shot=False)
    unpacked, packed = ImageNet(folder).items(), ImageNet(archives).items()
    assert [(item.id, item.reference) for item in packed] == [(item.id, item.reference) for item in unpacked]
    assert [item.image.read() for item in packed] == [item.image.read() for item in unpacked]
    assert packed[0].image.name == str(archives / "ILSVRC2012_img_val.tar/ILSVRC2012_val_00000001.JPEG")
    assert sorted(path.name for path in archives.iterdir()) == [
        "ILSVRC2012_devkit_t12.tar.gz",
        "ILSVRC2012_img_val.tar",
    ]


@pytest.fixture
def unpacked(archives, tmp_path):
    """Both archives unpacked by tarfile, as one would do it by hand."""
    target = tmp_path / "unpacked"
    with tarfile.open(archives / "ILSVRC2012_img_val.tar") as archive:
        archive.extractall(target / "val", filter="data")
    with tarfile.open(archives / "ILSVRC2012_devkit_t12.tar.gz") as archive:
        archive.extractall(target, filter="data")
    return target


def test_the_unpacked_archives_give_the_same_items(folder, unpacked, archives):
    (unpacked / "val" / ".DS_Store").write_bytes(b"left by a desktop")
    expected = [(item.id, item.reference, item.image.read()) for item in ImageNet(folder).items()]
    for devkit in ("folder", "archive"):
        if devkit == "archive":
            shutil.rmtree(unpacked / "ILSVRC2012_devkit_t12")
            shutil.copy(archives / "ILSVRC2012_devkit_t12.tar.gz", unpacked)
        benchmark = ImageNet(unpacked)
        benchmark.check_files(few_shot=False)
        assert [(item.id, item.reference, item.image.read()) for item in benchmark.items()] == expected
    (unpacked / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(UserError, match=r"ILSVRC2012_devkit_t12\.tar\.gz is not in"):
        ImageNet(unpacked).check_files(few_shot=False)


def test_an_image_that_is_missing_from_a_flat_folder_is_an_error(unpacked):
    (unpacked / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()
    with pytest.raises(UserError, match=r"val has 5 images, and ILSVRC2012_devkit_t12 the labels of 6"):
        ImageNet(unpacked).items()


def test_categories_are_those_that_torchvision_reads(archives, unpacked, monkeypatch):
    name = "ILSVRC2012_devkit_t12.tar.gz"
    checksum = hashlib.md5((archives / name).read_bytes()).hexdigest()
    monkeypatch.setitem(ARCHIVE_META, "devkit", (name, checksum))  # the miniature's in place of the release's
    parse_devkit_archive(str(archives))
    _, theirs = torch.load(archives / "meta.bin", weights_only=True)
    assert [item.id.partition("/")[0] for item in ImageNet(unpacked).items()] == theirs


def test_a_damaged_list_of_synsets_is_named_in_one_line(unpacked):
    """scipy's reader raises anything for damage, takes any amount of memory, and can crash."""
    path = unpacked / "ILSVRC2012_devkit_t12" / "data" / "meta.mat"
    content, rng, named = path.read_bytes(), random.Random(1), 0
    for _ in range(12):
        damaged = bytearray(content[: rng.choice((len(content), rng.randrange(1, len(content))))])
        for _ in range(rng.randint(1, 20)):
            damaged[rng.randrange(min(len(damaged), rng.choice((300, len(damaged)))))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            assert ImageNet(unpacked).items()
        except UserError as error:
            assert "\n" not in str(error) and str(unpacked) in str(error)
            named += 1
    assert named > 4


def test_a_crash_of_the_reader_is_named(unpacked, monkeypatch):
    monkeypatch.setattr(imagenet_devkit, "_READ_META", "import os; os.abort()")
    with pytest.raises(UserError, match=r"devkit_t12 cannot be read .*meta\.mat is damaged .*its reader crashed"):
        ImageNet(unpacked).items()


def test_the_name_is_generated_after_the_photo(folder):
    item = ImageNet(folder).items()[0]
    request = ImageNet(folder).request(item, [])
    assert prompt_text(request.prompt) == "<image> The photo of the"
    assert distinct_images(request) == [item.image]
    assert request == Generate(request.prompt, num_beams=2)
    constrained = ImageNetConstrained(folder).request(item, [])
    assert constrained == Generate(request.prompt, num_beams=2, among=category_names())


def test_clips_names_are_in_the_order_of_torchvisions():
    """torchvision's order is that of the sorted WordNet ids."""
    ours, theirs = ([name.lower() for name in names] for names in (IMAGENET_CLASSNAMES, _IMAGENET_CATEGORIES))
    shared = [name for name in ours if ours.count(name) == theirs.count(name) == 1]
    assert len(shared) > 500
    assert [ours.index(name) for name in shared] == [theirs.index(name) for name in shared]


def test_two_names_have_two_categories():
    assert len(category_names()) == 998
    assert set(category_names()) == set(IMAGENET_CLASSNAMES)
    assert [name for name in category_names() if IMAGENET_CLASSNAMES.count(name) > 1] == ["missile", "sunglasses"]


def test_a_prediction_must_match_exactly(folder):
    benchmark = ImageNet(folder)
    predictions = [
        "desert grassland whiptail lizard",
        "grouse",
        "spiny lobster on a plate",
        "bluetick coonhound",
        "Flat-Coated Retriever",
        "",
    ]
    scores = benchmark.score(benchmark.items(), [Answer(prediction, ()) for prediction in predictions])
    assert scores.metrics == pytest.approx({"accuracy": 100 * 2 / 6})


def test_what_is_missing_is_named(tmp_path, archives):
    with pytest.raises(
        UserError, match=r"val is not in .*ILSVRC2012_img_val\.tar or .* with ILSVRC2012_devkit_t12\.tar\.gz"
    ):
        ImageNet(tmp_path / "nowhere").check_files(few_shot=False)
    (archives / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(UserError, match=r"ILSVRC2012_devkit_t12\.tar\.gz is not in"):
        ImageNet(archives).check_files(few_shot=False)


def test_what_is_not_imagenet_is_refused(tmp_path):
    (tmp_path / "val/n01440764").mkdir(parents=True)
    with pytest.raises(UserError, match="val has 1 categories, not ImageNet's 1,000"):
        ImageNet(tmp_path).items()


def test_broken_archives_are_named(archives):
    order = list(range(CATEGORIES))
    write_devkit(archives, order, "1\n2\n")
    with pytest.raises(UserError, match=r"ILSVRC2012_img_val\.tar has 6 images, and .* the labels of 2"):
        ImageNet(archives).items()
    write_devkit(archives, order, "1\n1001\n" * 3)
    with pytest.raises(UserError, match=r"label 1001 of .*ground_truth\.txt is not a category of .*meta\.mat"):
        ImageNet(archives).items()
    write_devkit(archives, order, "one\n")
    with pytest.raises(UserError, match=r"devkit_t12\.tar\.gz cannot be read as ImageNet's development kit"):
        ImageNet(archives).items()
    (archives / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"devkit_t12\.tar\.gz cannot be read as ImageNet's development kit"):
        ImageNet(archives).items()
    write_imagenet_archives(archives)
    (archives / "ILSVRC2012_img_val.tar").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"ILSVRC2012_img_val\.tar is cut short or is not a tar"):
        ImageNet(archives).items()


def test_damaged_archives_are_named_in_one_line(archives):
    rng = random.Random(1)
    outcomes = Counter()
    for _ in range(100):
        path = archives / rng.choice(("ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"))
        content = path.read_bytes()
        damaged = bytearray(content[: rng.choice((len(content), rng.randrange(1, len(content))))])
        for _ in range(rng.randint(0, 20)):
            damaged[rng.randrange(len(damaged)) if rng.random() < 0.5 else 0] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            assert [item.image.read() for item in ImageNet(archives).items()]
            outcomes["read"] += 1
        except UserError as error:
            assert "\n" not in str(error) and str(archives) in str(error)
            outcomes["named"] += 1
        path.write_bytes(content)
    assert outcomes["named"] > 30 and outcomes["read"]


def test_a_gzipped_archive_of_images_is_refused(archives):
    """Images are read where they are in the file, which a compressed one does not tell."""
    path = archives / "ILSVRC2012_img_val.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UserError, match=r"ILSVRC2012_img_val\.tar is compressed"):
        ImageNet(archives).items()


def test_ids_of_the_miniature_are_in_order():
    assert sorted(map(wordnet_id, range(CATEGORIES))) == [wordnet_id(category) for category in range(CATEGORIES)]
