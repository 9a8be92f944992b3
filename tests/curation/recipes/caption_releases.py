"""Caption sets as they are released, and runs of kosmos-prepare captions on them."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from kosmos_plugin.data.documents import Text
from kosmos_plugin.data.shards import ShardedDocuments, caption_document
from kosmos_plugin.errors import UserError
from tests import tiny
from tests.curation.command import prepare


def run(out: Path, *arguments: object) -> dict:
    """Run the command; return its counts."""
    prepare(["captions", *map(str, arguments), "--out", str(out), "--workers", "1"])
    return json.loads((out / "report.json").read_text("utf-8"))["counts"]


def error_of(out: Path, *arguments: object) -> str:
    with pytest.raises(UserError) as raised:
        run(out, *arguments)
    return str(raised.value)


def documents_of(tar: Path) -> list[tuple[bytes, str]]:
    """The (image, caption) pairs that training reads from a shard."""
    documents = ShardedDocuments([str(tar)], caption_document)
    segments = [documents[i].segments for i in range(len(documents))]
    return [(image.read(), text.text) for image, text in segments if isinstance(text, Text)]


def kept(out: Path, split: str = "train") -> list[tuple[bytes, str]]:
    return [pair for tar in sorted(out.glob(f"{split}-*.tar")) for pair in documents_of(tar)]


def encoded(form: str, mode: str = "RGB", size: tuple[int, int] = (40, 30), seed: int = 0, **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    return encoded("JPEG", seed=seed, size=size)


def tsv(folder: Path, pairs: list[tuple[bytes, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "pairs.tsv"
    lines = [f"{n}\t{caption}\t{base64.b64encode(image).decode()}\n" for n, (image, caption) in enumerate(pairs)]
    file.write_text("".join(lines), encoding="utf-8")
    return file


# ---- Miniature releases of the same pairs ----

PAIRS = [(jpeg(number), f"a red house and {number} cats") for number in range(7)]


def about(key: str, caption: str, status: str = "success") -> dict:
    """The metadata that img2dataset stores for a download."""
    fields = {"caption": caption, "url": f"https://example.org/{key}.jpg", "key": key, "status": status}
    return {**fields, "error_message": None, "width": 40, "height": 30, "original_width": 40, "original_height": 30}


def write_tars(folder: Path) -> None:
    """Write the output of img2dataset --output_format webdataset: 00000.tar, with a table and statistics beside it."""
    for shard, pairs in enumerate((PAIRS[:3], PAIRS[3:])):
        members = []
        for number, (image, caption) in enumerate(pairs):
            key = f"{shard:05d}{number:04d}"
            details = json.dumps(about(key, caption), indent=4).encode()
            members += [(f"{key}.jpg", image), (f"{key}.txt", caption.encode()), (f"{key}.json", details)]
        tiny.write_tar(folder / f"{shard:05d}.tar", members)
        write_leftovers(folder, f"{shard:05d}", pairs)


def write_leftovers(folder: Path, name: str, pairs: list) -> None:
    rows = [about(f"{number:09d}", caption) for number, (_, caption) in enumerate(pairs)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{name}.parquet")
    (folder / f"{name}_stats.json").write_text(json.dumps({"count": len(pairs), "successes": len(pairs)}))


def write_files(folder: Path) -> None:
    """Write the output of img2dataset --output_format files; the last caption is only in the JSON."""
    (folder / "00000").mkdir(parents=True)
    for number, (image, caption) in enumerate(PAIRS):
        key = f"{number:09d}"
        (folder / "00000" / f"{key}.jpg").write_bytes(image)
        (folder / "00000" / f"{key}.json").write_text(json.dumps(about(key, caption)))
        if number < len(PAIRS) - 1:
            (folder / "00000" / f"{key}.txt").write_text(caption)
    write_leftovers(folder, "00000", PAIRS)


def write_parquet(folder: Path) -> None:
    """Write the output of img2dataset --output_format parquet, with a row for a failed download."""
    rows = [{**about(f"{n:09d}", caption), "jpg": image, "txt": caption} for n, (image, caption) in enumerate(PAIRS)]
    rows.insert(2, {**about("000000009", "gone", "failed_to_download"), "jpg": None, "txt": None})
    folder.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "00000.parquet", row_group_size=3)
    (folder / "00000_stats.json").write_text("{}")


def write_tsv(folder: Path) -> None:
    """Write TSV as unilm's kosmos-2 reads it: hash, caption, image, width, height, and for GrIT also the objects."""
    folder.mkdir(parents=True)
    lines = [
        f"{n:x}\t{caption}\t{base64.b64encode(i).decode()}\t40\t30\t{{}}\n" for n, (i, caption) in enumerate(PAIRS)
    ]
    (folder / "part-00.tsv").write_text("".join(lines))


def write_coco(folder: Path) -> None:
    """Write COCO's annotations, with two captions for the first image."""
    (folder / "train2014").mkdir(parents=True)
    images, annotations = [], []
    for number, (image, caption) in enumerate(PAIRS[1:]):
        name = f"COCO_train2014_{number:012d}.jpg"
        (folder / "train2014" / name).write_bytes(image)
        images.append({"id": number, "file_name": name, "width": 40, "height": 30, "license": 1})
        annotations.append({"image_id": number, "id": 100 + number, "caption": caption})
    annotations.insert(1, {"image_id": 0, "id": 99, "caption": "another"})
    release = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    (folder / "captions_train2014.json").write_text(json.dumps(release))
