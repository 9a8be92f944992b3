"""HellaSwag (§4.8): which of four endings completes a description of an activity.

Release (Zellers et al., 2019): `hellaswag_{train,val}.jsonl`, with 39,905 and 10,042 records that have, among others,
activity_label, ctx_a, ctx_b (the start of the last sentence, or empty), endings and label (0 … 3). The test set
has no answers.

Text is preprocessed as in lm-evaluation-harness's `hellaswag`: ctx_b gets a capital first letter (and the rest of it
lower case), and WikiHow's marks such as "[step]" are removed. Accuracy is by length-normalized likelihood (`acc_norm`),
as is usual.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from kosmos_plugin.evaluation.benchmarks.language import LanguageTask, Option, continuations, texts


class HellaSwag(LanguageTask):
    """HellaSwag, on its validation set."""

    name = "hellaswag"
    title = "HellaSwag"
    release = "hellaswag"
    source = "hellaswag_train.jsonl and hellaswag_val.jsonl of https://github.com/rowanz/hellaswag (data)"
    splits = ("val",)
    training_split = "train"
    file = "hellaswag_{split}.jsonl"
    fields: ClassVar = {
        "activity_label": str,
        "ctx_a": str,
        "ctx_b": str,
        "endings": list,
    }
    by_length = True

    def options(self, record: Mapping[str, Any]) -> tuple[Option, ...]:
        context = _prepared(f"{record['activity_label']}: {record['ctx_a']} {record['ctx_b'].capitalize()}")
        endings = texts(record, "endings", 4)
        return continuations(context, {str(label): _prepared(ending) for label, ending in enumerate(endings)})


def _prepared(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return "\n".join(map(_without_marks, text.split("\n"))).replace("  ", " ")


def _without_marks(line: str) -> str:
    # Behind the last "]" nothing matches; searching there would take time with the square of the number of "[".
    marked, bracket, rest = line.rpartition("]")
    return re.sub(r"\[.*?\]", "", marked + bracket) + rest
