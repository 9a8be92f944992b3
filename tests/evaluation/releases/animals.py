"""Pairs of animals in the layout of kosmos_plugin/evaluation/benchmarks/animals.py."""

import json
import random
from pathlib import Path

from tests import tiny

PAIRS = [("bird", ("red bird", "Blue Bird")), ("cat", ("old cat", "new cat")), ("dog", ("small dog", "large dog"))]


def write_animals(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write `count` images of six animals."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    entries = [
        {"category": f"the {category}", "classes": [{"name": n, "description": tiny.sentence(rng)} for n in names]}
        for category, names in PAIRS
    ]
    (folder / "animals.json").write_text(json.dumps(entries))
    names = [name for _, of_pair in PAIRS for name in of_pair]
    for number in range(count):
        path = folder / names[number % len(names)] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tiny.png(rng))
