"""RelativeSize (§4.9.2): which of two objects is larger, asked in text only.

Release (Bagherinezhad et al., 2016): `sizePairsFull.txt`, 486 lines with two of 41 objects each, the larger first, such
as "sofa chair". It is in VaLM's repository, by authors of the paper: https://github.com/Victorwz/VaLM
(data/object_size).

The prompt is that of Table 15, with the objects' names without an article, as in VaLM's code. As in that code, and so
presumably in the paper, the split `pairs` asks about the pairs in the release's order: the answer is always "Yes". The
split `both_orders` asks about each pair in both orders, which shows whether a model merely always agrees.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from kosmos_plugin.evaluation.benchmarks.language import Option, RankedText, continuations, texts
from kosmos_plugin.evaluation.files import read_text


class RelativeSize(RankedText):
    """RelativeSize, as pairs or in both orders."""

    name = "relative_size"
    title = "RelativeSize"
    section = "4.9.2"
    release = "relative_size"
    source = "sizePairsFull.txt of https://github.com/Victorwz/VaLM (data/object_size)"
    splits = ("pairs", "both_orders")
    file = "sizePairsFull.txt"
    fields: ClassVar = {"objects": list}
    answer_field = "answer"

    def records(self, split: str) -> list[dict[str, Any]]:
        lines = read_text(self.folder / self.file).splitlines()
        pairs = [line.split() for line in lines if line.strip()]
        records = [{"objects": pair, "answer": "Yes"} for pair in pairs]
        if split == "both_orders":
            records += [{"objects": pair[::-1], "answer": "No"} for pair in pairs]
        return records

    def options(self, record: Mapping[str, Any]) -> tuple[Option, ...]:
        first, second = texts(record, "objects", 2)
        return continuations(f"Is {first} larger than {second}?", {"Yes": "Yes", "No": "No"})
