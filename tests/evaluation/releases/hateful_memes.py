"""A miniature of Meta AI's hateful_memes.zip."""

import json
import random
from pathlib import Path

from tests import tiny


def write_hateful_memes(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write `count` memes per split, every other one hateful."""
    rng = random.Random(seed)
    (folder / "img").mkdir(parents=True)
    number = 1234
    for split in ("train", "dev_seen", "dev_unseen", "test_seen", "test_unseen"):
        records = []
        for label in range(count):
            number += 1
            meme = f"{number:05d}"
            (folder / f"img/{meme}.png").write_bytes(tiny.png(rng))
            record = {"id": meme, "img": f"img/{meme}.png", "label": label % 2, "text": tiny.sentence(rng)}
            records.append(json.dumps(record) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(records))
