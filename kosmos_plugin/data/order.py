"""The order of training as arithmetic: the document at any position, without replaying what came before.

    position of a stream ─ Interleaving ─→ (corpus, number within the corpus) ─ Permutation ─→ document

Both are pure functions of (weights or size, seed), with the same cost at every position. So update u takes positions
u·n … (u + 1)·n − 1 of each stream for any number of ranks and workers, and the whole state is a counter.

A corpus is shuffled by documents or, for storage where single documents are slow to read, by blocks of consecutive
documents (`shuffle_block` in the data YAML): the blocks are permuted, and the documents within each window of
WINDOW_BLOCKS blocks. So an update's documents come from one window, or two, and a block is read in one piece.
"""

import functools
from collections.abc import Sequence

import numpy as np

# Corpora are interleaved in blocks of this many positions; weights are exact to one part in this.
BLOCK = 10_000
# Blocks of documents whose documents are shuffled together.
WINDOW_BLOCKS = 128
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

    def position(self, element: int) -> int:
        """The position of `element`: the inverse."""
        values = self._unfeistel(np.array([element], dtype=np.uint64))
        while values[0] >= self.size:
            values = self._unfeistel(values)
        return int(values[0])

    def _feistel(self, values: np.ndarray) -> np.ndarray:
        bits, mask = np.uint64(self.half_bits), np.uint64((1 << self.half_bits) - 1)
        left, right = values >> bits, values & mask
        for key in self.round_keys:
            left, right = right, left ^ (_hash(right, key) & mask)
        return (left << bits) | right

    def _unfeistel(self, values: np.ndarray) -> np.ndarray:
        bits, mask = np.uint64(self.half_bits), np.uint64((1 << self.half_bits) - 1)
        left, right = values >> bits, values & mask
        for key in reversed(self.round_keys):
            left, right = right ^ (_hash(left, key) & mask), left
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
        documents[epochs == epoch] = Permutation(size, _subkey(epoch, seed))(positions[epochs == epoch])
    return documents


def _subkey(number: int, key: int) -> int:
    """The `number`th of the keys that follow from `key`."""
    return int(_hash(np.array([number], dtype=np.uint64), key)[0])


class BlockOrder:
    """One epoch of a corpus that is shuffled by blocks: a permutation of its documents, evaluated at single points.

    Blocks are permuted. In this order, every WINDOW_BLOCKS of them are a window, whose documents are permuted.

        positions    0 …                      one window after the other
        window j     blocks[j·WINDOW_BLOCKS], …, blocks[(j + 1)·WINDOW_BLOCKS − 1]
        block k      documents k·block … (k + 1)·block − 1; the corpus's last block may be shorter, wherever it comes

    Args:
        size: Documents of the corpus, at least 1.
        block: Documents of a block.
        key: Seed of the order.

    Attributes:
        blocks: The block at each place, a permutation of 0 … number of blocks − 1.
        windows: The number of windows.
    """

    def __init__(self, size: int, block: int, key: int):
        self.size = size
        self.block = block
        self.key = key
        self.blocks = Permutation(-(-size // block), _subkey(0, key))
        self.windows = -(-self.blocks.size // WINDOW_BLOCKS)
        # The place of the last block, and how many documents it lacks.
        self._short_place = self.blocks.position(self.blocks.size - 1)
        self._lacking = self.blocks.size * block - size

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The documents at `positions` (integers below `size`), int64 of the same shape."""
        windows = self.window_of(positions)
        documents = np.empty_like(positions)
        for window in np.unique(windows).tolist():
            own = windows == window
            start, end = self._start(window), self._start(window + 1)
            inner = Permutation(end - start, _subkey(window + 1, self.key))(positions[own] - start)
            # as if the short block had all of its documents
            short = self._short_place - window * WINDOW_BLOCKS
            inner[inner >= short * self.block + self.block - self._lacking] += self._lacking * (short >= 0)
            places, offsets = np.divmod(inner, self.block)
            documents[own] = self.blocks(window * WINDOW_BLOCKS + places) * self.block + offsets
        return documents

    def window_of(self, positions: np.ndarray) -> np.ndarray:
        """The window of each position, int64 of the same shape."""
        short_window = self._short_place // WINDOW_BLOCKS
        beyond = positions >= self._start(short_window + 1)
        return (positions + self._lacking * beyond) // (WINDOW_BLOCKS * self.block)

    def progress(self, position: int) -> tuple[int, float]:
        """The window of a position, and which fraction of its documents come before."""
        window = int(self.window_of(np.array([position]))[0])
        start, end = self._start(window), self._start(window + 1)
        return window, (position - start) / (end - start)

    def blocks_of(self, window: int) -> np.ndarray:
        """The blocks of a window, int64 [WINDOW_BLOCKS or fewer]; none behind the last window."""
        start = window * WINDOW_BLOCKS
        return self.blocks(np.arange(start, min(start + WINDOW_BLOCKS, self.blocks.size)))

    def _start(self, window: int) -> int:
        """The first position of a window; `size` behind the last one."""
        place = window * WINDOW_BLOCKS
        return min(place * self.block - self._lacking * (place > self._short_place), self.size)


@functools.lru_cache(maxsize=64)
def block_order(epoch: int, size: int, block: int, seed: int) -> BlockOrder:
    """The order of an epoch of a corpus that is shuffled by blocks."""
    return BlockOrder(size, block, _subkey(epoch, seed))


def block_shuffled(numbers: np.ndarray, size: int, block: int, seed: int) -> np.ndarray:
    """As `shuffled`, for a corpus that is shuffled by blocks of `block` documents."""
    epochs, positions = np.divmod(numbers, size)
    documents = np.empty_like(positions)
    for epoch in np.unique(epochs).tolist():
        own = epochs == epoch
        documents[own] = block_order(epoch, size, block, seed)(positions[own])
    return documents
