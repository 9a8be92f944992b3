"""kosmos-prepare index: an index beside each tar, of all its records. Captions' tars get theirs of chosen ones.

    TAR.index.npz    the index (`data/shards`); a tar that is cut short or no tar gets none
    OUT/bad.jsonl    a line for each tar that has none, and why

filter or index shards ─→ a list of bad tars a task ─→ list shards
"""

import collections
import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datatrove.data import Document

from kosmos_plugin.curation.pipeline.checks import require
from kosmos_plugin.curation.pipeline.inputs import InputFile
from kosmos_plugin.curation.pipeline.runner import Run, Stage
from kosmos_plugin.curation.pipeline.steps import Step
from kosmos_plugin.curation.readers.texts import json_object
from kosmos_plugin.data.shard_index import INDEX_SUFFIX, BrokenShard, Record, build_index, selection_of
from kosmos_plugin.images import IMAGE_EXTENSIONS

BAD_FILE = "bad.jsonl"
BAD_TARS = f"tars that are cut short or no tars: see {BAD_FILE}"


@dataclass(frozen=True)
class IndexOptions:
    """None: an index has no choices."""


def index_stages(run: Run) -> list[Stage]:
    """The stages of a run; what is wrong with its inputs is a UserError."""
    tars = tars_of(run.inputs)
    bad = run.parts / "bad"
    return [
        Stage("index shards", [IndexShards(tars, bad)], len(tars)),
        Stage("list shards", [JoinLines(bad, run.out / BAD_FILE)], 1),
    ]


def tars_of(files: Sequence[InputFile]) -> list[InputFile]:
    """The tars among the input files; UserError if there are none, or if they are not on the disk."""
    tars = [file for file in files if file.format == "tar"]
    require(len(tars) > 0, f"{files[0].path}: there is no tar among the inputs.")
    require_local(tars)
    return tars


def require_local(tars: Sequence[InputFile]) -> None:
    """UserError for a tar that has no folder to write an index to."""
    for tar in tars:
        require(
            "://" not in tar.path, f"{tar.path}: an index is written beside a tar, so it must be in a local folder."
        )


class IndexShards(Step):
    """Writes the index of each tar beside it. Bad tars get none; their lines go to a file a task in the folder `bad`.

    With `against` the index has the records that it returns None of, else why they are dropped; `selection` describes
    it. An index with a selection is not replaced by one without.
    """

    name = "index"

    def __init__(
        self,
        tars: Sequence[InputFile],
        bad: Path,
        against: Callable[[Record], str | None] | None = None,
        selection: str = "",
    ):
        super().__init__()
        self.tars = tars
        self.bad = bad
        self.against = against
        self.selection = selection

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with Lines(self.bad, rank) as bad:
            for tar in self.tars[rank::world_size]:
                self.count("read", "files")
                if not self.selection and selection_of(tar.path):
                    self.count("left out", "tars that kosmos-prepare captions filtered: their indexes stay")
                    continue
                try:
                    self._index(tar.path)
                except (BrokenShard, OSError) as error:
                    self.count("left out", BAD_TARS)
                    bad.add({"tar": tar.path, "key": None, "reason": "broken tar", "message": str(error)})
        yield from ()

    def _index(self, tar: str) -> None:
        """Counts once the whole of the tar was read."""
        counts: collections.Counter = collections.Counter()

        def keep(record: Record) -> bool:
            counts["read", "records"] += 1
            if reason := self.against and self.against(record):
                counts["dropped", reason] += 1
                return False
            counts["kept", "records"] += 1
            counts["kept", "images"] += sum(name.rpartition(".")[2] in IMAGE_EXTENSIONS for name in record.members)
            return True

        for leftover in glob.glob(f"{glob.escape(tar + INDEX_SUFFIX)}.*.tmp"):  # of a run that was killed
            os.remove(leftover)
        build_index(tar, keep, self.selection)
        for (section, what), number in counts.items():
            self.count(section, what, number)


def about_of(record: Record) -> dict:
    """The record's JSON; empty if it has none, or one that nothing else needs and that is broken."""
    return json_object(record.read("json")) if "json" in record.members else {}


class Lines:
    """JSON lines of a task, in a file that has its name once it is whole."""

    def __init__(self, folder: Path, rank: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{rank:05d}.jsonl"

    def __enter__(self) -> "Lines":
        self.file = open(f"{self.path}.part", "w", encoding="utf-8")
        return self

    def add(self, line: dict) -> None:
        self.file.write(json.dumps(line) + "\n")

    def __exit__(self, kind, error, traceback) -> None:
        self.file.close()
        if kind is None:
            os.replace(f"{self.path}.part", self.path)


class JoinLines(Step):
    """Joins the files that the tasks of a stage left in `folder`, in the order of the tasks."""

    name = "join"

    def __init__(self, folder: Path, file: Path):
        super().__init__()
        self.folder = folder
        self.file = file

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        part = f"{self.file}.part"
        with open(part, "wb") as joined:
            for path in sorted(self.folder.glob("*.jsonl"), key=lambda path: int(path.stem)):
                with open(path, "rb") as lines:
                    shutil.copyfileobj(lines, joined)
        os.replace(part, self.file)
        yield from ()
