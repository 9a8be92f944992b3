"""Base classes of the pipeline steps. They count what they process, under the names that the report shows."""

import contextlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.inputs import READ_ERRORS, InputFile, OtherForm, is_system_error
from kosmos_plugin.curation.pipeline.report import label, note_label
from kosmos_plugin.errors import UserError

BROKEN_FILES = "the rest of files that are cut short or broken"
_LONGEST_NOTE = 500  # characters

DocumentStream = Iterable[Document] | None  # None for the first step of a pipeline


class Step(PipelineStep):
    """A pipeline step: documents in, documents out."""

    type = "kosmos"
    name = "step"

    def count(self, section: str, what: str, number: int = 1) -> None:
        """Add `number` to a count of the report; `section` is one of `report.SECTIONS`."""
        self.stat_update(label(section, what), value=number)

    def note(self, message: str) -> None:
        """Add a line to the notes of the report."""
        self.stat_update(note_label(" ".join(message.split())[:_LONGEST_NOTE]))

    @contextlib.contextmanager
    def stop_where_broken(self, file: InputFile) -> Iterator[None]:
        """End the reading of a file where it is cut short, damaged or in another form; count that, and note why.

        Errors of the machine, such as a full disk, and UserErrors are raised.
        """
        try:
            yield
        except UserError:
            raise
        except READ_ERRORS as error:
            if is_system_error(error):
                raise
            is_form = isinstance(error, OtherForm)
            self.count("left out", "files of another form" if is_form else BROKEN_FILES)
            self.note(f"{file.path}: {'' if is_form else 'cut short or broken: '}{error or type(error).__name__}")


class Filter(BaseFilter):
    """Drops documents. `filter(document)` returns True, or False and the reason, which the report counts.

    Args:
        exclusion_writer: Writes the dropped documents (`Run.dropped_writer`).
    """

    type = "kosmos"
    name = "filter"

    def __init__(self, exclusion_writer: DiskWriter | None = None):
        super().__init__(exclusion_writer)

    @abstractmethod
    def filter(self, document: Document) -> bool | tuple[bool, str]:
        """True for a document that is kept; False and the reason for one that is dropped."""


class Reader(Step):
    """Reads a task's share of the input files in order: `files_per_task` of them, each until it breaks.

    Args:
        files: All input files.
        exclusion_writer: Writes the records that cannot be used (`Run.dropped_writer`).
    """

    name = "reader"
    files_per_task = 1

    def __init__(self, files: Sequence[InputFile], exclusion_writer: DiskWriter | None = None):
        super().__init__()
        self.files = files
        self.exclusion_writer = exclusion_writer
        self.rank = 0
        self._noted: set[str] = set()  # the reasons that have a note for the file that is being read

    @property
    def tasks(self) -> int:
        """The number of tasks of a stage that starts with this reader."""
        return -(-len(self.files) // self.files_per_task)

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        self.rank = rank
        with self.exclusion_writer or contextlib.nullcontext():
            for file in self.files[rank * self.files_per_task : (rank + 1) * self.files_per_task]:
                self.count("read", "files")
                self._noted.clear()
                with self.stop_where_broken(file):
                    yield from self.read(file)

    @abstractmethod
    def read(self, file: InputFile) -> Iterator[Document]:
        """The documents of a file. Counts what it reads; raises one of READ_ERRORS where the file is broken."""

    @contextlib.contextmanager
    def dropping(self, document: Document) -> Iterator[None]:
        """Count a `Dropped` raised in the block, and write `document`, which holds what is known of the record.

        The first record of a file that is dropped for a reason is noted, if the reason has details.
        """
        try:
            yield
        except Dropped as error:
            self.count("dropped", error.reason)
            if error.detail and error.reason not in self._noted:
                self._noted.add(error.reason)
                self.note(f"{document.id}: {error}")
            if self.exclusion_writer is not None:
                document.metadata["filter_reason"] = error.reason
                self.exclusion_writer.write(document, self.rank)
