"""Skipped records: counted across processes, limited in number, with the reasons that `kosmos-prepare` reports."""

import json
import logging
import multiprocessing
import random
from collections import Counter

import pytest

from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.errors import UserError
from tests import tiny
from tests.curation.command import prepare


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


def test_the_rate_is_not_judged_on_few_records():
    """The rate is judged only after some hundred records: 20 broken ones at the start do not end the training."""
    skips = SkipCounter(0.05)
    skips.count(20)
    for i in range(20):
        skips.skip(f"{i}", ValueError())
    skips.count(380)  # 20 of 400 are just allowed
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
    skips.max_rate = 0.3334  # 301 of 900 exceed the rate
    with pytest.raises(UserError, match="301 of 900"):
        skips.skip("x", ValueError())


def test_the_same_reasons_as_in_a_report(data, tmp_path, caplog):
    """`kosmos-prepare check` and training give the same counts for the same tar."""
    image = tiny.png(random.Random(0))
    members = [
        *tiny.caption_members("0", "a dog", image),
        *tiny.caption_members("1", " ", image),
        *tiny.caption_members("2", "garbage", b"garbage"),
        *tiny.caption_members("3", "garbage too", image[:100]),
        *tiny.caption_members("4", "nothing", b""),
        *[("5.png", image), ("5.txt", b"caf\xe9")],
        ("6.txt", b"no image"),
    ]
    tiny.write_tar(tmp_path / "in" / "0.tar", members)
    prepare(["check", tmp_path / "in", "--out", tmp_path / "out", "--workers", 1])
    reported = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["counts"]["dropped"]

    corpus = f"{{name: c, train: {tmp_path / 'in' / '0.tar'}}}"
    (tmp_path / "data.yaml").write_text(
        f"vocabulary: {data.parent / 'vocabulary'}\n"
        f"streams: {{captions: {{kind: captions, sequences_per_update: 7, corpora: [{corpus}]}}}}\n"
    )
    caplog.clear()
    batch = tiny.batch(tiny.task(tmp_path / "data.yaml"))
    assert len(batch["images"]) == 1
    skipped = [record.args[1] for record in caplog.records if record.msg.startswith("skipped")]
    assert Counter(error.reason for error in skipped) == reported
    assert reported == {
        "empty text": 1,
        "image that cannot be decoded": 2,
        "image of 0 bytes": 1,
        "no text, or not valid UTF-8": 1,
        "no image": 1,
    }
