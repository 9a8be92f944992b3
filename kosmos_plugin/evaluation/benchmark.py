"""What a benchmark is: a release's items, what the model is asked about each, and how its answers are measured.

A benchmark is one file in `benchmarks/` with a subclass of Benchmark, and its line in the registry there.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.requests import Request


@dataclass(frozen=True)
class Item:
    """An example of a benchmark. `reference` is what its answer is measured against, as plain JSON values.

    It is None where the release keeps the answers to itself (test sets of challenges).
    """

    id: str
    reference: Any


@dataclass(frozen=True)
class Answer:
    """What the model made of an item.

    `prediction`: the generated text, or the label of a choice. Of choices also `labels` and `log_probabilities`, and
    which is the `likeliest` and the `likeliest_by_length`, of which the prediction is one. `prompts`: all that the
    model was asked, with `<image>` for an image. `images`: the names of their files, in order, each once. `rationale`:
    what was generated in the step before, if there was one. `problem`: why the item could not be asked (it is too long
    for the model); then the prediction is empty.
    """

    prediction: str
    prompts: tuple[str, ...]
    images: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    likeliest: str = ""
    likeliest_by_length: str = ""
    rationale: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Scores:
    """`metrics`: name → value in percent (CIDEr and SPICE × 100), the benchmark's headline first.

    `of_items`: the headline's values whose mean it is, one for each item; None where it is no mean (ROC AUC), and then
    `interval` is given. `are_grades`: whether 0 of them is wrong and 1 is right (CIDEr has no such ends).
    """

    metrics: dict[str, float]
    of_items: tuple[float, ...] | None
    interval: tuple[float, float] | None = None
    are_grades: bool = True


class Benchmark(ABC):
    """A benchmark on the files of `folder`, which holds its release untouched."""

    name: ClassVar[str]  # as in `--benchmark`
    title: ClassVar[str]
    section: ClassVar[str]  # of the paper
    release: ClassVar[str]  # the folder of its files within `--data`
    source: ClassVar[str]  # where the files come from, for the error about a missing one
    splits: ClassVar[tuple[str, ...]]  # what can be measured, the paper's first
    shots: ClassVar[tuple[int, ...]] = (0,)  # the paper's numbers of demonstrations
    few_shot: ClassVar[bool] = False  # whether there are demonstrations to draw

    def __init__(self, folder: Path, split: str | None = None):
        self.folder = folder
        self.split = split or self.splits[0]
        if self.split not in self.splits:
            raise UserError(f"{self.name} has the splits {', '.join(self.splits)}, not {self.split!r}.")

    @abstractmethod
    def files(self, few_shot: bool) -> list[str]:
        """The files and folders, relative to `folder`, that the split needs (with demonstrations if `few_shot`)."""

    @abstractmethod
    def items(self) -> list[Item]:
        """All items of the split, in the release's order."""

    def training_items(self) -> list[Item]:
        """Whence demonstrations are drawn, in the release's order."""
        raise NotImplementedError(f"{self.name} has no demonstrations")

    @abstractmethod
    def request(self, item: Item, demonstrations: Sequence[Item]) -> Request:
        """What the model is asked about `item`, after `demonstrations`."""

    @abstractmethod
    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        """The metrics of the answers, one for each item, all with a reference."""

    def submission(self, items: Sequence[Item], answers: Sequence[Answer]) -> tuple[str, Any] | None:
        """(file name, JSON value) in the format of the benchmark's test server, if it has one."""
        return None

    def check_tools(self) -> None:  # noqa: B027 - most need none
        """UserError for a package or program that the metric needs and that is not there, before hours of answering."""

    def check_files(self, few_shot: bool) -> None:
        """UserError that names the release's files that are not there and where they belong."""
        missing = [name for name in self.files(few_shot) if not (self.folder / name).exists()]
        if missing:
            raise UserError(
                f"{self.name}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not in {self.folder}. "
                f"The release: {self.source}"
            )

    def demonstrations(self, item: Item, pool: Sequence[Item], shots: int, seed: int) -> list[Item]:
        """`shots` items of the training set `pool`, drawn for this item alone (§4.8.1), whatever else is evaluated."""
        drawn = random.Random(f"{seed} {self.name} {item.id}").sample(pool, min(shots + 1, len(pool)))
        others = [other for other in drawn if other.id != item.id][:shots]
        if len(others) < shots:
            raise UserError(f"{self.name}: {shots} demonstrations are more than the training set's {len(others)}.")
        return others
