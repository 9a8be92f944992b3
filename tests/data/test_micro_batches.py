"""Micro-batches: the same updates for any number of ranks and accumulation steps, and advice where none fit."""

import itertools
import random
import re
from collections import Counter

import pytest
import torch
import yaml

from kosmos_plugin.data.micro_batches import MicroBatches
from kosmos_plugin.errors import UserError
from tests import tiny
from tests.data.updates import assert_same, loaded, update_rows

UPDATES = 200
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def micro_batches(data, rank=0, ranks=1, update_freq=1) -> MicroBatches:
    task, dataset = loaded(data, update_freq)
    return task.get_batch_iterator(dataset, max_sentences=64, num_shards=ranks, shard_id=rank).micro_batches


@pytest.fixture(scope="module")
def plan(data):
    """The rows of each update, as the ids of their samples."""
    _, dataset = loaded(data)
    return [[tuple(sample.id for sample in row.samples) for row in dataset.rows(update)] for update in range(UPDATES)]


@pytest.mark.parametrize("ranks, update_freq", [(1, 1), (2, 1), (4, 1), (1, 3)])
def test_updates_are_the_same_for_any_ranks(data, plan, ranks, update_freq):
    """The sequence of sample ids over 200 updates."""
    _, dataset = loaded(data)
    parts = [MicroBatches(dataset, None, rank, ranks, update_freq) for rank in range(ranks)]
    for update, whole in enumerate(plan):
        dealt = [
            [tuple(sample.id for sample in row.samples) for row in part.rows(update * update_freq + step)]
            for step in range(update_freq)
            for part in parts
        ]
        counts = [len(part) for part in dealt]
        assert max(counts) - min(counts) <= 1
        assert Counter(itertools.chain.from_iterable(dealt)) == Counter(whole)


def test_a_batch_is_one_piece_of_shared_memory(data):
    """Each separate block would cost the main process half a millisecond."""
    for batch in micro_batches(data).of_updates(range(3), num_workers=1):
        assert all(tensor.is_shared() for tensor in batch.values())
        assert len({tensor.untyped_storage().data_ptr() for tensor in batch.values()}) == 1


def test_workers_draw_no_random_numbers_of_the_models(data):
    before = torch.get_rng_state()
    assert len(list(micro_batches(data).of_updates(range(3), num_workers=2))) == 3
    assert torch.equal(torch.get_rng_state(), before)


def updates_of(data, count, ranks, update_freq):
    parts = [micro_batches(data, rank, ranks, update_freq) for rank in range(ranks)]
    batches = [list(part.of_updates(range(count), num_workers=0)) for part in parts]
    return [
        update_rows([part[update * update_freq + step] for part in batches for step in range(update_freq)])
        for update in range(count)
    ]


@pytest.mark.parametrize("ranks, update_freq", [(2, 1), (1, 3), (2, 2)])
def test_tensors_of_an_update_are_the_same_for_any_ranks(data, ranks, update_freq):
    assert updates_of(data, 15, ranks, update_freq) == updates_of(data, 15, 1, 1)


@pytest.fixture(scope="module")
def in_blocks(tmp_path_factory):
    """Captions and interleaved documents in blocks of 7."""
    path = tiny.write_data(tmp_path_factory.mktemp("blocks") / "data")
    config = yaml.safe_load(path.read_text())
    for stream in ("captions", "interleaved"):
        config["streams"][stream]["corpora"][0]["shuffle_block"] = 7
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("ranks, update_freq", [(2, 1), (1, 3), (4, 1)])
def test_updates_in_blocks_are_the_same_for_any_ranks(data, in_blocks, ranks, update_freq):
    one = updates_of(in_blocks, 15, 1, 1)
    assert updates_of(in_blocks, 15, ranks, update_freq) == one
    assert one != updates_of(data, 15, 1, 1)


def test_updates_in_blocks_are_the_same_for_any_workers_and_after_a_resume(in_blocks):
    none = list(micro_batches(in_blocks, update_freq=2).of_updates(range(12), num_workers=0))
    for first, workers in ((0, 2), (5, 1), (5, 0)):
        batches = micro_batches(in_blocks, update_freq=2).of_updates(range(first, 12), num_workers=workers)
        for expected, batch in zip(none[2 * first :], batches, strict=True):
            assert_same(expected, batch)


# ---- updates that do not fit


def advice(message):
    return {name.lstrip("-").replace("-", "_"): int(value) for name, value in re.findall(r"(--[a-z-]+) (\d+)", message)}


@pytest.mark.parametrize("seed", range(30))
def test_advice_when_followed_works(data, seed):
    draw = random.Random(seed)
    _, dataset = loaded(data)
    ranks, update_freq = draw.choice([1, 1, 2, 3, 4, 5]), draw.choice([1, 2, 3, 8, 50])
    max_rows = draw.choice([None, 1, 2, 3, 64])
    max_tokens = draw.choice([None, 10, 64, 130, 10_000])
    given = {"update_freq": update_freq, "batch_size": max_rows, "max_tokens": max_tokens}
    for _ in range(4):
        micro_batches = MicroBatches(dataset, None, 0, ranks, given["update_freq"])
        try:
            micro_batches.check_fit(given["batch_size"], given["max_tokens"])
            break
        except UserError as error:
            followed = advice(str(error).rpartition(": ")[2])
            assert followed, str(error)
            given |= followed
    else:
        raise AssertionError(f"the advice never ends: {given}")
    rows = len(dataset.rows(0))
    dealt = [
        len(MicroBatches(dataset, None, rank, ranks, given["update_freq"]).rows(step))
        for rank in range(ranks)
        for step in range(given["update_freq"])
    ]
    assert sum(dealt) == rows and min(dealt) >= 1
    assert max(dealt) <= (given["batch_size"] or rows)
    assert given["max_tokens"] is None or max(dealt) * tiny.TOKENS_PER_SAMPLE <= given["max_tokens"]


def test_no_update_freq_fits(data):
    """If only a larger micro-batch helps, that is the advice."""
    _, dataset = loaded(data)
    rows = len(dataset.rows(0))
    ranks = rows - 1
    with pytest.raises(UserError, match=r"allow 1: use --update-freq 1 --batch-size 2 --max-tokens 128$"):
        MicroBatches(dataset, None, 0, ranks, 1).check_fit(1, 64)
    MicroBatches(dataset, None, 0, ranks, 1).check_fit(2, 128)


def test_more_ranks_than_rows(data):
    _, dataset = loaded(data)
    rows = len(dataset.rows(0))
    with pytest.raises(
        UserError, match=f"too few for {rows + 1} ranks: use {rows} ranks or raise sequences_per_update"
    ):
        MicroBatches(dataset, None, 0, rows + 1, 1).check_fit(None, None)
    MicroBatches(dataset, None, 0, rows, 1).check_fit(None, None)


def test_nothing_but_broken_records(data, tmp_path, caplog):
    tiny.write_tar(tmp_path / "empty.tar", tiny.caption_members("0", "", tiny.png(random.Random(0))))
    (tmp_path / "data.yaml").write_text(
        f"vocabulary: {data.parent / 'vocabulary'}\n"
        "streams: {captions: {kind: captions, sequences_per_update: 1, corpora: [{name: c, train: empty.tar}]}}\n"
    )
    with pytest.raises(UserError, match="Every record of the first update is broken"):
        micro_batches(tmp_path / "data.yaml")
    assert "empty text" in caplog.text


def test_update_freq_is_one_number(data):
    task, dataset = loaded(data)
    task.cfg.update_freq = [1, 2]
    with pytest.raises(UserError, match=r"--update-freq must be one number with this task, not \[1, 2\]"):
        task.get_batch_iterator(dataset)
