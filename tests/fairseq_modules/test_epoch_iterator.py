"""The epoch iterator: the same batches for any number of workers, resuming at any point, and errors in workers."""

import itertools
import multiprocessing
import pickle
import random
import re
import time
from collections import Counter

import pytest
import yaml

from kosmos_plugin.errors import UserError
from tests import tiny
from tests.data.updates import assert_same, loaded, update_rows

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def iterator(data, rank=0, ranks=1, update_freq=1, workers=0, split="train", epoch=1):
    task, dataset = loaded(data, update_freq, split)
    return task.get_batch_iterator(
        dataset, max_sentences=64, num_shards=ranks, shard_id=rank, num_workers=workers, epoch=epoch
    )


def take(epochs, count):
    """`count` batches across the ends of epochs, in the way fairseq takes them."""
    batches = []
    while len(batches) < count:
        batches += itertools.islice(epochs.next_epoch_itr(), count - len(batches))
    return batches


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_the_same_for_any_number_of_workers(data, workers):
    without = take(iterator(data, rank=1, ranks=2, update_freq=2), 30)
    helped = take(iterator(data, rank=1, ranks=2, update_freq=2, workers=workers), 30)
    for first, second in zip(without, helped, strict=True):
        assert_same(first, second)


# ---- resuming


def updates_of(data, count, ranks, update_freq, state=None):
    iterators = [iterator(data, rank, ranks, update_freq) for rank in range(ranks)]
    if state is not None:
        for each in iterators:
            each.load_state_dict(state)
    batches = [take(each, count * update_freq) for each in iterators]
    return [
        update_rows([part[update * update_freq + step] for part in batches for step in range(update_freq)])
        for update in range(count)
    ]


def stopped_after(data, updates, ranks=1, update_freq=1):
    """The state after some updates, of rank 0 only: fairseq saves no other in a checkpoint."""
    epochs = iterator(data, 0, ranks, update_freq)
    done = 0
    while done < updates * update_freq:
        for _ in itertools.islice(epochs.next_epoch_itr(), updates * update_freq - done):
            done += 1
    return pickle.loads(pickle.dumps(epochs.state_dict()))


# an epoch has 11 updates here
@pytest.mark.parametrize("updates", [1, 4, 10, 11, 12, 25])
def test_a_resumed_run_continues_as_if_never_stopped(data, updates):
    expected = take(iterator(data), updates + 14)[updates:]
    resumed = iterator(data)
    assert len(resumed) == 11
    resumed.load_state_dict(stopped_after(data, updates))
    assert (resumed.epoch, resumed.iterations_in_epoch) == (updates // 11 + 1, updates % 11)
    for first, second in zip(take(resumed, 14), expected, strict=True):
        assert_same(first, second)


@pytest.mark.parametrize(
    "before, after", [((1, 1), (2, 1)), ((2, 1), (1, 2)), ((1, 3), (1, 1)), ((2, 2), (3, 1)), ((1, 1), (1, 4))]
)
def test_resuming_with_other_ranks_and_accumulation_steps(data, before, after):
    for updates in (5, 11):
        state = stopped_after(data, updates, *before)
        assert updates_of(data, 8, *after, state=state) == updates_of(data, updates + 8, 1, 1)[updates:]


def test_state_before_the_first_batch(data):
    fresh, resumed = iterator(data), iterator(data)
    resumed.load_state_dict(fresh.state_dict())
    assert_same(take(resumed, 1)[0], take(fresh, 1)[0])


def test_resuming_when_the_epoch_has_another_length(data):
    """If the data has grown, the run continues at the same update of the new order, not at its start."""
    state = stopped_after(data, 25)
    resumed = iterator(data)
    resumed.updates = 4
    resumed.load_state_dict(state)
    assert (resumed.epoch, resumed.iterations_in_epoch) == (7, 1)
    assert_same(take(resumed, 1)[0], take(iterator(data), 26)[25])


def test_text_that_was_packed_otherwise_does_not_resume(data, tmp_path):
    """Its rows would be others. Version 0.1 had only continuous text, and recorded no packing."""
    state = stopped_after(data, 5)
    assert state["packing"] == {"text": "full_sentences"}
    of_version_0_1 = {key: value for key, value in state.items() if key != "packing"}
    message = "set packing: continuous for it in the data YAML .it is full_sentences.; or give --reset-dataloader"
    for before in (of_version_0_1, state | {"packing": {"text": "continuous"}}):
        with pytest.raises(UserError, match=f"stream text .*{message}"):
            iterator(data).load_state_dict(before)
    iterator(data).load_state_dict(of_version_0_1 | {"epoch": 1, "updates_in_epoch": 0})  # a converted checkpoint

    path = tiny.text_data(data, tmp_path)
    path.write_text(path.read_text().replace("kind: text", "kind: text\n    packing: continuous"))
    iterator(path).load_state_dict(of_version_0_1)
    with pytest.raises(UserError, match="set packing: full_sentences for it"):
        iterator(path).load_state_dict(state)


def test_newlines_that_were_encoded_otherwise_do_not_resume(data):
    state = stopped_after(data, 5)
    assert state["newlines"] is False
    with_newlines = iterator(data)
    with_newlines.micro_batches.collate.vocabulary.newlines = True
    del state["newlines"]  # of version 0.1
    with pytest.raises(UserError, match=r'encoding\.json: {"newline": null}; or give --reset-dataloader'):
        with_newlines.load_state_dict(state)
    with pytest.raises(UserError, match=r'encoding\.json: {"newline": "</line>"}; or give --reset-dataloader'):
        iterator(data).load_state_dict(state | {"newlines": True})
    with_newlines.load_state_dict(state | {"newlines": True})


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_far_costs_the_same(data, workers):
    def seconds(updates):
        resumed = iterator(data, workers=workers)
        state = {"version": 2, "epoch": updates // 11 + 1, "updates_in_epoch": updates % 11, "updates_per_epoch": 11}
        state["packing"] = {"text": "full_sentences"}
        begin = time.perf_counter()
        resumed.load_state_dict(state)
        (batch,) = take(resumed, 1)
        assert len(batch["tokens"]) >= 4
        return time.perf_counter() - begin

    seconds(0)
    assert seconds(300_000) < seconds(0) + 1


def test_epochs_as_fairseq_counts_them(data):
    epochs = iterator(data, update_freq=2)
    assert len(epochs) == 22
    for epoch in (1, 2, 3):
        assert epochs.next_epoch_idx == epoch
        batches = epochs.next_epoch_itr(shuffle=True, fix_batches_to_gpus=False)
        assert epochs.epoch == epoch and len(batches) == 22
        for count, _ in enumerate(batches, start=1):
            assert epochs.iterations_in_epoch == count
            assert epochs.end_of_epoch() == (count == 22)
    assert epochs.next_epoch_idx == 4
    assert epochs.state_dict()["epoch"] == 4


# ---- the valid split


@pytest.mark.parametrize("ranks, update_freq", [(1, 1), (2, 1), (3, 2), (12, 1)])
def test_valid_is_read_once_whatever_the_ranks(data, ranks, update_freq):
    _, plan = loaded(data, split="valid")
    whole = Counter()
    for update in range(len(plan)):
        for row in plan.rows(update):
            whole[tuple(itertools.chain.from_iterable(sample.tokens.tolist() for sample in row.samples))] += 1
    seen, lengths = Counter(), set()
    for rank in range(ranks):
        batches = iterator(data, rank, ranks, update_freq, split="valid")
        lengths.add(len(batches))
        for batch in batches.next_epoch_itr():
            assert len(batch["tokens"]) >= 1  # a rank without work takes part too
            for tokens, borders in zip(batch["tokens"], batch["document_ids"], strict=True):
                if (borders > 0).any():
                    seen[tuple(tokens[borders > 0].tolist())] += 1
    assert len(lengths) == 1
    assert seen == whole


def test_validation_starts_again_each_epoch(data):
    first = iterator(data, split="valid", epoch=1)
    batches = list(first.next_epoch_itr())
    later = iterator(data, split="valid", epoch=7)
    for before, after in zip(batches, later.next_epoch_itr(), strict=True):
        assert_same(before, after)


# ---- broken records


def captions_data(data, folder, captions, images):
    """A data YAML of only captions, ten per update."""
    members = []
    for i, (caption, image) in enumerate(zip(captions, images, strict=True)):
        members += tiny.caption_members(f"{i:02d}", caption, image)
    tiny.write_tar(folder / "captions.tar", members)
    config = yaml.safe_load(data.read_text())
    config["vocabulary"] = str(data.parent / "vocabulary")
    corpus = {"name": "some", "train": str(folder / "captions.tar")}
    config["streams"] = {"captions": {"kind": "captions", "sequences_per_update": 10, "corpora": [corpus]}}
    (folder / "data.yaml").write_text(yaml.safe_dump(config))
    return folder / "data.yaml"


@pytest.fixture
def broken(data, tmp_path):
    """Every fifth caption of 20 is empty, and one image is garbage."""
    draw = random.Random(0)
    captions = ["" if i % 5 == 0 else f"{i} dogs" for i in range(20)]
    return captions_data(data, tmp_path, captions, [b"garbage" if i == 7 else tiny.png(draw) for i in range(20)])


@pytest.fixture
def broken_images(data, tmp_path):
    """Every fifth image of 20 is garbage."""
    draw = random.Random(0)
    images = [b"garbage" if i % 5 == 0 else tiny.png(draw) for i in range(20)]
    return captions_data(data, tmp_path, [f"{i} dogs" for i in range(20)], images)


@pytest.mark.parametrize("update_freq, workers", [(1, 0), (2, 0), (2, 2), (2, 3)])
def test_broken_ones_are_counted_once(broken, update_freq, workers):
    task, dataset = loaded(broken, update_freq)
    epochs = task.get_batch_iterator(dataset, max_sentences=64, num_workers=workers)
    assert task.skips.skipped == 0  # the check that updates fit counts nothing
    batches = take(epochs, len(epochs))
    assert sum(len(batch["images"]) for batch in batches) == 15
    assert task.skips.skipped == 5


def stopped_by(path, workers):
    """The error that ends a training in which a tenth of the records may be broken."""
    task, dataset = loaded(path, max_skipped_rate=0.1)
    epochs = task.get_batch_iterator(dataset, max_sentences=64, num_workers=workers)
    with pytest.raises(UserError) as error:
        take(epochs, 100)
    assert multiprocessing.active_children() == []  # the workers are gone by then
    return str(error.value)


TOO_MANY = r"\d+ of \d+ records and images are broken, more than --max-skipped-rate 0.1 allows; the last is "


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_records_end_the_training_with_one_line(broken, workers):
    assert re.fullmatch(TOO_MANY + r"some/\d+: .*", stopped_by(broken, workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_images_end_the_training_with_one_line(broken_images, workers):
    reason = r"captions\.tar/\d+: image that cannot be decoded \(.*\)"
    assert re.fullmatch(TOO_MANY + reason, stopped_by(broken_images, workers))
