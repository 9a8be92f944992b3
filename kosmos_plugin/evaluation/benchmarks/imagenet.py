"""ImageNet (§4.6): what a photo shows, generated after "The photo of the", freely or among the 1,000 names.

Release (image-net.org, ILSVRC2012), either as downloaded or with its images in folders:

    ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz       read without unpacking
    val/n01440764/ILSVRC2012_val_00000293.JPEG, …              a folder for each of the 1,000 WordNet ids

The paper does not say which names it gives the categories. These are CLIP's, from open_clip: the i-th name belongs to
the i-th of the sorted WordNet ids. "missile" and "sunglasses" are each the name of two ids, and right for both. A
prediction is right if it equals the name, including case, ignoring spaces around it.
"""

import functools
import gzip
import io
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kosmos_plugin.data.documents import Image
from kosmos_plugin.data.tar_files import files_of_tar, read_pieces
from kosmos_plugin.errors import UserError, missing_package
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import image_file, image_files, is_leftover, list_folder, named
from kosmos_plugin.evaluation.metrics.accuracy import accuracy
from kosmos_plugin.evaluation.requests import Generate, Request, question

PROMPT = "The photo of the"
IMAGES = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META = "ILSVRC2012_devkit_t12/data/meta.mat"
GROUND_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


@dataclass(frozen=True)
class Photo(Item):
    """A validation image. The reference is the name of its category."""

    image: Image


class ImageNet(Benchmark[Photo]):
    """Any text can be generated."""

    name = "imagenet"
    title = "ImageNet"
    section = "4.6"
    release = "imagenet"
    source = f"ILSVRC2012 of image-net.org: {IMAGES} and {DEVKIT}, or the folder val with a folder for each WordNet id"
    splits = ("val",)

    def files(self, few_shot: bool) -> list[str]:
        return [IMAGES, DEVKIT] if (self.folder / IMAGES).exists() else ["val"]

    def items(self) -> list[Photo]:
        return self._from_archives() if (self.folder / IMAGES).exists() else self._from_folders()

    def request(self, item: Photo, demonstrations: Sequence[Item]) -> Request:
        return Generate(question(PROMPT, item.image), beam=2)

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        return accuracy(items, answers)

    def _from_folders(self) -> list[Photo]:
        folder = self.folder / "val"
        names = _names((path.name for path in list_folder(folder) if path.is_dir()), folder)
        return [
            Photo(f"{wordnet_id}/{path.name}", name, image_file(path))
            for wordnet_id, name in names.items()
            for path in image_files(folder / wordnet_id)
        ]

    def _from_archives(self) -> list[Photo]:
        path = self.folder / IMAGES
        wordnet_ids, labels = _read_devkit(self.folder / DEVKIT)
        names = _names(wordnet_ids.values(), self.folder / DEVKIT)
        try:
            photos_of_tar = {name: pieces for name, pieces in files_of_tar(path) if not is_leftover(Path(name).name)}
            files = sorted(photos_of_tar.items(), key=lambda file: Path(file[0]).name)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {named(str(error))}") from None
        if len(files) != len(labels):
            raise UserError(f"{path} has {len(files):,} images, and {DEVKIT} the labels of {len(labels):,}.")
        photos = []
        for (name, pieces), label in zip(files, labels, strict=True):
            wordnet_id = wordnet_ids[label]
            read = functools.partial(read_pieces, str(path), pieces)
            photos.append(Photo(f"{wordnet_id}/{Path(name).name}", names[wordnet_id], Image(read, f"{path}/{name}")))
        return photos


class ImageNetConstrained(ImageNet):
    """Only one of the names can be generated."""

    name = "imagenet_constrained"
    title = "ImageNet, constrained to the category names"

    def request(self, item: Photo, demonstrations: Sequence[Item]) -> Request:
        return Generate(question(PROMPT, item.image), beam=2, among=category_names())


@functools.cache
def category_names() -> tuple[str, ...]:
    """Return the distinct names of the 1,000 categories."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return tuple(dict.fromkeys(IMAGENET_CLASSNAMES))


def _names(wordnet_ids: Iterable[str], where: Path) -> dict[str, str]:
    """Map each WordNet id to its name."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    ids = sorted(wordnet_ids)
    if len(ids) != len(IMAGENET_CLASSNAMES):
        raise UserError(f"{where} has {len(ids):,} categories, not ImageNet's {len(IMAGENET_CLASSNAMES):,}.")
    return dict(zip(ids, IMAGENET_CLASSNAMES, strict=True))


def _read_devkit(path: Path) -> tuple[dict[int, str], list[int]]:
    """Return (ILSVRC2012_ID → WordNet id of the 1,000 categories, the ILSVRC2012_ID of each validation image)."""
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise missing_package(f"Reading {path}", error, "evaluation") from None
    try:
        whole = gzip.decompress(path.read_bytes())  # a few MB, checksum included: damage can crash loadmat
        with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as archive:
            meta, ground_truth = archive.extractfile(META), archive.extractfile(GROUND_TRUTH)
            if meta is None or ground_truth is None:
                raise KeyError(f"{META} or {GROUND_TRUTH} is not a file")
            synsets = loadmat(meta, squeeze_me=True)["synsets"]
            labels = [int(label) for label in ground_truth.read().split()]
        # Only the categories have no children; the other synsets are above them in WordNet's tree.
        wordnet_ids = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in synsets if s["num_children"] == 0}
    except Exception as error:  # gzip's, zlib's and loadmat's are of any type
        raise UserError(f"{path} cannot be read as ImageNet's development kit: {named(str(error))}") from None
    unknown = sorted(set(labels) - set(wordnet_ids))
    if unknown:
        raise UserError(f"{path}: the label {unknown[0]} of {GROUND_TRUTH} is not a category of {META}.")
    return wordnet_ids, labels
