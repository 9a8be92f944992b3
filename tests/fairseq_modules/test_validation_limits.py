"""Validation honours its own limits, and its loss does not depend on them."""

import json

import pytest

from kosmos_plugin.errors import UserError
from tests import tiny
from tests.data.updates import loaded


def batches(data, ranks, max_rows=None, max_tokens=None):
    """The validation's batches of each rank; training has --update-freq 2."""
    task, mixture = loaded(data, 2, "valid")
    limits = {"max_sentences": max_rows, "max_tokens": max_tokens}
    iterators = [task.get_batch_iterator(mixture, num_shards=ranks, shard_id=rank, **limits) for rank in range(ranks)]
    return [list(each.next_epoch_itr()) for each in iterators], mixture


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("max_rows", [1, 2, 3, 7, 100])
def test_no_batch_is_larger_and_every_rank_has_as_many(data, ranks, max_rows):
    of_ranks, mixture = batches(data, ranks, max_rows)
    assert len({len(of_rank) for of_rank in of_ranks}) == 1
    found = [batch for of_rank in of_ranks for batch in of_rank]
    assert max(len(batch["tokens"]) for batch in found) <= max_rows
    rows = [mixture.rows(update) for update in range(len(mixture))]
    assert sum(len(batch["tokens"]) for batch in found if batch["document_ids"].any()) == sum(map(len, rows))
    most = max(map(len, rows))
    assert len(of_ranks[0]) == len(mixture) * -(-most // (ranks * max_rows))  # the fewest


def test_tokens_limit_rows_too(data):
    (of_rank,), _ = batches(data, 1, 100, 2 * tiny.TOKENS_PER_SAMPLE + 1)
    assert max(batch["tokens"].numel() for batch in of_rank) == 2 * tiny.TOKENS_PER_SAMPLE


def test_less_than_a_row_is_one_line(data):
    with pytest.raises(UserError, match="--max-tokens-valid 10 is less than one row of 64 tokens: use"):
        batches(data, 1, None, 10)


def test_without_a_limit_there_are_as_many_as_in_training(data):
    (of_rank,), mixture = batches(data, 1)
    assert len(of_rank) == 2 * len(mixture)


def test_the_loss_is_the_same(data, tmp_path, caplog):
    losses = []
    for limit in ([], ["--batch-size-valid", 1], ["--batch-size-valid", 3], ["--max-tokens-valid", 128]):
        caplog.clear()
        folder = tmp_path / "-".join(map(str, limit or ["none"]))
        with caplog.at_level("INFO"):
            tiny.train(data, folder, "--cpu", "--num-workers", "0", "--max-update", "1", *limit)
        (line,) = (record.getMessage() for record in caplog.records if record.name == "valid")
        losses.append({name: value for name, value in json.loads(line).items() if name.startswith("valid_loss")})
    assert len(losses[0]) == 4
    assert losses == [losses[0]] * 4
