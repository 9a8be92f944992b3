"""Hateful Memes (§4.3): whether a meme is hate speech, which only its text and image together show.

Release (Meta AI, `hateful_memes.zip`): lines {"id", "img", "label", "text"} in `{train,dev_seen,dev_unseen,test_seen,
test_unseen}.jsonl`; `label` is 1 if hateful; `img` is the image's path, such as `img/01235.png`. The first release had
`dev.jsonl`, today's `dev_seen.jsonl`: the 500 memes that are the validation set of the paper cited for it (arXiv
2005.04790); `dev_unseen` came with the challenge's second phase. So dev_seen is the default. The test splits of early
releases have no labels.

The model sees only the image, not `text`. ROC AUC ranks memes by log P(yes) − log P(no).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kosmos_plugin.data.documents import Image
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import field, image_file, read_json_lines
from kosmos_plugin.evaluation.metrics.accuracy import accuracy
from kosmos_plugin.evaluation.metrics.roc_auc import check_scikit_learn, roc_auc
from kosmos_plugin.evaluation.requests import Choice, Choose, Request, question

logger = logging.getLogger(__name__)

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
    source = "hateful_memes.zip of Meta AI's Hateful Memes Challenge: dev_seen.jsonl and so on, and the folder img"
    splits = ("dev_seen", "dev_unseen", "test_seen", "test_unseen")

    def files(self, few_shot: bool) -> list[str]:
        return [f"{self.split}.jsonl", "img"]

    def items(self) -> list[Meme]:
        path = self.folder / f"{self.split}.jsonl"
        return [self._item(record, f"{path}, record {n}") for n, record in enumerate(read_json_lines(path), start=1)]

    def request(self, item: Meme, demonstrations: Sequence[Item]) -> Request:
        prompt = question(QUESTION, item.image)
        return Choose(tuple(Choice(prompt, f" {label}", label) for label in (HATEFUL, HARMLESS)))

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        if len({item.reference for item in items}) == 1:  # with a small --limit
            logger.warning("ROC AUC is left out: all %d memes have the label %r.", len(items), items[0].reference)
            return accuracy(items, answers)
        area, interval = roc_auc([item.reference == HATEFUL for item in items], [_hatefulness(a) for a in answers])
        return Scores({"ROC AUC": area, **accuracy(items, answers).metrics}, None, interval)

    def check_tools(self) -> None:
        check_scikit_learn()

    def _item(self, record: Any, where: str) -> Meme:
        number, image = field(record, "id", int, where), field(record, "img", str, where)
        if "label" not in record and self.split.startswith("test"):
            reference = None
        elif (label := field(record, "label", int, where)) in (0, 1):
            reference = HATEFUL if label else HARMLESS
        else:
            raise UserError(f'{where}: "label" must be 0 or 1; it is {label}.')
        return Meme(str(number), reference, image_file(self.folder / image))


def _hatefulness(answer: Answer) -> float | None:
    """Return log P(yes) − log P(no); None if the meme was too long for the model."""
    if answer.problem:
        return None
    log_probability = dict(zip(answer.labels, answer.log_probabilities, strict=True))
    return log_probability[HATEFUL] - log_probability[HARMLESS]
