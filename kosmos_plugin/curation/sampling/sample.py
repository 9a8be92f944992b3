"""A sample of documents, chosen by a hash of their text: the same for any number of workers.

    read … ─ Candidates ─→ files    each task passes on and lists the documents that may be chosen
    ChooseSample                    chooses the documents with the smallest hashes in all lists
    ReadSample                      reads the chosen documents from the files

The size of a sample is a number of documents, or of bytes of text. Memory and files grow only with this size.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from kosmos_plugin.curation.pipeline.intermediate import ReadIntermediate, save_array, write_intermediate
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import DocumentStream, Step
from kosmos_plugin.curation.sampling.hashing import uniform_hash
from kosmos_plugin.errors import UserError

NOT_CHOSEN = "not in the sample"
# A candidate: hash of its text, its task, its number among the task's candidates, its size (documents or bytes).
_CANDIDATE = np.dtype([("hash", np.uint64), ("task", np.int64), ("number", np.int64), ("size", np.int64)])


def sample_stages(
    name: str, read: Sequence[PipelineStep], tasks: int, folder: Path, limit: int, unit: str
) -> list[Stage]:
    """Make the stages that choose a sample; `ReadSample(folder, tasks)` reads it.

    Args:
        name: The name of the first stage.
        read: The steps that read the documents.
        tasks: The number of tasks that these steps are split into.
        folder: The folder of the intermediate files.
        limit: The size of the sample in `unit`s.
        unit: "documents" or "bytes" (of text; the last document may exceed the limit).
    """
    candidates = Candidates(folder, limit, unit)
    return [
        Stage(name, [*read, candidates, write_intermediate(folder)], tasks),
        Stage("choose sample", [ChooseSample(folder, tasks, limit, unit)], 1),
    ]


class Candidates(Step):
    """Passes on documents whose hashes are among the smallest so far, enough of them to fill the sample."""

    name = "candidates"

    def __init__(self, folder: Path, limit: int, unit: str):
        super().__init__()
        self.folder = folder
        self.limit = limit
        self.unit = unit

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        smallest: list[tuple[int, int, int]] = []  # a heap of (-hash, -number, size): the largest hash comes first
        total = number = 0
        for document in data:
            size = 1 if self.unit == "documents" else len(document.text.encode("utf-8"))
            heapq.heappush(smallest, candidate := (-uniform_hash(document.text, "sample"), -number, size))
            total += size
            is_candidate = True
            while total - smallest[0][2] >= self.limit:  # enough without the one of the largest hash
                dropped = heapq.heappop(smallest)
                total -= dropped[2]
                is_candidate = is_candidate and dropped is not candidate
            if is_candidate:
                number += 1
                yield document
            else:
                self.count("left out", NOT_CHOSEN)
        rows = [(-hash, rank, -number, size) for hash, number, size in smallest]
        save_array(self.folder / f"candidates-{rank}.npy", np.array(rows, _CANDIDATE))


class ChooseSample(Step):
    """Writes which candidates of each task are chosen. UserError if the input has fewer documents than asked for."""

    name = "choose"

    def __init__(self, folder: Path, tasks: int, limit: int, unit: str):
        super().__init__()
        self.folder = folder
        self.tasks = tasks
        self.limit = limit
        self.unit = unit

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        chosen = np.empty(0, _CANDIDATE)
        for task in range(self.tasks):
            chosen = np.concatenate([chosen, np.load(self.folder / f"candidates-{task}.npy")])
            chosen = np.sort(chosen, order=["hash", "task", "number"])
            chosen = chosen[np.cumsum(chosen["size"]) - chosen["size"] < self.limit]
        if self.unit == "documents" and len(chosen) < self.limit:
            raise UserError(
                f"Cannot sample {self.limit:,} documents: the input has {len(chosen):,} that can be used. Ask for "
                "fewer, with another --out."
            )
        for task in range(self.tasks):
            numbers = np.sort(chosen["number"][chosen["task"] == task])
            save_array(self.folder / f"chosen-{task}.npy", numbers)
        yield from ()


class ReadSample(Step):
    """Reads the chosen documents of the tasks rank, rank + world_size, … of the first stage, which had `tasks`."""

    name = "sample"

    def __init__(self, folder: Path, tasks: int):
        super().__init__()
        self.folder = folder
        self.tasks = tasks

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for task in range(rank, self.tasks, world_size):
            chosen = set(np.load(self.folder / f"chosen-{task}.npy").tolist())
            for number, document in enumerate(ReadIntermediate(self.folder).run(rank=task)):
                if number in chosen:
                    yield document
                else:
                    self.count("left out", NOT_CHOSEN)
