"""Samples → rows of whole samples → micro-batches of nearly equal work."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from kosmos_plugin.data.samples import Sample


@dataclass(frozen=True)
class PackedRow:
    """A row of the batch: whole samples of one stream, one after the other, then padding."""

    stream: int  # index in the data YAML
    cross_document_attention: bool  # whether its documents attend to each other
    samples: tuple[Sample, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(sample) for sample in self.samples)

    @property
    def num_images(self) -> int:
        return sum(len(sample.images) for sample in self.samples)


@dataclass(frozen=True)
class PlannedRow:
    """A row before its samples are read."""

    stream: int  # index in the data YAML
    samples: np.ndarray  # int64 [samples, 4]: the corpus of each, its number there, its tokens and its images
    num_tokens: int
    num_images: int


Row = TypeVar("Row", PackedRow, PlannedRow)


# The slacks to try, as fractions of a row. Captions, which are all short, need only the first.
_SLACKS = (0.0, 1 / 128, 1 / 64, 1 / 32)


def pack(lengths: list[int], capacity: int) -> list[list[int]]:
    """Pack samples into few rows, by a heuristic.

    Each row starts with the longest sample left. Then lengths are tried, longest first, until some of them fill the row
    to within a slack, and the best fill is taken (subset sums). Short samples fill gaps and are worth keeping for the
    last rows, where otherwise only long ones would be left: the slack weighs one against the other, and several are
    tried. The result is a pure function of the lengths.

    Args:
        lengths: Tokens of each sample, each at most `capacity`.
        capacity: Tokens of a row.

    Returns:
        For each row, the indices of its samples in ascending order.

    Source:
        Minimum bin slack, Gupta & Ho 1999.
    """
    assert all(0 < length <= capacity for length in lengths)
    best: list[list[int]] = []
    for slack in _SLACKS:
        rows = _fill_rows(lengths, capacity, round(slack * capacity))
        best = min(best or rows, rows, key=len)
        if len(best) * capacity < sum(lengths) + capacity:  # no packing has fewer rows
            break
    return best


def _fill_rows(lengths: list[int], capacity: int, slack: int) -> list[list[int]]:
    left: dict[int, list[int]] = {}  # length → indices of the samples left, of which the last is taken first
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], -i)):
        left.setdefault(lengths[i], []).append(i)
    rows = []
    while left:
        first = next(iter(left))
        chosen = [first, *_fill({**left, first: left[first][1:]}, capacity - first, slack)]
        rows.append(sorted(left[length].pop() for length in chosen))
        left = {length: indices for length, indices in left.items() if indices}
    return rows


def _fill(left: dict[int, list[int]], room: int, slack: int) -> list[int]:
    """Choose lengths that together fill `room` to within `slack` or, if none do, as far as any can.

    Bit s of `sums[k]` says whether some of the first k lengths tried add up to s.
    """
    tried: list[int] = []
    sums, within = [1], (1 << room + 1) - 1
    candidates = ([length] * min(len(indices), room // length) for length, indices in left.items())
    for length in itertools.chain.from_iterable(candidates):
        if sums[-1] >> max(room - slack, 0):
            break
        sums.append((sums[-1] | sums[-1] << length) & within)
        tried.append(length)
    total = sums[-1].bit_length() - 1
    chosen = []
    for k in reversed(range(len(tried))):
        if not sums[k] >> total & 1:  # only with this one
            chosen.append(tried[k])
            total -= tried[k]
    return chosen


def deal(rows: Sequence[Row], parts: int) -> list[list[Row]]:
    """Deal rows to `parts` micro-batches whose numbers of rows differ by at most one.

    Rows are dealt back and forth in order of images, then tokens, so that both are nearly equal too.
    """
    order = sorted(range(len(rows)), key=lambda i: (-rows[i].num_images, -rows[i].num_tokens, i))
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for position, i in enumerate(order):
        lap, part = divmod(position, parts)
        dealt[part if lap % 2 == 0 else parts - 1 - part].append(i)
    return [[rows[i] for i in sorted(part)] for part in dealt]
