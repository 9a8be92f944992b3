"""Samples → rows of whole samples → micro-batches of nearly equal work."""

import bisect
from dataclasses import dataclass

from kosmos_plugin.data.samples import Sample


@dataclass(frozen=True)
class PackedRow:
    """A row of the batch: whole samples of one stream, one after the other (the rest is padding)."""

    stream: int
    cross_document_attention: bool
    samples: tuple[Sample, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(sample) for sample in self.samples)

    @property
    def num_images(self) -> int:
        return sum(len(sample.images) for sample in self.samples)


def pack(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: the indices of `lengths` in rows of at most `capacity`.

    Each length, longest first, goes to the fullest row that still has room; ties by index, so the result is a pure
    function of the lengths.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (space left, row), sorted
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        assert lengths[i] <= capacity
        place = bisect.bisect_left(room, (lengths[i], -1))
        if place < len(room):
            space, row = room.pop(place)
        else:
            space, row = capacity, len(rows)
            rows.append([])
        rows[row].append(i)
        bisect.insort(room, (space - lengths[i], row))
    return [sorted(row) for row in rows]


def deal(rows: list[PackedRow], parts: int) -> list[list[PackedRow]]:
    """Deal rows to `parts` micro-batches with numbers of rows that differ by at most one.

    Rows are dealt back and forth in order of images, then tokens, so that both are nearly equal too.
    """
    order = sorted(range(len(rows)), key=lambda i: (-rows[i].num_images, -rows[i].num_tokens, i))
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for turn, i in enumerate(order):
        lap, place = divmod(turn, parts)
        dealt[place if lap % 2 == 0 else parts - 1 - place].append(i)
    return [[rows[i] for i in sorted(part)] for part in dealt]
