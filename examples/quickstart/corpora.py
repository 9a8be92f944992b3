"""The quickstart's corpora, read from pip-installed packages, and their splits.

Packages are imported where they are used, so that `prepare.py` can name all missing ones first.
"""

import collections
import hashlib
import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

# ---- Splits ----


def split(items: Iterable, share: float, group: Callable, size: Callable = lambda item: 1) -> dict[str, list]:
    """Split items into {"train": …, "valid": …}; whole groups are held out, by their hashes, up to `share` of all."""
    items = list(items)
    sizes = collections.Counter()
    for item in items:
        sizes[group(item)] += size(item)
    chosen, total = set(), 0
    for key in sorted(sizes, key=lambda key: hashlib.sha256(str(key).encode()).digest()):
        if total >= share * sizes.total():
            break
        chosen.add(key)
        total += sizes[key]
    return {
        "train": [item for item in items if group(item) not in chosen],
        "valid": [item for item in items if group(item) in chosen],
    }


def cut(items: list, sizes: tuple[int, int], rng: random.Random) -> Iterator[list]:
    """Cut `items` into consecutive pieces, with sizes drawn uniformly between the smallest and the largest."""
    start = 0
    while start < len(items):
        size = rng.randint(*sizes)
        yield items[start : start + size]
        start += size


# ---- Text: the standard library's help pages ----


def topics() -> list[tuple[str, str]]:
    """(topic, text) pairs. Long topics repeat short ones; each paragraph is kept once, in the shortest topic."""
    from pydoc_data.topics import topics as pages

    seen, kept = set(), {}
    for topic, page in sorted(pages.items(), key=lambda item: (len(item[1]), item[0])):
        paragraphs = [paragraph.strip() for paragraph in page.split("\n\n")]
        new = [p for p in dict.fromkeys(paragraphs) if p and p not in seen]
        seen.update(new)
        if new:
            kept[topic] = "\n\n".join(new)
    return sorted(kept.items())


# ---- Interleaved documents: easy-VQA ----


def easy_vqa_folder(split: str) -> Path:
    import easy_vqa

    return Path(easy_vqa.__file__).parent / "data" / split


def easy_vqa_questions(split: str, limit: int | None = None) -> dict[int, list[tuple[str, str]]]:
    """Image → its (question, answer) pairs."""
    questions: dict[int, list[tuple[str, str]]] = {}
    for question, answer, image in json.loads((easy_vqa_folder(split) / "questions.json").read_text("utf-8")):
        questions.setdefault(image, []).append((question, answer))
    return dict(itertools.islice(sorted(questions.items()), limit))


COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")


def shape_of(asked: list[tuple[str, str]]) -> str | None:
    """`blue circle`, if an image's questions and answers reveal both, as they do for nine images in ten."""
    true = set()
    for question, answer in asked:
        words = set(re.findall(r"\w+", question))
        denies = bool(words & {"no", "not"})  # "is there not a circle?"
        if answer not in ("yes", "no"):
            true |= words | {answer}
        elif (answer == "yes") != denies:
            true |= words
    colors, shapes = ([word for word in known if word in true] for known in (COLORS, SHAPES))
    return f"{colors[0]} {shapes[0]}" if len(colors) == len(shapes) == 1 else None


def interleaved_documents(
    questions: list[tuple[bytes, list[tuple[str, str]]]],
    questions_per_visit: tuple[int, int],
    images_per_document: tuple[int, int],
    seed: int,
) -> list[list[tuple]]:
    """Documents made of (image, some of its questions) pairs; every question of every image is asked once."""
    rng = random.Random(seed)
    visits = []
    for image, asked in questions:
        shuffled = rng.sample(asked, len(asked))
        visits += [(image, part) for part in cut(shuffled, questions_per_visit, rng)]
    rng.shuffle(visits)
    return list(cut(visits, images_per_document, rng))


def progress(items: list, path: Path) -> Iterable:
    """`items` with a progress bar, named after the last two parts of `path`."""
    from tqdm import tqdm

    return tqdm(items, desc=f"{'/'.join(path.parts[-2:]):<18}", mininterval=0.2)
