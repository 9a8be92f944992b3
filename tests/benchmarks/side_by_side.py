"""Times ours and a baseline on the same work, in alternating turns: the ratio carries over to other machines."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from tests.benchmarks.result import Cell, Spread

# The columns of every table of ratios; `row` fills them.
COLUMNS = ["measure", "ours", "baseline", "speed-up", "target", "theoretical limit"]


@dataclass(frozen=True)
class SideBySide:
    """Seconds of both sides, by turn."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratio(self) -> Spread:
        """The speed-up: one value per turn."""
        return Spread(tuple(peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)))

    def row(self, measure: str, work: float, unit: str, at_least: float | None, limit: float | None) -> list[Cell]:
        """A row of the table.

        Args:
            measure: The row's name.
            work: Units of work done in each turn.
            unit: The unit of the speeds: `tokens/s`.
            at_least: The target of the speed-up.
            limit: The theoretical limit: the ratio of both sides' computed costs.
        """
        speeds = (f"{work / statistics.median(seconds):,.4g} {unit}" for seconds in (self.ours, self.peer))
        return [measure, *speeds, self.ratio, "" if at_least is None else at_least, "" if limit is None else limit]


def side_by_side(ours: Callable[[], object], peer: Callable[[], object], turns: int, warm_up: int = 1) -> SideBySide:
    """Time both sides, `turns` times each. They alternate, and so does their order, so drift affects both."""
    assert turns > 0
    for _ in range(warm_up):
        ours()
        peer()
    return in_turns(partial(seconds_of, ours), partial(seconds_of, peer), turns)


def in_turns(ours: Callable[[], float], peer: Callable[[], float], turns: int) -> SideBySide:
    """Like `side_by_side`, for functions that return their own seconds because some of their work must not be timed."""
    seconds: dict[Callable, list[float]] = {ours: [], peer: []}
    for turn in range(turns):
        for side in (ours, peer) if turn % 2 == 0 else (peer, ours):
            seconds[side].append(side())
    return SideBySide(tuple(seconds[ours]), tuple(seconds[peer]))


def seconds_of(function: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, work on a GPU included."""
    gc.collect()
    _wait_for_gpu()
    begin = time.perf_counter()
    function()
    _wait_for_gpu()
    return time.perf_counter() - begin


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
