"""Documents with images → WebDataset tars, the two layouts of `data/shards`, with an index beside each.

A document's `metadata["segments"]` says what it is, in reading order: {"text": "…"}, or {"text": "…", "in_loss": false}
for text that is no target, or {"image": i} for `media[i]`, whose `media_bytes` are the encoded image.
`metadata["page_text"]` is the text of the whole page that a document is a part of: all its parts are of one split.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import webdataset
from datatrove.data import Document

from kosmos_plugin.curation.pipeline.steps import Step
from kosmos_plugin.curation.sampling.hashing import split_of
from kosmos_plugin.data.shard_index import build_index

# As img2dataset's: 10,000 records of about 10 KB each.
RECORDS_PER_SHARD = 10_000
BYTES_PER_SHARD = 1_000_000_000


def caption_record(document: Document) -> dict[str, bytes]:
    """An image and its caption: KEY.jpg, KEY.txt."""
    (image,) = document.media
    return {image_ending(image.media_bytes): image.media_bytes, "txt": document.text.encode("utf-8")}


def interleaved_record(document: Document) -> dict[str, bytes]:
    """A document's segments, and its numbered images: KEY.json, KEY.0.jpg, KEY.1.png, …"""
    about = {"segments": document.metadata["segments"], "id": document.id}
    if url := document.metadata.get("url"):
        about["url"] = url
    images = {f"{i}.{image_ending(m.media_bytes)}": m.media_bytes for i, m in enumerate(document.media)}
    return {"json": json.dumps(about, ensure_ascii=False).encode("utf-8"), **images}


def image_ending(data: bytes) -> str:
    """What a file's name ends in, by its first bytes; `jpg` if they say nothing, as decoders go by the bytes."""
    for ending, (offset, magic) in {
        "png": (0, b"\x89PNG"),
        "gif": (0, b"GIF8"),
        "webp": (8, b"WEBP"),
        "bmp": (0, b"BM"),
        "tif": (0, b"II*\0"),
        "tiff": (0, b"MM\0*"),
    }.items():
        if data[offset : offset + len(magic)] == magic:
            return ending
    return "jpg"


class WriteShards(Step):
    """Writes task i's documents to train-{i}-{shard}.tar and valid-{i}-{shard}.tar, in their order."""

    name = "shards"

    def __init__(self, out: Path, record: Callable[[Document], dict[str, bytes]], valid_share: float):
        super().__init__()
        self.out = str(out)
        self.record = record
        self.valid_share = valid_share

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        writers: dict[str, _Shards] = {}
        for document in data:
            split = split_of(document.metadata.get("page_text", document.text), self.valid_share)
            if split not in writers:
                writers[split] = _Shards(os.path.join(self.out, f"{split}-{rank:05d}"))
            writers[split].write(self.record(document))
            self.count("kept", f"{split}: documents")
            self.count("kept", f"{split}: images", len(document.media))
            self.count("kept", f"{split}: words", len(document.text.split()))
            yield document
        for writer in writers.values():
            writer.close()


class _Shards:
    """Tars that have their names when they are whole. Their members' times and owners are fixed."""

    def __init__(self, prefix: str):
        self.prefix = prefix
        self.shard = -1
        self._open_next()

    def write(self, record: dict[str, bytes]) -> None:
        if self.records == RECORDS_PER_SHARD or self.bytes >= BYTES_PER_SHARD:
            self.close()
            self._open_next()
        self.bytes += self.tar.write({"__key__": f"{self.records:09d}", **record})
        self.records += 1

    def _open_next(self) -> None:
        self.shard += 1
        self.records = self.bytes = 0
        self.path = f"{self.prefix}-{self.shard:03d}.tar"
        self.file = open(f"{self.path}.part", "wb")  # noqa: SIM115 - closed by `close`
        self.tar = webdataset.TarWriter(self.file, encoder=False, mtime=0)

    def close(self) -> None:
        self.tar.close()
        self.file.close()
        os.replace(f"{self.path}.part", self.path)
        build_index(self.path)
