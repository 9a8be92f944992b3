"""What the room's own steps have in common: they count what they see, under the names that reports show."""

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from kosmos_plugin.curation.pipeline.inputs import BROKEN, InputFile, is_of_the_machine
from kosmos_plugin.curation.pipeline.report import label
from kosmos_plugin.errors import UserError


class Step(PipelineStep):
    """A step of a pipeline: documents in, documents out."""

    type = "kosmos"
    name = "step"

    def count(self, section: str, what: str, number: int = 1) -> None:
        """Add to a count of the report (`report.SECTIONS`)."""
        self.stat_update(label(section, what), value=number)

    @contextlib.contextmanager
    def until_it_breaks(self, file: InputFile) -> Iterator[None]:
        """Reading a file ends where it is broken: cut short, in transfer or by a full disk, or of another format."""
        try:
            yield
        except UserError:
            raise
        except BROKEN as error:
            if is_of_the_machine(error):
                raise
            self.count("left out", "the rest of files that are cut short or broken")
            logger.warning(f"{file.path}: {type(error).__name__}: {error}")


class Rules(Step):
    """Drops the documents that a rule is against, and counts them by its reason.

    A rule is a function of a document that returns None, or why the document is dropped. It may change the document.
    """

    name = "rules"

    def __init__(self, rules: Sequence[Callable[[Document], str | None]]):
        super().__init__()
        self.rules = rules

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data:
            reason = next(filter(None, (rule(document) for rule in self.rules)), None)
            if reason is None:
                yield document
            else:
                self.count("dropped", reason)


class Reader(Step):
    """Reads a task's share of the input files: `files_per_task` of them, in their order, each until it breaks."""

    name = "reader"
    files_per_task = 1

    def __init__(self, files: Sequence[InputFile]):
        super().__init__()
        self.files = files

    @property
    def tasks(self) -> int:
        """How many tasks a stage that begins with this reader has."""
        return -(-len(self.files) // self.files_per_task)

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for file in self.files[rank * self.files_per_task : (rank + 1) * self.files_per_task]:
            self.count("read", "files")
            with self.until_it_breaks(file):
                yield from self.read(file)

    @abstractmethod
    def read(self, file: InputFile) -> Iterator[Document]:
        """The documents of a file. Counts what it reads; raises what `inputs.BROKEN` has where the file is broken."""
