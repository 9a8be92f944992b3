"""Damaged releases: whatever a file holds, its benchmark reads it, or says in one line which file is wrong."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.benchmarks import BENCHMARKS
from kosmos_plugin.evaluation.requests import distinct_images
from kosmos_plugin.evaluation.run import Run
from tests.evaluation.releases import write_release

TRIES = 120  # of each benchmark
SECONDS = 2.0  # for one of them, on a busy machine
# One of the benchmarks that read the same files in the same way.
READERS = [
    name
    for name in BENCHMARKS
    if name
    not in (
        "websrc_text",
        "websrc_image",
        "rendered_sst2",
        "rendered_sst2_cot",
        "raven_iq",
        "imagenet",
        "imagenet_constrained",
        "animals_descriptions",
    )
]
VALUES: list[Any] = [
    *(None, True, 0, -1, 7, 3.5, 1e400, float("nan"), 10**30, [], [[]], [None], ["x"], {}, {"x": 1}, {"answer": 1}),
    *("", " ", "x", "7", "\x00", "a\x00b", "é", "\ud800", "../..", "_", "__", "\u2028", "\r\n", "²", "٣", "1e5"),
    *("x" * 5000, "9" * 5000),
]


def replaced(value: Any, rng: random.Random) -> Any:
    """A JSON value with one part, at any depth, replaced by something else or removed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        if rng.random() < 0.1:
            return {key: inner for key, inner in value.items() if key != name}
        return {**value, name: replaced(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        if rng.random() < 0.1:
            return [*value[:place], *value[place + 1 :]]
        return [*value[:place], replaced(value[place], rng), *value[place + 1 :]]
    return rng.choice(VALUES)


def damaged(path: Path, content: bytes, rng: random.Random) -> bytes:
    """The file's content after some damage: to its bytes, its lines, or the values in its JSON."""
    kind = rng.randrange(10)
    if kind < 5 and path.suffix == ".json":
        return json.dumps(replaced(json.loads(content), rng)).encode()
    if kind < 5 and path.suffix == ".jsonl":
        lines = content.decode().splitlines()
        place = rng.randrange(len(lines))
        lines[place] = json.dumps(replaced(json.loads(lines[place]), rng))
        return "\n".join(lines).encode()
    if kind < 5 and path.suffix in (".csv", ".txt", ".lst", ".xml"):
        lines = content.decode("iso-8859-1").splitlines()
        place = rng.randrange(len(lines))
        cells = lines[place].split(",")
        cells[rng.randrange(len(cells))] = str(rng.choice(VALUES))
        lines[place] = ",".join(cells)
        return "\n".join(lines).encode("utf-8", "replace")
    place = rng.randrange(len(content) + 1)
    if kind == 5:
        return content[:place]
    if kind == 6:
        return content[:place] + rng.randbytes(rng.randint(1, 4)) + content[place + rng.randint(0, 4) :]
    if kind == 7:
        return (
            content[:place]
            + rng.choice((b"[" * 100_000, b'"' * 3, b"\x00" * 10, b"\n" * 3, b"<", b"&x;"))
            + content[place:]
        )
    if kind == 8:
        return rng.choice(
            (b"", b"null", b"[]", b"{}", b"7", b'"x"', b"\n", content.decode("iso-8859-1").encode("utf-16"))
        )
    first, second = sorted((place, rng.randrange(len(content) + 1)))
    return content[:first] + content[second:]


def use(name: str, folder: Path, split: str) -> None:
    """Read the benchmark, and make all requests; score answers if there are references."""
    kind = BENCHMARKS[name]
    benchmark = kind(folder, split)
    benchmark.check_files(few_shot=kind.few_shot)
    run = Run(benchmark, min(1, max(benchmark.shots)), "checkpoint", "digest")
    items, request = run.items(), run.requests()
    for item in items:
        for image in distinct_images(request(item)):
            image.read()
    answers = [Answer("x", (), labels=("yes", "no"), log_probabilities=(0.0, -1.0)) for _ in items]
    json.dumps([item.reference for item in items], ensure_ascii=False).encode()
    if name not in ("coco", "flickr30k") and all(item.reference is not None for item in items):
        benchmark.score(items, answers)
    benchmark.submission(items, answers)


def damages(name: str, folder: Path) -> Iterator[Path]:
    """Damage one file after the other, each time undoing the one before; yield the damaged file."""
    rng = random.Random(name)
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".json", ".jsonl", ".csv", ".txt", ".lst", ".xml", ".html")
    ]
    for _ in range(TRIES):
        path = rng.choice(files)
        content = path.read_bytes()
        path.write_bytes(damaged(path, content, rng))
        yield path
        path.write_bytes(content)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_named_in_one_line(name, tmp_path):
    kind = BENCHMARKS[name]
    write_release(tmp_path, kind.release)
    folder = tmp_path / kind.release
    named = 0
    for path in damages(name, folder):
        for split in kind.splits:
            begin = time.monotonic()
            try:
                use(name, folder, split)
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 2000
                assert str(folder) in str(error) or name in str(error)
                named += 1
            assert time.monotonic() - begin < SECONDS, path.read_bytes()[:200]
    assert named > TRIES / 20
