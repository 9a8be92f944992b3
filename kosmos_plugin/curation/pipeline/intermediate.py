"""What one stage leaves to the next: the documents of each task, as compressed JSON lines, or arrays."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter


def write_parts(folder: Path) -> JsonlWriter:
    return JsonlWriter(str(folder), output_filename="${rank}.jsonl", compression="zstd")


class ReadPart(JsonlReader):
    """The documents that the task of the same number wrote."""

    def __init__(self, folder: Path):
        super().__init__(str(folder))

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        file = f"{rank:05d}.jsonl.zst"
        if self.data_folder.isfile(file):  # a task without documents writes none
            yield from self.read_file(file)


def save_array(path: str | Path, array: np.ndarray) -> None:
    """A .npy that is either whole or not there; its folder is made."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.part", "wb") as file:
        np.save(file, array)
    os.replace(f"{path}.part", path)
