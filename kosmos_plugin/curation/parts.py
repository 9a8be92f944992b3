"""What one stage leaves to the next: the documents of each task, as compressed JSON lines."""

from collections.abc import Iterator
from pathlib import Path

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
