"""The split into training and validation, by hashes of the texts: a share, or the documents with the smallest hashes.

    … ─ HoldOut ─ writer     documents whose split is known go on; those that may be held out go to a file
    ChooseHeldOut            chooses the smallest hashes of all tasks
    ReadHeldOut ─ writer     the documents of the files

A split depends neither on the order of the documents nor on the number of workers, and copies of a text are in the same
split. `metadata["split"]` of a document is "train" or "valid".
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from kosmos_plugin.curation.options import VALID_DOCUMENTS, VALID_SHARE
from kosmos_plugin.curation.pipeline.checks import require
from kosmos_plugin.curation.pipeline.intermediate import ReadIntermediate, save_array, write_intermediate
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import DocumentStream, Step
from kosmos_plugin.curation.sampling.hashing import uniform_hash
from kosmos_plugin.errors import UserError

SPLIT = "split"
# With more tasks, the share of the documents is enough for validation.
_MOST_TASKS = 1000
# A default never holds out more than one document in so many.
_SMALLEST_PART = 10


@dataclass(frozen=True)
class Held:
    """How much is held out.

    Attributes:
        share: A share of the documents.
        documents: The number of texts with the smallest hashes, if these are more than the share.
        is_default: Whether `documents` is at most one in `_SMALLEST_PART`, rather than exact.
    """

    share: float
    documents: int
    is_default: bool = False

    @classmethod
    def of_options(cls, share: float | None, documents: int | None, tasks: int) -> "Held":
        """From --valid-share and --valid-documents, of which one may be given."""
        require(share is None or documents is None, "Give --valid-share or --valid-documents, not both.")
        require(share is None or 0 <= share < 1, f"--valid-share must be at least 0 and less than 1, not {share}.")
        if share is not None:
            return cls(share, 0)
        if documents is not None:
            return cls(0, documents)
        return cls(VALID_SHARE, VALID_DOCUMENTS if tasks <= _MOST_TASKS else 0, is_default=True)


def write_stages(
    name: str,
    read: Sequence[PipelineStep],
    write: Callable[[int], PipelineStep],
    tasks: int,
    folder: Path,
    held: Held,
) -> list[Stage]:
    """Make the stages that write documents to their splits.

    Args:
        name: The name of the first stage.
        read: The steps that read the documents.
        write: Makes the writer, whose first task has the given number.
        tasks: The number of tasks of the first stage.
        folder: The folder of the intermediate files.
        held: How much is held out.
    """
    stages = [Stage(name, [*read, HoldOut(folder, held), write(0)], tasks)]
    if held.documents:
        stages.append(Stage("choose validation", [ChooseHeldOut(folder, tasks, held)], 1))
        stages.append(Stage("write the rest", [ReadHeldOut(folder), write(tasks)], tasks))
    return stages


def _hash(document: Document) -> int:
    """The hash of a document's text; a part of a page has that of the page."""
    return uniform_hash(document.metadata.get("page_text", document.text), "held out")


class HoldOut(Step):
    """Passes on documents whose split is known; writes those that may be among the smallest hashes to a file."""

    name = "hold out"

    def __init__(self, folder: Path, held: Held):
        super().__init__()
        self.folder = folder
        self.held = held

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        smallest: list[int] = []  # a heap of negative hashes: the largest hash comes first
        known: set[int] = set()
        documents = 0
        with write_intermediate(self.folder) as undecided:
            for document in data:
                documents += 1
                hash = _hash(document)
                if self.held.documents and hash not in known:
                    heapq.heappush(smallest, -hash)
                    known.add(hash)
                    if len(smallest) > self.held.documents:
                        known.remove(-heapq.heappop(smallest))
                is_valid = hash < self.held.share * 2**64
                if not is_valid and hash in known:
                    undecided.write(document, rank)
                else:
                    document.metadata[SPLIT] = "valid" if is_valid else "train"
                    yield document
        if self.held.documents:
            save_array(self.folder / f"hashes-{rank}.npy", np.array([documents, *sorted(known)], np.uint64))


class ChooseHeldOut(Step):
    """Chooses the smallest hashes. UserError if there are too few documents for --valid-documents."""

    name = "choose"

    def __init__(self, folder: Path, tasks: int, held: Held):
        super().__init__()
        self.folder = folder
        self.tasks = tasks
        self.held = held

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        documents, hashes = 0, np.empty(0, np.uint64)
        for task in range(self.tasks):
            number, *smallest = np.load(self.folder / f"hashes-{task}.npy")
            documents += int(number)
            hashes = np.unique(np.concatenate([hashes, np.array(smallest, np.uint64)]))
        number = self.held.documents
        if self.held.is_default:
            number = min(number, documents // _SMALLEST_PART, len(hashes) // 2)
        elif documents and (documents <= number or len(hashes) < number):
            raise UserError(
                f"--valid-documents {number}: the input has {min(documents, len(hashes)):,} different documents that "
                "can be used, and some must be left for training. Hold out fewer, with another --out."
            )
        save_array(self.folder / "chosen.npy", hashes[:number])
        yield from ()


class ReadHeldOut(Step):
    """Reads the documents that a task of `HoldOut` wrote to its file, and gives them their split."""

    name = "held out"

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        chosen = set(np.load(self.folder / "chosen.npy").tolist())
        for document in ReadIntermediate(self.folder).run(rank=rank):
            document.metadata[SPLIT] = "valid" if _hash(document) in chosen else "train"
            yield document
