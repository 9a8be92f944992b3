"""Counting what is skipped, over processes, and when it is too much."""

import logging
import multiprocessing

import pytest

from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.errors import UserError


def test_counts_and_logs(caplog):
    skips = SkipCounter(0.5)
    skips.count(10)
    with caplog.at_level(logging.WARNING):
        skips.skip("corpus/7", ValueError("no image"))
    assert skips.skipped == 1
    assert [record.getMessage() for record in caplog.records] == ["skipped corpus/7: no image (1 of 10 so far)"]


@pytest.mark.parametrize("rate, allowed", [(0.05, 50), (0.0, 0), (1.0, 1000)])
def test_ends_above_the_rate(rate, allowed):
    skips = SkipCounter(rate)
    skips.count(1000)
    for i in range(allowed):
        skips.skip(f"record {i}", ValueError("broken"))
    if rate < 1:
        message = f"^{allowed + 1} of 1,000 .*--max-skipped-rate {rate:g} allows; the last is record x: the reason$"
        with pytest.raises(UserError, match=message):
            skips.skip("record x", ValueError("the reason"))


def test_few_say_little():
    """The first records may be broken without ending the training; the next hundreds may not."""
    skips = SkipCounter(0.05)
    skips.count(20)
    for i in range(20):
        skips.skip(f"{i}", ValueError())
    skips.count(380)  # 20 of 400: just what is allowed
    with pytest.raises(UserError):
        skips.skip("x", ValueError())


def work(skips):
    for _ in range(100):
        skips.count(3)
        skips.skip("x", ValueError())


def test_counts_over_processes():
    skips = SkipCounter(1.0)
    processes = [multiprocessing.get_context("fork").Process(target=work, args=(skips,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert skips.skipped == 300
    skips.max_rate = 0.3334  # 301 of 900 are more
    with pytest.raises(UserError, match="301 of 900"):
        skips.skip("x", ValueError())
