"""Hateful Memes (§4.3): whether a meme is hate speech, which only its text and image together show.

Release (Meta AI, `hateful_memes.zip`): lines such as

    {"id": "08291", "img": "img/08291.png", "label": 1, "text": …}

in `{train,dev_seen,dev_unseen,test_seen,test_unseen}.jsonl`; `label` is 1 if hateful. Some copies have numbers as ids
(8291). The first release had `dev.jsonl` and `test.jsonl`, today's `dev_seen` and `test_seen`: dev are the 500 memes
that are the validation set of the paper cited for it (arXiv 2005.04790); the unseen splits came with the challenge's
second phase. So dev_seen is the default. The test splits of early releases have no labels.

The model sees only the image, not `text`. ROC AUC ranks memes by log P(yes) − log P(no). A CSV file in the challenge's
format is written too.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kosmos_plugin.data.documents import Image
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import field, identifier, image_file, is_missing, read_json_lines, whole_number
from kosmos_plugin.evaluation.metrics.roc_auc import check_scikit_learn, log_odds, two_choice_roc_auc
from kosmos_plugin.evaluation.requests import Choice, Choose, Request, question

QUESTION = "Question: does this picture contain real hate speech? Answer:"
HATEFUL, HARMLESS = "yes", "no"


@dataclass(frozen=True)
class Meme(Item):
    """A meme. The reference is "yes" or "no"."""

    image: Image


class HatefulMemes(Benchmark[Meme]):
    """Hateful Memes, by the probabilities of "yes" and "no"."""

    name = "hateful_memes"
    title = "HatefulMemes"
    section = "4.3"
    release = "hateful_memes"
    unpacked = ("hateful_memes", "data")
    source = "hateful_memes.zip of Meta AI's Hateful Memes Challenge: dev_seen.jsonl and so on, and the folder img"
    splits = ("dev_seen", "dev_unseen", "test_seen", "test_unseen")

    def files(self, few_shot: bool) -> list[str]:
        return [self._file, "img"]

    def items(self) -> list[Meme]:
        path = self.folder / self._file
        return [self._item(record, f"{path}, record {n}") for n, record in enumerate(read_json_lines(path), start=1)]

    def request(self, item: Meme, demonstrations: Sequence[Item]) -> Request:
        prompt = question(QUESTION, item.image)
        return Choose(tuple(Choice(prompt, f" {label}", label) for label in (HATEFUL, HARMLESS)))

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        return two_choice_roc_auc(items, answers, HATEFUL, HARMLESS)

    def submission(self, items: Sequence[Item], answers: Sequence[Answer]) -> tuple[str, str]:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("id", "proba", "label"))
        for item, answer in zip(items, answers, strict=True):
            hatefulness = log_odds(answer, HATEFUL, HARMLESS)
            probability = 0.5 if hatefulness is None else (1 + math.tanh(hatefulness / 2)) / 2
            writer.writerow((item.id, probability, int(answer.prediction == HATEFUL)))
        return f"hateful_memes_{self.split}_kosmos_results.csv", text.getvalue()

    def check_tools(self) -> None:
        check_scikit_learn()

    @property
    def _file(self) -> str:
        """The split's file. Only the splits that are now called seen were in the first release."""
        seen, _, phase = self.split.partition("_")
        return self.either(f"{self.split}.jsonl", *([f"{seen}.jsonl"] if phase == "seen" else []))

    def _item(self, record: Any, where: str) -> Meme:
        number, image = identifier(record, "id", where), field(record, "img", str, where)
        if is_missing(record, "label") and self.split.startswith("test"):
            reference = None
        elif (label := whole_number(record, "label", where)) in (0, 1):
            reference = HATEFUL if label else HARMLESS
        else:
            raise UserError(f'{where}: "label" must be 0 or 1; it is {label}.')
        return Meme(str(number), reference, image_file(self.folder / image))
