"""PIQA (§4.8): which of two ways reaches a goal in the physical world.

Release (Bisk et al., 2020): `{train,valid}.jsonl` with goal, sol1 and sol2, 16,113 and 1,838 records, and beside each
`{train,valid}-labels.lst` with a line for each record, 0 or 1. (In the archive physicaliqa-train-dev.zip of the AI2
leaderboard the same validation set is called dev.) The test set has no answers.

The prompt is the harness's `piqa`. Accuracy is by likelihood for length (`acc_norm`): GPT-3 and LLaMA normalize by
length here.
"""

from typing import ClassVar

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmarks.language import LanguageTask, Option, continuations

LABELS = "{split}-labels.lst"


class Piqa(LanguageTask):
    name = "piqa"
    title = "PIQA"
    release = "piqa"
    source = "train.jsonl, train-labels.lst, valid.jsonl and valid-labels.lst of https://yonatanbisk.com/piqa/data"
    splits = ("valid",)
    training_split = "train"
    file = "{split}.jsonl"
    fields: ClassVar = {"goal": str, "sol1": str, "sol2": str, "label": str}
    by_length = True

    def files_of(self, split: str) -> list[str]:
        return [*super().files_of(split), LABELS.format(split=split)]

    def records(self, split: str) -> list[dict]:
        records = super().records(split)
        path = self.folder / LABELS.format(split=split)
        try:
            labels = path.read_text(encoding="utf-8").split()
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        if len(labels) != len(records):
            raise UserError(f"{path} has {len(labels):,} labels, and {split}.jsonl has {len(records):,} records.")
        pairs = zip(records, labels, strict=True)
        return [{**record, "label": label} if isinstance(record, dict) else record for record, label in pairs]

    def options(self, record: dict) -> tuple[Option, ...]:
        return continuations(f"Question: {record['goal']}\nAnswer:", {"0": record["sol1"], "1": record["sol2"]})
