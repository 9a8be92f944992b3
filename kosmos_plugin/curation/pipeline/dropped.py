"""What is dropped, and why: the exception for it, and the files of `--keep-dropped`."""

import json
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.writers import JsonlWriter


class Dropped(Exception):
    """A document, or an image of one, cannot be used.

    Attributes:
        reason: Why, as one of a few phrases, so that the report can count it.
        detail: More about this case, or "".
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


def dropped_writer(folder: Path, reason: str | None = None) -> JsonlWriter:
    """datatrove's writer for dropped documents: task i's go to `folder`/{i:05d}.jsonl.zst.

    A line has the document's text, id, media without their bytes, and metadata, whose `filter_reason` says why it was
    dropped. zstd, unlike gzip, stores no time, so the same documents give the same bytes.

    Args:
        folder: The folder of one step of a pipeline; two steps never share one.
        reason: The reason of documents that come without one.
    """

    def as_record(writer: JsonlWriter, document: Document) -> dict[str, Any]:
        if reason is not None:
            document.metadata["filter_reason"] = reason
        record = writer._default_adapter(document)
        # Broken input may hold half a surrogate pair, which no UTF-8 file can.
        return json.loads(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace"))

    return JsonlWriter(str(folder), "${rank}.jsonl", compression="zstd", adapter=as_record)
