"""So much of all documents, chosen by a hash of their text: whatever the number of workers, the same documents.

    read … ─ Candidates ─→ parts    each task passes on what may be chosen, and leaves a list of it
    ChooseSample                    the documents with the smallest hashes of all tasks' lists
    ReadSample                      the chosen documents of the parts

A sample's limit is a number of documents, or of bytes of text. Memory grows with the limit alone, and so do the parts.
"""

import heapq
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document

from kosmos_plugin.curation.pipeline.intermediate import ReadPart, save_array, write_parts
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import Step
from kosmos_plugin.curation.sampling.hashing import place
from kosmos_plugin.errors import UserError

NOT_CHOSEN = "not in the sample"
# A candidate: the hash of its text, its task, its number among the task's candidates, and what it takes of the limit.
_CANDIDATE = np.dtype([("hash", np.uint64), ("task", np.int64), ("number", np.int64), ("cost", np.int64)])


def sample_stages(name: str, read: list, tasks: int, folder: Path, limit: int, unit: str) -> list[Stage]:
    """The stages that choose `limit` `unit` ("documents" or "bytes") of what the steps `read` give in `tasks` tasks.

    `ReadSample(folder)` is the first step of what uses them.
    """
    candidates = Candidates(folder, limit, unit)
    return [
        Stage(name, [*read, candidates, write_parts(folder)], tasks),
        Stage("choose sample", [ChooseSample(folder, tasks, limit, unit)], 1),
    ]


class Candidates(Step):
    """Passes on the documents whose hashes are among the smallest so far that make up the limit."""

    name = "candidates"

    def __init__(self, folder: Path, limit: int, unit: str):
        super().__init__()
        self.folder = str(folder)
        self.limit = limit
        self.unit = unit

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        smallest: list[tuple[int, int, int]] = []  # (-hash, -number, cost): the largest hash comes first
        total = number = 0
        for document in data:
            cost = 1 if self.unit == "documents" else len(document.text.encode("utf-8"))
            heapq.heappush(smallest, candidate := (-place(document.text, "sample"), -number, cost))
            total += cost
            is_one = True
            while total - smallest[0][2] >= self.limit:  # without it too there is enough
                dropped = heapq.heappop(smallest)
                total -= dropped[2]
                is_one = is_one and dropped is not candidate
            if is_one:
                number += 1
                yield document
            else:
                self.count("left out", NOT_CHOSEN)
        rows = [(-hash, rank, -number, cost) for hash, number, cost in smallest]
        save_array(os.path.join(self.folder, f"candidates-{rank}.npy"), np.array(rows, _CANDIDATE))


class ChooseSample(Step):
    """Writes which of each task's candidates are chosen. UserError if there are fewer documents than asked for."""

    name = "choose"

    def __init__(self, folder: Path, tasks: int, limit: int, unit: str):
        super().__init__()
        self.folder = str(folder)
        self.tasks = tasks
        self.limit = limit
        self.unit = unit

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        chosen = np.empty(0, _CANDIDATE)
        for task in range(self.tasks):
            chosen = np.concatenate([chosen, np.load(os.path.join(self.folder, f"candidates-{task}.npy"))])
            chosen = np.sort(chosen, order=["hash", "task", "number"])
            chosen = chosen[np.cumsum(chosen["cost"]) - chosen["cost"] < self.limit]
        if self.unit == "documents" and len(chosen) < self.limit:
            raise UserError(
                f"The sample is to have {self.limit:,} documents, and the input has {len(chosen):,} that can be used. "
                "Ask for fewer, with another --out."
            )
        for task in range(self.tasks):
            numbers = np.sort(chosen["number"][chosen["task"] == task])
            save_array(os.path.join(self.folder, f"chosen-{task}.npy"), numbers)
        yield from ()


class ReadSample(Step):
    """The chosen documents of every `world_size`-th of the parts of `tasks` tasks, from the `rank`-th on."""

    name = "sample"

    def __init__(self, folder: Path, tasks: int):
        super().__init__()
        self.folder = str(folder)
        self.tasks = tasks

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for task in range(rank, self.tasks, world_size):
            chosen = set(np.load(os.path.join(self.folder, f"chosen-{task}.npy")).tolist())
            for number, document in enumerate(ReadPart(Path(self.folder)).run(rank=task)):
                if number in chosen:
                    yield document
                else:
                    self.count("left out", NOT_CHOSEN)
