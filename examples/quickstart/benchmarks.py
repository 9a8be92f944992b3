"""Benchmarks defined outside the package: easy-VQA's test images, captioned and named, and drawings of things, named.

Each is measured with the correct images, with wrong images, and with an untrained model.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import corpora
import things
import torch
from records import CAPTION_PROMPT, question_prompt

from kosmos_plugin.data.documents import Image
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import image_file, read_json_lines
from kosmos_plugin.evaluation.metrics.accuracy import accuracy
from kosmos_plugin.evaluation.metrics.captions import caption_metrics, check_caption_tools
from kosmos_plugin.evaluation.plan import file_digest
from kosmos_plugin.evaluation.ranks import Ranks
from kosmos_plugin.evaluation.requests import Generate, Request, question
from kosmos_plugin.evaluation.responder import KosmosResponder
from kosmos_plugin.evaluation.results import Result
from kosmos_plugin.evaluation.run import Run, evaluate
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.models.kosmos import Kosmos

SEED = 1


@dataclass(frozen=True)
class Picture(Item):
    """An image and its reference."""

    image: Image


class Pictures(Benchmark[Picture]):
    """Images of the test split and their names, listed in a file that prepare.py writes."""

    file_name: str
    release = "test"
    source = "prepare.py writes it"
    splits = ("test",)

    def files(self, few_shot: bool) -> list[str]:
        return [self.file_name]

    def items(self) -> list[Picture]:
        return [
            Picture(line["image"], self.reference(line["name"]), image_file(self.folder / line["image"]))
            for line in read_json_lines(self.folder / self.file_name)
        ]

    def reference(self, name: str):
        return name


class ShapeCaptions(Pictures):
    """The paper's protocol for captions (§4.1): "An image of", beam 5, CIDEr."""

    name = "easy_vqa_captions"
    title = "easy-VQA, captions"
    section = "4.1"
    file_name = "shapes.jsonl"

    def reference(self, name: str):
        _, color, form = name.split()
        return [f"a {color} {form}", f"a {form} that is {color}", f"a picture of a {color} {form}"]

    def request(self, item: Picture, demonstrations: Sequence[Item]) -> Request:
        return Generate(question(CAPTION_PROMPT, item.image), num_beams=5, max_new_tokens=16)

    def check_tools(self) -> None:
        check_caption_tools()

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        return caption_metrics(items, answers)


class Names(Pictures):
    """The paper's protocol for classification (§4.6), constrained to all names: beam 2, exact match."""

    section = "4.6"
    prompt: str
    names: tuple[str, ...]

    def request(self, item: Picture, demonstrations: Sequence[Item]) -> Request:
        return Generate(question(self.prompt, item.image), num_beams=2, among=self.names)

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        return accuracy(items, answers)


class ShapeNames(Names):
    name = "easy_vqa_names"
    title = "easy-VQA, name out of 24"
    file_name = "shapes.jsonl"
    prompt = CAPTION_PROMPT
    names = tuple(f"a {color} {form}" for color, form in product(corpora.COLORS, corpora.SHAPES))


class ColoredThings(Names):
    """Things in colors that no drawing of them had in training: "a blue cat" out of all colors of all things."""

    name = "colors"
    title = "Unseen colors, name out of 800"
    file_name = "colors.jsonl"
    prompt = CAPTION_PROMPT
    names = tuple(
        things.with_article(f"{color} {thing}") for color in things.COLORS for thing in things.THINGS.values()
    )


class LineDrawings(Names):
    """Drawings without their colors, asked about; no line drawing is trained on."""

    name = "lines"
    title = "Line drawings, name out of 100"
    file_name = "lines.jsonl"
    prompt = question_prompt("what is this?")
    names = tuple(f"{things.with_article(thing)}." for thing in things.THINGS.values())

    def reference(self, name: str):
        return f"{name}."  # as answers are in training


class OtherArtist(LineDrawings):
    """Twemoji's drawings of the things; none of its drawings is trained on."""

    name = "twemoji"
    title = "Another artist, name out of 100"
    file_name = "artist.jsonl"


BENCHMARKS = (ShapeCaptions, ShapeNames, ColoredThings, LineDrawings, OtherArtist)


def shuffled(kind: type[Pictures]) -> type[Pictures]:
    """The same benchmark, with each item given the image of another one."""

    class Shuffled(kind):
        name = f"{kind.name}_shuffled"
        title = f"{kind.title}, pictures shuffled"

        def items(self) -> list[Picture]:
            items = super().items()
            order = random.Random(SEED).sample(items, len(items))
            others = dict(zip((item.id for item in order), [*order[1:], order[0]], strict=True))
            return [replace(item, image=others[item.id].image) for item in items]

    return Shuffled


def untrained(kosmos: Generator) -> Generator:
    """A model of the same architecture before training."""
    torch.manual_seed(SEED)
    model = Kosmos.build(kosmos.model.config, len(kosmos.vocabulary), kosmos.vocabulary.pad)
    return Generator(model, kosmos.vocabulary, kosmos.sample_builder)


def measure(kosmos: Generator, checkpoint: Path, data: Path, out: Path) -> dict[str, dict[str, Result]]:
    """Benchmark → "own", "shuffled" and "untrained" → result. All answers, and a page for each, go to `out`.

    A benchmark that cannot be measured on this machine (CIDEr needs Java) is skipped; a line says why.
    """
    measured: dict[str, dict[str, Result]] = {}
    for kind in BENCHMARKS:
        try:
            kind(data / kind.release).check_tools()
        except UserError as error:
            print(f"{kind.title}: not measured. {error}")
            continue
        measured[kind.name] = {}
        for way, (benchmark, model) in {
            "own": (kind, kosmos),
            "shuffled": (shuffled(kind), kosmos),
            "untrained": (kind, untrained(kosmos)),
        }.items():
            run = Run(benchmark(data / kind.release), 0, f"{checkpoint}, {way}", file_digest(checkpoint))
            measured[kind.name][way] = evaluate(run, KosmosResponder(model), out / way, batch_size=64, ranks=Ranks())
    return measured
