"""The paper's multimodal chain of thought (§4.5), for `kosmos-evaluate --benchmark chain_of_thought.py:Sentiment`.

The model says what is in the picture, then decides with its own words before the question. The items are those of
sentiment.jsonl, which asks at once.
"""

from collections.abc import Sequence

from reading import READING_PROMPT, SENTIMENT_PROMPT, SENTIMENTS

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.jsonl_benchmark import JsonLines
from kosmos_plugin.evaluation.jsonl_lines import Line
from kosmos_plugin.evaluation.metrics.accuracy import accuracy
from kosmos_plugin.evaluation.requests import Choice, Choose, Generate, Request


class Sentiment(Benchmark[Line]):
    """The sentiment of a picture's words, after reading them."""

    name = "chain_of_thought"
    title = "Sentiment, read first"
    section = "4.5"
    splits = ("test",)
    file_name = "sentiment.jsonl"

    def files(self, few_shot: bool) -> list[str]:
        return [self.file_name]

    def items(self) -> list[Line]:
        return JsonLines(self.folder / self.file_name).items()

    def request(self, item: Line, demonstrations: Sequence[Item]) -> Request:
        picture = item.prompt[0]
        assert isinstance(picture, Image)

        def decide(rationale: str) -> Request:
            prompt = (picture, Text(f"{READING_PROMPT} {rationale.strip()}. {SENTIMENT_PROMPT}"))
            return Choose(tuple(Choice(prompt, f" {text}", text) for text in SENTIMENTS))

        return Generate((picture, Text(READING_PROMPT)), max_new_tokens=8, stop=(".",), then=decide)

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        return accuracy(items, answers)


class ShuffledSentiment(Sentiment):
    """The same with each item given the picture of another one."""

    name = "chain_of_thought_shuffled"
    title = "Sentiment, read first, pictures shuffled"
    file_name = "sentiment_shuffled.jsonl"
