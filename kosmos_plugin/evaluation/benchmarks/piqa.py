"""PIQA (§4.8): which of two ways reaches a goal in the physical world.

Release (Bisk et al., 2020): `{train,valid}.jsonl` with goal, sol1 and sol2, 16,113 and 1,838 records, and for each
`{train,valid}-labels.lst` with one line per record, 0 or 1. In the archive physicaliqa-train-dev.zip of the AI2
leaderboard, the same validation set is called dev. The test set has no answers.

The prompt is that of lm-evaluation-harness's `piqa`. Accuracy is by length-normalized likelihood (`acc_norm`), as in
GPT-3 and LLaMA.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmarks.language import LanguageTask, Option, continuations
from kosmos_plugin.evaluation.files import read_text


class Piqa(LanguageTask):
    """PIQA, on its validation set."""

    name = "piqa"
    title = "PIQA"
    release = "piqa"
    source = "train.jsonl, train-labels.lst, valid.jsonl and valid-labels.lst of https://yonatanbisk.com/piqa/data"
    splits = ("valid",)
    training_split = "train"
    unpacked = ("physicaliqa-train-dev",)
    file = "{split}.jsonl"
    fields: ClassVar = {"goal": str, "sol1": str, "sol2": str}
    by_length = True

    def split_file(self, split: str) -> str:
        name = super().split_file(split)
        return self.either(name, "dev.jsonl") if split == "valid" else name

    def split_files(self, split: str) -> list[str]:
        return [self.split_file(split), self._labels(split)]

    def records(self, split: str) -> list[dict[str, Any]]:
        records = super().records(split)
        path = self.folder / self._labels(split)
        labels = read_text(path).split()
        if len(labels) != len(records):
            raise UserError(
                f"{path} has {len(labels):,} labels, and {self.split_file(split)} has {len(records):,} records."
            )
        pairs = zip(records, labels, strict=True)
        return [{**record, "label": label} if isinstance(record, dict) else record for record, label in pairs]

    def _labels(self, split: str) -> str:
        """Name the file of a split's labels."""
        return self.split_file(split).removesuffix(".jsonl") + "-labels.lst"

    def options(self, record: Mapping[str, Any]) -> tuple[Option, ...]:
        return continuations(f"Question: {record['goal']}\nAnswer:", {"0": record["sol1"], "1": record["sol2"]})
