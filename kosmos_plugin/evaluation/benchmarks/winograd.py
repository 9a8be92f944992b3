"""The Winograd schema challenge (§4.8), the 273 schemas that language models are measured by: whom a pronoun means.

Release: Davis' collection `WSCollection.xml`: schemas with text (txt1, pron, txt2), two answers and correctAnswer ("A"
or "B", often with a dot). It has grown to 285; the first 273 are what Trinh and Le (2018) and GPT-3 measured.

Partial evaluation, theirs: each answer is put in the pronoun's place, and the likelihood of what follows is compared;
so the context differs between the options, and the continuation does not. The answers are made fit as the harness's
`wsc273` does it: with "'s" for my, his, her, our and their, and with the first word in lower case if that is an article
or pronoun and no full stop is before it. As there, punctuation after the pronoun is a word of its own ("the bottle .").
(The harness has two spaces before the continuation, an oversight that SentencePiece undoes; here there is one.)

There is no training set: demonstrations are other schemas, and a schema's twin may be among them.
"""

import xml.etree.ElementTree as ElementTree
from typing import ClassVar

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmarks.language import LanguageTask, Option, texts

SCHEMAS = 273
POSSESSIVE = ("my", "his", "her", "our", "their")
LOWERED = ("A", "An", "The", "She", "He", "It", "They", "My", "His", "Her", "Their")


class Winograd(LanguageTask):
    name = "winograd"
    title = "Winograd"
    release = "winograd"
    source = "https://cs.nyu.edu/~davise/papers/WinogradSchemas/WSCollection.xml"
    splits = ("test",)
    training_split = "test"
    file = "WSCollection.xml"
    fields: ClassVar = {"txt1": str, "pron": str, "txt2": str, "answers": list, "correctAnswer": str}

    def records(self, split: str) -> list[dict]:
        path = self.folder / self.file
        try:
            schemas = ElementTree.parse(path).getroot().findall("schema")
        except (OSError, ElementTree.ParseError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        return [_record(schema) for schema in schemas[:SCHEMAS]]

    def options(self, record: dict) -> tuple[Option, ...]:
        before, pronoun = record["txt1"], record["pron"]
        contexts = (f"{before} {_fit(answer, pronoun, before)}" for answer in texts(record, "answers", 2))
        return tuple(Option(context, record["txt2"], label) for context, label in zip(contexts, "AB", strict=True))

    def answer(self, record: dict) -> str:
        return record["correctAnswer"]


def _record(schema: ElementTree.Element) -> dict:
    """A schema's texts without line breaks and repeated spaces; None for one that is not there."""
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
    """The answer as it stands in the pronoun's place."""
    if pronoun.lower() in POSSESSIVE:
        answer += "'s"
    first, space, rest = answer.partition(" ")
    if first in LOWERED and not before.endswith("."):
        first = first.lower()
    return first + space + rest
