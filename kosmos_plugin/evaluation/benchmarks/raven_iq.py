"""Raven IQ test (§4.2): which of six images continues a matrix of images.

The model is asked about one candidate at a time; its answer is the one after which "Yes" is the likeliest.

Release: aka.ms/kosmos-iq50, 50 examples. No public description of its archive's layout was found. The layout here is
that of the only public copy of the examples, the folder data/iq50/obo of github.com/ka1319/mllm-nvar (the code of
arXiv 2401.12117):

    exp-N/query-K.png           the matrix row by row, without its last image: K = 1 … 3, 4 or 8
    exp-N/answer-{a,…,f}.png    the candidates; answer-a is right

(`labels.tsv` of that copy numbers the candidates of composite images, where they are in another order.)
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import image_file
from kosmos_plugin.evaluation.metrics.accuracy import accuracy
from kosmos_plugin.evaluation.requests import Choice, Choose, Prompt, Request

NUMBERS = {3: "three", 4: "four", 8: "eight"}
CANDIDATES = "abcdef"
RIGHT = "a"


@dataclass(frozen=True)
class Matrix(Item):
    """A matrix and its candidates. The reference is the right one's letter."""

    images: tuple[Image, ...]
    candidates: tuple[tuple[str, Image], ...]  # (letter, image)


class RavenIq(Benchmark[Matrix]):
    """The Raven IQ test, by the probability of "Yes" for each candidate."""

    name = "raven_iq"
    title = "Raven IQ test"
    section = "4.2"
    release = "raven_iq"
    source = (
        "aka.ms/kosmos-iq50, arranged as in data/iq50/obo of github.com/ka1319/mllm-nvar: the folders exp-1 to exp-50, "
        "each with query-1.png, query-2.png, … and answer-a.png (the right one) to answer-f.png"
    )
    splits = ("test",)

    def files(self, few_shot: bool) -> list[str]:
        return ["exp-1"]

    def items(self) -> list[Matrix]:
        folders = [path for path in self.folder.glob("exp-*") if path.name.removeprefix("exp-").isdecimal()]
        return [self._item(name) for name in sorted((path.name for path in folders), key=_number)]

    def request(self, item: Matrix, demonstrations: Sequence[Item]) -> Request:
        number = NUMBERS[len(item.images)]
        matrix: Prompt = (Text(f"Here are {number} images:"), *item.images, Text("The following image is:"))
        return Choose(
            tuple(Choice((*matrix, image, Text("Is it correct?")), " Yes", letter) for letter, image in item.candidates)
        )

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        return accuracy(items, answers)

    def _item(self, name: str) -> Matrix:
        folder = self.folder / name
        count = len(list(folder.glob("query-*.png")))
        if count not in NUMBERS:
            raise UserError(f"{folder} has {count} query images, query-1.png and so on, not three, four or eight.")
        queries = [folder / f"query-{k}.png" for k in range(1, count + 1)]
        answers = [folder / f"answer-{letter}.png" for letter in CANDIDATES]
        missing = [path.name for path in (*queries, *answers) if not path.is_file()]
        if missing:
            raise UserError(f"{folder} has no {', '.join(missing)}.")
        candidates = list(zip(CANDIDATES, map(image_file, answers), strict=True))
        random.Random(name).shuffle(candidates)  # the first of a tie counts as chosen: it must not always be right
        return Matrix(name, RIGHT, tuple(map(image_file, queries)), tuple(candidates))


def _number(name: str) -> int:
    """Return N of exp-N."""
    return int(name.removeprefix("exp-"))
