"""A miniature of WebSRC_v1.0_train+dev.zip: the content of its folder `release`."""

import csv
import json
import random
from pathlib import Path

from tests import tiny

WEBSITES = (("auto", 1, "dev"), ("auto", 3, "train"), ("sports", 9, "dev"))


def write_websrc(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write `count` questions about two dev websites, two per page, and `count` about one of the training set."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "dataset_split.csv", "w", newline="") as file:
        csv.writer(file).writerows([("domain", "website", "split"), *WEBSITES])
    _write_website(folder, rng, "auto", 1, (count + 1) // 2, ("question", "id", "element_id", "answer_start", "answer"))
    _write_website(folder, rng, "auto", 3, count, ("question", "id", "element_id", "answer_start", "answer"))
    _write_website(folder, rng, "sports", 9, count // 2, ("id", "question", "answer", "element_id", "answer_start"))


def _write_website(folder: Path, rng: random.Random, domain: str, website: int, count: int, columns: tuple) -> None:
    pages = folder / domain / f"{website:02d}" / "processed_data"
    pages.mkdir(parents=True)
    rows = []
    for number in range(count):
        page = f"{website:02d}{number // 2 + 1:05d}"
        if number % 2 == 0:
            name, size = tiny.sentence(rng, (2, 3)), rng.randint(100, 999)
            _write_page(pages / page, rng, name, size)
        rows.append(
            {
                "id": f"{domain[:2]}{page}{number % 2 + 1:05d}",
                "question": ("What is it called?", "How big is it?")[number % 2],
                "answer": (name, f'{size} ""')[number % 2],
                "element_id": (3, 6)[number % 2],
                "answer_start": 0,
            }
        )
    with open(pages.parent / "dataset.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _write_page(page: Path, rng: random.Random, name: str, size: int) -> None:
    html = (
        f'<html tid="0"> <body tid="1"> <div class="entity" tid="2"> <h1 tid="3"> {name} </h1> <img tid="4"/> </div> '
        f'<div tid="5"> <span class="size" tid="6"> {size} "" </span> </div> </body> </html>'
    )
    page.with_suffix(".html").write_text(html)
    page.with_suffix(".txt").write_text(f"{name}\nhttps://example.com/{page.name}")
    page.with_suffix(".json").write_text(json.dumps({"3": {"rect": {"x": 0, "y": 0, "width": 9, "height": 9}}}))
    page.with_suffix(".png").write_bytes(tiny.png(rng))
