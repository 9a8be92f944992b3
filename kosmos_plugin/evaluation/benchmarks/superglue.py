"""BoolQ, CB and COPA of SuperGLUE (§4.8).

Release (Wang et al., 2019; `combined.zip`): the folders BoolQ, CB and COPA, each with train.jsonl and val.jsonl; the
test sets have no answers. The prompts are those of lm-evaluation-harness's `boolq`, `cb` and `copa`; accuracy is by
likelihood, as there.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmarks.language import LanguageTask, Option, continuations
from kosmos_plugin.evaluation.files import shown


class _SuperGlue(LanguageTask):
    """A task of SuperGLUE, on its validation set."""

    release = "superglue"
    source = "the folders BoolQ, CB and COPA of https://dl.fbaipublicfiles.com/glue/superglue/data/v2/combined.zip"
    splits = ("val",)
    training_split = "train"


class BoolQ(_SuperGlue):
    """BoolQ: whether the answer to a question about a passage is yes; 9,427 and 3,270 records.

    The release's questions have no question mark.
    """

    name = "boolq"
    title = "BoolQ"
    file = "BoolQ/{split}.jsonl"
    fields: ClassVar = {"passage": str, "question": str}

    def options(self, record: Mapping[str, Any]) -> tuple[Option, ...]:
        context = f"{record['passage']}\nQuestion: {record['question']}?\nAnswer:"
        return continuations(context, {"no": "no", "yes": "yes"})

    def answer(self, record: Mapping[str, Any]) -> str:
        label = record.get("label")
        if label not in (0, 1):  # False and True equal them; some copies have numbers
            raise UserError(f'"label" must be true or false; it is {shown(label)}.')
        return "yes" if label else "no"


class CB(_SuperGlue):
    """CommitmentBank: whether a hypothesis follows from a text, contradicts it, or neither; 250 and 56 records."""

    name = "cb"
    title = "CB"
    file = "CB/{split}.jsonl"
    words: ClassVar = {"entailment": "True", "contradiction": "False", "neutral": "Neither"}
    fields: ClassVar = {"premise": str, "hypothesis": str}

    def options(self, record: Mapping[str, Any]) -> tuple[Option, ...]:
        question = f"Question: {record['hypothesis']}. True, False, or Neither?"
        return continuations(f"{record['premise']}\n{question}\nAnswer:", self.words)


class COPA(_SuperGlue):
    """COPA: which of two sentences is the cause or the effect of a premise; 400 and 100 records.

    lm-evaluation-harness has two spaces before the continuations, by mistake; SentencePiece makes them one, and here
    there is one. Its `acc_norm` counts one of the two as part of the choice.
    """

    name = "copa"
    title = "COPA"
    file = "COPA/{split}.jsonl"
    connectors: ClassVar = {"cause": "because", "effect": "therefore"}
    fields: ClassVar = {
        "premise": str,
        "choice1": str,
        "choice2": str,
        "question": str,
    }

    def options(self, record: Mapping[str, Any]) -> tuple[Option, ...]:
        if record["question"] not in self.connectors:
            raise UserError(f'"question" must be cause or effect; it is {shown(record["question"])}.')
        premise = record["premise"].strip()[:-1]  # without its full stop
        choices = {label: record[f"choice{number}"] for label, number in (("0", 1), ("1", 2))}
        context = f"{premise} {self.connectors[record['question']]}"
        lowered = {label: choice[:1].lower() + choice[1:] for label, choice in choices.items()}
        return tuple(Option(context, choice, label, len(f" {choice}")) for label, choice in lowered.items())
