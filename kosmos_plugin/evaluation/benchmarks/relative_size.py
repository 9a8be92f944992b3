"""RelativeSize (§4.9.2): which of two objects is larger, asked in words alone.

Release (Bagherinezhad et al., 2016): `sizePairsFull.txt`, 486 lines with two of 41 objects each, the larger first, such
as "sofa chair". VaLM's repository has it, by authors of the paper: https://github.com/Victorwz/VaLM (data/object_size).

The prompt is that of Table 15, with the objects' bare names, as VaLM's code has them. As in that code, and so
presumably in the paper, the split `pairs` asks about the release's pairs as they stand: the answer is always "Yes".
What tells a model that knows from one that always agrees is `both_orders`, which asks about each pair in both orders.
"""

from typing import ClassVar

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmarks.language import Option, RankedText, continuations, texts


class RelativeSize(RankedText):
    name = "relative_size"
    title = "RelativeSize"
    section = "4.9.2"
    release = "relative_size"
    source = "sizePairsFull.txt of https://github.com/Victorwz/VaLM (data/object_size)"
    splits = ("pairs", "both_orders")
    file = "sizePairsFull.txt"
    fields: ClassVar = {"objects": list, "answer": str}

    def records(self, split: str) -> list[dict]:
        path = self.folder / self.file
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        pairs = [line.split() for line in lines if line.strip()]
        records = [{"objects": pair, "answer": "Yes"} for pair in pairs]
        if split == "both_orders":
            records += [{"objects": pair[::-1], "answer": "No"} for pair in pairs]
        return records

    def options(self, record: dict) -> tuple[Option, ...]:
        first, second = texts(record, "objects", 2)
        return continuations(f"Is {first} larger than {second}?", {"Yes": "Yes", "No": "No"})

    def answer(self, record: dict) -> str:
        return record["answer"]
