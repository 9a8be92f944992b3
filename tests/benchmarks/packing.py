"""Packing efficiency: the fraction of a batch's positions that are not padding, at realistic lengths.

captions        an image's 64 slots, its two borders, <s>, </s> and 8 to 40 tokens of text
pages           one to five images, and text of log-normal length, 700 tokens on average; at most a row of 2,048

An update with few rows cannot be full, whatever the algorithm: its last row is half empty on average. The theoretical
limit is the efficiency with the smallest number of rows that can hold all tokens.
"""

import time
from pathlib import Path

import numpy as np

from kosmos_plugin.data.packing import pack
from tests.benchmarks.result import Result, Spread

ROW, UPDATES = 2048, 20


def caption_lengths(draw: np.random.Generator, count: int) -> list[int]:
    return (68 + draw.integers(8, 41, count)).tolist()


def page_lengths(draw: np.random.Generator, count: int) -> list[int]:
    text = draw.lognormal(np.log(700) - 0.8**2 / 2, 0.8, count).astype(int)
    return np.minimum(2 + 66 * draw.integers(1, 6, count) + text, ROW).tolist()


def run(out: Path) -> Result:
    rows = []
    for stream, lengths_of, counts in (
        ("captions", caption_lengths, (64, 768, 6144)),
        ("pages", page_lengths, (16, 32, 64, 128, 512)),
    ):
        for count in counts:
            filled, limits, numbers, seconds = [], [], [], []
            for seed in range(UPDATES):
                lengths = lengths_of(np.random.default_rng(seed), count)
                begin = time.perf_counter()
                packed = len(pack(lengths, ROW))
                seconds.append(time.perf_counter() - begin)
                filled.append(sum(lengths) / (packed * ROW))
                limits.append(sum(lengths) / (-(-sum(lengths) // ROW) * ROW))
                numbers.append(packed)
            at_least = 0.98 if count == counts[-1] or (stream, count) == ("pages", 128) else ""
            mean = float(np.mean(filled))
            cells = [stream, count, float(np.mean(numbers)), mean, Spread(tuple(filled)), at_least]
            rows.append([*cells, float(np.mean(limits)), 1000 * float(np.median(seconds))])
    columns = ["stream", "documents", "rows", "mean efficiency", "per update", "target", "theoretical limit", "ms"]
    note = (
        f"{UPDATES} updates each, in rows of {ROW:,}. The paper's updates take 6,144 captions and 128 pages (Table 18)."
    )
    return Result("Packing efficiency: share of positions that are filled", columns, rows, [note])
