"""Documents with images → WebDataset tars in the two layouts of `data/shards`, with an index beside each.

`metadata["segments"]` of a document puts its text and images in reading order (`page_documents`). A document that is a
part of a page has the text of the whole page in `metadata["page_text"]`, so that all parts are in the same split.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import webdataset
from datatrove.data import Document

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.curation.pipeline.steps import Step
from kosmos_plugin.curation.sampling.hold_out import SPLIT
from kosmos_plugin.data.shard_index import build_index
from kosmos_plugin.image_files import image_extension

# As img2dataset's: 10,000 records of about 10 KB each.
RECORDS_PER_SHARD = 10_000
BYTES_PER_SHARD = 1_000_000_000


def caption_record(document: Document) -> dict[str, bytes]:
    """An image and its caption: KEY.jpg, KEY.txt."""
    (image,) = document.media
    return {image_extension(image.media_bytes): image.media_bytes, "txt": document.text.encode("utf-8")}


def interleaved_record(document: Document) -> dict[str, bytes]:
    """A document's segments, and its numbered images: KEY.json, KEY.0.jpg, KEY.1.png, …"""
    metadata = {"segments": document.metadata["segments"], "id": document.id}
    if url := document.metadata.get("url"):
        metadata["url"] = url
    images = {f"{i}.{image_extension(m.media_bytes)}": m.media_bytes for i, m in enumerate(document.media)}
    return {"json": json.dumps(metadata, ensure_ascii=False).encode("utf-8"), **images}


class WriteShards(Step):
    """Writes the documents of task i to train-{i}-{shard}.tar and valid-{i}-{shard}.tar, in order.

    Args:
        out: The folder of the tars.
        record: Makes the members of a record: extension → bytes.
        first: The number of task 0.
    """

    name = "shards"

    def __init__(self, out: Path, record: Callable[[Document], dict[str, bytes]], first: int = 0):
        super().__init__()
        self.out = out
        self.record = record
        self.first = first

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        writers: dict[str, _ShardWriter] = {}
        with contextlib.ExitStack() as stack:
            for document in data:
                split = document.metadata[SPLIT]
                if split not in writers:
                    writers[split] = stack.enter_context(_ShardWriter(self.out, f"{split}-{self.first + rank:05d}"))
                writers[split].write(self.record(document))
                self.count("kept", f"{split}: documents")
                self.count("kept", f"{split}: images", len(document.media))
                self.count("kept", f"{split}: words", len(document.text.split()))
                yield document


class _ShardWriter:
    """Writes tars one after the other, each atomically. The times and owners of their members are fixed."""

    def __init__(self, folder: Path, prefix: str):
        self.folder = folder
        self.prefix = prefix
        self.shard = -1

    def __enter__(self) -> "_ShardWriter":
        self._open_next()
        return self

    def __exit__(self, *error: object) -> bool | None:
        return self._stack.__exit__(*error)  # type: ignore[arg-type]  # the three arguments of __exit__

    def write(self, record: dict[str, bytes]) -> None:
        if self.records == RECORDS_PER_SHARD or self.bytes >= BYTES_PER_SHARD:
            self._stack.close()
            self._open_next()
        self.bytes += self.tar.write({"__key__": f"{self.records:09d}", **record})
        self.records += 1

    def _open_next(self) -> None:
        self.shard += 1
        self.records = self.bytes = 0
        with contextlib.ExitStack() as stack:
            self.tar = stack.enter_context(_open_tar(self.folder / f"{self.prefix}-{self.shard:03d}.tar"))
            self._stack = stack.pop_all()


@contextlib.contextmanager
def _open_tar(target: Path) -> Iterator[webdataset.TarWriter]:
    """Write a tar atomically, and then its index."""
    with (
        atomic_path(target) as path,
        path.open("wb") as file,
        webdataset.TarWriter(file, encoder=False, mtime=0) as tar,
    ):
        yield tar
    build_index(target)
