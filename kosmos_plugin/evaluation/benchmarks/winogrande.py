"""Winogrande (§4.8): which of two names or nouns fills a sentence's blank.

Release (Sakaguchi et al., 2020; `winogrande_1.1.zip`): `train_xl.jsonl` and `dev.jsonl` with 40,398 and 1,267 records
that have sentence (its blank is "_"), option1, option2 and answer ("1" or "2"). The test set has no answers.

Partial evaluation, as in `winograd` and in lm-evaluation-harness's `winogrande`: each option fills the blank, and the
likelihoods of the rest of the sentence are compared.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmarks.language import LanguageTask, Option
from kosmos_plugin.evaluation.files import shown


class Winogrande(LanguageTask):
    """Winogrande, on its validation set."""

    name = "winogrande"
    title = "Winogrande"
    release = "winogrande"
    source = (
        "train_xl.jsonl and dev.jsonl of https://storage.googleapis.com/ai2-mosaic/public/winogrande/winogrande_1.1.zip"
    )
    unpacked = ("winogrande_1.1",)
    splits = ("dev",)
    training_split = "train_xl"
    file = "{split}.jsonl"
    fields: ClassVar = {"sentence": str, "option1": str, "option2": str}
    answer_field = "answer"

    def options(self, record: Mapping[str, Any]) -> tuple[Option, ...]:
        before, blank, after = record["sentence"].partition("_")
        if not blank:
            raise UserError(f"its sentence {shown(record['sentence'])} has no blank _.")
        contexts = {label: before + record[f"option{label}"] for label in ("1", "2")}
        return tuple(Option(context, after.strip(), label, len(context)) for label, context in contexts.items())
