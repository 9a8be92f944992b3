"""Two ways to do the same work, timed in turns: their ratio is what a reader may trust on another machine."""

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
    """Seconds of both, turn by turn."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratio(self) -> Spread:
        """How many times as fast ours is, one value a turn."""
        return Spread(tuple(peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)))

    def row(self, measure: str, work: float, unit: str, at_least: float | None, limit: float | None) -> list[Cell]:
        """A line of the table for `work` units done in a turn. `limit`: the ratio of both sides' counted costs."""
        speeds = (f"{work / statistics.median(seconds):,.4g} {unit}" for seconds in (self.ours, self.peer))
        return [measure, *speeds, self.ratio, "" if at_least is None else at_least, "" if limit is None else limit]


def side_by_side(ours: Callable[[], object], peer: Callable[[], object], turns: int, warm_up: int = 1) -> SideBySide:
    """Time both `turns` times. They alternate, and so does who goes first: a machine's drift meets both alike."""
    assert turns > 0
    for _ in range(warm_up):
        ours()
        peer()
    return in_turns(partial(seconds_of, ours), partial(seconds_of, peer), turns)


def in_turns(ours: Callable[[], float], peer: Callable[[], float], turns: int) -> SideBySide:
    """The same of functions that give their own seconds, for what must be left out of them."""
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
