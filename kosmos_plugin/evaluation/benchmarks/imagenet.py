"""ImageNet (§4.6): what a photo shows, generated after "The photo of the", freely or among the 1,000 names.

Release (image-net.org, ILSVRC2012), as downloaded, unpacked, or with its images in folders:

    ILSVRC2012_img_val.tar                           read without unpacking; or
    val/ILSVRC2012_val_00000001.JPEG, …              unpacked; either with the development kit, as
    ILSVRC2012_devkit_t12.tar.gz                     its archive or the folder ILSVRC2012_devkit_t12

    val/n01440764/ILSVRC2012_val_00000293.JPEG, …    a folder for each of the 1,000 WordNet ids, without the kit

The paper does not say which names it gives the categories. These are CLIP's, from open_clip: the i-th name belongs to
the i-th of the sorted WordNet ids. "missile" and "sunglasses" are each the name of two ids, and right for both. A
prediction is right if it equals the name, including case, ignoring spaces around it.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kosmos_plugin.data.documents import Image
from kosmos_plugin.data.tar_files import files_of_tar, read_pieces
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import image_file, image_files, is_leftover, list_folder, named
from kosmos_plugin.evaluation.imagenet_devkit import ARCHIVE, FOLDER, read_devkit
from kosmos_plugin.evaluation.metrics.accuracy import accuracy
from kosmos_plugin.evaluation.requests import Generate, Request, question

PROMPT = "The photo of the"
IMAGES = "ILSVRC2012_img_val.tar"
VALIDATION = "val"
_NAME = re.compile(r"ILSVRC2012_val_\d{8}\.[A-Za-z]+")


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
    source = (
        f"ILSVRC2012 of image-net.org: {IMAGES} or its images in the folder {VALIDATION}, with {ARCHIVE} or the folder "
        f"{FOLDER}; or {VALIDATION} with a folder for each WordNet id"
    )
    splits = ("val",)

    def files(self, few_shot: bool) -> list[str]:
        if (self.folder / IMAGES).exists():
            return [IMAGES, self._devkit()]
        return [VALIDATION, self._devkit()] if self._is_flat() else [VALIDATION]

    def items(self) -> list[Photo]:
        if (self.folder / IMAGES).exists():
            return self._labelled(self.folder / IMAGES, self._in_tar())
        if self._is_flat():
            folder = self.folder / VALIDATION
            return self._labelled(folder, [(path.name, image_file(path)) for path in image_files(folder)])
        return self._from_folders()

    def request(self, item: Photo, demonstrations: Sequence[Item]) -> Request:
        return Generate(question(PROMPT, item.image), num_beams=2)

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

    def _is_flat(self) -> bool:
        """Whether the images are in one folder, as they are in the archive."""
        folder = self.folder / VALIDATION
        return folder.is_dir() and any(_NAME.fullmatch(path.name) for path in folder.iterdir())

    def _devkit(self) -> str:
        return self.either(ARCHIVE, FOLDER)

    def _in_tar(self) -> list[tuple[str, Image]]:
        path = self.folder / IMAGES
        try:
            photos = {name: pieces for name, pieces in files_of_tar(path) if not is_leftover(Path(name).name)}
        except OSError as error:
            raise UserError(f"{path} cannot be read: {named(str(error))}") from None
        return [
            (Path(name).name, Image(functools.partial(read_pieces, str(path), pieces), f"{path}/{name}"))
            for name, pieces in photos.items()
        ]

    def _labelled(self, where: Path, images: list[tuple[str, Image]]) -> list[Photo]:
        """The images, of which the i-th by name has the i-th label of the development kit."""
        devkit = self.folder / self._devkit()
        wordnet_ids, labels = read_devkit(devkit)
        names = _names(wordnet_ids.values(), devkit)
        if len(images) != len(labels):
            raise UserError(f"{where} has {len(images):,} images, and {devkit.name} the labels of {len(labels):,}.")
        photos = []
        for (name, image), label in zip(sorted(images, key=lambda image: image[0]), labels, strict=True):
            wordnet_id = wordnet_ids[label]
            photos.append(Photo(f"{wordnet_id}/{name}", names[wordnet_id], image))
        return photos


class ImageNetConstrained(ImageNet):
    """Only one of the names can be generated."""

    name = "imagenet_constrained"
    title = "ImageNet, constrained to the category names"

    def request(self, item: Photo, demonstrations: Sequence[Item]) -> Request:
        return Generate(question(PROMPT, item.image), num_beams=2, among=category_names())


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
