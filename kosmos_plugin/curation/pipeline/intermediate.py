"""Files passed from one stage to the next: documents as compressed JSON lines, or arrays."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from kosmos_plugin.atomic import atomic_path


def write_intermediate(folder: Path) -> JsonlWriter:
    """The step that writes the documents of task i, and their images' bytes if read, for task i of a later stage."""
    return JsonlWriter(str(folder), output_filename="${rank}.jsonl", compression="zstd", save_media_bytes=True)


class ReadIntermediate(JsonlReader):
    """The documents that the task of the same number wrote."""

    def __init__(self, folder: Path):
        super().__init__(str(folder), add_file_path=False)

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        file = f"{rank:05d}.jsonl.zst"
        if self.data_folder.isfile(file):  # a task without documents writes none
            yield from self.read_file(file)


def save_array(target: Path, array: np.ndarray) -> None:
    """Write a .npy file atomically, and its folder if it does not exist."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as path, path.open("wb") as file:
        np.save(file, array)
