"""The order of training: bijections, exact weights, and the same answer however positions are requested."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kosmos_plugin.data.order import BLOCK, Interleaving, Permutation, shuffled

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
