"""A miniature of the Raven IQ test in the layout of its public copy."""

import random
from pathlib import Path

from tests import tiny


def write_raven_iq(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write `count` matrices of three, four and eight images, each with six candidates."""
    rng = random.Random(seed)
    for number in range(1, count + 1):
        of_matrix = [f"query-{k}.png" for k in range(1, (3, 4, 8)[number % 3] + 1)]
        path = folder / f"exp-{number}"
        path.mkdir(parents=True)
        for name in (*of_matrix, *(f"answer-{letter}.png" for letter in "abcdef")):
            (path / name).write_bytes(tiny.png(rng))
