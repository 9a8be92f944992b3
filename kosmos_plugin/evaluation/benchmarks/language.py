"""What the text-only benchmarks (§4.8, §4.9.2) share: continuations of a text, ranked by likelihood.

The paper says of the prompts of §4.8 only that they have "task instructions" or "demonstration examples". They are those
of EleutherAI's lm-evaluation-harness (0.4), so that a checkpoint gets the same accuracy here and there: a context, one
space, a continuation. Demonstrations, each with its right continuation and an empty line after it, come first, and all
is one text. A task's accuracy is by likelihood (the harness's `acc`) or by likelihood for length (`acc_norm`), as is
usual for it; both are always reported.

A SentencePiece model with the default normalisation (nmt_nfkc) makes one space of newlines and of repeated spaces, so to
a KOSMOS with such a vocabulary "\\n" and "\\n\\n" are spaces. One that keeps white space reads them as they are.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from kosmos_plugin.data.documents import Text
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import read_json_lines
from kosmos_plugin.evaluation.metrics.accuracy import choice_accuracy
from kosmos_plugin.evaluation.requests import Choice, Choose, Request

AFTER_DEMONSTRATION = "\n\n"


@dataclass(frozen=True)
class Option:
    """`continuation`, without the space before it, as what comes after `context`."""

    context: str
    continuation: str
    label: str

    @property
    def text(self) -> str:
        return f"{self.context} {self.continuation}"


@dataclass(frozen=True)
class Question(Item):
    """The reference is the label of the right option."""

    options: tuple[Option, ...]

    @property
    def solved(self) -> str:
        """The question with its right continuation."""
        return next(option.text for option in self.options if option.label == self.reference)


class RankedText(Benchmark):
    """A subclass says in which file the records of a split are, what a record has, and what its options are."""

    file: ClassVar[str]  # with `{split}` for the split
    # What is used of a record: the field's type, the values that it may have (a tuple), or a list with the types of its
    # elements.
    fields: ClassVar[dict[str, Any]]
    by_length: ClassVar[bool] = False

    @abstractmethod
    def options(self, record: Mapping[str, Any]) -> tuple[Option, ...]:
        """What is ranked. UserError for what is wrong with the record; who calls adds which one it is."""

    def answer(self, record: Mapping[str, Any]) -> str:
        """The label of the right option."""
        return str(record["label"])

    def records(self, split: str) -> list[dict[str, Any]]:
        """The records of a split, with `fields` among others."""
        return read_json_lines(self.folder / self.file.format(split=split))

    def files(self, few_shot: bool) -> list[str]:
        return [self.file.format(split=self.split)]

    def items(self) -> list[Question]:
        return self.questions(self.split)

    def questions(self, split: str) -> list[Question]:
        found = []
        for number, record in enumerate(self.records(split), start=1):
            try:
                _check(record, self.fields)
                options = self.options(record)
                if not all(option.continuation.strip() for option in options):
                    raise UserError("one of the choices is empty.")
            except UserError as error:
                raise UserError(f"{self.folder / self.file.format(split=split)}, record {number}: {error}") from None
            found.append(Question(f"{split}/{number}", self.answer(record), options))
        return found

    def request(self, item: Question, demonstrations: Sequence[Question]) -> Request:
        before = "".join(demonstration.solved + AFTER_DEMONSTRATION for demonstration in demonstrations)
        return Choose(
            tuple(
                Choice((Text(before + option.context),), f" {option.continuation}", option.label)
                for option in item.options
            ),
            self.by_length,
        )

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        return choice_accuracy(items, answers)


class LanguageTask(RankedText):
    """One of §4.8: zero-shot, and after 1 and 4 demonstrations out of `training_split`."""

    section = "4.8"
    shots = (0, 1, 4)
    few_shot = True
    training_split: ClassVar[str]

    def files(self, few_shot: bool) -> list[str]:
        splits = (self.split, self.training_split) if few_shot else (self.split,)
        return list(dict.fromkeys(self.file.format(split=split) for split in splits))

    def training_items(self) -> list[Question]:
        return self.questions(self.training_split)


def continuations(context: str, by_label: Mapping[str, str]) -> tuple[Option, ...]:
    """Options after one context: label → continuation."""
    return tuple(Option(context, continuation, label) for label, continuation in by_label.items())


def _check(record: Any, fields: Mapping[str, Any]) -> None:
    """UserError if a field is missing or has another type or value."""
    if not isinstance(record, dict):
        raise UserError(f"it is {record!r} instead of an object with {', '.join(fields)}.")
    for name, expected in fields.items():
        if name not in record:
            raise UserError(f"it has no {name}; it has {', '.join(map(str, record))}.")
        if not _is_as_expected(record[name], expected):
            raise UserError(f"{name} is {record[name]!r} instead of {_described(expected)}.")


def _is_as_expected(value: Any, expected: Any) -> bool:
    if isinstance(expected, tuple):
        return any(type(value) is type(possible) and value == possible for possible in expected)
    if isinstance(expected, list):
        return isinstance(value, list) and [type(element) for element in value] == expected
    return type(value) is expected


def _described(expected: Any) -> str:
    if isinstance(expected, tuple):
        return " or ".join(map(repr, expected))
    if isinstance(expected, list):
        return f"a list of {len(expected)} ({', '.join(kind.__name__ for kind in expected)})"
    return f"a {expected.__name__}"
