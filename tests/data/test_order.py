"""The order of training: bijections, exact weights, and the same answer however positions are requested."""

import hashlib
import itertools
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kosmos_plugin.data.order import (
    BLOCK,
    WINDOW_BLOCKS,
    BlockOrder,
    Interleaving,
    Permutation,
    block_order,
    block_shuffled,
    shuffled,
)

SEEDS = st.integers(0, 2**40)


@settings(deadline=None, max_examples=80)
@given(size=st.one_of(st.integers(1, 40), st.integers(1, 3000)), key=st.integers(0, 2**64 - 1))
@example(size=1, key=0)
@example(size=4, key=1)
@example(size=1024, key=2)
@example(size=1025, key=3)
def test_permutation_is_a_bijection(size, key):
    sent = Permutation(size, key)(np.arange(size))
    assert sorted(sent.tolist()) == list(range(size))


@settings(deadline=None, max_examples=30)
@given(size=st.integers(2, 10**12), key=SEEDS, data=st.data())
def test_permutation_at_single_points(size, key, data):
    """At any size and without a table, positions give the same elements one by one, together and in any order."""
    positions = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True)))
    permutation = Permutation(size, key)
    together = permutation(positions)
    assert ((together >= 0) & (together < size)).all()
    assert len(set(together.tolist())) == len(positions)
    assert [int(permutation(positions[i : i + 1])[0]) for i in range(len(positions))] == together.tolist()


def test_permutation_changes_with_the_key():
    permutations = {tuple(Permutation(50, key)(np.arange(50)).tolist()) for key in range(200)}
    assert len(permutations) == 200
    assert tuple(range(50)) not in permutations


@pytest.mark.parametrize("size", [3, 10, 21])
def test_every_element_is_about_equally_likely(size):
    keys = 60 * size
    sent = np.array([Permutation(size, key)(np.array([0, size - 1])) for key in range(keys)])
    for column in sent.T:
        counts = np.bincount(column, minlength=size)
        chi_squared = ((counts - 60) ** 2 / 60).sum()
        # of size − 1 degrees of freedom; six standard deviations above its mean
        assert chi_squared < (size - 1) + 6 * np.sqrt(2 * (size - 1))


def test_neighbors_are_separated():
    """A shuffled order is not correlated with the order in the shards."""
    size = 5000
    sent = Permutation(size, 7)(np.arange(size)).astype(float)
    for lag in (1, 2, 64, 128):
        assert abs(np.corrcoef(sent[:-lag], sent[lag:])[0, 1]) < 5 / np.sqrt(size)
    assert abs(np.corrcoef(sent, np.arange(size))[0, 1]) < 5 / np.sqrt(size)


WEIGHTS = st.lists(st.one_of(st.integers(1, 10), st.floats(0.001, 1000)), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(weights=WEIGHTS, seed=SEEDS, block=st.integers(0, 10**6))
def test_weights_are_exact_in_every_block(weights, seed, block):
    corpora, _ = Interleaving(weights, seed)(block * BLOCK, (block + 1) * BLOCK)
    counts = np.bincount(corpora, minlength=len(weights))
    shares = np.array(weights) / sum(weights) * BLOCK
    assert counts.sum() == BLOCK and (counts > 0).all()
    # rounded to whole positions; a corpus too small for one position still gets one from the largest corpus
    assert (np.abs(counts - shares) <= len(weights)).all()
    assert (np.abs(counts - shares) < 1).all() or (shares < 1).any()


@settings(deadline=None, max_examples=25)
@given(weights=WEIGHTS, seed=SEEDS, begin=st.integers(0, 3 * BLOCK), cuts=st.lists(st.integers(1, 4000), max_size=6))
def test_numbers_have_no_gap_and_any_split_gives_the_same(weights, seed, begin, cuts):
    interleaving = Interleaving(weights, seed)
    end = begin + sum(cuts) + 1
    corpora, numbers = interleaving(begin, end)
    assert len(corpora) == len(numbers) == end - begin
    bounds = np.cumsum([begin, *cuts, 1])
    parts = [interleaving(first, last) for first, last in itertools.pairwise(bounds)]
    assert np.concatenate([part[0] for part in parts]).tolist() == corpora.tolist()
    assert np.concatenate([part[1] for part in parts]).tolist() == numbers.tolist()
    from_start, all_numbers = interleaving(0, end)
    for corpus in range(len(weights)):
        own = all_numbers[from_start == corpus]
        assert own.tolist() == list(range(len(own)))
    assert from_start[begin:].tolist() == corpora.tolist()
    assert all_numbers[begin:].tolist() == numbers.tolist()


@pytest.mark.parametrize("weights", [[0.5, 0.3, 0.2], [9, 1], [1, 1, 1, 1]])
def test_windows_are_near_the_weights(weights):
    """This holds for any 1,000 consecutive positions, also across the borders of blocks."""
    corpora, _ = Interleaving(weights, 3)(0, 4 * BLOCK)
    for corpus, weight in enumerate(weights):
        share = weight / sum(weights)
        windows = np.convolve(corpora == corpus, np.ones(1000), mode="valid")
        assert np.abs(windows - 1000 * share).max() < 6 * np.sqrt(1000 * share * (1 - share))


def test_order_changes_with_seed_and_block():
    first, second, other = (
        Interleaving([1, 2], seed)(block * BLOCK, (block + 1) * BLOCK)[0] for seed, block in ((1, 0), (1, 1), (2, 0))
    )
    assert (first != second).mean() > 0.3 and (first != other).mean() > 0.3


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 60), seed=SEEDS, epochs=st.integers(1, 4), data=st.data())
def test_every_epoch_is_a_permutation(size, seed, epochs, data):
    numbers = np.arange(size * epochs)
    documents = shuffled(numbers, size, seed)
    for epoch in documents.reshape(epochs, size):
        assert sorted(epoch.tolist()) == list(range(size))
    begin = data.draw(st.integers(0, size * epochs - 1))
    assert shuffled(numbers[begin:], size, seed).tolist() == documents[begin:].tolist()


def test_epochs_and_seeds_differ():
    orders = {tuple(shuffled(np.arange(e * 30, (e + 1) * 30), 30, seed).tolist()) for e in range(40) for seed in (1, 2)}
    assert len(orders) == 80


def test_a_far_position_costs_the_same():
    def seconds(first):
        begin = time.perf_counter()
        for position in range(first, first + 20 * BLOCK, BLOCK):
            corpora, numbers = Interleaving([3, 1], 1)(position, position + 100)
            shuffled(numbers[corpora == 0], 10**9, 1)
        return time.perf_counter() - begin

    seconds(0)
    assert seconds(10**15) < 5 * seconds(0) + 0.5


@pytest.mark.parametrize(
    "size, seed, digest",
    [
        (1, 0, "24ddaa4710480313"),
        (40, 7, "a976a8a7cc12016c"),
        (1000, 3, "a0d385f41d7149d2"),
        (10**6, 12345, "6e707c4a0b79d67c"),
    ],
)
def test_the_order_without_blocks_is_that_of_earlier_versions(size, seed, digest):
    numbers = np.concatenate([np.arange(300), np.arange(10**9, 10**9 + 300)])
    assert hashlib.sha256(shuffled(numbers, size, seed).tobytes()).hexdigest()[:16] == digest


BLOCK_SIZES = st.one_of(st.integers(1, 20), st.integers(1, 700))


@settings(deadline=None, max_examples=60)
@given(size=st.one_of(st.integers(1, 60), st.integers(1, 4000)), block=BLOCK_SIZES, seed=SEEDS, data=st.data())
@example(size=512, block=512, seed=0, data=None)
@example(size=513, block=512, seed=1, data=None)
@example(size=2 * WINDOW_BLOCKS * 3, block=3, seed=2, data=None)
def test_every_epoch_of_blocks_is_a_permutation(size, block, seed, data):
    """Also from the middle on, and one by one."""
    documents = block_shuffled(np.arange(3 * size), size, block, seed)
    for epoch in documents.reshape(3, size):
        assert sorted(epoch.tolist()) == list(range(size))
    if data is None:
        return
    begin = data.draw(st.integers(0, 3 * size - 1))
    assert block_shuffled(np.arange(begin, 3 * size), size, block, seed).tolist() == documents[begin:].tolist()
    assert block_shuffled(np.array([begin]), size, block, seed)[0] == documents[begin]


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 4000), block=BLOCK_SIZES, key=SEEDS)
def test_a_window_has_the_documents_of_its_blocks(size, block, key):
    order = BlockOrder(size, block, key)
    positions = np.arange(size)
    windows = order.window_of(positions)
    assert (np.diff(windows) >= 0).all() and windows[-1] == order.windows - 1
    blocks = order(positions) // block
    for window in range(order.windows):
        expected = order.blocks_of(window)
        assert len(expected) == WINDOW_BLOCKS or window == order.windows - 1
        assert set(blocks[windows == window].tolist()) == set(expected.tolist())
    assert order.blocks_of(order.windows).tolist() == []
    middle = size // 2
    window, fraction = order.progress(middle)
    assert window == windows[middle]
    assert fraction == pytest.approx((windows[:middle] == window).sum() / (windows == window).sum())


def test_windows_are_mixed_and_epochs_differ():
    """Within a window neighbors are as unrelated as in a permutation of all, and each epoch has other windows."""
    size, block = 100_000, 25
    first, second = block_shuffled(np.arange(2 * size), size, block, 7).reshape(2, size)
    window = first[: WINDOW_BLOCKS * block]
    by_place = np.unique(window // block, return_inverse=True)[1].astype(float)
    for lag in (1, 2, 50):
        assert abs(np.corrcoef(by_place[:-lag], by_place[lag:])[0, 1]) < 5 / np.sqrt(len(window))
    offsets = (window % block).astype(float)
    assert abs(np.corrcoef(offsets[:-1], offsets[1:])[0, 1]) < 5 / np.sqrt(len(window))
    # ten times as many documents as the window has blocks: each block gives about ten
    counts = np.bincount(np.unique(window[: 10 * WINDOW_BLOCKS] // block, return_inverse=True)[1])
    assert len(counts) == WINDOW_BLOCKS and counts.max() < 25
    assert len(np.intersect1d(window, second[: len(window)])) < len(window) / 4


def test_a_far_update_of_blocks_costs_the_same():
    size, per_update = 400_000_000, 6144

    def seconds(update):
        block_order.cache_clear()
        begin = time.perf_counter()
        for _ in range(20):
            block_shuffled(np.arange(update * per_update, (update + 1) * per_update), size, 512, 1)
        return time.perf_counter() - begin

    seconds(0)
    assert seconds(300_000) < 5 * seconds(0) + 0.5
