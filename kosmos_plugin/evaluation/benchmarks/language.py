"""What the text-only benchmarks (§4.8, §4.9.2) share: continuations of a text, ranked by likelihood.

The paper says of the prompts of §4.8 only that they have "task instructions" or "demonstration examples". Here they are
those of EleutherAI's lm-evaluation-harness (0.4), which the paper's authors use in code of theirs that is public (YOCO
in unilm), so that a checkpoint gets the same accuracy in both: a context, one space, a continuation. Demonstrations,
each with its right continuation and an empty line after it, come first, and all is one text. A task's accuracy is by
likelihood (the harness's `acc`) or by likelihood for length (`acc_norm`), as is usual for it; both are always reported.

A SentencePiece model with the default normalization (nmt_nfkc) makes one space of newlines and of repeated spaces, so
to a KOSMOS with such a vocabulary "\\n" and "\\n\\n" are spaces. One that keeps white space reads them as they are.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from kosmos_plugin.data.documents import Text
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import field, read_json_lines
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
    fields: ClassVar[dict[str, type]]  # what is used of a record
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

    def files_of(self, split: str) -> list[str]:
        return [self.file.format(split=split)]

    def files(self, few_shot: bool) -> list[str]:
        return self.files_of(self.split)

    def items(self) -> list[Question]:
        questions = self.questions(self.split)
        for number, question in enumerate(questions, start=1):
            if not all(option.continuation.strip() for option in question.options):
                raise UserError(f"{self.where(self.split, number)}: one of the choices is empty.")
        return questions

    def questions(self, split: str) -> list[Question]:
        """A question for each record."""
        return [self._question(record, split, number) for number, record in enumerate(self.records(split), start=1)]

    def where(self, split: str, number: int) -> str:
        """Names a record, for errors."""
        return f"{self.folder / self.file.format(split=split)}, record {number}"

    def _question(self, record: Any, split: str, number: int) -> Question:
        where = self.where(split, number)
        for name, kind in self.fields.items():
            field(record, name, kind, where)
        try:
            options = self.options(record)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        answer, labels = self.answer(record), [option.label for option in options]
        if answer not in labels:
            raise UserError(f"{where}: the answer is {answer!r}; it must be one of {', '.join(labels)}.")
        return Question(f"{split}/{number}", answer, options)

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
        training = self.files_of(self.training_split) if few_shot else []
        return list(dict.fromkeys([*super().files(few_shot), *training]))

    def training_items(self) -> list[Question]:
        return self.questions(self.training_split)


def continuations(context: str, by_label: Mapping[str, str]) -> tuple[Option, ...]:
    """Options after one context: label → continuation."""
    return tuple(Option(context, continuation, label) for label, continuation in by_label.items())


def texts(record: Mapping[str, Any], name: str, count: int) -> list[str]:
    """A record's field that is a list of so many texts."""
    found = record[name]
    if len(found) != count or not all(isinstance(text, str) for text in found):
        raise UserError(f'"{name}" must be {count} texts; it is {found!r}.')
    return found
