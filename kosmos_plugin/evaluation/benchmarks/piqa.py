"""PIQA (§4.8): which of two ways reaches a goal in the physical world.

Release (Bisk et al., 2020): `{train,valid}.jsonl` with goal, sol1 and sol2, 16,113 and 1,838 records, and beside each
`{train,valid}-labels.lst` with a line for each record, 0 or 1. (In the archive physicaliqa-train-dev.zip of the AI2
leaderboard the same validation set is called dev.) The test set has no answers.

The prompt is the harness's `piqa`. Accuracy is by likelihood for length (`acc_norm`), since GPT-3 and LLaMA normalise by
length here.
"""

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
    fields = {"goal": str, "sol1": str, "sol2": str, "label": ("0", "1")}  # noqa: RUF012
    by_length = True

    def files(self, few_shot: bool) -> list[str]:
        splits = (self.split, self.training_split) if few_shot else (self.split,)
        return [name.format(split=split) for split in splits for name in (self.file, LABELS)]

    def records(self, split: str) -> list[dict]:
        records = super().records(split)
        path = self.folder / LABELS.format(split=split)
        try:
            labels = path.read_text(encoding="utf-8").split()
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        if len(labels) != len(records):
            raise UserError(f"{path} has {len(labels):,} labels, and {split}.jsonl has {len(records):,} records.")
        return [record | {"label": label} for record, label in zip(records, labels, strict=True)]

    def options(self, record: dict) -> tuple[Option, ...]:
        return continuations(f"Question: {record['goal']}\nAnswer:", {"0": record["sol1"], "1": record["sol2"]})
