"""kosmos-prepare check: whether each record of tars is a document that training can use, and its images decode.

    OUT/bad.jsonl    a line for each record that is not, and each tar that is not whole: tar, key, reason, message

check shards ─→ a list of bad records a task ─→ list bad records
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datatrove.data import Document

from kosmos_plugin.curation.filters.captions import MAX_IMAGE_BYTES, undecodable
from kosmos_plugin.curation.pipeline.inputs import InputFile
from kosmos_plugin.curation.pipeline.runner import Run, Stage
from kosmos_plugin.curation.pipeline.steps import Step
from kosmos_plugin.curation.readers.texts import problem_of
from kosmos_plugin.curation.recipes.index import BAD_FILE, BAD_TARS, JoinLines, Lines, about_of, tars_of
from kosmos_plugin.data.documents import BrokenRecord, Image, Text
from kosmos_plugin.data.shard_index import BrokenShard, Record, tar_records
from kosmos_plugin.data.shards import caption_document, interleaved_document
from kosmos_plugin.images import IMAGE_EXTENSIONS
from kosmos_plugin.options import option

# The names that img2dataset's JSON has for them, and hashlib too.
CHECKSUMS = ("sha256", "sha512", "md5")


@dataclass(frozen=True)
class CheckOptions:
    all_checksums: bool = option(
        False, "checksums must fit where img2dataset has encoded the image anew as well; they are of the download"
    )


def check_stages(run: Run) -> list[Stage]:
    """The stages of a run; what is wrong with its inputs is a UserError."""
    options: CheckOptions = run.options
    tars, bad = tars_of(run.inputs), run.parts / "bad"
    return [
        Stage("check shards", [CheckShards(tars, bad, options.all_checksums)], len(tars)),
        Stage("list bad records", [JoinLines(bad, run.out / BAD_FILE)], 1),
    ]


class CheckShards(Step):
    """Checks the records of tars; lines about bad ones go to a file a task in the folder `bad`."""

    name = "check"

    def __init__(self, tars: Sequence[InputFile], bad: Path, all_checksums: bool):
        super().__init__()
        self.tars = tars
        self.bad = bad
        self.all_checksums = all_checksums

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with Lines(self.bad, rank) as bad:
            for tar in self.tars[rank::world_size]:
                self.count("read", "files")
                try:
                    for record in tar_records(tar.path):
                        self.count("read", "records")
                        if problem := self._problem(record):
                            reason, message = problem
                            self.count("dropped", reason)
                            bad.add({"tar": tar.path, "key": record.key, "reason": reason, "message": message})
                except (BrokenShard, OSError) as error:
                    self.count("left out", BAD_TARS)
                    bad.add({"tar": tar.path, "key": None, "reason": "broken tar", "message": str(error)})
        yield from ()

    def _problem(self, record: Record) -> tuple[str, str] | None:
        """What is wrong with a record: (a reason to count, more about it)."""
        if max(size for _, size in record.members.values()) > MAX_IMAGE_BYTES:
            return f"file of more than {MAX_IMAGE_BYTES // 2**20} MiB", ""
        is_caption = any(name == "txt" or name in IMAGE_EXTENSIONS for name in record.members)
        try:
            document = (caption_document if is_caption else interleaved_document)(record)
        except BrokenRecord as error:
            return error.reason, str(error)
        if problem := _problem_of_texts([s.text for s in document.segments if isinstance(s, Text) and s.in_loss]):
            return problem, ""
        images = [segment.read() for segment in document.segments if isinstance(segment, Image)]
        for number, image in enumerate(images):
            if problem := undecodable(image):
                return problem, f"image {number}"
        if is_caption and (problem := self._problem_of_checksum(record, images[0])):
            return problem
        layout = "captions" if is_caption else "interleaved"
        self.count("kept", f"{layout}: documents")
        self.count("kept", f"{layout}: images", len(images))
        return None

    def _problem_of_checksum(self, record: Record, image: bytes) -> tuple[str, str] | None:
        """As `_problem`, by the checksum that img2dataset's JSON has of the download.

        It has that image's size too if it decoded it, which it did to resize it or to encode it anew.
        """
        about = about_of(record)
        name = next((name for name in CHECKSUMS if isinstance(about.get(name), str)), None)
        if name is None:
            return None
        digest = hashlib.new(name, image, usedforsecurity=False).hexdigest()
        if digest == about[name].lower():
            self.count("kept", "checksums that fit")
        elif about.get("original_width") is None or self.all_checksums:
            return "checksum that does not fit", f"{name} {digest} instead of {about[name]}"
        else:
            self.count("left out", "checksums of downloads that were encoded anew")
        return None


def _problem_of_texts(counted: list[str]) -> str | None:
    """What is wrong with the texts of a document that count."""
    if not any(text.strip() for text in counted):
        return "no text to learn from"
    return next(filter(None, (problem_of(text) for text in counted if text.strip())), None)
