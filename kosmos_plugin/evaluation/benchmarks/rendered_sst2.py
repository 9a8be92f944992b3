"""Rendered SST-2 (§4.3, §4.5): the sentiment of a sentence that is rendered as an image.

Release (OpenAI, `rendered-sst2.tgz`): `{train,valid,test}/{negative,positive}/*.png`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kosmos_plugin.data.documents import Image
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import image_file, image_files
from kosmos_plugin.evaluation.metrics.accuracy import choice_accuracy
from kosmos_plugin.evaluation.requests import Choice, Choose, Generate, Request, question

SENTIMENTS = ("negative", "positive")
QUESTION = "Question: what is the sentiment of the opinion? Answer:"
INTRODUCTION = "Introduce this picture in detail:"


@dataclass(frozen=True)
class Picture(Item):
    """A rendered sentence. The reference is its sentiment."""

    image: Image


class RenderedSst2(Benchmark[Picture]):
    """The sentiment is asked for directly (§4.3)."""

    name = "rendered_sst2"
    title = "Rendered SST-2"
    section = "4.3"
    release = "rendered_sst2"
    unpacked = ("rendered-sst2",)
    source = "rendered-sst2.tgz of OpenAI's CLIP: the folders train, valid and test, each with negative and positive"
    splits = ("test", "valid")

    def files(self, few_shot: bool) -> list[str]:
        return [f"{self.split}/{sentiment}" for sentiment in SENTIMENTS]

    def items(self) -> list[Picture]:
        return [
            Picture(f"{sentiment}/{path.name}", sentiment, image_file(path))
            for sentiment in SENTIMENTS
            for path in image_files(self.folder / self.split / sentiment)
        ]

    def request(self, item: Picture, demonstrations: Sequence[Item]) -> Request:
        return _choose(item, QUESTION)

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        return choice_accuracy(items, answers)


class RenderedSst2ChainOfThought(RenderedSst2):
    """The model first describes the image; then it is asked, with its description in the prompt (§4.5)."""

    name = "rendered_sst2_cot"
    title = "Rendered SST-2, multimodal chain of thought"
    section = "4.5"

    def request(self, item: Picture, demonstrations: Sequence[Item]) -> Request:
        return Generate(
            question(INTRODUCTION, item.image),
            max_new_tokens=128,
            then=lambda rationale: _choose(item, f"{rationale} {QUESTION}".lstrip()),
        )


def _choose(item: Picture, text: str) -> Choose:
    prompt = question(text, item.image)
    return Choose(tuple(Choice(prompt, f" {sentiment}", sentiment) for sentiment in SENTIMENTS))
