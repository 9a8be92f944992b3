"""Miniatures of ILSVRC2012's validation set, in folders and as downloaded. The WordNet ids are invented."""

import io
import random
import tarfile
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests import tiny

CATEGORIES = 1000


def wordnet_id(category: int) -> str:
    """The WordNet id of a category, 0 to 999 in the order of CLIP's names."""
    return f"n{1440764 + 7 * category:08d}"


def category_of(number: int) -> int:
    """The category of validation image `number`, counted from 1."""
    return 41 * number % CATEGORIES


def write_imagenet(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write `count` images in the folders of the 1,000 categories."""
    for category in range(CATEGORIES):
        (folder / "val" / wordnet_id(category)).mkdir(parents=True)
    for number, image in enumerate(_images(count, seed), start=1):
        (folder / "val" / wordnet_id(category_of(number)) / _name(number)).write_bytes(image)


def write_imagenet_archives(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write the same images as ILSVRC2012_img_val.tar, with the development kit."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [(_name(number), image) for number, image in enumerate(_images(count, seed), start=1)]
    tiny.write_tar(folder / "ILSVRC2012_img_val.tar", images[::-1])
    order = list(range(CATEGORIES))
    random.Random(seed).shuffle(order)  # ILSVRC2012_ID does not follow the order of WordNet ids
    labels = "".join(f"{order.index(category_of(number)) + 1}\n" for number in range(1, count + 1))
    write_devkit(folder, order, labels)


def write_devkit(folder: Path, order: list[int], labels: str) -> None:
    """Write ILSVRC2012_devkit_t12.tar.gz: category order[i] has the ILSVRC2012_ID i + 1."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    synsets = np.zeros(CATEGORIES + 1, dtype=[(field, object) for field in fields])
    for place, category in enumerate(order):
        synsets[place] = (place + 1, wordnet_id(category), "word, words", "a gloss", 0, np.zeros(0), 0)
    synsets[CATEGORIES] = (CATEGORIES + 1, "n00001740", "entity", "a gloss", 2, np.array([1, 2]), 19)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets.reshape(-1, 1)})
    data = "ILSVRC2012_devkit_t12/data"
    members = {f"{data}/meta.mat": meta.getvalue(), f"{data}/ILSVRC2012_validation_ground_truth.txt": labels.encode()}
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def _images(count: int, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    return [tiny.png(rng) for _ in range(count)]
