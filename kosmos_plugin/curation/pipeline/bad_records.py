"""The list of bad records of tars, bad.jsonl: each task writes its lines to a file, and the last stage joins them."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.curation.pipeline.steps import DocumentStream, Step

BAD_FILE = "bad.jsonl"
BAD_TARS = f"tars that are cut short or not tars: see {BAD_FILE}"


class BadRecords:
    """The lines of one task. Its file is written atomically, when the `with` block ends."""

    def __init__(self, folder: Path, rank: int):
        self.path = folder / f"{rank:05d}.jsonl"

    def __enter__(self) -> "BadRecords":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            self.file = stack.enter_context(stack.enter_context(atomic_path(self.path)).open("w", encoding="utf-8"))
            self._stack = stack.pop_all()
        return self

    def add(self, tar: str, key: str | None, reason: str, message: str) -> None:
        """Add a line; `key` is None for a whole tar."""
        self.file.write(json.dumps({"tar": tar, "key": key, "reason": reason, "message": message}) + "\n")

    def __exit__(self, *error: object) -> bool | None:
        return self._stack.__exit__(*error)  # type: ignore[arg-type]  # the three arguments of __exit__


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
