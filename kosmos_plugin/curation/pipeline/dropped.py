"""The exception for what is dropped, and the writer for `--keep-dropped`."""

import json
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.writers import JsonlWriter

from kosmos_plugin.errors import UnusableData


class Dropped(UnusableData):
    """A document, or one of its images, cannot be used."""


class DroppedWriter(JsonlWriter):
    """datatrove's writer, for dropped documents: task i's go to `folder`/{i:05d}.jsonl.zst.

    A line has the document's text, id, media without their bytes, and metadata, whose `filter_reason` says why it was
    dropped. zstd, unlike gzip, stores no time, so the same documents give the same bytes.

    Args:
        folder: The folder of one step of a pipeline; two steps never share one.
        reason: The reason for documents that come without one.
    """

    def __init__(self, folder: Path, reason: str | None = None):
        super().__init__(str(folder), "${rank}.jsonl", compression="zstd")
        self.reason = reason

    def write(self, document: Document, rank: int = 0, **kwargs: object) -> None:
        """Write a document to the file of task `rank`."""
        metadata = {"filter_reason": self.reason, **document.metadata}
        text, id, metadata = _encodable([document.text, document.id, metadata])
        super().write(Document(text, id, document.media, metadata), rank, **kwargs)


def _encodable(value: Any) -> Any:
    """A JSON value without half surrogate pairs, which JSON can spell and UTF-8 cannot."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
