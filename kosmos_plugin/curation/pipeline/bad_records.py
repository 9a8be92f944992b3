"""The list of bad records of tars, bad.jsonl: each task writes its lines to a file, and the last stage joins them."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from datatrove.data import Document

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.curation.pipeline.inputs import InputFile
from kosmos_plugin.curation.pipeline.steps import DocumentStream, Step

BAD_FILE = "bad.jsonl"
BAD_TARS = f"tars that are cut short or not tars: see {BAD_FILE}"


@dataclass(frozen=True)
class BadRecords:
    """The lines of one task."""

    file: IO[str]

    @classmethod
    @contextlib.contextmanager
    def written_to(cls, folder: Path, rank: int) -> Iterator["BadRecords"]:
        """Write the lines of task `rank` to a file in `folder`, atomically when the `with` block ends."""
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / f"{rank:05d}.jsonl") as path, path.open("w", encoding="utf-8") as file:
            yield cls(file)

    def add(self, tar: str, key: str | None, reason: str, message: str) -> None:
        """Add a line; `key` is None for a whole tar."""
        self.file.write(json.dumps({"tar": tar, "key": key, "reason": reason, "message": message}) + "\n")


def tars_without_bad(tars: Sequence[InputFile], bad_file: Path) -> list[str]:
    """The paths of the tars that are not in the list of bad ones."""
    bad = {json.loads(line)["tar"] for line in bad_file.read_text(encoding="utf-8").splitlines()}
    return [tar.path for tar in tars if tar.path not in bad]


class JoinBadRecords(Step):
    """Joins the files of all tasks, in the order of the tasks."""

    name = "join"

    def __init__(self, folder: Path, file: Path):
        super().__init__()
        self.folder = folder
        self.file = file

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with atomic_path(self.file) as path, path.open("wb") as joined:
            for part in sorted(self.folder.glob("*.jsonl"), key=lambda part: int(part.stem)):
                with part.open("rb") as lines:
                    shutil.copyfileobj(lines, joined)
        yield from ()
