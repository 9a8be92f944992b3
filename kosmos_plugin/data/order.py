"""The order of training as arithmetic: the document at any position, without replaying what came before.

    position of a stream ─ Interleaving ─→ (corpus, number within the corpus) ─ Permutation ─→ document

Both are pure functions of (weights or size, seed), with the same cost at every position. So update u takes positions
u·n … (u + 1)·n − 1 of each stream for any number of ranks and workers, and the whole state is a counter.
"""

from collections.abc import Sequence

import numpy as np

# Corpora are interleaved in blocks of this many positions; weights are exact to one part in this.
BLOCK = 10_000
_ROUNDS = 6


def _hash(values: np.ndarray, key: int) -> np.ndarray:
    """SplitMix64's finalizer over uint64 `values`, keyed (Steele, Lea & Flood 2014)."""
    x = values + np.uint64((key * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Permutation:
    """A keyed pseudo-random permutation of 0 … size − 1, evaluated at single points.

    A balanced Feistel network over the next even number of bits, repeated until the result is below `size`: at most
    four steps on average, and no table.

    Args:
        size: Number of elements, at least 1.
        key: Seed of the permutation.

    Source:
        Cycle walking, Black & Rogaway 2002.
    """

    def __init__(self, size: int, key: int):
        assert size > 0
        self.size = size
        self.half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
        self.round_keys = [int(k) for k in _hash(np.arange(1, _ROUNDS + 1, dtype=np.uint64), key)]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The elements at `positions` (integers below `size`), int64 of the same shape."""
        values = self._feistel(positions.astype(np.uint64))
        while (outside := values >= self.size).any():
            values[outside] = self._feistel(values[outside])
        return values.astype(np.int64)

    def _feistel(self, values: np.ndarray) -> np.ndarray:
        bits, mask = np.uint64(self.half_bits), np.uint64((1 << self.half_bits) - 1)
        left, right = values >> bits, values & mask
        for key in self.round_keys:
            left, right = right, left ^ (_hash(right, key) & mask)
        return (left << bits) | right


class Interleaving:
    """Assigns the positions of a stream to its corpora by weight.

    Every block of BLOCK positions contains corpus c exactly `counts[c]` times, in an order shuffled by the seed.

    Args:
        weights: A positive weight for each corpus; they need not sum to 1.
        seed: Seed of the order within the blocks.

    Attributes:
        counts: Positions of each corpus in a block, int64 [corpora]; at least 1 each.
        shares: The same as fractions, float64 [corpora].
    """

    def __init__(self, weights: Sequence[float], seed: int):
        shares = np.array(weights, dtype=np.float64) / np.sum(weights) * BLOCK
        counts = np.floor(shares).astype(np.int64)
        remainder = BLOCK - int(counts.sum())
        counts[np.argsort(counts - shares, kind="stable")[:remainder]] += 1  # largest remainders first
        counts[counts == 0] = 1  # even the smallest corpus gets a position, at the expense of the largest
        counts[np.argmax(counts)] -= int(counts.sum()) - BLOCK
        self.counts = counts
        self.shares = counts / BLOCK
        self.seed = seed

    def __call__(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """For positions start … end − 1: the corpus of each, and its number among that corpus's positions, from 0."""
        corpora, numbers = [], []
        for block in range(start // BLOCK, -(-end // BLOCK)):
            span = slice(max(start - block * BLOCK, 0), min(end - block * BLOCK, BLOCK))
            layout, ranks = self._layout(block)
            corpora.append(layout[span])
            numbers.append(ranks[span] + block * self.counts[layout[span]])
        return np.concatenate(corpora), np.concatenate(numbers)

    def _layout(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The corpus of each position of a block [BLOCK], and its number within that corpus and block [BLOCK]."""
        corpora = np.repeat(np.arange(len(self.counts)), self.counts)
        corpora = np.random.Generator(np.random.Philox(key=[self.seed, block])).permutation(corpora)
        ranks = np.empty_like(corpora)
        for corpus, count in enumerate(self.counts):
            ranks[corpora == corpus] = np.arange(count)
        return corpora, ranks


def shuffled(numbers: np.ndarray, size: int, seed: int) -> np.ndarray:
    """The document of each draw from a corpus of `size` documents; draws are numbered from 0.

    Every `size` draws, an epoch, are a new permutation of all documents.
    """
    epochs, positions = np.divmod(numbers, size)
    documents = np.empty_like(positions)
    for epoch in np.unique(epochs):
        key = int(_hash(np.array([epoch], dtype=np.uint64), seed)[0])
        documents[epochs == epoch] = Permutation(size, key)(positions[epochs == epoch])
    return documents
