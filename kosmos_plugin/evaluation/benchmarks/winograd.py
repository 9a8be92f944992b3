"""The Winograd schema challenge (§4.8): what a pronoun refers to, in 273 schemas.

Release: Davis' collection `WSCollection.xml`: schemas with text (txt1, pron, txt2), two answers and correctAnswer ("A"
or "B", often with a period). It has grown to 285; Trinh and Le (2018) and GPT-3 measured the first 273.

Their "partial evaluation" is used: each answer replaces the pronoun, and the likelihoods of the rest of the sentence
are compared; so the options differ in their context, not in their continuation. The answers are adapted as in
lm-evaluation-harness's `wsc273`: with "'s" for my, his, her, our and their, and with the first word in lower case if it
is an article or pronoun and does not follow a period. As there, punctuation after the pronoun is a separate word ("the
bottle ."). (That harness has two spaces before the continuation, by mistake; SentencePiece makes them one, and here
there is one.)

There is no training set: demonstrations are other schemas, which may include a schema's twin.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any, ClassVar

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmarks.language import LanguageTask, Option, texts

SCHEMAS = 273
POSSESSIVE = ("my", "his", "her", "our", "their")
LOWERED = ("A", "An", "The", "She", "He", "It", "They", "My", "His", "Her", "Their")


class Winograd(LanguageTask):
    """The Winograd schema challenge."""

    name = "winograd"
    title = "Winograd"
    release = "winograd"
    source = "https://cs.nyu.edu/~davise/papers/WinogradSchemas/WSCollection.xml"
    splits = ("test",)
    training_split = "test"
    file = "WSCollection.xml"
    fields: ClassVar = {"txt1": str, "pron": str, "txt2": str, "answers": list}
    answer_field = "correctAnswer"

    def records(self, split: str) -> list[dict[str, Any]]:
        path = self.folder / self.file
        try:
            schemas = ElementTree.parse(path).getroot().findall("schema")
        except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # of an encoding
            raise UserError(f"{path} cannot be read: {error}.") from None
        return [_record(schema) for schema in schemas[:SCHEMAS]]

    def options(self, record: Mapping[str, Any]) -> tuple[Option, ...]:
        before, pronoun = record["txt1"], record["pron"]
        contexts = [f"{before} {_fit(answer, pronoun, before)}".lstrip() for answer in texts(record, "answers", 2)]
        return tuple(
            Option(context, record["txt2"], label, len(context)) for context, label in zip(contexts, "AB", strict=True)
        )


def _record(schema: ElementTree.Element) -> dict[str, Any]:
    """Collect a schema's texts, with single spaces; None for a missing one."""
    return {
        "txt1": _text(schema.find("text/txt1")),
        "pron": _text(schema.find("text/pron")),
        "txt2": _text(schema.find("text/txt2")),
        "answers": [_text(answer) for answer in schema.findall("answers/answer")],
        "correctAnswer": (_text(schema.find("correctAnswer")) or "").rstrip("."),
    }


def _text(element: ElementTree.Element | None) -> str | None:
    return None if element is None else " ".join((element.text or "").split())


def _fit(answer: str, pronoun: str, before: str) -> str:
    """Adapt an answer to the pronoun's position."""
    if pronoun.lower() in POSSESSIVE:
        answer += "'s"
    first, space, rest = answer.partition(" ")
    if first in LOWERED and not before.endswith("."):
        first = first.lower()
    return first + space + rest
