"""The interface of a benchmark: the items of a release, the request for each item, and the metric of the answers.

A benchmark of your own is a subclass of Benchmark in a file, for `kosmos-evaluate --benchmark riddles.py:Riddles`:

    from collections.abc import Sequence
    from dataclasses import dataclass

    from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
    from kosmos_plugin.evaluation.files import read_json_lines
    from kosmos_plugin.evaluation.metrics.accuracy import accuracy
    from kosmos_plugin.evaluation.requests import Generate, Request, question

    @dataclass(frozen=True)
    class Riddle(Item):
        text: str

    class Riddles(Benchmark[Riddle]):
        name = "riddles"
        title = "Riddles"
        release = "riddles"  # the folder of its files within --data
        source = "riddles.jsonl of https://example.org/riddles"
        splits = ("test",)

        def files(self, few_shot: bool) -> list[str]:
            return ["riddles.jsonl"]

        def items(self) -> list[Riddle]:
            records = read_json_lines(self.folder / "riddles.jsonl")
            return [Riddle(record["id"], record["answer"], record["text"]) for record in records]

        def request(self, item: Riddle, demonstrations: Sequence[Riddle]) -> Request:
            return Generate(question(f"Riddle: {item.text} Answer:"))

        def score(self, items: Sequence[Riddle], answers: Sequence[Answer]) -> Scores:
            return accuracy(items, answers)

Prompts with their answers or candidates need no class: `--benchmark riddles.jsonl`, see `jsonl_benchmark.py`. In
Python, give a benchmark's instance to `kosmos_plugin.evaluation.run.Run`, as the quickstart does.

To add a benchmark to the package, put its file into `benchmarks/` and list the class in `benchmarks/__init__.py`. Its
tests are a miniature release in `tests/evaluation/releases/` and a snapshot of its prompts.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from kosmos_plugin.errors import UserError, did_you_mean
from kosmos_plugin.evaluation.files import exists, named
from kosmos_plugin.evaluation.requests import Request


@dataclass(frozen=True)
class Item:
    """One example of a benchmark. Each benchmark subclasses it and adds the fields that its prompts need."""

    id: str  # unique within the split
    reference: Any  # the right answer, as JSON values in the form the metric takes; None where it is not public


ItemType = TypeVar("ItemType", bound=Item)


@dataclass(frozen=True)
class Answer:
    """The model's answer to an item."""

    prediction: str  # the generated text, or the label of the chosen choice; "" if there is a problem
    prompts: tuple[str, ...]  # the prompts of all steps, with `<image>` for each image
    images: tuple[str, ...] = ()  # file names of the images, in reading order, each once
    labels: tuple[str, ...] = ()  # of the choices, if there were any
    log_probabilities: tuple[float, ...] = ()  # summed over each choice's continuation
    likeliest: str = ""  # the label with the highest log-probability
    likeliest_by_length: str = ""  # the label with the highest log-probability per character
    rationale: str = ""  # what was generated in the first step of a chain of thought
    problem: str = ""  # why the item could not be asked: it is longer than the model's context


@dataclass(frozen=True)
class Scores:
    """The metrics of a benchmark's answers."""

    metrics: dict[str, float]  # name → value in percent (CIDEr and SPICE × 100), the headline metric first
    # The values whose mean is the headline metric, one per item; None if it is not a mean (ROC AUC).
    per_item: tuple[float, ...] | None
    interval: tuple[float, float] | None = None  # 95%, in percent; computed from `per_item` if None
    are_grades: bool = True  # whether a `per_item` of 0 means wrong and 1 right (False for CIDEr)


class Benchmark(ABC, Generic[ItemType]):
    """A benchmark: reads its release, asks about each item, and scores the answers.

    Args:
        folder: The folder of the release's files, as published.
        split: One of `splits`; default: the first.

    Raises:
        UserError: The benchmark has no such split.
    """

    # Attributes of the class, or, of a benchmark that is read from a file, of the instance.
    name: str  # for `--benchmark`, and the folder of its results
    title: str  # for reports
    section: str = ""  # of the paper; "" if the benchmark is not in it
    release: str = ""  # name of its folder within `--data`; "" if its files are in `--data` itself
    source: str = ""  # where the release can be obtained; shown if a file is missing
    unpacked: ClassVar[tuple[str, ...]] = ()  # folders that its archive unpacks to: the files may be in one of them
    splits: tuple[str, ...]  # splits that can be measured, the default first
    shots: tuple[int, ...] = (0,)  # the default numbers of demonstrations: the paper's
    few_shot: bool = False  # whether `training_items` has demonstrations
    has_images: bool = True  # whether its prompts have images: a text-only model cannot be asked then
    defined_in: tuple[Path, ...] = ()  # the user's files that define it; empty for one of the package

    def __init__(self, folder: Path, split: str | None = None):
        self.folder = folder
        self.split = split or self.splits[0]
        if self.split not in self.splits:
            hint = did_you_mean(self.split, self.splits)
            raise UserError(f"{self.name} has the splits {', '.join(self.splits)}, not {self.split!r}.{hint}")
        self.folder = self._unpacked_folder() or folder

    @abstractmethod
    def files(self, few_shot: bool) -> list[str]:
        """List the files and folders, relative to `folder`, that must exist.

        Args:
            few_shot: Whether demonstrations are needed too.
        """

    @abstractmethod
    def items(self) -> list[ItemType]:
        """Read all items of the split, in the release's order.

        Raises:
            UserError: A file or a record is not in the release's format; the message names it.
        """

    def training_items(self) -> list[ItemType]:
        """Items that few-shot demonstrations are drawn from, in the release's order."""
        raise NotImplementedError(f"{self.name} has no demonstrations")

    @abstractmethod
    def request(self, item: ItemType, demonstrations: Sequence[ItemType]) -> Request:
        """Make the request for an item.

        Args:
            item: One of `items()`.
            demonstrations: Items of `training_items()`; empty for zero-shot.
        """

    @abstractmethod
    def score(self, items: Sequence[ItemType], answers: Sequence[Answer]) -> Scores:
        """Compute the metrics.

        Args:
            items: The items, all with a reference.
            answers: The answer to each item. One with a `problem` has an empty prediction, and counts as wrong.
        """

    def submission(self, items: Sequence[ItemType], answers: Sequence[Answer]) -> tuple[str, str] | None:
        """Return (file name, text) in the format of the benchmark's test server; None if it has no server."""
        return None

    def check_tools(self) -> None:
        """Check that the metric's packages and programs are installed, before hours of inference.

        Raises:
            UserError: One is missing; the message says how to install it.
        """

    def check_files(self, few_shot: bool) -> None:
        """Check that the release's files exist.

        Raises:
            UserError: Some are missing; the message lists them and says where they belong.
        """
        missing = [named(name) for name in self.files(few_shot) if not exists(self.folder / name)]
        if missing:
            are = "is" if len(missing) == 1 else "are"
            release = f" The release: {self.source}" if self.source else ""
            raise UserError(f"{self.name}: {', '.join(missing)} {are} not in {self.folder}.{release}")

    def _unpacked_folder(self) -> Path | None:
        """Return the folder that the release's archive unpacks to, if it exists and the files are not in `folder`."""
        found = [self.folder / name for name in self.unpacked if exists(self.folder / name)]
        try:
            return found[0] if found and not exists(self.folder / self.files(few_shot=False)[0]) else None
        except UserError:  # of a broken file, which `items` names
            return None

    def either(self, *names: str) -> str:
        """Return the first of several names of a file that exists; the first of all if none does."""
        return next((name for name in names if exists(self.folder / name)), names[0])

    def demonstrations(self, item: ItemType, pool: Sequence[ItemType], shots: int, seed: int) -> list[ItemType]:
        """Draw demonstrations for an item (§4.8.1). They depend only on the seed and the item.

        Args:
            item: The item, which is never among its own demonstrations.
            pool: `training_items()`.
            shots: Number of demonstrations to draw.
            seed: Seed of the draw.

        Raises:
            UserError: The pool is too small.
        """
        drawn = random.Random(f"{seed} {self.name} {item.id}").sample(pool, min(shots + 1, len(pool)))
        others = [other for other in drawn if other.id != item.id][:shots]
        if len(others) < shots:
            raise UserError(f"{self.name}: {shots} demonstrations are more than the training set's {len(others)}.")
        return others
