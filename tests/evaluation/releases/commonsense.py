"""The releases of visual commonsense (§4.9.2), in miniature."""

import csv
import itertools
import random
from pathlib import Path

from kosmos_plugin.evaluation.benchmarks.object_color import COLORS
from tests.evaluation.releases.language import write_json_lines

NOUNS = ("river", "mountain", "house", "tree", "car", "boat", "bird", "cat", "dog")
ADJECTIVES = ("small", "large", "round", "old", "new")


def write_relative_size(folder: Path, count: int = 6, seed: int = 0) -> None:
    pairs = random.Random(seed).sample([*itertools.combinations(NOUNS, 2)], count)
    (folder / "sizePairsFull.txt").write_text("".join(f"{larger} {smaller}\n" for larger, smaller in pairs))


def write_memory_color(folder: Path, count: int = 6, seed: int = 0) -> None:
    objects = [
        {
            "descriptor": ("a", "the", "", "the inside of a")[number % 4],
            "item": item,
            "label": color,
            "picture": f"https://example.org/{number}.jpg",
            "picture_path": f"/images/{number}",
        }
        for number, (item, color) in enumerate(_colored(count, seed))
    ]
    write_json_lines(folder / "memory_colors.jsonl", objects)


def write_color_terms(folder: Path, count: int = 6, seed: int = 0) -> None:
    with open(folder / "color-concrete-objects.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["object", "color"])
        writer.writerows(_colored(count, seed))


def _colored(count: int, seed: int) -> list[tuple[str, str]]:
    """Distinct things with their colors, all colors equally often."""
    things = [" ".join(words) for words in itertools.product(ADJECTIVES, NOUNS)]
    return [*zip(random.Random(seed).sample(things, count), itertools.cycle(COLORS), strict=False)]
