"""Karpathy's splits of COCO and Flickr30k in miniature."""

import json
import random
from pathlib import Path

from tests import tiny

TRAINING = 12  # enough for eight demonstrations


def write_coco(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write `count` images each of test and val, and some of train and restval."""
    rng = random.Random(seed)
    records = []
    for split, subset, number in (
        ("test", "val2014", count),
        ("restval", "val2014", TRAINING // 2),
        ("val", "val2014", count),
        ("train", "train2014", TRAINING),
    ):
        for _ in range(number):
            image_id = 42 + 7 * len(records)
            place = {"filepath": subset, "filename": f"COCO_{subset}_{image_id:012d}.jpg", "cocoid": image_id}
            _write_image(folder / subset / place["filename"], rng)
            records.append({**place, "imgid": len(records), "split": split, **_captions(rng, len(records))})
    _write(folder / "dataset_coco.json", "coco", records)


def write_flickr30k(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write `count` images each of test and val, and some of train."""
    rng = random.Random(seed)
    records = []
    for split, number in (("train", TRAINING), ("test", count), ("val", count)):
        for _ in range(number):
            name = f"{1000092795 + 31 * len(records)}.jpg"
            _write_image(folder / "flickr30k-images" / name, rng)
            records.append({"filename": name, "imgid": len(records), "split": split, **_captions(rng, len(records))})
    _write(folder / "dataset_flickr30k.json", "flickr30k", records)


def _captions(rng: random.Random, image: int) -> dict:
    """Five captions in similar words, as written by people: with capitals, full stops, extra spaces and line breaks."""
    words = tiny.sentence(rng, (6, 10)).capitalize()
    raws = [f"{words}.", f"{words} today. ", f"{words} and\nslowly.", f"The new {words.lower()}.", f"{words} ."]
    first = 5 * image
    sentences = [
        {"raw": raw, "tokens": raw.lower().replace(".", "").split(), "imgid": image, "sentid": first + number}
        for number, raw in enumerate(raws)
    ]
    return {"sentences": sentences, "sentids": [sentence["sentid"] for sentence in sentences]}


def _write_image(path: Path, rng: random.Random) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(tiny.png(rng))


def _write(path: Path, dataset: str, records: list[dict]) -> None:
    path.write_text(json.dumps({"images": records, "dataset": dataset}))
