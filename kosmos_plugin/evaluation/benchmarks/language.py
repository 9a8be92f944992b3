r"""The text-only benchmarks (§4.8, §4.9.2): continuations of a text, ranked by likelihood.

Of the prompts of §4.8 the paper says only that they have "task instructions" or "demonstration examples". Here they are
those of EleutherAI's lm-evaluation-harness (0.4), which the paper's authors use in other public code (YOCO in unilm).
A checkpoint gets the same accuracy in both. A prompt is a context, one space and a continuation. Demonstrations come
first, each with its right continuation and followed by an empty line, all in one text. A task's accuracy is by
likelihood (`acc` in that harness) or by length-normalized likelihood (`acc_norm`), whichever is usual for it; both are
always reported. `acc_norm` divides by the length of what the harness calls the choice: usually the continuation; in
`winograd` and `winogrande`, where the choices are contexts, the context; in `copa`, the continuation and a space.

If the vocabulary encodes newlines (its `encoding.json`), "\n" and "\n\n" are both one `</line>`. Otherwise a
SentencePiece model with the default normalization (nmt_nfkc) turns newlines and repeated spaces into one space. A model
that keeps white space keeps them.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from kosmos_plugin.data.documents import Text
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import field, read_json_lines, shown
from kosmos_plugin.evaluation.metrics.accuracy import choice_accuracy
from kosmos_plugin.evaluation.requests import Choice, Choose, Prompt, Request

AFTER_DEMONSTRATION = "\n\n"


@dataclass(frozen=True)
class Option:
    """One of the continuations that are ranked."""

    context: str
    continuation: str  # without the space before it
    label: str
    length: int | None = None  # of its Choice: what `acc_norm` divides by

    @property
    def text(self) -> str:
        return f"{self.context} {self.continuation}"


@dataclass(frozen=True)
class Question(Item):
    """A question with its options. The reference is the right one's label."""

    options: tuple[Option, ...]

    @property
    def solved(self) -> str:
        """The context with the right continuation."""
        return next(option.text for option in self.options if option.label == self.reference)

    @property
    def demonstration(self) -> Prompt:
        return (Text(self.solved + AFTER_DEMONSTRATION),)


class RankedText(Benchmark[Question]):
    """A benchmark that ranks texts. A subclass names its file and fields, and makes the options of a record."""

    has_images = False

    file: ClassVar[str]  # of a split's records, with `{split}` for the split's name
    fields: ClassVar[dict[str, type]]  # the fields of a record that its options are made of, with their types
    answer_field: ClassVar[str] = "label"  # the label of the right option, as text or number
    by_length: ClassVar[bool] = False  # whether accuracy is by length-normalized likelihood

    @abstractmethod
    def options(self, record: Mapping[str, Any]) -> tuple[Option, ...]:
        """Make the options of a record.

        Raises:
            UserError: The record is wrong. The caller adds which record it is.
        """

    def answer(self, record: Mapping[str, Any]) -> str:
        """Return the label of the right option.

        Raises:
            UserError: The record is wrong. The caller adds which record it is.
        """
        value = record.get(self.answer_field)
        return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()

    def records(self, split: str) -> list[dict[str, Any]]:
        """Read the records of a split."""
        return read_json_lines(self.folder / self.split_file(split))

    def split_file(self, split: str) -> str:
        """Name the file of a split's records."""
        return self.file.format(split=split)

    def split_files(self, split: str) -> list[str]:
        """List the files of a split."""
        return [self.split_file(split)]

    def files(self, few_shot: bool) -> list[str]:
        return self.split_files(self.split)

    def items(self) -> list[Question]:
        questions = self.questions(self.split)
        for number, question in enumerate(questions, start=1):
            if not all(option.continuation.strip() for option in question.options):
                raise UserError(f"{self.where(self.split, number)}: one of the choices is empty.")
        return questions

    def questions(self, split: str) -> list[Question]:
        """Make a question of each record of a split."""
        return [self._question(record, split, number) for number, record in enumerate(self.records(split), start=1)]

    def where(self, split: str, number: int) -> str:
        """Name a record, for errors."""
        return f"{self.folder / self.split_file(split)}, record {number}"

    def _question(self, record: Any, split: str, number: int) -> Question:
        where = self.where(split, number)
        for name, kind in self.fields.items():
            field(record, name, kind, where)
        try:
            options, answer = self.options(record), self.answer(record)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        labels = [option.label for option in options]
        if answer not in labels:
            found = shown(record.get(self.answer_field))
            raise UserError(f'{where}: "{self.answer_field}" must be one of {", ".join(labels)}; it is {found}.')
        return Question(f"{split}/{number}", answer, options)

    def request(self, item: Question, demonstrations: Sequence[Question]) -> Request:
        choices = (
            Choice((Text(option.context),), f" {option.continuation}", option.label, option.length)
            for option in item.options
        )
        shown = tuple(demonstration.demonstration for demonstration in demonstrations)
        return Choose(tuple(choices), self.by_length, shown)

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        return choice_accuracy(items, answers)


class LanguageTask(RankedText):
    """A task of §4.8: zero-shot, and with 1 and 4 demonstrations."""

    section = "4.8"
    shots = (0, 1, 4)
    few_shot = True
    training_split: ClassVar[str]  # that demonstrations are drawn from

    def files(self, few_shot: bool) -> list[str]:
        training = self.split_files(self.training_split) if few_shot else []
        return list(dict.fromkeys([*super().files(few_shot), *training]))

    def training_items(self) -> list[Question]:
        return self.questions(self.training_split)


def continuations(context: str, by_label: Mapping[str, str]) -> tuple[Option, ...]:
    """Make options that share a context.

    Args:
        context: The text before each continuation.
        by_label: Label → continuation.
    """
    return tuple(Option(context, continuation, label) for label, continuation in by_label.items())


def texts(record: Mapping[str, Any], name: str, count: int) -> list[str]:
    """Return a record's field, a list of `count` texts.

    Raises:
        UserError: The list has another length, or other values.
    """
    found = record[name]
    if len(found) != count or not all(isinstance(text, str) for text in found):
        raise UserError(f'"{name}" must be {count} texts; it is {shown(found)}.')
    return found
