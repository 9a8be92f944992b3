"""What the room's own steps have in common: they count what they see, under the names that reports show."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from kosmos_plugin.curation.inputs import InputFile
from kosmos_plugin.curation.report import label


class Step(PipelineStep):
    """A step of a pipeline: documents in, documents out."""

    type = "kosmos"
    name = "step"

    def count(self, section: str, what: str, number: int = 1) -> None:
        """Add to a count of the report (`report.SECTIONS`)."""
        self.stat_update(label(section, what), value=number)


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
    """Reads a task's share of the input files: every `world_size`-th, from the `rank`-th on."""

    name = "reader"

    def __init__(self, files: Sequence[InputFile]):
        super().__init__()
        self.files = files

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for file in self.files[rank::world_size]:
            yield from self.read(file)

    @abstractmethod
    def read(self, file: InputFile) -> Iterator[Document]:
        """The documents of a file. Counts what it reads and what is broken; a broken file ends where it breaks."""
