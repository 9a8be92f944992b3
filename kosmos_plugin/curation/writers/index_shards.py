"""Indexes beside tars: `TAR.kosmos_index` (`data.shard_index`)."""

import collections
from collections.abc import Iterator, Sequence
from pathlib import Path

from datatrove.data import Document

from kosmos_plugin.curation.pipeline.bad_records import BAD_TARS, BadRecords
from kosmos_plugin.curation.pipeline.checks import require
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.inputs import InputFile
from kosmos_plugin.curation.pipeline.runner import remove_temporaries
from kosmos_plugin.curation.pipeline.steps import DocumentStream, Step
from kosmos_plugin.data.shard_index import INDEX_SUFFIX, Record, build_index, selection_of, tar_records
from kosmos_plugin.data.tar_files import BrokenShard
from kosmos_plugin.image_files import IMAGE_EXTENSIONS

REPLACED = "files that a later one of the same name in the tar replaces"


def tars_of(files: Sequence[InputFile]) -> list[InputFile]:
    """The tars among the input files. UserError if there are none, or if one is not on a local disk."""
    tars = [file for file in files if file.format == "tar"]
    require(len(tars) > 0, f"{files[0].path}: there are no tars among the inputs.")
    require_local(tars)
    return tars


def require_local(tars: Sequence[InputFile]) -> None:
    """Raise a UserError for a tar that has no local folder to write an index to."""
    for tar in tars:
        require(
            "://" not in tar.path, f"{tar.path}: an index is written beside a tar, so it must be in a local folder."
        )


class IndexShards(Step):
    """Writes the index of each tar beside it; broken tars are listed instead.

    An index of selected records is not replaced by one of all records.

    Args:
        tars: The tars of all tasks.
        bad: The folder of the lists of broken tars, one file per task.
        selection: How the records are selected; "" for all of them.
    """

    name = "index"

    def __init__(self, tars: Sequence[InputFile], bad: Path, selection: str = ""):
        super().__init__()
        self.tars = tars
        self.bad = bad
        self.selection = selection

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with BadRecords.written_to(self.bad, rank) as bad:
            for tar in self.tars[rank::world_size]:
                self.count("read", "files")
                if not self.selection and selection_of(tar.path):
                    self.count("left out", "tars that kosmos-prepare captions has filtered: their indexes stay")
                    continue
                try:
                    self.index(tar.path, rank)
                except (BrokenShard, OSError) as error:
                    self.count("left out", BAD_TARS)
                    bad.add(tar.path, None, "broken tar", str(error))
        yield from ()

    def index(self, tar: str, rank: int) -> None:
        """Index a tar. Its records are counted only after all of it has been read."""
        counts: collections.Counter[tuple[str, str]] = collections.Counter()

        def keep(record: Record) -> bool:
            counts["read", "records"] += 1
            try:
                self.check(record)
            except Dropped as error:
                counts["dropped", error.reason] += 1
                return False
            counts["kept", "records"] += 1
            counts["kept", "images"] += sum(name.rpartition(".")[2] in IMAGE_EXTENSIONS for name in record.members)
            return True

        remove_temporaries(Path(tar).parent, f"{Path(tar).name}{INDEX_SUFFIX}")
        records, replaced = tar_records(tar)
        if replaced:
            counts["left out", REPLACED] = len(replaced)
        build_index(tar, list(filter(keep, records)), self.selection)
        for (section, what), number in counts.items():
            self.count(section, what, number)

    def check(self, record: Record) -> None:
        """Raise Dropped for a record to leave out of the index. The base class keeps all of them."""
