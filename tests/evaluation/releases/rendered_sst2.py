"""A miniature of OpenAI's rendered-sst2.tgz."""

import random
from pathlib import Path

from tests import tiny


def write_rendered_sst2(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write `count` images per split, half of them negative."""
    rng = random.Random(seed)
    for split in ("train", "valid", "test"):
        for number in range(count):
            path = folder / split / ("negative", "positive")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tiny.png(rng))
