"""Image classification with descriptions (§4.7): which of two similar animals a photo shows.

The paper's images, three pairs of animals with twenty images each, were never released. Lay out your own like this:

    animals.json               [{"category": "woodpecker",
                                 "classes": [{"name": "three toed woodpecker", "description": "it has …"},
                                             {"name": "downy woodpecker", "description": "it has …"}]}, …]
    downy woodpecker/*.jpg     the images of each class, in a folder of its name

`category` goes into "what is the name of {category} in the picture?" unchanged. The paper does not say how descriptions
and names are written in the prompt. Here a description is "Description of {name}: {description}", as in KOSMOS-2 by the
same authors (arXiv 2306.14824, Figure 11), and the names without descriptions are "{name}, {name}." A prediction is
right if it equals the name, ignoring case.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from kosmos_plugin.data.documents import Image
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import field, image_file, image_files, read_json
from kosmos_plugin.evaluation.metrics.accuracy import accuracy
from kosmos_plugin.evaluation.requests import Generate, Request, question

ANIMALS_FILE = "animals.json"
FORMAT = '{"category": …, "classes": [{"name": …, "description": …}, {"name": …, "description": …}]}'


@dataclass(frozen=True)
class Animal:
    """One of the two classes of a pair."""

    name: str
    description: str


@dataclass(frozen=True)
class Pair:
    """Two animals that look alike."""

    category: str
    animals: tuple[Animal, Animal]


@dataclass(frozen=True)
class Photo(Item):
    """A photo of one animal of a pair. The reference is the animal's name."""

    pair: Pair
    image: Image


class Animals(Benchmark[Photo]):
    """Only the two names are in the prompt."""

    name = "animals"
    title = "Image classification without descriptions"
    section = "4.7"
    release = "animals"
    source = (
        f"the paper's was never published; make your own: {ANIMALS_FILE}, a list of {FORMAT}, "
        "and the images of each class in a folder of its name"
    )
    splits = ("test",)

    with_descriptions: ClassVar[bool] = False

    def files(self, few_shot: bool) -> list[str]:
        if not (self.folder / ANIMALS_FILE).is_file():
            return [ANIMALS_FILE]
        return [ANIMALS_FILE, *(animal.name for pair in self._pairs() for animal in pair.animals)]

    def items(self) -> list[Photo]:
        return [
            Photo(f"{animal.name}/{path.name}", animal.name, pair, image_file(path))
            for pair in self._pairs()
            for animal in pair.animals
            for path in image_files(self.folder / animal.name)
        ]

    def request(self, item: Photo, demonstrations: Sequence[Item]) -> Request:
        if self.with_descriptions:
            context = " ".join(f"Description of {animal.name}: {animal.description}" for animal in item.pair.animals)
        else:
            context = ", ".join(animal.name for animal in item.pair.animals) + "."
        text = f"{context} Question: what is the name of {item.pair.category} in the picture? Answer:"
        return Generate(question(text, item.image))

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        return accuracy(
            [replace(item, reference=item.reference.casefold()) for item in items],
            [replace(answer, prediction=answer.prediction.casefold()) for answer in answers],
        )

    def _pairs(self) -> list[Pair]:
        path = self.folder / ANIMALS_FILE
        entries = read_json(path)
        if not isinstance(entries, list):
            raise UserError(f"{path} is not a list of {FORMAT}.")
        return [_pair(entry, f"{path}, entry {number}") for number, entry in enumerate(entries, start=1)]


class AnimalsDescriptions(Animals):
    """The two names and descriptions are in the prompt."""

    name = "animals_descriptions"
    title = "Image classification with descriptions"
    with_descriptions = True


def _pair(entry: Any, where: str) -> Pair:
    category, classes = field(entry, "category", str, where), field(entry, "classes", list, where)
    if len(classes) != 2:
        raise UserError(f"{where} has {len(classes)} classes, not two.")
    first, second = (Animal(field(one, "name", str, where), field(one, "description", str, where)) for one in classes)
    return Pair(category, (first, second))
