"""kosmos-prepare check: validates tars. Each record must be a document that training can use, with images that decode.

    OUT/bad.jsonl    a line for each bad record, replaced file and broken tar: tar, key, reason, message

check shards ─→ a list of bad records per task ─→ list bad records
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from datatrove.data import Document

from kosmos_plugin.curation.filters.images import FILE_TOO_LARGE, MAX_IMAGE_BYTES, check_decodes
from kosmos_plugin.curation.filters.text import check_text
from kosmos_plugin.curation.options import CheckOptions
from kosmos_plugin.curation.pipeline.bad_records import BAD_FILE, BAD_TARS, BadRecords, JoinBadRecords
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.inputs import InputFile
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import DocumentStream, Step
from kosmos_plugin.curation.readers.json_values import record_metadata
from kosmos_plugin.curation.writers.index_shards import REPLACED, tars_of
from kosmos_plugin.data.documents import BrokenRecord, Image, Text
from kosmos_plugin.data.shard_index import Record, tar_records
from kosmos_plugin.data.shards import caption_document, interleaved_document
from kosmos_plugin.data.tar_files import BrokenShard
from kosmos_plugin.image_files import IMAGE_EXTENSIONS

# Their names both in img2dataset's JSON and in hashlib.
CHECKSUMS = ("sha256", "sha512", "md5")


def stages(run: Run[CheckOptions]) -> list[Stage]:
    """Make the stages of a run. UserError for wrong inputs."""
    tars, bad = tars_of(run.inputs), run.intermediate / "bad"
    return [
        Stage("check shards", [CheckShards(tars, bad, run.options.all_checksums)], len(tars)),
        Stage("list bad records", [JoinBadRecords(bad, run.out / BAD_FILE)], 1),
    ]


class CheckShards(Step):
    """Checks the records of tars and lists the bad ones.

    Args:
        tars: The tars of all tasks.
        bad: The folder of the lists, one file per task.
        all_checksums: Also compare the checksums of images that img2dataset has re-encoded.
    """

    name = "check"

    def __init__(self, tars: Sequence[InputFile], bad: Path, all_checksums: bool):
        super().__init__()
        self.tars = tars
        self.bad = bad
        self.all_checksums = all_checksums

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with BadRecords.written_to(self.bad, rank) as bad:
            for tar in self.tars[rank::world_size]:
                self.count("read", "files")
                try:
                    self._check_tar(tar.path, bad)
                except (BrokenShard, OSError) as error:
                    self.count("left out", BAD_TARS)
                    bad.add(tar.path, None, "broken tar", str(error))
        yield from ()

    def _check_tar(self, tar: str, bad: BadRecords) -> None:
        records, replaced = tar_records(tar)
        for key, name in replaced:
            self.count("left out", REPLACED)
            bad.add(tar, key, "replaced by a later file of the same name", name)
        for record in records:
            self.count("read", "records")
            try:
                self._check(record)
            except BrokenRecord as error:
                self.count("dropped", error.reason)
                bad.add(tar, record.key, error.reason, str(error))
            except Dropped as error:
                self.count("dropped", error.reason)
                bad.add(tar, record.key, error.reason, error.detail)

    def _check(self, record: Record) -> None:
        """Raise Dropped or BrokenRecord for a bad record; count a good one."""
        if record.largest > MAX_IMAGE_BYTES:
            raise Dropped(FILE_TOO_LARGE)
        is_caption = any(name == "txt" or name in IMAGE_EXTENSIONS for name in record.members)
        document = (caption_document if is_caption else interleaved_document)(record)
        _check_texts([s.text for s in document.segments if isinstance(s, Text) and s.in_loss])
        images = [segment.read() for segment in document.segments if isinstance(segment, Image)]
        for number, image in enumerate(images):
            try:
                check_decodes(image)
            except Dropped as error:
                raise Dropped(error.reason, f"image {number}") from None
        if is_caption:
            self._check_checksum(record, images[0])
        layout = "captions" if is_caption else "interleaved"
        self.count("kept", f"{layout}: documents")
        self.count("kept", f"{layout}: images", len(images))

    def _check_checksum(self, record: Record, image: bytes) -> None:
        """Compare an image with the checksum of its download in img2dataset's JSON.

        The JSON has the original size too if img2dataset has decoded the image, to resize or re-encode it.
        """
        metadata = record_metadata(record)
        name = next((name for name in CHECKSUMS if isinstance(metadata.get(name), str)), None)
        if name is None:
            return
        digest = hashlib.new(name, image, usedforsecurity=False).hexdigest()
        if digest == metadata[name].lower():
            self.count("kept", "checksums that match")
        elif metadata.get("original_width") is None or self.all_checksums:
            raise Dropped("checksum that does not match", f"{name} {digest} instead of {metadata[name]}")
        else:
            self.count("left out", "checksums of downloads that were re-encoded")


def _check_texts(in_loss: list[str]) -> None:
    """Raise Dropped if a text in the loss is invalid, or all of them are empty."""
    texts = [text for text in in_loss if text.strip()]
    if not texts:
        raise Dropped("no text to learn from")
    for text in texts:
        check_text(text)
